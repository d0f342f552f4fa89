"""What a training step takes of a GPU's memory at least, known before the first one.

Networks and images are on torch's device "meta", which has no memory: sizes are exact and nothing is computed. What a
GPU's kernels want to work in, and copies of weights in another precision, come on top.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from pipeline.params.schema import Compute


def kept(network: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps of a forward pass for the backward one; without the network's own tensors."""
    pieces: dict[StorageWeakRef, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        pieces[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = forward()  # its graph holds the pieces
    for tensor in (*network.parameters(), *network.buffers()):
        pieces.pop(StorageWeakRef(tensor.untyped_storage()), None)
    del result
    return sum(pieces.values())


def step(network: nn.Module, states: int, activations: float, compute: Compute) -> float:
    """Bytes of the weights in fp32, of their gradients and the optimizer's states, and of activations counted in fp32.

    states: numbers that the optimizer and averages keep of each weight that is trained.
    """
    trained = sum(4 * p.numel() for p in network.parameters() if p.requires_grad)
    fixed = sum(4 * p.numel() for p in network.parameters() if not p.requires_grad)
    return fixed + trained * (2 + states) + activations / (2 if compute.precision == "bf16" else 1)
