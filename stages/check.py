"""All of params.yaml, and this machine, before anything else -> data/params.ok.

Its output's content is constant, so a good change of parameters reruns nothing by it.
"""

import importlib.util
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

from pipeline import files, stage
from pipeline.errors import RESOURCE, UserError
from pipeline.params.rules import shape

READS = (
    "compute",
    "dataset",
    "generator",
    "ddpm",
    "generate",
    "quality",
    "inflation",
    "augment",
    "pretrain",
    "simclr",
    "moco",
    "byol",
    "barlow_twins",
    "simsiam",
    "linear_eval",
)
NEEDED = 200_000_000  # bytes, beside the images


def main(params: SimpleNamespace) -> None:
    faults = machine(params)
    if faults:
        raise UserError("\n".join(map(str, faults)), code=min(fault.code for fault in faults))
    files.write_text(Path("data/params.ok"), "The parameters are valid.\n")


def machine(params: SimpleNamespace) -> list[UserError]:
    """What the parameters ask for and this machine does not have."""
    found = []
    wanted = {"dataset.path": params.dataset.path, "generator.path": params.generator.path}
    inception = params.quality.inception
    if inception is not None and not Path(inception).is_file():
        found.append(
            UserError(f"{inception} is no file", "params.yaml: quality.inception", "set it to one, or to null")
        )
    if inception is not None and importlib.util.find_spec("torch_fidelity") is None:
        remedy = "pip install torch-fidelity, or set it to null"
        found.append(UserError("wants torch-fidelity", "params.yaml: quality.inception", remedy))
    for name, path in wanted.items():
        if not Path(path).exists():
            remedy = f"set it to one that does; a run in a copy (--temp, --queue) wants -C {path} as well"
            found.append(UserError(f"{path} does not exist", f"params.yaml: {name}", remedy))
    cores = os.cpu_count() or 1
    if params.compute.threads > cores:
        found.append(UserError(f"{params.compute.threads} > {cores} cores here", "params.yaml: compute.threads"))
    if params.compute.device == "cuda":
        import torch  # three seconds, so only where the question is put

        if not torch.cuda.is_available():
            found.append(UserError("torch finds no CUDA device", "params.yaml: compute.device", "set it to cpu"))
    side, channels, _ = shape(params.dataset)
    images = params.inflation.ratio * params.dataset.train_size
    need = NEEDED + 2.2 * images * side * side * channels  # in the store, in the stage's output, in DVC's cache
    free = shutil.disk_usage(".").free
    if free < need:
        what = f"{free / 1e6:,.0f} MB free, about {need / 1e6:,.0f} MB needed"
        found.append(UserError(what, "this disk", "make room, or lower inflation.ratio", RESOURCE))
    return found


if __name__ == "__main__":
    stage.run("check", main, READS)
