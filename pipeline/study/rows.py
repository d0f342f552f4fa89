"""A study's CSV: one row for each finished cell."""

import csv
import io
import subprocess
from pathlib import Path

from pipeline.core import access, outputs
from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.params.schema import Params
from pipeline.params.types import Section
from pipeline.study import cells
from pipeline.study.cells import FOLDER, OTHERS, OUTCOME, PERCENT, Cell

LABEL_FREE = (
    *("rankme", "lidar", "alignment", "uniformity", "connectivity"),
    *("rotation", "cluster_learnability", "intrinsic_dimension"),
)
JUDGED = ("frechet", "coverage", "told_apart", "distance", "same_class")
_CHOSEN = ("score", "select", "weighting", "final_real_share")
_INFLATION = ("ratio", "source", "real_weight", "order", *_CHOSEN, "strength", "ddpm_steps", "ddpm_seed")
_POSITIVES = ("positives", "weight", "candidates", "guidance", "replace", "replaced")
_MIXED_AE = ("mixing", "attention", "segments", "contrast")  # 1 or 0, and lambda
_KINDS = ("generator", "backbone", "mode", "mix", *_MIXED_AE, "finetune_labels")
_LATE = ("set", "source", *_CHOSEN, "validation", *LABEL_FREE)  # columns that a file of older code lacks
SETTING = ("set", "method", "n_real", *_INFLATION, "width", "batch", *_POSITIVES, *_KINDS)
DRAWN = ("steps", "beta", "real_passes", "images", "views", "forwards")
MADE = ("seconds", "commit", "key", "cell")
FILES = ("pretrain", "linear_eval", "label_free", "quality", "positives")
COLUMNS = ["label", *SETTING, "seed", *DRAWN, "loss", *PERCENT, *OTHERS, *LABEL_FREE, *JUDGED, *MADE]
_CHOICES = ("set", "method", "source", "order", "score", "weighting")
_CHOICES += ("positives", "replaced", "generator", "backbone", "mode", "mix")
_WORDS = ("label", *_CHOICES, "commit", "key", "cell")
NUMBERS = [name for name in COLUMNS if name not in _WORDS]
_MAKERS = ("pipeline", "stages", str(reader.FILE), "dvc.yaml")  # what decides a row's numbers, by its path
_ONCE = {"top1_10k": OUTCOME}  # a column's earlier name, which a user's CSV may still have
_seen: dict[Path, tuple[bytes, list[dict[str, str]]]] = {}  # a file as it was when it was read last, and its rows


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a study's CSV, as text; none if there is no file yet. A bad row is refused with its line number.

    A file of older code may lack columns: then they are empty. What was read before is not parsed again: a study of ten
    thousand cells reads it as often.
    """
    with access.read_faults(path):
        if not path.exists():
            return []
    remedy = "mend it: git checkout restores only the rows that were committed"
    with access.reading(path, "not readable", remedy, UnicodeDecodeError, csv.Error):
        content = path.read_bytes()
        before, found = _seen.get(path.absolute(), (b"", []))
        if not (before.endswith(b"\n") and content.startswith(before)):
            before, found = b"", []
        reading = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
        head = [_ONCE.get(name, name) for name in next(reading, [])]
        odd = [*(set(head) - set(COLUMNS)), *(set(COLUMNS) - set(_LATE) - set(head))]
        if odd or head != [name for name in COLUMNS if name in head]:
            what = f"has other columns than a study's, or in another order: {', '.join(sorted(odd)) or head[0]}"
            raise UserError(what, path, "restore it, or move it out of the folder")
        if before:
            reading = csv.reader(io.StringIO(content[len(before) :].decode("utf-8"), newline=""))
        above = before.count(b"\n")
        found = found + [_row(path, above + reading.line_num, head, words) for words in reading]
        _seen[path.absolute()] = content, found
        return [row.copy() for row in found]


def _row(path: Path, line: int, head: list[str], words: list[str]) -> dict[str, str]:
    try:
        if len(words) != len(head):
            raise ValueError(f"{len(words)} values for {len(head)} columns")
        row = dict.fromkeys(COLUMNS, "") | dict(zip(head, words, strict=True))
        for name in NUMBERS:
            float(row[name] or 0)
    except ValueError as fault:
        raise UserError(f"no row of a study: {fault}", f"{path}:{line}", "mend or remove the line") from fault
    return row


def everywhere() -> list[dict[str, str]]:
    """The rows of all studies."""
    return [row for path in sorted(FOLDER.glob("*.csv")) for row in read(path)]


def add(path: Path, row: dict) -> None:
    """Append a row. The file is replaced whole, so that a killed process leaves no half of it."""
    outputs.table(path, COLUMNS, [*read(path), row])


def setting(cell: Cell, params: Params) -> dict:
    """The part of a row that is known before the cell runs."""
    p, positives = params, params.positives if cells.wants_positives(params) else None
    method_params = getattr(p, p.pretrain.method)
    mixed = p.mixed_ae if p.pretrain.method == "mixed_ae" else None
    return {
        "label": cell.label,
        "set": p.dataset.name if p.dataset.name != "folder" else Path(p.dataset.path).name,
        "method": p.pretrain.method,
        "n_real": p.dataset.train_size,
        "ratio": p.inflation.ratio,
        "real_weight": p.inflation.real_weight,
        "source": p.generator.source,
        "order": p.inflation.order,
        **{name: _or_nothing(p.inflation, name) for name in _CHOSEN},
        "strength": p.augment.strength,
        "ddpm_steps": p.ddpm.steps,
        "ddpm_seed": p.ddpm.seed,
        "width": p.pretrain.backbone.width,
        "batch": p.pretrain.batch_size,
        "positives": positives.kind if positives else "none",
        **{name: _or_nothing(positives, name) for name in ("weight", "candidates", "guidance")},
        "replace": p.augment.replace,
        "replaced": p.augment.replaced if p.augment.replace else "",
        "generator": p.generator.kind,
        "backbone": p.pretrain.backbone.name or p.pretrain.backbone.kind,
        "mode": _or_nothing(method_params, "mode"),
        "mix": mixed.mix if mixed and mixed.mixing else "",
        **{name: float(getattr(mixed, name)) if mixed else "" for name in _MIXED_AE},
        "finetune_labels": max(p.finetune.labels, default=""),
        "seed": cell.seed,
        "steps": p.pretrain.steps,
        "images": p.pretrain.steps * p.pretrain.batch_size,
        "cell": cell.name,
    }


def _or_nothing(section: Section | None, name: str) -> object:
    value = getattr(section, name, None)
    return "" if value is None else value


def measured(metrics: dict[str, dict]) -> dict:
    """The part of a row that a finished experiment adds; metrics: a name of FILES, or "finetune" -> its values."""
    tuned = metrics.get("finetune")
    everything = {name: value for of, values in metrics.items() if of != "finetune" for name, value in values.items()}
    if tuned is not None:  # its top-1 is not the linear probe's
        everything |= {"finetuned": tuned["top1"], "from_scratch": tuned["from_scratch"]}
    return {name: everything[name] for name in COLUMNS if name in everything}


def commit() -> str:
    """The current commit; UserError while code or parameters differ from it."""
    changed = git("status", "--porcelain", "--", *_MAKERS)
    if changed:
        files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines())
        raise UserError("not committed, so no row could name what made it", files, "commit first")
    return git("rev-parse", "HEAD")


def alike(one: str, other: str) -> bool:
    """Whether two commits have the same code and parameters."""
    return not git("diff", "--name-only", one, other, "--", *_MAKERS)


def git(*words: str) -> str:
    """The output of a git command, stripped."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError as fault:
        raise UserError("git is not there", remedy="install it") from fault
    except subprocess.CalledProcessError as fault:
        raise UserError(fault.stderr.strip().partition("\n")[0], f"git {words[0]}", "run it in a clone") from fault
