"""The page of `make report`: one HTML file that needs nothing else, of studies (their CSVs) and of the run at hand.

figures.py draws, studies.py and run.py say what, __main__.py puts it together.
"""
