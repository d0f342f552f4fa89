"""studies/NAME.yaml -> cells: the parameters of every experiment that a study consists of.

title: one line
presets: [smoke]                            # applied before base; may be left out
base: {dataset: {train_size: 1000}, ...}    # parameters that all cells share, as in a preset
seed: [pretrain.seed, ...]                  # the parameters that a cell's seed sets
parts:
  NAME:
    asks: one line
    seeds: 5                                # 0 to 4, the same in every arm, so that arms are paired
    first_seed: 100                         # 100 to 104 instead; may be left out
    against: ARM                            # the arm that others are compared with, at the same point of the grid
    arms: {ARM: {inflation: {ratio: 0.0}}, ...}
    grid: {augment.strength: [1, 2], ...}   # every arm at every point; arms or grid may be left out
    contrasts: {NAME: {ARM: 1, ARM: -1}}    # further comparisons: weighted sums of arms; weights add up to 0
    outcomes: [top1_labelled]               # columns of the CSV: first one of PERCENT, then any of PERCENT and OTHERS
    base: {...}                             # wins over the study's base; an arm's parameters win over both
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.core import files, sources, store
from pipeline.core.errors import UserError
from pipeline.params import presets, reader
from pipeline.params.ranges import Count, CountOrZero
from pipeline.params.schema import Params
from pipeline.params.types import Section

FOLDER = Path("studies")
MOST = 10_000  # cells of a part
OUTCOME = "top1_labelled"  # the same number of labels for every train_size
_PROBED = ("top1", OUTCOME, "validation", "knn", "pixels", "untrained", "clsp", "top1_1pct", "top1_10pct")
PERCENT = (*_PROBED, "finetuned", "from_scratch")
OTHERS = ("reconstruction", "top_k", "synthetic", "synthetic_start", "cosine", "frechet_growth", "frechet_most")
# The sections of params.yaml and the modules that decide a cell's numbers. `quality`, for one, only looks at images.
SECTIONS = ("compute", "dataset", "generator", "generate", "inflation", "augment", "pretrain", "linear_eval")
MODULES = (
    "data/datasets",
    "data/imports",
    "data/scores",
    "training/generator",
    "generators/pretrained",
    "generators/sampling",
)
MODULES += ("training/encoder", "evaluation/linear_eval")


class PartFile(Section):
    """One part of a study's file."""

    asks: str
    seeds: Count
    first_seed: CountOrZero = 0
    against: str | None = None
    arms: dict[str, dict] = Field(default={"": {}}, min_length=1)
    grid: dict[str, Annotated[list, Field(min_length=1)]] = Field(default={})
    contrasts: dict[str, dict[str, float]] = Field(default={})
    outcomes: Annotated[list[Literal[PERCENT + OTHERS]], Field(min_length=1)] = Field(default=[OUTCOME])
    base: dict = Field(default={})


class StudyFile(Section):
    """A study's file."""

    title: str
    presets: list[str] = Field(default=[])
    base: dict = Field(default={})
    seed: Annotated[list[str], Field(min_length=1)]
    parts: Annotated[dict[str, PartFile], Field(min_length=1)]


@dataclass(frozen=True)
class Cell:
    """One experiment of a part. values: parameters by their path, which replace those of params.yaml.

    arm: the name to show, made of the part's arm (`of`) and the point of the part's grid.
    """

    part: str
    arm: str
    of: str
    seed: int
    point: dict[str, object]
    values: dict[tuple[str, ...], object]

    @cached_property
    def name(self) -> str:
        """12 hex digits of its values; 1 and 1.0 give the same."""
        plain = {".".join(path): float(v) if type(v) is int else v for path, v in self.values.items()}
        return store.fingerprint(values=json.dumps(plain, sort_keys=True))[:12]

    @property
    def label(self) -> str:
        """The name to show."""
        return f"{self.part}: {self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A study's name, its file, and its cells in the order in which they run: by part, then by seed."""

    name: str
    file: StudyFile
    cells: list[Cell]

    @property
    def memory(self) -> Path:
        """The CSV."""
        return FOLDER / f"{self.name}.csv"


def load(name: str) -> Study:
    """Read a study; UserError where its file has a fault."""
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        there = ", ".join(sorted(found.stem for found in FOLDER.glob("*.yaml"))) or "none"
        raise UserError(f"no study {name}", FOLDER, f"there are {there}")
    return read(name, reader.text_of(path))


