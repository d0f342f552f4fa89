"""What a race compares, as a study's file: then the study's runner, table and page know it, too."""

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params import presets, reader
from pipeline.params.schema import Params
from pipeline.recommend.race import FIRST_FRESH, LOOKS, Kind, Rules
from pipeline.study import cells

STRENGTHS = (0.5, 1.0, 2.0)
# Generated images for each real one, and the weight of a real one: as many, ten times as many, and AdaInf's way.
INFLATED = {"x1": (1.0, 1.0), "x10": (10.0, 1.0), "x10, N 10": (10.0, 10.0)}
MOST, LEAST = 20.0, 0.5  # further real images for each, in the ceiling: where there are enough, and where hardly any
SHORT = 4  # the whole length in lengths of the short heat
SEEDS = ["pretrain.seed", "inflation.seed", "augment.seed"]
ASKS = {
    "short": "which strengths are worth the whole length, within each kind?",
    "full": "could perfect images help, and which arms may be the best of their kind?",
    "fresh": "do generated images help? On seeds that no choice has seen",
}


def kind(arm: str) -> Kind:
    """What an arm of the study's file is."""
    return arm if arm in ("none", "ceiling") else "generated"


def write(name: str, values: dict[tuple, object], params: Params, rules: Rules) -> cells.Study:
    """Write studies/NAME.yaml, with values by their path that all arms share, and read it.

    params: with these values. UserError where its method wants generated images in another way.
    """
    if cells.wants_positives(params) or params.pretrain.method == "joint_gan":
        what = f"{params.pretrain.method} uses generated images in its own way"
        raise UserError(what, "params.yaml: pretrain.method", "the race is of inflation: take simclr, moco or another")
    d = params.dataset
    if not (d.validation_size and d.labelled_size):
        what = f"{d.validation_size:,} validation images and {d.labelled_size:,} labels: nothing to choose arms by"
        raise UserError(what, "params.yaml: dataset", "the race wants some of each")
    ratio = min(MOST, d.ceiling_size / d.train_size)
    arms = {"none": {"inflation": {"ratio": 0.0}}}
    arms |= {arm: {"inflation": {"ratio": r, "real_weight": w}} for arm, (r, w) in INFLATED.items()}
    if ratio >= LEAST:
        arms["ceiling"] = {
            "generator": {"source": "real"},
            "inflation": {"ratio": float(f"{ratio:.2f}"), "real_weight": 1.0},
        }
    parts = {}
    for heat, asks in ASKS.items():
        seeds = {"seeds": LOOKS[-1], "first_seed": FIRST_FRESH} if heat == "fresh" else {"seeds": rules.seeds}
        base = {"base": {"pretrain": _shorter(params)}} if heat == "short" else {}
        grid = {"augment.strength": list(STRENGTHS)}
        parts[heat] = {"asks": asks, **seeds, "arms": arms, "grid": grid, **base}
    file = {"title": "Do generated images help here?", "base": _nested(values), "seed": SEEDS, "parts": parts}
    path = cells.FOLDER / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    files.write_text(path, presets.as_yaml(file))
    return cells.load(name)


def _shorter(params: Params) -> dict[str, int]:
    """A quarter of the steps, to the next step that is logged; warm-up and measurements with it."""
    p = params.pretrain
    steps = max(p.log_every, p.steps // SHORT // p.log_every * p.log_every)
    return {"steps": steps, "warmup_steps": p.warmup_steps // SHORT, "evaluate_every": steps}


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
        size = int(ratio * params.dataset.train_size)
        asked = params.model_dump()
        asked["dataset"]["ceiling_size"] = size
        if not reader.validate(asked)[1]:
            return {("dataset", "ceiling_size"): size}
    return {}
