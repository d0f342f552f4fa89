"""A job of several processes, each with its share of every batch, that computes what a single process would.

Random numbers are drawn for the whole batch by every process, which keeps its own rows; `gather` puts together what
they made of them, and each computes the whole loss; batch normalisation takes the statistics of all. Every gradient is
then that of the sum of as many equal losses as there are processes, and `average_gradients` divides by their number.
With one process all of this is nothing at all.

A batch may also pass in parts, one after the other (`part`): of k parts each has every k-th row, so that all hold real
and generated images in the shares of the batch, and the processes share the rows of a part out.
"""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.errors import UserError
from pipeline.core.processes import rank, size
from pipeline.params.schema import Compute

_turn = (0, 1)  # the part of a batch that is at hand, and of how many


def join(compute: Compute) -> None:
    """Meet the other processes, if there are any; with device cuda, take the GPU of this process's local number."""
    if size() == 1 or dist.is_initialized():
        return
    if compute.compile:
        raise UserError("compiled code of several processes was never tried", "compute.compile", "set it to false")
    if compute.device == "cuda":
        number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= there:
            raise UserError(f"process {number + 1} on a machine of {there} GPUs", "PIPELINE_LAUNCH", "start fewer")
        torch.cuda.set_device(number)
    dist.init_process_group("nccl" if compute.device == "cuda" else "gloo")
    _patient()


def leave() -> None:
    """End what `join` began; what follows, the first process does alone."""
    if dist.is_initialized():
        dist.destroy_process_group()
        _patient.cache_clear()


@cache
def _patient() -> dist.ProcessGroup:
    # For questions, not for numbers: on the CPU, so that asking does not wait for a GPU; with patience, as the first
    # process may wait for a lock or measure something while the others wait for it.
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(days=1))


def first() -> bool:
    """Whether this process is the one that locks, writes and reports."""
    return rank() == 0


@contextmanager
def part(k: int, parts: int) -> Iterator[None]:
    """Within it a batch's rows are those of its part k of so many; gradients of parts are added up by who asks."""
    global _turn
    before, _turn = _turn, (k, parts)
    try:
        yield
    finally:
        _turn = before


def parts() -> int:
    """In how many parts the batch passes."""
    return _turn[1]


def of_part(step: int) -> int:
    """A number that the part at hand of a step has alone in a run; of whole batches, the step."""
    return step * parts() + _turn[0]


def share(n: int) -> slice:
    """This process's rows of a batch of n, or of the part at hand of it."""
    each, rest = divmod(n, size() * parts())
    if rest:
        apart = f" in {parts()} parts" if parts() > 1 else ""
        what = f"a batch of {n}{apart} among {size()} processes"
        divided = f"the {n // parts()} images of a part" if apart else "the batch size"
        raise UserError(what, "PIPELINE_LAUNCH", f"their number must divide {divided}")
    first, last = (parts() * each * place + _turn[0] for place in (rank(), rank() + 1))
    return slice(first, last, parts())


def whole(n: int) -> tuple[int, slice]:
    """The rows of the whole batch, of each part of which each process has n, and the slice that is this one's."""
    together = n * size() * parts()
    return together, share(together)


def agreed(value: Any) -> Any:
    """The first process's value, in every process."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_patient(), device=torch.device("cpu"))
    return box[0]


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if size() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX, _patient())
    return bool(found)


def wait() -> None:
    """Until all processes are here."""
    anywhere(False)


def differ(value: Any) -> bool:
    """Whether some process has another value than the first."""
    return anywhere(agreed(value) != value)


def gather(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Rows of all processes, in their order, of each tensor (b, ...); gradients find their way back."""
    return list(tensors) if size() == 1 else [_Gather.apply(tensor) for tensor in tensors]


class _Gather(torch.autograd.Function):
    """All rows; backwards, the gradients that all processes have of this one's rows, added up."""

    @staticmethod
    def forward(ctx, own: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(size())[rank()]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if size() == 1 or not gradients:
        return
    together = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(together)
    together /= size()
    for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def apart(parameters: list[nn.Parameter]) -> bool:
    """Whether the processes' parameters differ, as they never should."""
    if size() == 1:
        return False
    sums = torch.stack([parameter.detach().double().sum() for parameter in parameters])[None]
    return bool((gather([sums])[0] != sums).any())


def synchronise(module: nn.Module) -> None:
    """Let batch normalisation inside the module take the statistics of all processes' rows."""
    if size() == 1:
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _Synchronised(child))


class _Synchronised(_BatchNorm):
    """A batch normalisation's parameters and buffers; torch's SyncBatchNorm refuses CPUs."""

    def __init__(self, given: _BatchNorm):
        super().__init__(given.num_features, given.eps, given.momentum, given.affine, given.track_running_stats)
        self._parameters, self._buffers = given._parameters, given._buffers
        self.training = given.training
        self.drop, self.act = (getattr(given, name, nn.Identity()) for name in ("drop", "act"))  # timm's have both

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Any number of dimensions: `given` has checked its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(self._normalised(x) if self.training else super().forward(x)))

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        places = [0, *range(2, x.ndim)]
        wide = [1, -1, *[1] * (x.ndim - 2)]
        full = x.float()
        own = torch.stack([full.mean(dim=places), full.var(dim=places, correction=0)])[None]
        means, variances = gather([own])[0].unbind(1)  # processes C
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        n = size() * x.numel() // x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        shift = -mean * scale + (0 if self.bias is None else self.bias)
        return (full * scale.view(wide) + shift.view(wide)).to(x.dtype)
