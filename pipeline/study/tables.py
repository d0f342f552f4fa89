"""A study's numbers as Markdown, from its CSV alone; the pages of docs/results/ hold these tables."""

import math
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.study import analysis
from pipeline.study.analysis import EXPECTED, Blocks, Difference
from pipeline.study.cells import OUTCOME, PERCENT, PartFile, Study
from pipeline.study.rows import LABEL_FREE

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
    "within; arms of a grid are not independent, so that it is too small for them."
)
BEST = "The best arm of each kind by the same seeds, which flatters a kind of which several were tried."
COSTS = "Encoder: its forward passes, relative to those of {}. Training and sampling of generators do not count."
_NAMES = {OUTCOME: "top-1", "finetuned": "fine-tuned top-1"}  # the others go by their names in the CSV
WIDTH = 128  # characters of a line of text
LATER = ("rotation", "clid")  # measures that rows of older code lack
_FEW = {"top1_1pct": "1 % of labels", "top1_10pct": "10 %"}


class Table(NamedTuple):
    """One table to show, with its cells as text. notes: paragraphs under it."""

    columns: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()


def table(study: Study) -> str:
    """A section for each part: arms, differences, best strengths; then how well measures without labels do."""
    data = analysis.frame(study)
    blocks = [f"# {study.file.title}", f"`leaven study table {study.name}`: {origin(data, study)}"]
    for name, part in study.file.parts.items():
        found = of_part(data[data.part == name], part)
        blocks += [f"## {name}: {part.asks}", *(_markdown(found) or ["No cell is finished."])]
    blocks.append(CAUTION)
    rankings = without_labels(data, study)
    if rankings.rows:
        blocks += ["## Without labels", ranked(study), *_markdown([rankings])]
    return "\n\n".join(map(_wrapped, blocks)) + "\n"


def _wrapped(block: str) -> str:
    """A paragraph in lines of a page's width; headings and tables are as they are."""
    return block if block.startswith(("#", "|")) else textwrap.fill(block, WIDTH, break_on_hyphens=False)


def write(path: Path, study: Study) -> None:
    """Put the table between `<!-- table NAME -->` and `<!-- end NAME -->` of a Markdown file."""
    before, begin, rest = reader.text_of(path).partition(f"<!-- table {study.name} -->\n")
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


def _markdown(tables: list[Table]) -> list[str]:
    """Each table and each of its notes as a block of Markdown."""
    blocks = []
    for columns, rows, notes in tables:
        head, *lines = (f"| {' | '.join(row)} |" for row in (columns, *rows))
        blocks += ["\n".join([head, "|---" * len(columns) + "|", *lines]), *notes]
    return blocks


def named(outcome: str) -> str:
    """An outcome's name to show."""
    return _NAMES.get(outcome, outcome.replace("_", " "))


def ranked(study: Study) -> str:
    """How to read a study's rank correlations."""
    first = dict.fromkeys(named(part.outcomes[0]) for part in study.file.parts.values())
    return RANKED.format(" or ".join(first))


def of_part(data: pd.DataFrame, part: PartFile) -> list[Table]:
    """A part's arms, differences in each outcome and best strengths; nothing if no cell is finished."""
    if data.empty:
        return []
    first, *further = outcomes(data, part)
    tables = [_arms(data, part), *_compared(data, part, first), *_decomposed(data, first), *_strengths(data, first)]
    return tables + [table for outcome in further for table in _compared(data, part, outcome)]


def outcomes(data: pd.DataFrame, part: PartFile) -> list[str]:
    """The part's first outcome and those of the others that some cell has."""
    first, *further = part.outcomes
    return [first, *(name for name in further if data[name].notna().any())]


def _arms(data: pd.DataFrame, part: PartFile) -> Table:
    shown = outcomes(data, part)
    few = [name for name in _FEW if data[name].notna().all() and name not in part.outcomes]
    costs = data.groupby("arm").forwards.mean() / data[data.arm == part.against].forwards.mean()
    unlabelled = [name for name in LABEL_FREE if data[name].notna().any()]
    costly = part.against in set(data.arm) and costs.nunique() > 1
    columns = ["arm", "seeds", "beta", "passes", *map(_titled, shown), "kNN", *(_FEW[name] for name in few)]
    columns += [*(["encoder"] if costly else []), *unlabelled]
    rows = []
    for arm, of in data.groupby("arm", sort=False):
        mean = of.mean(numeric_only=True)
        cells = [arm, str(len(of)), number(mean.beta, ".3f"), number(mean.real_passes, ".0f")]
        for name in shown:
            form = f".{_digits(name)}f"
            cells.append(" +- ".join(filter(None, (number(of[name].mean(), form), number(of[name].std(), form)))))
        cells += [number(mean[name], ".2f") for name in ("knn", *few)]
        cells += [number(costs[arm], ".2f")] if costly else []
        rows.append(cells + [number(mean[name], ".4g") for name in unlabelled])
    return Table(columns, rows, (COSTS.format(part.against),) if costly else ())


def _titled(outcome: str) -> str:
    return f"{named(outcome)}, %" if outcome in PERCENT else named(outcome)


def _digits(outcome: str) -> int:
    return 2 if outcome in PERCENT else 4


def number(value: float, form: str) -> str:
    """The value in that format; empty for NaN."""
    return "" if math.isnan(value) else f"{value:{form}}"


