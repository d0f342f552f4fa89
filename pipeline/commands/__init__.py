"""What a person can ask for: a function a command, which names its arguments and returns what is done with them.

What a command needs is imported when it runs, so that help is there at once.
"""

import argparse
import importlib
from collections.abc import Callable
from types import ModuleType

Work = Callable[[argparse.Namespace], None]


def optional(module: str) -> ModuleType:
    """A module that needs packages of the extra `report`."""
    from pipeline.core.errors import UserError

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        if (fault.name or "").startswith("pipeline"):
            raise
        raise UserError(f"needs {fault.name}", "report", "pip install -e '.[report]'") from fault
