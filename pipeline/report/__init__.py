"""The table at the end of a run, and the page: one HTML file that needs nothing else."""