def _compared(data: pd.DataFrame, part: PartFile, outcome: str) -> list[Table]:
    """The arms' differences in an outcome and the part's contrasts; nothing if no two arms have the outcome."""
    of, tables = "" if outcome == part.outcomes[0] else f": {named(outcome)}", []
    if part.against is not None:
        found, blocks = analysis.differences(data, part.against, outcome)
        if found or not of:
            tables.append(_differences(f"minus {part.against}{of}", found, outcome, _residual(blocks, outcome)))
    found = analysis.contrasts(data, part.contrasts, outcome)
    return tables + ([_differences(f"comparison{of}", found, outcome)] if found else [])


def _decomposed(data: pd.DataFrame, outcome: str) -> list[Table]:
    """What perfect images bring, what generated ones do, and what lies between; nothing without a ceiling."""
    found = analysis.decomposed(data, outcome)
    if found is None:
        return []
    rows = {f"the ceiling: {found.ceiling}, minus {found.none}": found.more}
    if found.generated is not None:
        rows[f"generated images: {found.generated}, minus {found.none}"] = found.gain
        rows[f"what they lack: {found.generated}, minus {found.ceiling}"] = found.wrong
    return [_differences("the best of each kind", rows, outcome, (BEST,))]


def _differences(head: str, found: dict[str, Difference], outcome: str, notes: tuple[str, ...] = ()) -> Table:
    """Each with its interval, the detectable one, and the verdict: higher or lower for what is no percentage."""
    digits, rows = _digits(outcome), []
    words = {} if outcome in PERCENT else {"better": "higher", "worse": "lower"}
    for name, d in found.items():
        visible = "nothing: one seed" if math.isinf(d.visible) else number(d.visible, f".{digits}f")
        verdict = words.get(d.verdict, d.verdict)
        rows.append([name, _signed(d.points, digits), _interval(d, digits), visible, verdict])
    unit = "points" if outcome in PERCENT else "difference"
    return Table([head, unit, "95 % interval", "detectable", ""], rows, notes)


def _residual(blocks: Blocks, outcome: str) -> tuple[str, ...]:
    if not blocks.df:
        return ()
    deviation = f"{math.sqrt(blocks.variance):.{_digits(outcome)}f}{' points' if outcome in PERCENT else ''}"
    return (f"Residual s.d. {deviation}, {blocks.df} degrees of freedom.",)


def _strengths(data: pd.DataFrame, outcome: str) -> list[Table]:
    """The best strength of each curve, and by how much its slope differs from that of the first."""
    curves, blocks = analysis.curves(data, outcome), analysis.fitted(data, outcome)
    if not curves:
        return []
    rows, notes = [], (*_residual(blocks, outcome), OFF)
    for rest, curve in curves.items():
        top, low, high = blocks.best(curve)
        tried = max(curve, key=lambda s, curve=curve: blocks.effects[blocks.arms.index(curve[s])])
        tilt = blocks.contrast(analysis.slope(curve))
        off = number(blocks.misfit(curve), ".2f") if len(curve) > 3 else ""
        cells = [rest or "all", f"{tried:g}", number(top, ".2f"), _places(low, high, curve), off]
        rows.append([*cells, _signed(tilt.points), _interval(tilt)])
    columns = ["", "best tried", "parabola's top", "95 % interval", "off it", "slope per doubling", "95 % interval"]
    first, *others = curves
    if not others:
        return [Table(columns, rows, notes)]
    found = {}
    for rest in others:
        both = sorted(curves[first].keys() & curves[rest].keys())
        if len(both) > 2:
            base, weights = (analysis.slope({s: curves[name][s] for s in both}) for name in (first, rest))
            found[rest] = blocks.contrast(weights | {arm: -weight for arm, weight in base.items()})
    head = f"slope minus that of {first}, over the strengths of both"
    return [Table(columns, rows), _differences(head, found, outcome, notes)]


def _places(low: float, high: float, curve: dict[float, str]) -> str:
    """An interval of strengths; marked "or above", "or below" if it is no more than an end of the range."""
    if low == high in (min(curve), max(curve)):
        return f"{low:.2f} or {'above' if high == max(curve) else 'below'}"
    return f"{low:.2f} to {high:.2f}"


def without_labels(data: pd.DataFrame, study: Study) -> Table:
    """How well measures without labels order the arms of each part that has three: rank correlation, points lost."""
    rows = []
    for name, of in data.groupby("part", sort=False):
        outcome = study.file.parts[name].outcomes[0]
        arms = of.dropna(subset=[outcome]).arm.nunique()
        if arms > 2:
            found = analysis.ranking(of, outcome).itertuples()
            pairs = ((number(r.rho, "+.2f"), number(r.regret, ".2f")) for r in found)
            rows.append([name, str(arms), f"{analysis.chance(arms):.2f}", *(", ".join(filter(None, p)) for p in pairs)])
    columns = ["part", "arms", "by chance", *EXPECTED]
    kept = [i for i, name in enumerate(columns) if name not in LATER or any(row[i] for row in rows)]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _interval(d: Difference, digits: int = 2) -> str:
    return "none" if math.isinf(d.low) else f"{_signed(d.low, digits)} to {_signed(d.high, digits)}"


def _signed(points: float, digits: int = 2) -> str:
    """The number with its sign; what rounds to zero is +0."""
    return f"{round(points, digits) + 0.0:+.{digits}f}"
