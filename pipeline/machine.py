"""What a stage needs of this machine, and what there is: places to write, disk, memory, a device.

Bytes are those that are known before the work, of images, labels and files: lower bounds. What a training step takes
beside them is not known then.
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

from pipeline import files, store
from pipeline.errors import RESOURCE, UserError

BESIDE = 200_000_000  # bytes on disk for weights, checkpoints and plots of a run
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Needs:
    """What a stage writes, and how many bytes it needs at least.

    made: new files in the workspace, which DVC copies into its cache; kept: new files in the store; memory: held at
    once, beside the program itself; faults: what else is not there.
    """

    writes: tuple[str, ...]
    made: float = 0
    kept: float = 0
    memory: float = 0
    device: str = "cpu"
    faults: tuple[UserError, ...] = ()


def lacking(needs: Needs) -> list[UserError]:
    """A line for each thing that is not there."""
    found = [*needs.faults, *(fault for path in (*needs.writes, store.root()) if (fault := _unwritable(Path(path))))]
    for place, wanted, free in _disks(needs):
        if free < wanted:
            what = f"{_mb(free)} free, about {_mb(wanted)} needed"
            found.append(UserError(what, place, "make room, or take fewer images", RESOURCE))
    if available() < needs.memory:
        what = f"{_mb(available())} available, at least {_mb(needs.memory)} needed"
        found.append(UserError(what, "memory", "take fewer images, or a larger machine", RESOURCE))
    if needs.device == "cuda":
        import torch  # three seconds, so only where the question is put

        if not torch.cuda.is_available():
            found.append(UserError("torch finds no CUDA device", "params.yaml: compute.device", "set it to cpu"))
    return found


def told(needs: Needs) -> str:
    """What is needed and what there is, in one line."""
    disks = [f"about {_mb(wanted)} of disk ({_mb(free)} free)" for _, wanted, free in _disks(needs)]
    memory = f"at least {_mb(needs.memory)} of memory ({_mb(available())} available)"
    return f"needs {', '.join(disks)}, {memory}, {needs.device}; writes {', '.join(map(str, needs.writes))}"


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    found = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in found if file.is_file())


def images(folder: Path, split: int) -> tuple[int, int]:
    """How many real images of a split there are, and the bytes of one; (0, 0) where the stage itself will say why."""
    import h5py  # not needed to check params.yaml

    try:
        with h5py.File(folder / "images.h5", "r") as file:
            shape = file["images"].shape
            return int((file["split"][:] == split).sum()), math.prod(shape[1:])
    except (OSError, KeyError, AttributeError, TypeError):
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
            root, most, now, cache = _GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            root, most = _GROUPS / "memory", "memory.limit_in_bytes"
            now, cache = "memory.usage_in_bytes", "total_inactive_file"
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
                    yield int(limit) - held + int(facts.get(cache, 0))
            except (OSError, ValueError):
                continue


def _disks(needs: Needs) -> list[tuple[str, float, int]]:
    """(place, bytes needed, bytes free) of each file system that is written to."""
    cache = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc" / "cache"
    found: dict[int, tuple[str, float, int]] = {}
    for place, wanted in ((Path(), needs.made), (cache, needs.made), (store.root(), needs.kept)):
        there = files.existing(place)
        device = there.stat().st_dev
        if device not in found:
            found[device] = (str(place.absolute()), 0, shutil.disk_usage(there).free)
        name, before, free = found[device]
        found[device] = (name, before + wanted, free)
    return list(found.values())


def _unwritable(path: Path) -> UserError | None:
    """Whether nothing can be written there, by trying: permissions do not bind root, and disks may be read-only.

    What has an ending is a file, all else a folder.
    """
    if path.exists() and path.is_dir() == bool(path.suffix):
        return UserError(f"cannot write: a {'folder' if path.is_dir() else 'file'} is in the way", path, "move it away")
    there = path if path.is_dir() else files.existing(path.parent)
    try:
        with files.disk_faults(path), tempfile.TemporaryFile(dir=there):
            return None
    except UserError as fault:
        return fault


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
