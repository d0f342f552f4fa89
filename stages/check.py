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
from pipeline.core.progress import log
from pipeline.params import method_rules, positives, sizes
from pipeline.params.data import shape
from pipeline.params.schema import Params
from pipeline.params.types import told
from pipeline.run import copies, machine, stage, tryout


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
    yield from modules(params)
    yield from positives.absent(params.positives.kind)
    yield from copies.absent(params)
    yield from misfits(params)
    yield from tryout.faults(params)
    cores = os.cpu_count() or 1
    if params.compute.threads > cores:
        yield UserError(f"{params.compute.threads} > {cores} cores here", "params.yaml: compute.threads")


def modules(params: SimpleNamespace) -> Iterator[UserError]:
    """Files of code that a copy of the repository lacks."""
    named = {"methods": params.pretrain.method, "generators": params.generator.kind, "positives": params.positives.kind}
    for room, name in named.items():
        path = Path("pipeline") / room / f"{name}.py"
        if name != "none" and not path.exists():
            yield UserError("not here", path, "write it; --temp and the queue copy what Git tracks: git add it first")


def misfits(params: SimpleNamespace) -> Iterator[UserError]:
    """All that is wrong with folders of pictures and the sizes asked of them, and sizes that would do."""
    side, channels, _ = shape(params.dataset)
    sets = {f"transfer.{key}": found.dataset(side, channels) for key, found in params.transfer.items()}
    for key, asked in {"dataset": params.dataset, **sets}.items():
        place = copies.origin(Path(asked.path))
        if asked.name != "folder" or not place.exists():
            continue
        if not place.is_dir():
            yield UserError("is no folder", f"params.yaml: {key}.path", "name a folder of pictures")
            continue
        d = asked.model_copy(update={"path": str(place)})
        from pipeline.data import folders  # numpy and Pillow

        try:
            listing = folders.look(d)
        except UserError as fault:
            yield from fault.faults
            continue
        wrong = folders.misfits(listing, d)
        yield from [*listing.faults, *wrong]
        if key != "dataset" and listing.classes == [""]:
            yield UserError("has no labels to judge by", f"params.yaml: {key}", "put its pictures into class folders")
        if key == "dataset" and listing.classes == [""]:
            wants = {"pretrain.online_head": params.pretrain.online_head, "finetune.labels": params.finetune.labels}
            if params.positives.kind == "conditioned":
                wants["conditioned.encoder.online_head"] = params.conditioned.encoder.online_head
            for name, given in wants.items():
                if given:
                    yield UserError(f"wants labels, and {d.path} has none", f"params.yaml: {name}", "leave it empty")
        if wrong and key == "dataset":
            pictures = len(listing.train)
            values = sizes.fitting(
                Params.model_construct(**vars(params)), pictures, listing.known(), drawn=listing.test is None
            )
            words = " ".join(f"-S {'.'.join(path)}={told(value)}" for path, value in values.items())
            what = f"{pictures:,} pictures; what would fit: {words}"
            yield UserError(what if values else f"{pictures} pictures are fewer than {sizes.FEWEST}", d.path)


def main(params: SimpleNamespace) -> None:
    copies.link(params)
    for warning in method_rules.warnings(params):
        log(f"check: {warning}")
    files.write_text(Path("data/params.ok"), "The parameters are valid.\n")


if __name__ == "__main__":
    stage.run("check", main, needs)
