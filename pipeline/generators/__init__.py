"""Ways of making images, one file each, named by `generator.kind`; a kind's parameters are the section of its name.

A generator module has `Training(params, images)` with `task` and `plan` for the loop, `averaged()` and `noise`; `save`
and `load` (a folder that its users can open) and `fit_to`; `for_sampling` (the model as `sample` wants it), `solver`,
`sample` (noise of given image numbers -> images) and `to_uint8`.
"""

import importlib
from types import ModuleType


def module(kind: str) -> ModuleType:
    """The module of one kind, imported on use."""
    return importlib.import_module(f"pipeline.generators.{kind}")
