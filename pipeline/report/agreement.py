"""Whether metrics/ and plots/ are of what lies in data/: git, DVC or a broken run may bring one without the other."""

import csv
from pathlib import Path

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params.evaluation import spelled
from pipeline.params.schema import Params

METRICS = Path("metrics")
_GENERATED, _POSITIVES = "data/generated/inflation", "data/generated/positives"
# What a protocol says that it was made of: its name, the folder, the file there, and the way to it in that file.
_MADE_OF = {
    "encoder_sha256": ("data/encoder", "card.json", ("sha256",)),
    "real_sha256": ("data/real", "manifest.json", ("files", "images.h5")),
    "generated_fingerprint": (_GENERATED, "manifest.json", ("fingerprint",)),
}
# Metrics that count a folder's images.
_COUNTS = {
    "prepare": ("data/real", ("train", "labelled_only", "validation", "spare", "ceiling", "test")),
    "generate": (_GENERATED, ("images",)),
    "score": ("data/generated/scores", ("scored",)),
    "positives": (_POSITIVES, ("sampled",)),
}
# Tables of plots/ whose last row has a number of a metrics file.
_LAST = (
    ("generator", "generator", "loss"),
    ("pretrain", "pretrain", "loss"),
    ("validation", "pretrain", "validation_knn"),
    ("validation", "pretrain", "rankme"),
    ("grid", "linear_eval", "top1"),
)
_REMEDY = "run `dvc checkout`, or `dvc repro`"


def further(params: Params) -> dict[str, list[str]]:
    """Folder of metrics/ -> what its files are called, without endings: of the stages that dvc.yaml makes of lists."""
    return {"transfer": list(params.transfer), "finetune": [n for s in params.finetune.labels for n in spelled(s)]}


def here(params: Params | None) -> list[Path]:
    """The files of metrics/ without those of a transfer or a share that params.yaml no longer has: DVC leaves them.

    None: all of them.
    """
    known = further(params) if params else {}
    paths = ((path, path.name.removesuffix(".json").removesuffix(".protocol")) for path in METRICS.rglob("*.json"))
    return sorted(path for path, name in paths if name in known.get(path.parent.name, [name]))


def faults(params: Params | None) -> list[UserError]:
    """One for each file of metrics/ or plots/ that belongs to something else; nothing of what is not there."""
    found = []
    for path in (path for path in here(params) if path.name.endswith(".protocol.json")):
        told = files.read_json(path)
        for name, (folder, file, way) in _MADE_OF.items():
            if name in told and (Path(folder) / file).exists() and told[name] != _value(Path(folder) / file, way):
                found.append(UserError(f"of another {folder} than the one here", path, _REMEDY))
    for name, (folder, parts) in _COUNTS.items():
        path, manifest = Path(f"metrics/{name}.json"), Path(folder) / "manifest.json"
        if path.exists() and manifest.exists():
            counts = [files.read_json(path).get(part, 0) for part in parts]
            if sum(counts) != _value(manifest, ("n",)):
                found.append(UserError(f"counts other images than {folder} holds", path, _REMEDY))
    for table, metrics, name in _LAST:
        path, other = Path(f"plots/{table}.csv"), Path(f"metrics/{metrics}.json")
        if path.exists() and other.exists() and not _equal(_last(path, name), files.read_json(other).get(name)):
            found.append(UserError(f"ends with another {name} than {other}", path, _REMEDY))
    return found


def _value(path: Path, way: tuple[str, ...]) -> object:
    value = files.read_json(path)
    for key in way:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _last(path: Path, name: str) -> float | None:
    """A number of the last row; None if there is none."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1][name]) if rows and rows[-1].get(name) else None


def _equal(one: float | None, other: float | None) -> bool:
    """Up to the digits of tables (six) and of metrics (four decimals)."""
    return one is other if None in (one, other) else abs(one - other) <= 1e-4 + 1e-5 * abs(other)
