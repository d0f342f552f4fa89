"""Ways of making images, one file each, named by `generator.kind`; a kind's parameters are the section of its name.

A generator module has `Training(params, images)` with `task` and `plan` for the loop and `save`, which writes a folder
that `load` opens; `fit_to`; and `batches`, which makes of such a folder a function of image numbers. One whose models
may come from elsewhere has `pretrained_files` and `try_out` as well.
"""

import importlib
from types import ModuleType


def module(kind: str) -> ModuleType:
    """The module of one kind, imported on use."""
    return importlib.import_module(f"pipeline.generators.{kind}")
