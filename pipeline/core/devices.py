"""Devices: whether one can be computed with, and small tensors on their way to it."""

import functools
import re

import torch

from pipeline.core.errors import UserError


def sent(x: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the CPU on the device. Nobody waits: a plain copy to a GPU waits for all that it has in hand."""
    if torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def lacking(device: str, where: str = "params.yaml: compute.device", remedy: str = "set it to cpu") -> UserError | None:
    """Why "cuda" cannot be computed with on this machine, the parameter at fault and what to do; None if it can."""
    if device != "cuda":
        return None
    if not torch.cuda.is_available():
        return UserError("torch finds no CUDA device", where, remedy)
    made_for = [int(found[1]) for name in torch.cuda.get_arch_list() if (found := re.match(r"sm_(\d+)", name))]
    major, minor = torch.cuda.get_device_capability()
    if made_for and 10 * major + minor < min(made_for):
        what = f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this torch needs"
        return UserError(f"{what} {min(made_for) / 10:g}", where, f"{remedy}, or install a torch for this card")
    return None


@functools.cache
def constant(values: tuple, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor that never changes, made once a device."""
    with torch.inference_mode(False):  # or one made there could never be used for a gradient
        return torch.tensor(values, device=device, dtype=dtype)
