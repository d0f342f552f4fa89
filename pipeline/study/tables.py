"""A study's numbers as Markdown, from its CSV alone; the pages of docs/results/ hold these tables."""

import math
import re
from pathlib import Path

import pandas as pd

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.study import analysis
from pipeline.study.analysis import EXPECTED, Blocks, Difference
from pipeline.study.cells import OUTCOME, PERCENT, PartFile, Study

CAUTION = (
    "Each interval is a 95 % interval by itself; none is corrected for multiple comparisons. They cover the variation "
    "between training seeds, not the choice of train and test images, nor the generator's seed where that is fixed. "
    "Detectable: the true difference that this design would find 4 times in 5."
)
OFF = (
    "The parabola is fitted over the logarithm of the strength. Off it: the largest distance of an arm from the "
    "parabola, in points (with three arms there is none). Where this is well above an arm's own error (the residual "
    "s.d. over the root of the number of seeds), the parabola's top means little."
)
RANKED = (
    "Rank correlation with {} over a part's arms (1: the measure orders them as labels do), and the points lost by "
    "taking the arm that the measure likes best. By chance: the absolute correlation that 95 % of random orders stay "
    "within."
)
COSTS = "Encoder: its forward passes, relative to those of {}. Training and sampling of generators do not count."
_NAMES = {OUTCOME: "top-1", "finetuned": "fine-tuned top-1"}  # the others go by their names in the CSV
_FEW = {"top1_1pct": "1 % of labels", "top1_10pct": "10 %"}


def table(study: Study) -> str:
    """A section for each part: arms, differences, best strengths; then how well measures without labels do."""
    data = analysis.frame(study)
    lines = [f"# {study.file.title}", "", f"`python -m pipeline study table {study.name}`: {origin(data, study)}"]
    for name, part in study.file.parts.items():
        of = data[data.part == name]
        lines += ["", f"## {name}: {part.asks}", ""]
        lines += _part(of, part) if len(of) else ["No cell is finished."]
    lines += ["", CAUTION]
    measured = {name: data[data.part == name] for name in study.file.parts}
    measured = {name: of for name, of in measured.items() if of.arm.nunique() > 2}
    if measured:
        lines += ["", "## Without labels", "", *_rankings(measured, study)]
    return "\n".join(lines) + "\n"


def write(path: Path, study: Study) -> None:
    """Put the table between `<!-- table NAME -->` and `<!-- end NAME -->` of a Markdown file."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"<!-- table {study.name} -->\n")
    _, end, after = rest.partition(f"<!-- end {study.name} -->")
    if not (begin and end):
        marks = f"<!-- table {study.name} --> and <!-- end {study.name} -->"
        raise UserError("has no place for the table", path, f"put {marks} there")
    files.write_text(path, f"{before}{begin}\n{deeper(table(study))}\n{end}{after}")


def deeper(text: str) -> str:
    """Headings two levels down, to stand in a section of another text."""
    return re.sub(r"(?m)^#", "###", text)


def origin(data: pd.DataFrame, study: Study) -> str:
    """How many cells there are, which commits made them, and in how many hours."""
    commits = ", ".join(commit[:7] for commit in data.commit.unique()) or "no commit"
    hours = data.drop_duplicates("key").seconds.sum() / 3600
    return f"{len(data)} of {len(study.cells)} cells, made at {commits} in {hours:.1f} hours of experiments."


def _header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def named(outcome: str) -> str:
    """An outcome's name to show."""
    return _NAMES.get(outcome, outcome.replace("_", " "))


def ranked(study: Study) -> str:
    """How to read a study's rank correlations."""
    first = dict.fromkeys(named(part.outcomes[0]) for part in study.file.parts.values())
    return RANKED.format(" or ".join(first))


def _part(data: pd.DataFrame, part: PartFile) -> list[str]:
    outcome, *further = part.outcomes
    further = [name for name in further if data[name].notna().any()]
    few = [name for name in _FEW if data[name].notna().all() and name not in part.outcomes]
    arms = set(data.arm)
    costs = data.groupby("arm").forwards.mean() / data[data.arm == part.against].forwards.mean()
    costly = part.against in arms and costs.nunique() > 1
    head = ["arm", "seeds", "beta", "passes", *map(_titled, [outcome, *further]), "kNN", *(_FEW[name] for name in few)]
    lines = _header(*head, *(["encoder"] if costly else []), *EXPECTED)
    for arm, of in data.groupby("arm", sort=False):
        mean = of.mean(numeric_only=True)
        cells = [arm, len(of), number(mean.beta, ".3f"), number(mean.real_passes, ".0f")]
        cells += [" +- ".join(filter(None, mean_and_spread(of, name))) for name in (outcome, *further)]
        cells += [number(mean.knn, ".2f"), *(number(mean[name], ".2f") for name in few)]
        cells += [number(costs[arm], ".2f")] if costly else []
        cells += [number(mean[name], ".4g") for name in EXPECTED]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if costly:
        lines += ["", COSTS.format(part.against)]
    lines += [*_compared(data, part, outcome), *_strengths(data, outcome)]
    for name in further:
        lines += _compared(data, part, name)
    return lines


def _titled(outcome: str) -> str:
    return f"{named(outcome)}, %" if outcome in PERCENT else named(outcome)


