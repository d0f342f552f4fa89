"""Networks of timm's and pretrained weights, tried before anything is computed: a generator may train for hours.

A run that names none of them imports nothing for it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from pipeline.core.errors import UserError, out_of_memory
from pipeline.params.data import shape
from pipeline.params.schema import Backbone, PretrainedWeights
from pipeline.run import copies


def faults(params: SimpleNamespace) -> Iterator[UserError]:
    """What is wrong with the networks and weights that the parameters name: unknown, not fitting, not for this size."""
    side, channels, _ = shape(params.dataset)
    device = params.compute.device
    backbone, start = params.pretrain.backbone, _here(params.start)
    baseline = _here(params.linear_eval.baseline)
    method = getattr(params, params.pretrain.method)
    sizes = {side} | ({method.small_size} if getattr(method, "small_views", 0) else set())
    if backbone.kind == "timm" or start.source != "none":
        yield from _tried(
            "pretrain.backbone", sizes, channels, lambda: _encoder(backbone, side, channels, start), device
        )
    condition = params.conditioned.encoder.backbone
    if params.positives.kind == "conditioned" and condition.kind == "timm":
        where = "conditioned.encoder.backbone"
        yield from _tried(where, {side}, channels, lambda: _encoder(condition, side, channels), device)
    if baseline.source != "none":
        yield from _tried("linear_eval.baseline", {side}, channels, lambda: _baseline(baseline, side, channels), device)


def _here(asked: PretrainedWeights) -> PretrainedWeights:
    """With the clone's path, where this is a copy that has not been given the file yet; none, where it is nowhere."""
    path = copies.origin(Path(asked.path))  # of what does not exist copies.absent tells
    return asked.model_copy(update={"path": str(path)} if path.exists() else {"source": "none"})


def _encoder(backbone: Backbone, side: int, channels: int, start: PretrainedWeights | None = None):
    from pipeline.networks import backbones, pretrained

    path = None if start is None else pretrained.find(start, "start")
    return backbones.build(backbone, [0.5] * channels, [0.25] * channels, 0, side, path)


def _baseline(params: PretrainedWeights, side: int, channels: int):
    from pipeline.evaluation import baseline

    network, _ = baseline.load(params, channels, side)
    return network.requires_grad_(False)


def _tried(section: str, sizes: set[int], channels: int, make: Callable, device: str) -> Iterator[UserError]:
    """Make the network and show it two images of each size; of one that learns, forwards and backwards.

    On the CPU first, then on the device, if it is there: a GPU refuses what has no deterministic form there.
    """
    from pipeline.core import devices
    from pipeline.engine import arithmetic

    where = f"params.yaml: {section}"
    try:
        network = make()
    except UserError as fault:
        fault.where = fault.where or where
        yield fault
        return
    places = ["cpu"] if devices.lacking(device) else list(dict.fromkeys(["cpu", device]))
    if "cuda" in places:
        arithmetic.exact_on_gpu()
    for place in places:
        faults = list(filter(None, (_refusal(network, size, channels, place) for size in sorted(sizes))))
        yield from (UserError(fault, where, "take another network or size") for fault in faults)
        if faults:
            return


def _refusal(network, size: int, channels: int, device: str) -> str:
    """What a network has against two images of so many pixels a side, on a device; "" if nothing."""
    import torch

    try:
        images = torch.linspace(0, 1, 2 * channels * size**2).view(2, channels, size, size)
        found = network.to(device)(images.to(device))
        if found.requires_grad:
            found.float().square().sum().backward()
    except Exception as fault:  # a foreign network can raise anything at a size that it does not take
        if out_of_memory(fault):
            raise
        on = "" if device == "cpu" else f" on {device}"
        return f"does not take images of {size} pixels{on}: {' '.join(str(fault).split())[:200]}"
    if found.shape != (2, getattr(network, "width", found.shape[-1])):
        return f"gives features of the shape {tuple(found.shape)} for two images"
    return ""