def refuse_name(name: str) -> None:
    """UserError for a name that experiments cannot have."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError("no name for experiments", name, "give its two files one of letters, digits, . _ and -")


def read(name: str, text: str) -> Study:
    """A study of the text that studies/NAME.yaml has, or would have; UserError where it has a fault."""
    refuse_name(name)
    path = FOLDER / f"{name}.yaml"
    values, _, faults = reader.parse(text)
    if faults:
        raise UserError("; ".join(f"{'.'.join(map(str, where))}: {what}" for where, what in faults), path)
    try:
        file = StudyFile.model_validate(values)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise UserError(what, path) from error
    unknown = [name for name in file.presets if name not in presets.names()]
    if unknown:
        raise UserError(f"presets: no {', '.join(unknown)}", path, f"there are {', '.join(presets.names())}")
    return Study(name, file, list(_cells(file, path)))


def _cells(file: StudyFile, path: Path) -> Iterator[Cell]:
    known, given = set(reader.keys()), presets.compose(file.presets)
    sections = {key[:-1] for key in known}
    for name, part in file.parts.items():
        if part.outcomes[0] not in PERCENT:
            raise UserError(f"outcomes: {part.outcomes[0]} is no percentage; the first must be one", f"{path}: {name}")
        if len(set(part.outcomes)) < len(part.outcomes):
            raise UserError("outcomes: one is there twice", f"{path}: {name}")
        count = part.seeds * len(part.arms) * math.prod(map(len, part.grid.values()))
        if count > MOST:
            raise UserError(f"{count:,} cells, more than {MOST:,}", f"{path}: {name}")
        seen = set()
        for seed in range(part.first_seed, part.first_seed + part.seeds):
            points = ([(key, value) for value in values] for key, values in part.grid.items())
            for (arm, changes), *point in itertools.product(part.arms.items(), *points):
                values = dict(given)
                for over in (file.base, part.base, changes):
                    values |= presets.leaves(over)
                values |= {tuple(key.split(".")): value for key, value in point}
                values |= {tuple(key.split(".")): seed for key in file.seed}
                wrong = sorted(".".join(key) for key in set(values) if key not in known or key in sections)
                if wrong:
                    raise UserError(f"no parameter {', '.join(wrong)}", f"{path}: {name}")
                words = [arm, *(f"{key.rpartition('.')[2]} {_plain(value)}" for key, value in point)]
                label = ", ".join(filter(None, words))
                if (label, seed) in seen:
                    raise UserError(f"{label} is there twice", f"{path}: {name}")
                seen.add((label, seed))
                yield Cell(name, label, arm, seed, dict(point), values)
        arms = {arm for arm, _ in seen}
        if part.against is not None and part.against not in arms | set(part.arms):
            raise UserError(f"against {part.against}, which is no arm of it", f"{path}: {name}")
        for words, weights in part.contrasts.items():
            if not set(weights) <= arms or abs(sum(weights.values())) > 1e-9:
                raise UserError(f"{words}: needs weights of arms that add up to 0", f"{path}: {name}")


def _plain(value: object) -> str:
    return f"{value:g}" if type(value) in (int, float) else str(value)


def resolve(cell: Cell, base: Params) -> Params:
    """All parameters of a cell: those of params.yaml with its values; UserError where they break a rule."""
    return reader.with_values(base, cell.values, cell.label)


def wants_positives(params: Params) -> bool:
    """Whether the method, or the augmentation, uses generated positives."""
    third = getattr(getattr(params, params.pretrain.method), "third_view", None)
    return third == "candidate" or params.augment.replace > 0


def content(path: Path) -> str:
    """sha256 of a file or folder, from a note in the store as long as names, sizes and times in it stay.

    What is hidden does not count, as nobody reads it as a picture.
    """

    def shown(name: Path) -> bool:
        return not any(part.startswith(".") for part in name.parts)

    stats = {name: of for name, of in files.stats(path).items() if shown(Path(name).relative_to(path))}
    seen = hashlib.sha256(repr(sorted(stats.items())).encode(errors="surrogateescape")).hexdigest()
    note = store.place() / f"content-{seen[:16]}.txt"
    if not stats or not note.exists():
        digests = {name: of for name, of in files.tree_digests(path).items() if shown(Path(name))}
        files.write_text(note, files.joint_sha256(digests))
    return note.read_text(encoding="utf-8")


def _yours(params: Params) -> Iterator[str]:
    """Paths of what people put there: another folder may come to stand under the same name."""
    if params.dataset.name == "folder":
        yield params.dataset.path
    if params.generator.source in ("pretrained", "import") and params.generator.hub is None:
        yield params.generator.path
    if params.start.source == "file":
        yield params.start.path
    if wants_positives(params) and params.positives.kind == "unclip":
        yield params.unclip.path


def key(params: Params, digest: Callable[[Path], str] = content) -> str:
    """16 hex digits of what decides a cell's numbers: its resolved parameters, the code that computes them, and the
    pictures, images and weights of one's own, as far as they are here.

    digest: of the content of a file or folder.
    """
    kind = params.positives.kind if wants_positives(params) else "none"
    positives = [name for name in ("positives", kind) if kind != "none" and hasattr(params, name)]
    tuned = ("finetune",) if params.finetune.labels else ()
    names = (*SECTIONS, *positives, *tuned, params.generator.kind, params.pretrain.method)
    kinds = (f"generators/{params.generator.kind}", f"methods/{params.pretrain.method}")
    kinds += () if kind == "none" else (f"positives/{kind}",)
    dumped = {name: getattr(params, name).model_dump() for name in names}
    if params.start.source != "none":
        dumped["start"] = params.start.model_dump()
    there = [path for path in _yours(params) if Path(path).exists()]
    if there:
        dumped["content"] = {path: digest(Path(path)) for path in there}
    if params.inflation.score != "none":
        dumped["quality"], kinds = params.quality.model_dump(include={"steps", "seed"}), (*kinds, "evaluation/score")
    modules = (*MODULES, *kinds, *(f"evaluation/{name}" for name in tuned))
    return store.fingerprint(params=dumped, code=sources.digest(*modules))[:16]
