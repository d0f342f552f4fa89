"""params.yaml: its typed schema (schema.py) and its only reader (reader.py). Nothing heavy is imported here."""
