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
    with access.reading(path, _UNFIT, _AGAIN, *_FAULTS):
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, no dict
            found = {name: _told(part.get_shape(), part.get_dtype() in _FLOATING) for name, part in parts.items()}
        with torch.device("meta"):
            empty = build().state_dict()
    _compare(found, _shapes(empty), path, _AGAIN)
    module = build()
    with access.read_faults(path):
        module.load_state_dict(load_file(path), strict=True)
    return module


def read(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file by their names; UserError of a file that is none."""
    with access.reading(path, "not readable as safetensors", "get it again, as safetensors", *_FAULTS):
        return load_file(path)


def load_into(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, remedy: str) -> torch.nn.Module:
    """The module with the tensors of `state`, which came from the file: all that it has, no other, or a UserError."""
    _compare(_shapes(state), _shapes(module.state_dict()), path, remedy)
    module.load_state_dict(state, strict=True)
    return module


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: _told(tensor.shape, tensor.is_floating_point()) for name, tensor in state.items()}


def _compare(found: dict[str, str], wanted: dict[str, str], path: Path, remedy: str) -> None:
    faults = [
        f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'wanted')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{_UNFIT}: {'; '.join(faults[:3])}{more}", path, remedy)


def save(path: Path, module: torch.nn.Module) -> None:
    """Write a module's weights, as `load` reads them."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    files.write(path, lambda temporary: save_file(state, temporary))


_UNFIT, _AGAIN = "its weights do not fit", "make or get it again"
_FAULTS = (SafetensorError, RuntimeError, ValueError)
_FLOATING = ("F64", "F32", "F16", "BF16")


def _told(shape: tuple[int, ...], floating: bool) -> str:
    return f"{tuple(shape)}{'' if floating else ' of whole numbers'}"
