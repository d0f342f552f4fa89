"""A study: many experiments that answer one question, and their memory, a CSV beside the study's file.

cells.py reads a study, rows.py its memory, experiments.py runs what is missing, analysis.py says what came out.
"""
