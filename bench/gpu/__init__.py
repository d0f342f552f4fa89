"""Rungs of a ladder onto a GPU: each is a list of checks, ends within its own time and leaves a table and one JSON."""
