"""Weights of a network in a safetensors file, and back: all of them, and no other, or nothing."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipeline.core import access, files
from pipeline.core.errors import UserError


def load(path: Path, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """What `build()` makes, with the weights of the file.

    Names, shapes and kinds of numbers are compared by the file's header and a module without memory, so that neither a
    wrong file nor a wrong configuration takes any. What does not fit is a UserError that names the first three.
    """
    unfit = (SafetensorError, RuntimeError, ValueError)
    with access.reading(path, "its weights do not fit", "make or get it again", *unfit):
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, no dict
            found = {name: _told(part.get_shape(), part.get_dtype() in _FLOATING) for name, part in parts.items()}
        with torch.device("meta"):
            empty = build().state_dict()
    wanted = {name: _told(tensor.shape, tensor.is_floating_point()) for name, tensor in empty.items()}
    faults = [
        f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'wanted')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        what = f"its weights do not fit: {'; '.join(faults[:3])}{more}"
        raise UserError(what, path, "make or get it again")
    module = build()
    with access.read_faults(path):
        module.load_state_dict(load_file(path), strict=True)
    return module


def save(path: Path, module: torch.nn.Module) -> None:
    """Write a module's weights, as `load` reads them."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    files.write(path, lambda temporary: save_file(state, temporary))


_FLOATING = ("F64", "F32", "F16", "BF16")


def _told(shape: tuple[int, ...], floating: bool) -> str:
    return f"{tuple(shape)}{'' if floating else ' of whole numbers'}"
