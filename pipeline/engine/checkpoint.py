"""Named objects -> one atomic file and back. What is restored is what was saved, for the same work, or nothing."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from pipeline.core import access, files
from pipeline.core.errors import UserError


def save(path: Path, fingerprint: str, step: int, objects: dict[str, Any], rows: list[dict]) -> None:
    """Write every object's state_dict, the number of finished steps and the log's rows."""
    buffer = io.BytesIO()  # torch puts a file's name into the archive, but no name into a buffer
    states = {name: thing.state_dict() for name, thing in objects.items()}
    torch.save({"fingerprint": fingerprint, "step": step, "states": states, "rows": rows}, buffer)
    files.write(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load(path: Path, fingerprint: str, objects: dict[str, Any]) -> tuple[int, list[dict]]:
    """Restore the objects in place. Returns (finished steps, rows); (0, []) where there is no checkpoint."""
    with access.read_faults(path):
        if not Path(path).exists():
            return 0, []
    with access.reading(path, "not a readable checkpoint", "delete it", Exception):  # of any kind, inside torch
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the archive's checksums
            if archive.testzip():
                raise zipfile.BadZipFile("a checksum is wrong")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        made_by, found = saved["fingerprint"], set(saved["states"])
    if made_by != fingerprint or found != set(objects):
        raise UserError("a checkpoint of other work", path, "delete it")
    for name, thing in objects.items():
        thing.load_state_dict(saved["states"][name])
    return saved["step"], saved["rows"]
