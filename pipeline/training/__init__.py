"""Long work by fingerprint: what the stages ask for is made once and kept in the store, finished or half-way."""
