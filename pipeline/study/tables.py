"""A study's numbers as Markdown, from its CSV alone: what docs/results.md quotes."""

import math
import re
from pathlib import Path

import pandas as pd

from pipeline import files
from pipeline.errors import UserError
from pipeline.study import analysis
from pipeline.study.analysis import EXPECTED, OUTCOME, Blocks, Difference
from pipeline.study.cells import PartFile, Study

CAUTION = (
    "Every interval has 95 % by itself, none is corrected for their number. They cover what differs between seeds of "
    "the training, not the choice of train and test images, nor the DDPM's own seed where that is not varied."
)
OFF = (
    "The parabola is one over the logarithm of the strength. Off it: by how many points the arm farthest from it lies "
    "off, of more than three; where that is well above an arm's own error (the residual over the root of its seeds), "
    "its top means little."
)
RANKED = (
    "Rank correlation with top-1 over a part's arms (1: the measure orders them as labels do), and points lost by "
    "taking the arm that the measure likes best. By chance: what 95 % of random orders of so many arms stay within, "
    "either way."
)
COSTS = "Encoder: its passes over those of {}. What generators take, in training and sampling, is not in them."
_ARMS = ("arm", "seeds", "beta", "passes", "top-1, %", "kNN")
_FEW = {"top1_1pct": "1 % of labels", "top1_10pct": "10 %"}


def table(study: Study) -> str:
    """A section a part: its arms, their differences, the best strengths; and how well measures without labels do."""
    data = analysis.frame(study)
    lines = [f"# {study.file.title}", "", f"`python -m pipeline.study table {study.name}`: {origin(data, study)}"]
    for name, part in study.file.parts.items():
        of = data[data.part == name]
        lines += ["", f"## {name}: {part.asks}", ""]
        lines += _part(of, part) if len(of) else ["No cell is finished."]
    lines += ["", CAUTION]
    measured = {name: data[data.part == name] for name in study.file.parts}
    measured = {name: of for name, of in measured.items() if of.arm.nunique() > 2}
    if measured:
        lines += ["", "## Without labels", "", *_rankings(measured)]
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


def _part(data: pd.DataFrame, part: PartFile) -> list[str]:
    few = [name for name in _FEW if data[name].notna().all()]
    arms = set(data.arm)
    costs = data.groupby("arm").forwards.mean() / data[data.arm == part.against].forwards.mean()
    costly = part.against in arms and costs.nunique() > 1
    lines = _header(*_ARMS, *(_FEW[name] for name in few), *(["encoder"] if costly else []), *EXPECTED)
    for arm, of in data.groupby("arm", sort=False):
        mean = of.mean(numeric_only=True)
        spread = f" +- {of[OUTCOME].std():.2f}" if len(of) > 1 else ""
        cells = [arm, len(of), f"{mean.beta:.3f}", f"{mean.real_passes:.0f}", f"{mean[OUTCOME]:.2f}{spread}"]
        cells += [f"{mean.knn:.2f}", *(f"{mean[name]:.2f}" for name in few), *([f"{costs[arm]:.2f}"] if costly else [])]
        cells += [f"{mean[name]:.4g}" for name in EXPECTED]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if costly:
        lines += ["", COSTS.format(part.against)]
    if part.against is not None:
        found, blocks = analysis.differences(data, part.against)
        lines += ["", *_header(f"less {part.against}", "points", "95 % interval", "could have been seen", "")]
        lines += [f"| {arm} | {_shown(d)} |" for arm, d in found.items()]
        lines += _residual(blocks)
    found = analysis.contrasts(data, part.contrasts)
    if found:
        lines += ["", *_header("comparison", "points", "95 % interval", "could have been seen", "")]
        lines += [f"| {words} | {_shown(d)} |" for words, d in found.items()]
    return lines + _strengths(data)


def _residual(blocks: Blocks) -> list[str]:
    if not blocks.df:
        return []
    return ["", f"Residual s.d. {math.sqrt(blocks.variance):.2f} points, {blocks.df} degrees of freedom."]


def _strengths(data: pd.DataFrame) -> list[str]:
    found, blocks = analysis.curves(data), analysis.fitted(data)
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
        lines.append(f"| {rest} | {_shown(tilt)} |")
    return [*lines, *_residual(blocks), "", OFF]


def _places(low: float, high: float, curve: dict[float, str]) -> str:
    """An interval of strengths; one that is no more than an end of what was tried says so."""
    if low == high in (min(curve), max(curve)):
        return f"{low:.2f} or {'above' if high == max(curve) else 'below'}"
    return f"{low:.2f} to {high:.2f}"


def _rankings(parts: dict[str, pd.DataFrame]) -> list[str]:
    lines = [RANKED, "", *_header("part", "arms", "by chance", *EXPECTED)]
    for name, data in parts.items():
        cells = [f"{row.rho:+.2f}, {row.regret:.2f}" for row in analysis.ranking(data).itertuples()]
        arms = data.arm.nunique()
        lines.append(f"| {name} | {arms} | {analysis.chance(arms):.2f} | {' | '.join(cells)} |")
    return lines


def _shown(d: Difference) -> str:
    visible = "nothing: one seed" if math.isinf(d.visible) else f"{d.visible:.2f}"
    return f"{signed(d.points)} | {_interval(d)} | {visible} | {d.verdict}"


def _interval(d: Difference) -> str:
    return "none" if math.isinf(d.low) else f"{signed(d.low)} to {signed(d.high)}"


def signed(points: float) -> str:
    """Two digits and a sign; what rounds to nothing is +0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"
