"""What a stage needs of this machine, and what there is: places to write, disk, memory, a device.

Bytes are those of images, which are known before the work: what a stage surely makes and holds. Weights, checkpoints
and what a training step takes come on top.
"""

import math
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.core import dvc_cache, files, store
from pipeline.core.errors import RESOURCE, UserError

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Needs:
    """What a stage writes, and how many bytes of images it needs at least.

    made: in the workspace, where they must fit; DVC's cache takes as many again, unless it links. kept: in the store,
    where some may be already. memory: held at once, beside the program itself. faults: what else is not there.
    """

    writes: tuple[str, ...]
    made: float = 0
    kept: float = 0
    memory: float = 0
    device: str = "cpu"
    faults: tuple[UserError, ...] = ()


def lacking(needs: Needs) -> list[UserError]:
    """A line for each thing that is not there."""
    places = [*((Path(path), bool(Path(path).suffix)) for path in needs.writes), (store.root(), False)]
    found = [*needs.faults, *(fault for path, file in places if (fault := _unwritable(path, file)))]
    free = shutil.disk_usage(".").free
    if free < needs.made:
        what = f"{_mb(free)} free, at least {_mb(needs.made)} needed"
        found.append(UserError(what, "this disk", "make room, or take fewer images", RESOURCE))
    if available() < needs.memory:
        what = f"{_mb(available())} available, at least {_mb(needs.memory)} needed"
        found.append(UserError(what, "memory", "take fewer images, or a larger machine", RESOURCE))
    if needs.device == "cuda":
        import torch  # three seconds, so only where the question is put

        if not torch.cuda.is_available():
            found.append(UserError("torch finds no CUDA device", "params.yaml: compute.device", "set it to cpu"))
    return found


def tight(needs: Needs) -> str:
    """A warning where the images would not fit in all places, were nothing of them there yet; or nothing."""
    short = [
        f"{place}: {_mb(free)} free, up to {_mb(wanted)} of images"
        for place, wanted, free in disks(needs)
        if free < wanted
    ]
    return f"warning: {'; '.join(short)}" if short else ""


def told(needs: Needs) -> str:
    """What is needed and what there is, in one line."""
    each = [f"up to {_mb(wanted)} of disk for images ({_mb(free)} free)" for _, wanted, free in disks(needs)]
    memory = f"at least {_mb(needs.memory)} of memory ({_mb(available())} available)"
    return f"needs {', '.join(each)}, {memory}, {needs.device}; writes {', '.join(needs.writes)}"


def images(folder: Path, *splits: int) -> tuple[int, int]:
    """How many real images of these splits there are, and the bytes of one; (0, 0) where the stage will say why."""
    import h5py  # not needed to check params.yaml

    try:
        with h5py.File(folder / "images.h5", "r") as file:
            shape = file["images"].shape
            return sum(int((file["split"][:] == split).sum()) for split in splits), math.prod(shape[1:])
    except (OSError, KeyError, AttributeError, TypeError, ValueError):
        return 0, 0


def available() -> int:
    """Bytes of memory that this process may still take: of the machine, its control groups and its own limit."""
    left = [psutil.virtual_memory().available, *_groups()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        left.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(left))


def _groups() -> Iterator[int]:
    """What each memory control group above this process leaves, of either version of them; caches can be had back."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds:
            root, most, now, cache = _GROUPS, "memory.max", "memory.current", ""
        elif "memory" in kinds.split(","):
            root, most = _GROUPS / "memory", "memory.limit_in_bytes"
            now, cache = "memory.usage_in_bytes", "total_"
        else:
            continue
        own = root / path.strip("/")
        for folder in dict.fromkeys([own, *own.parents]):
            if not folder.is_relative_to(root):
                break
            try:
                limit, held = (folder / most).read_text().strip(), int((folder / now).read_text())
                facts = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                if limit != "max":
                    yield (
                        int(limit)
                        - held
                        + sum(int(facts.get(f"{cache}{kind}_file", 0)) for kind in ("active", "inactive"))
                    )
            except (OSError, ValueError):
                continue


def disks(needs: Needs) -> list[tuple[str, float, int]]:
    """(place, bytes of images at most, bytes free) of each file system that is written to."""
    work = Path(tempfile.gettempdir()) if os.environ.get("LEAVEN_STORE") == "off" else store.root()
    found: dict[int, tuple[str, float, int]] = {}
    for place, wanted in ((Path(), needs.made), (dvc_cache.place(), needs.made), (work, needs.kept)):
        there = files.existing(place)
        device = there.stat().st_dev
        if device not in found:
            found[device] = (str(place.absolute()), 0, shutil.disk_usage(there).free)
        name, before, free = found[device]
        found[device] = (name, before + wanted, free)
    return list(found.values())


def _unwritable(path: Path, file: bool) -> UserError | None:
    """Whether a file or folder cannot be written, by trying: rights do not bind root, and disks may be read-only."""
    try:
        with files.disk_faults(path):
            if path.exists() and path.is_dir() == file:
                kind = "folder" if file else "file"
                return UserError(f"cannot write: a {kind} is in the way", path, "move it away")
            there = files.existing(path.parent)  # where the new one gets its name
            with tempfile.TemporaryFile(dir=there):
                return None
    except UserError as fault:
        return fault


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
