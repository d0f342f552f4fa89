"""What a stage needs of this machine, and what there is: places to write, disk, memory, a device.

Bytes are those of images, which are known before the work: what a stage surely makes and holds. Weights, checkpoints
and what a training step takes come on top.
"""

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil

from pipeline.core import access, store
from pipeline.core.errors import RESOURCE, UserError
from pipeline.core.links import dvc_cache as _dvc_cache
from pipeline.run import launch

_TRIFLE = 1e6  # bytes that fit anywhere: DVC is not asked, for a second, where its cache is
_LEAST_ON_GPU = 500e6  # bytes for the kernels of CUDA's libraries, before any network


class Needs(NamedTuple):
    """What a stage writes, and how many bytes of images it needs at least.

    made: in the workspace, where they must fit; DVC's cache takes as many again, unless it links. kept: in the store,
    where some may be already; with LEAVEN_STORE=off in the folder of temporary files, where they must fit too. memory:
    held at once, beside the program itself. gpu: what a step takes of a GPU beside CUDA's own kernels. faults: what
    else is not there.
    """

    writes: tuple[str, ...]
    made: float = 0
    kept: float = 0
    memory: float = 0
    device: str = "cpu"
    gpu: float = 0
    faults: tuple[UserError, ...] = ()


def holding(*splits: int) -> Callable[[SimpleNamespace], Needs]:
    """What a stage needs, by its parameters, that holds these splits of the real images and makes none."""

    def needs(params: SimpleNamespace) -> Needs:
        rows, image = images(Path("data/real"), *splits)
        return Needs(params.outs, memory=rows * image, device=params.compute.device)

    return needs


_LOWER = {  # what a stage's memory depends on beside the number of images
    "generator": "lower batch_size or the channels of ddpm or gan",
    "generate": "lower generate.batch_size",
    "positives": "lower positives.batch_size or conditioned.batch_size",
    "pretrain": "raise pretrain.accumulate, lower pretrain.batch_size, or take a smaller pretrain.backbone",
    "finetune": "lower finetune.batch_size",
}


def lower(stage: str) -> str:
    """What to do where a stage is out of memory."""
    return ", or ".join([*filter(None, [_LOWER.get(stage.partition("@")[0])]), "take fewer images"])


def lacking(needs: Needs, stage: str = "") -> list[UserError]:
    """Find what is not there; one error for each."""
    unmade = (_unwritable(Path(path), file=bool(Path(path).suffix), renamed=True) for path in needs.writes)
    found = [*needs.faults, *filter(None, unmade), *_closed_store()]
    memory = psutil.virtual_memory().available
    for place, free, least, remedy in (
        *((f"disk of {at}", free, least, "make room, or take fewer images") for at, least, free in disks(needs, True)),
        ("memory", memory, needs.memory, "take fewer images, or a larger machine"),
        (
            "GPU memory",
            _gpu(needs.device),
            _LEAST_ON_GPU + needs.gpu,
            f"stop what else runs there, set compute.device: cpu, {lower(stage)}",
        ),
    ):
        if free is not None and free < least:
            found.append(UserError(f"{_mb(free)} free, at least {_mb(least)} needed", place, remedy, RESOURCE))
    if needs.device == "cuda":
        from pipeline.core import devices  # and with it torch

        found += filter(None, [devices.lacking(needs.device)])
    return found


def tight(needs: Needs) -> str:
    """Warn where the images may not fit in all places, as if none of them were there yet; "" where they do."""
    short = [
        f"{place}: {_mb(free)} free, up to {_mb(wanted)} of images"
        for place, wanted, free in disks(needs)
        if free < wanted
    ]
    return f"warning: {'; '.join(short)}" if short else ""


def told(needs: Needs) -> str:
    """Say in one line what is needed and what there is."""
    each = [f"up to {_mb(wanted)} of disk for images ({_mb(free)} free)" for _, wanted, free in disks(needs)]
    memory = f"at least {_mb(needs.memory)} of memory ({_mb(psutil.virtual_memory().available)} free)"
    gpu = _gpu(needs.device)
    least = f"at least {_mb(_LEAST_ON_GPU + needs.gpu)} of {needs.device}"
    device = needs.device if gpu is None else f"{least} ({_mb(gpu)} free)"
    return f"needs {', '.join(each)}, {memory}, {device}; writes {', '.join(needs.writes)}"


def images(folder: Path, *splits: int) -> tuple[int, int]:
    """How many real images of these splits there are, and the bytes of one; (0, 0) where the stage will say why."""
    rows, shape = pictured(folder, *splits)
    return rows, math.prod(shape or (0,))


def pictured(folder: Path, *splits: int) -> tuple[int, tuple[int, ...]]:
    """How many real images of these splits there are, and (H, W, C); (0, ()) where the stage will say why."""
    import h5py  # not needed to check params.yaml

    try:
        with h5py.File(folder / "images.h5", "r", locking=False) as file:
            shape = file["images"].shape
            return sum(int((file["split"][:] == split).sum()) for split in splits), tuple(shape[1:])
    except (OSError, KeyError, AttributeError, TypeError, ValueError):
        return 0, ()


def disks(needs: Needs, surely: bool = False) -> list[tuple[str, float, int]]:
    """(place, bytes of images at most, bytes free) of each file system that is written to.

    surely: the bytes are those at least. The store may have them already, and DVC's cache may link them.
    """
    cached = _dvc_cache() if needs.made > _TRIFLE and not surely else None
    wanted = [(Path(), needs.made), *([(cached, needs.made)] if cached else [])]
    wanted += [(store.place(), needs.kept)] if store.off() or not surely else []
    found: dict[int, tuple[str, float, int]] = {}
    for place, size in wanted:
        there = access.existing(place)
        device = there.stat().st_dev
        name, before, free = found.get(device) or (str(place.absolute()), 0, shutil.disk_usage(there).free)
        found[device] = (name, before + size, free)
    return list(found.values())


def _gpu(device: str) -> int | None:
    """Bytes free on this process's GPU; None without one.

    Also None in a stage that only starts others: to ask takes some of that memory for as long as the process lives.
    """
    if device != "cuda" or launch.wanted():
        return None
    import torch  # three seconds

    try:
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    except RuntimeError:  # not even room for the question
        return 0


def _closed_store() -> list[UserError]:
    """Why the store cannot be written: it, or its records and the folders of each kind of work, which have locks."""
    fault = _unwritable(store.root(), file=False, renamed=False)
    if fault:
        return [fault]
    inside = {store.root() / "records", *(lock.parent for lock in store.root().glob("*/*.lock"))}
    return list(filter(None, (_unwritable(place, file=False, renamed=False) for place in sorted(inside))))


def _unwritable(path: Path, file: bool, renamed: bool) -> UserError | None:
    """Whether a file or folder cannot be written, by trying: rights do not bind root, and disks may be read-only.

    renamed: it is replaced, which writes the folder that it is in, and empties the old one if it is a folder.
    """
    try:
        with access.disk_faults(path):
            if path.exists() and path.is_dir() == file:
                kind = "folder" if file else "file"
                return UserError(f"cannot write: a {kind} is in the way", path, "move it away")
            for place in {access.existing(path.parent if renamed else path), *([path] if path.is_dir() else [])}:
                with tempfile.TemporaryFile(dir=place):
                    pass
    except UserError as fault:
        return fault
    return None


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
