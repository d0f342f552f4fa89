"""Networks of timm's and weights from elsewhere, tried before anything is computed: a generator trains for hours.

A stage that names none of them imports nothing for it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from pipeline.core.errors import UserError, out_of_memory
from pipeline.params.data import shape
from pipeline.params.schema import Backbone, Elsewhere
from pipeline.run import copies


def faults(params: SimpleNamespace) -> Iterator[UserError]:
    """What is wrong with the networks and weights that the parameters name: unknown, not fitting, not for this size."""
    side, channels, _ = shape(params.dataset)
    own, start, beside = params.pretrain.backbone, _here(params.start), _here(params.linear_eval.baseline)
    method = getattr(params, params.pretrain.method)
    sizes = {side} | ({method.small_size} if getattr(method, "small_views", 0) else set())
    if own.kind == "timm" or start.source != "none":
        yield from _tried("pretrain.backbone", sizes, channels, lambda: _encoder(own, side, channels, start))
    if params.positives.kind == "conditioned" and params.conditioned.encoder.backbone.kind == "timm":
        its = params.conditioned.encoder.backbone
        yield from _tried("conditioned.encoder.backbone", {side}, channels, lambda: _encoder(its, side, channels))
    if beside.source != "none":
        yield from _tried("linear_eval.baseline", {side}, channels, lambda: _baseline(beside, side, channels))


def _here(asked: Elsewhere) -> Elsewhere:
    """With the clone's path, where this is a copy that has not been given the file yet; none, where it is nowhere."""
    path = copies.origin(Path(asked.path))  # of what does not exist copies.absent tells
    return asked.model_copy(update={"path": str(path)} if path.exists() else {"source": "none"})


def _encoder(backbone: Backbone, side: int, channels: int, start: Elsewhere | None = None):
    from pipeline.networks import backbones, elsewhere

    path = None if start is None else elsewhere.find(start, "start")
    return backbones.build(backbone, [0.5] * channels, [0.25] * channels, 0, side, path)


def _baseline(params: Elsewhere, side: int, channels: int):
    from pipeline.evaluation import baseline

    network, _ = baseline.load(params, channels, side)
    return network


def _tried(section: str, sizes: set[int], channels: int, make: Callable) -> Iterator[UserError]:
    """Make the network, and show it two images of each size."""
    import torch

    try:
        network = make().eval()
    except UserError as fault:
        fault.where = fault.where or f"params.yaml: {section}"
        yield fault
        return
    for size in sorted(sizes):
        try:
            with torch.inference_mode():
                found = network(torch.zeros(2, channels, size, size))
            what = "" if found.ndim == 2 else f"gives {tuple(found.shape)} for two images, not a vector each"
        except Exception as fault:  # a foreign network can raise anything at a size that it does not take
            if out_of_memory(fault):
                raise
            what = f"does not take images of {size} pixels: {' '.join(str(fault).split())[:200]}"
        if what:
            yield UserError(what, f"params.yaml: {section}", "take another network or size")
