"""One module a DVC stage, run as `python -m stages.NAME`."""

import gc
import sys

if sys.argv[0] == "-m":  # while Python looks for the module that it was told to run
    gc.disable()  # imports make next to no garbage, and the search for it is a quarter of their time; see stage.run