def _digits(outcome: str) -> int:
    return 2 if outcome in PERCENT else 4


def number(value: float, form: str) -> str:
    """The value in that format; empty for NaN."""
    return "" if math.isnan(value) else f"{value:{form}}"


def mean_and_spread(of: pd.DataFrame, outcome: str) -> tuple[str, str]:
    """An arm's mean over seeds and the s.d.; empty where there is none."""
    form = f".{_digits(outcome)}f"
    return number(of[outcome].mean(), form), number(of[outcome].std(), form)


def _compared(data: pd.DataFrame, part: PartFile, outcome: str) -> list[str]:
    """The arms' differences in an outcome and the part's contrasts; nothing if no two arms have the outcome."""
    of, lines = "" if outcome == part.outcomes[0] else f": {named(outcome)}", []
    unit = "points" if outcome in PERCENT else "difference"
    if part.against is not None:
        found, blocks = analysis.differences(data, part.against, outcome)
        if found or not of:
            lines += ["", *_header(f"minus {part.against}{of}", unit, "95 % interval", "detectable", "")]
            lines += [f"| {arm} | {' | '.join(shown(d, outcome))} |" for arm, d in found.items()]
            lines += _residual(blocks, outcome)
    found = analysis.contrasts(data, part.contrasts, outcome)
    if found:
        lines += ["", *_header(f"comparison{of}", unit, "95 % interval", "detectable", "")]
        lines += [f"| {words} | {' | '.join(shown(d, outcome))} |" for words, d in found.items()]
    return lines


def _residual(blocks: Blocks, outcome: str) -> list[str]:
    if not blocks.df:
        return []
    deviation = f"{math.sqrt(blocks.variance):.{_digits(outcome)}f}{' points' if outcome in PERCENT else ''}"
    return ["", f"Residual s.d. {deviation}, {blocks.df} degrees of freedom."]


def _strengths(data: pd.DataFrame, outcome: str) -> list[str]:
    found, blocks = analysis.curves(data, outcome), analysis.fitted(data, outcome)
    if not found:
        return []
    columns = ("best tried", "parabola's top", "95 % interval", "off it", "slope per doubling", "95 % interval")
    lines = ["", *_header("", *columns)]
    for rest, curve in found.items():
        top, low, high = blocks.best(curve)
        tried = max(curve, key=lambda s, curve=curve: blocks.effects[blocks.arms.index(curve[s])])
        tilt = blocks.contrast(analysis.slope(curve))
        cells = [rest or "all", f"{tried:g}", number(top, ".2f"), _places(low, high, curve)]
        cells += [number(blocks.misfit(curve), ".2f") if len(curve) > 3 else "", signed(tilt.points), _interval(tilt)]
        lines.append(f"| {' | '.join(cells)} |")
    first, *others = found
    if others:
        head = f"slope minus that of {first}, over the strengths of both"
        lines += ["", *_header(head, "points", "95 % interval", "detectable", "")]
    for rest in others:
        both = sorted(found[first].keys() & found[rest].keys())
        if len(both) < 3:
            continue
        base, weights = (analysis.slope({s: found[name][s] for s in both}) for name in (first, rest))
        tilt = blocks.contrast(weights | {arm: -weight for arm, weight in base.items()})
        lines.append(f"| {rest} | {' | '.join(shown(tilt, outcome))} |")
    return [*lines, *_residual(blocks, outcome), "", OFF]


def _places(low: float, high: float, curve: dict[float, str]) -> str:
    """An interval of strengths; marked "or above", "or below" if it is no more than an end of the range."""
    if low == high in (min(curve), max(curve)):
        return f"{low:.2f} or {'above' if high == max(curve) else 'below'}"
    return f"{low:.2f} to {high:.2f}"


def _rankings(parts: dict[str, pd.DataFrame], study: Study) -> list[str]:
    lines = [ranked(study), "", *_header("part", "arms", "by chance", *EXPECTED)]
    for name, data in parts.items():
        found = analysis.ranking(data, study.file.parts[name].outcomes[0])
        cells = [", ".join(filter(None, (number(r.rho, "+.2f"), number(r.regret, ".2f")))) for r in found.itertuples()]
        arms = data.arm.nunique()
        lines.append(f"| {name} | {arms} | {analysis.chance(arms):.2f} | {' | '.join(cells)} |")
    return lines


def shown(d: Difference, outcome: str) -> tuple[str, str, str, str]:
    """A difference, its interval, the detectable one, and the verdict: higher or lower for what is no percentage."""
    digits, verdict = _digits(outcome), d.verdict
    if outcome not in PERCENT:
        verdict = {"better": "higher", "worse": "lower"}.get(verdict, verdict)
    visible = "nothing: one seed" if math.isinf(d.visible) else number(d.visible, f".{digits}f")
    return signed(d.points, digits), _interval(d, digits), visible, verdict


def _interval(d: Difference, digits: int = 2) -> str:
    return "none" if math.isinf(d.low) else f"{signed(d.low, digits)} to {signed(d.high, digits)}"


def signed(points: float, digits: int = 2) -> str:
    """The number with its sign; what rounds to zero is +0."""
    return f"{round(points, digits) + 0.0:+.{digits}f}"
