"""All of params.yaml, and this machine, before anything else -> data/params.ok.

Its output's content is constant, so a good change of parameters reruns nothing by it.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params import positives
from pipeline.params.data import shape
from pipeline.run import copies, machine, stage


def needs(params: SimpleNamespace) -> machine.Needs:
    """Of the whole pipeline: what the parameters ask for."""
    side, channels, _ = shape(params.dataset)
    size = params.inflation.ratio * params.dataset.train_size * side * side * channels
    return machine.Needs(params.outs, size, size, device=params.compute.device, faults=tuple(absent(params)))


def absent(params: SimpleNamespace) -> Iterator[UserError]:
    """What the parameters name and this machine does not have."""
    inception = params.quality.inception
    if inception is not None and copies.origin(Path(inception)).is_dir():
        yield UserError(f"{inception} is no file", "params.yaml: quality.inception", "set it to one, or to null")
    if inception is not None and importlib.util.find_spec("torch_fidelity") is None:
        remedy = "pip install torch-fidelity, or set it to null"
        yield UserError("wants torch-fidelity", "params.yaml: quality.inception", remedy)
    yield from positives.absent(params.positives.kind)
    yield from copies.absent(params)
    cores = os.cpu_count() or 1
    if params.compute.threads > cores:
        yield UserError(f"{params.compute.threads} > {cores} cores here", "params.yaml: compute.threads")


def main(params: SimpleNamespace) -> None:
    copies.link(params)
    files.write_text(Path("data/params.ok"), "The parameters are valid.\n")


if __name__ == "__main__":
    stage.run("check", main, needs)
