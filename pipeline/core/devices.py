"""Small tensors on their way to a device."""

import functools

import torch


def sent(x: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the CPU on the device. Nobody waits: a plain copy to a GPU waits for all that it has in hand."""
    if torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


@functools.cache
def constant(values: tuple, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor that never changes, made once a device."""
    with torch.inference_mode(False):  # or one made there could never be used for a gradient
        return torch.tensor(values, device=device, dtype=dtype)
