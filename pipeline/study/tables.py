"""A study's numbers as Markdown, from its CSV alone: what docs/results.md quotes."""

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
    "Every interval has 95 % by itself, none is corrected for their number. They cover what differs between seeds of "
    "the training, not the choice of train and test images, nor the generator's own seed where that is not varied."
)
OFF = (
    "The parabola is one over the logarithm of the strength. Off it: by how many points the arm farthest from it lies "
    "off, of more than three; where that is well above an arm's own error (the residual over the root of its seeds), "
    "its top means little."
)
RANKED = (
    "Rank correlation with {} over a part's arms (1: the measure orders them as labels do), and points lost by "
    "taking the arm that the measure likes best. By chance: what 95 % of random orders of so many arms stay within, "
    "either way."
)
COSTS = "Encoder: its passes over those of {}. What generators take, in training and sampling, is not in them."
_NAMES = {OUTCOME: "top-1", "finetuned": "fine-tuned top-1"}  # what others are called in the CSV does for people, too
_FEW = {"top1_1pct": "1 % of labels", "top1_10pct": "10 %"}


def table(study: Study) -> str:
    """A section a part: its arms, their differences, the best strengths; and how well measures without labels do."""
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
    """Put the table between the marks of a Markdown file, `<!-- table NAME -->` and `<!-- end NAME -->`."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"<!-- table {study.name} -->\n")
    _, end, after = rest.partition(f"<!-- end {study.name} -->")
    if not (begin and end):
        raise UserError(f"has no place for it, between <!-- table {study.name} --> and <!-- end {study.name} -->", path)
    files.write_text(path, f"{before}{begin}\n{deeper(table(study))}\n{end}{after}")


def deeper(text: str) -> str:
    """Headings two levels down, to stand in a section of another text."""
    return re.sub(r"(?m)^#", "###", text)


def origin(data: pd.DataFrame, study: Study) -> str:
    """How much of the study there is, and what made it."""
    commits = ", ".join(commit[:7] for commit in data.commit.unique()) or "no commit"
    hours = data.drop_duplicates("key").seconds.sum() / 3600
    return f"{len(data)} of {len(study.cells)} cells, made at {commits} in {hours:.1f} hours of experiments."


def _header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def named(outcome: str) -> str:
    """An outcome's name for people."""
    return _NAMES.get(outcome, outcome.replace("_", " "))


def ranked(study: Study) -> str:
    """What the rank correlations of a study are with, and how they are read."""
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
    """In that form; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:{form}}"


def mean_and_spread(of: pd.DataFrame, outcome: str) -> tuple[str, str]:
    """An arm's mean over seeds and their s.d.; nothing in place of what there is not."""
    form = f".{_digits(outcome)}f"
    return number(of[outcome].mean(), form), number(of[outcome].std(), form)


def _compared(data: pd.DataFrame, part: PartFile, outcome: str) -> list[str]:
    """The arms' differences in an outcome, and the part's contrasts; nothing where no two arms have it."""
    of, lines = "" if outcome == part.outcomes[0] else f": {named(outcome)}", []
    unit = "points" if outcome in PERCENT else "difference"
    if part.against is not None:
        found, blocks = analysis.differences(data, part.against, outcome)
        if found or not of:
            lines += ["", *_header(f"less {part.against}{of}", unit, "95 % interval", "could have been seen", "")]
            lines += [f"| {arm} | {' | '.join(shown(d, outcome))} |" for arm, d in found.items()]
            lines += _residual(blocks, outcome)
    found = analysis.contrasts(data, part.contrasts, outcome)
    if found:
        lines += ["", *_header(f"comparison{of}", unit, "95 % interval", "could have been seen", "")]
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
    columns = ("best tried", "parabola's top", "95 % interval", "off it", "slope a doubling", "95 % interval")
    lines = ["", *_header("", *columns)]
    for rest, curve in found.items():
        top, low, high = blocks.best(curve)
        tried = max(curve, key=lambda s, curve=curve: blocks.effects[blocks.arms.index(curve[s])])
        tilt = blocks.contrast(analysis.slope(curve))
        cells = [rest or "all", f"{tried:g}", "" if math.isnan(top) else f"{top:.2f}", _places(low, high, curve)]
        cells += [f"{blocks.misfit(curve):.2f}" if len(curve) > 3 else "", signed(tilt.points), _interval(tilt)]
        lines.append(f"| {' | '.join(cells)} |")
    first, *others = found
    if others:
        head = f"slope less that of {first}, over the strengths of both"
        lines += ["", *_header(head, "points", "95 % interval", "could have been seen", "")]
    for rest in others:
        both = sorted(found[first].keys() & found[rest].keys())
        if len(both) < 3:
            continue
        base, weights = (analysis.slope({s: found[name][s] for s in both}) for name in (first, rest))
        tilt = blocks.contrast(weights | {arm: -weight for arm, weight in base.items()})
        lines.append(f"| {rest} | {' | '.join(shown(tilt, outcome))} |")
    return [*lines, *_residual(blocks, outcome), "", OFF]


def _places(low: float, high: float, curve: dict[float, str]) -> str:
    """An interval of strengths; one that is no more than an end of what was tried says so."""
    if low == high in (min(curve), max(curve)):
        return f"{low:.2f} or {'above' if high == max(curve) else 'below'}"
    return f"{low:.2f} to {high:.2f}"


def _rankings(parts: dict[str, pd.DataFrame], study: Study) -> list[str]:
    lines = [ranked(study), "", *_header("part", "arms", "by chance", *EXPECTED)]
    for name, data in parts.items():
        found = analysis.ranking(data, study.file.parts[name].outcomes[0])
        cells = ["" if math.isnan(row.regret) else f"{row.rho:+.2f}, {row.regret:.2f}" for row in found.itertuples()]
        arms = data.arm.nunique()
        lines.append(f"| {name} | {arms} | {analysis.chance(arms):.2f} | {' | '.join(cells)} |")
    return lines


def shown(d: Difference, outcome: str) -> tuple[str, str, str, str]:
    """A difference, its interval, what could have been seen, a verdict; of what is no percentage, higher or lower."""
    digits, verdict = _digits(outcome), d.verdict
    if outcome not in PERCENT:
        verdict = {"better": "higher", "worse": "lower"}.get(verdict, verdict)
    visible = "nothing: one seed" if math.isinf(d.visible) else f"{d.visible:.{digits}f}"
    return signed(d.points, digits), _interval(d, digits), visible, verdict


def _interval(d: Difference, digits: int = 2) -> str:
    return "none" if math.isinf(d.low) else f"{signed(d.low, digits)} to {signed(d.high, digits)}"


def signed(points: float, digits: int = 2) -> str:
    """So many digits and a sign; what rounds to nothing is +0."""
    return f"{round(points, digits) + 0.0:+.{digits}f}"
