"""What a race compares, as the text of a study's file: then the study's runner, table and page know it, too."""

import math
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import imports
from pipeline.params import presets, reader
from pipeline.params.schema import Params
from pipeline.recommend.race import FIRST_FRESH, LOOKS, Arm, Rules
from pipeline.study import cells

STRENGTHS = (0.5, 1.0, 2.0)
# Generated images for each real one, and the weight of a real one: as many, ten times as many, and AdaInf's way.
INFLATED = {"x1": (1.0, 1.0), "x10": (10.0, 1.0), "x10, N 10": (10.0, 10.0)}
NOTHING = {"ratio": 0.0, "final_real_share": None}  # the share would ask for generated images at the end
MOST, LEAST = 20.0, 0.5  # further real images for each, in the ceiling: where there are enough, and where hardly any
SHORT = 4  # the whole length in lengths of the short heat
SEEDS = ["pretrain.seed", "inflation.seed", "augment.seed"]
ASKS = {
    "short": "which strengths are worth the whole length, within each family?",
    "full": "could perfect images help, and which arms may be the best of their kind?",
    "fresh": "do generated images help? On seeds that no choice has seen",
}
_IN_STEPS = ("queue_start", "freeze_steps", "teacher_warmup_steps")  # of methods' own sections
_ELSEWHERE = ("hub", "revision", "sha256", "channel_order")  # of a generator that is loaded or imported


def answer_of(name: str) -> Path:
    """Where a race's answer stands, as numbers and words; no stage's metrics have such a name."""
    return Path("metrics") / ("recommend.json" if name == "recommend" else f"recommend_{name}.json")


def raced(study: cells.Study) -> bool:
    """Whether it is a race."""
    return set(study.file.parts) == set(ASKS)


def of(cell: cells.Cell) -> Arm:
    """What an arm of the study's file is."""
    return Arm(cell.of if cell.of in ("none", "ceiling") else "generated", cell.of)


def text(values: dict[tuple, object], params: Params, rules: Rules) -> str:
    """The study's file, with values by their path that all arms share.

    params: with these values. UserError where they have no generator, or a method that wants its images in another way.
    """
    own, d, source = params.pretrain.method, params.dataset, params.generator.source
    if cells.wants_positives(params) or own == "joint_gan":
        what = f"{own} uses generated images in its own way"
        raise UserError(what, "params.yaml: pretrain.method", "the race is of inflation: take simclr, moco or another")
    if source in ("none", "real"):
        what = f"{source} makes no generated images"
        raise UserError(what, "params.yaml: generator.source", "set it to train, pretrained or import")
    if not d.validation_size:
        raise UserError("0 images to choose arms by", "params.yaml: dataset.validation_size", "the race wants some")
    ratio = min(MOST, math.floor(100 * d.ceiling_size / d.train_size) / 100)
    arms = {"none": {"inflation": NOTHING}}
    arms |= {arm: {"inflation": {"ratio": r, "real_weight": w}} for arm, (r, w) in _inflated(params).items()}
    if ratio >= LEAST:
        perfect = {"source": "real"} | dict.fromkeys(_ELSEWHERE)
        arms["ceiling"] = {"generator": perfect, "inflation": {"ratio": ratio, "real_weight": 1.0}}
    parts = {}
    for heat, asks in ASKS.items():
        seeds = {"seeds": LOOKS[-1], "first_seed": FIRST_FRESH} if heat == "fresh" else {"seeds": rules.seeds}
        base = {"base": _shorter(params)} if heat == "short" else {}
        grid = {"augment.strength": list(STRENGTHS)}
        parts[heat] = {"asks": asks, **seeds, "arms": arms, "grid": grid, **base}
    file = {"title": "Do generated images help here?", "base": _nested(values), "seed": SEEDS, "parts": parts}
    return presets.as_yaml(file)


def _inflated(params: Params) -> dict[str, tuple[float, float]]:
    """Ratio and weight of the arms with generated images; of an import, those alone for which it has enough."""
    place = Path(params.generator.path)
    if params.generator.source != "import" or not place.exists():
        return INFLATED
    there, train = imports.count(place), params.dataset.train_size
    if not there:  # unreadable, which the stage tells better
        return INFLATED
    found = {arm: (ratio, weight) for arm, (ratio, weight) in INFLATED.items() if ratio * train <= there}
    if not found:
        what = f"{there:,} images are fewer than {train:,} real ones, and the race begins with as many"
        raise UserError(what, place, "import more, or lower dataset.train_size")
    if len(found) < len(INFLATED):
        left = "; ".join(arm for arm in INFLATED if arm not in found)
        log(f"{place}: {there:,} images are too few for the arms {left}, which are left out")
    return found


def _shorter(params: Params) -> dict[str, dict]:
    """A quarter of the steps; warm-up, and what the method counts in steps, with it. One row of the log."""
    p, own = params.pretrain, params.pretrain.method
    steps, warmup = max(1, p.steps // SHORT), p.warmup_steps // SHORT
    section = getattr(params, own)
    pretrain = {"steps": steps, "log_every": steps, "evaluate_every": steps, "warmup_steps": warmup}
    counted = {name: getattr(section, name) // SHORT for name in _IN_STEPS if hasattr(section, name)}
    return {"pretrain": pretrain | ({} if warmup else {"warmup_lr": None})} | ({own: counted} if counted else {})


def _nested(values: dict[tuple, object]) -> dict:
    found: dict = {}
    for (*path, name), value in values.items():
        section = found
        for key in path:
            section = section.setdefault(key, {})
        section[name] = value
    return found


def with_a_ceiling(params: Params) -> dict[tuple, object]:
    """The largest ceiling of a published set that its images allow, by its path; {} if there is none to spare."""
    for ratio in (MOST, 10.0, 5.0, 2.0, 1.0, LEAST):
        found: dict[tuple, object] = {("dataset", "ceiling_size"): int(ratio * params.dataset.train_size)}
        if not reader.changed(params, found)[1]:
            return found
    return {}
