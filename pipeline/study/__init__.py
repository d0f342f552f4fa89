"""A study: many experiments that answer one question. Their numbers are kept in a CSV next to the study's file.

cells.py reads a study's file, rows.py its CSV; runner.py runs what is missing; analysis.py fits, tables.py prints.
"""
