"""What a training leaves in the store: its files and the rows of its log."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core import files, store
from pipeline.engine import distributed

_ROWS = "rows.json"


def digest(*parts: np.ndarray) -> list:
    """Shape and sha256 of the array that the parts make together, without making it."""
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part))
    return [sum(map(len, parts)), *(parts[0].shape[1:] if parts else ()), found.hexdigest()]


def trained(
    kind: str, decided: dict, train: Callable[[Path, str], tuple[list[str], list[dict]]]
) -> tuple[dict[str, Path], list[dict]]:
    """(name -> file, the log's rows) of a training that is found in the store or done; `decided` as for `store.once`.

    train(folder, fingerprint) -> (names of the result's files, rows), in every process of a job. Only the first gets
    files and rows.
    """

    def make(folder: Path, fingerprint: str) -> list[str]:
        names, rows = train(folder, fingerprint)
        if distributed.first():
            files.write_json(folder / _ROWS, {"rows": rows})
        return [*names, _ROWS]

    folder = store.once(kind, decided | {"processes": distributed.size()}, make, distributed)
    if not distributed.first():
        return {}, []
    names = files.read_json(folder / store.MANIFEST)["files"]
    return {name: folder / name for name in names if name != _ROWS}, files.read_json(folder / _ROWS)["rows"]
