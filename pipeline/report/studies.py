"""A study's part of the page: from its CSV alone."""

import html
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.report import figures
from pipeline.study import analysis, tables
from pipeline.study.analysis import EXPECTED, STRENGTH, Difference
from pipeline.study.cells import PERCENT, PartFile, Study


def section(study: Study) -> str:
    """Its parts, in the order of its file; nothing where no cell is finished."""
    data = analysis.frame(study)
    if data.empty:
        return ""
    made = html.escape(tables.origin(data, study))
    parts = [_part(name, part, data[data.part == name]) for name, part in study.file.parts.items()]
    ranked = {name: of for name, of in data.groupby("part", sort=False) if of.arm.nunique() > 2}
    return (
        f'<section id="study-{study.name}"><h2>{html.escape(study.file.title)}</h2>'
        f"<p class=made>{made} <code>python -m pipeline study table {study.name}</code></p>"
        f"{''.join(parts)}{_without_labels(ranked, study) if ranked else ''}<p>{tables.CAUTION}</p></section>"
    )


def table(columns: list[str], rows: list[list]) -> str:
    """An HTML table that scrolls sideways by itself; numbers are text already."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(v))}</td>' for v in row)}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _part(name: str, part: PartFile, data: pd.DataFrame) -> str:
    title = f"<h3>{html.escape(name)}: {html.escape(part.asks)}</h3>"
    if data.empty:
        return f"{title}<p>Not run yet.</p>"
    outcome, *further = part.outcomes
    further = [name for name in further if data[name].notna().any()]
    differences = {each: _differences(data, part, each) for each in (outcome, *further)}
    drawn = [figure for each in (outcome, *further) for figure in _forests(name, data, part, each, differences[each])]
    curves = analysis.curves(data, outcome)
    if curves:
        drawn.append(_heat(name, data, curves, outcome))
    drawn += _lines(name, part, data, outcome)
    compared = {each: found for each, found in differences.items() if found}
    columns = ["arm", "seeds", "beta", "passes"]
    columns += [word for each in (outcome, *further) for word in (tables.named(each), "s.d.")] + ["kNN"]
    for each in compared:
        of = "" if each == outcome else f" in {tables.named(each)}"
        columns += [f"difference{of}", "95 % interval", "seen if", "verdict"]
    rows = []
    for arm, of in data.groupby("arm", sort=False):
        row = _row(arm, of, (outcome, *further))
        rows.append(row + [cell for each in compared for cell in _difference(compared[each].get(arm), each)])
    return f"{title}<div class=figures>{''.join(drawn)}</div>{table(columns, rows)}"


def _differences(data: pd.DataFrame, part: PartFile, outcome: str) -> dict[str, Difference]:
    return analysis.differences(data, part.against, outcome)[0] if part.against else {}


def _forests(
    name: str, data: pd.DataFrame, part: PartFile, outcome: str, found: dict[str, Difference]
) -> Iterator[str]:
    """An outcome's differences, and its contrasts."""
    word, percent = tables.named(outcome), outcome in PERCENT
    across = f"points of {word}" if percent else word
    of = "" if outcome == part.outcomes[0] else f" in {word}"
    if found:
        less = part.against if part.against in set(data.arm) else f"{part.against} at the same point"
        yield figures.forest(f"{name}: {word} less that of {less}", list(found.items()), across, judged=percent)
    compared = analysis.contrasts(data, part.contrasts, outcome)
    if compared:
        yield figures.forest(f"{name}: comparisons{of}", list(compared.items()), across, judged=percent)


def _row(arm: str, of: pd.DataFrame, outcomes: tuple[str, ...]) -> list:
    mean = of.mean(numeric_only=True)
    row = [arm, len(of), tables.number(mean.beta, ".3f"), tables.number(mean.real_passes, ".0f")]
    spreads = [cell for outcome in outcomes for cell in tables.mean_and_spread(of, outcome)]
    return [*row, *spreads, tables.number(mean.knn, ".2f")]


def _difference(d: Difference | None, outcome: str) -> list:
    if d is None:
        return [""] * 4
    points, interval, visible, verdict = tables.shown(d, outcome)
    return [points, "", "", "one seed"] if math.isinf(d.visible) else [points, interval, f"> {visible}", verdict]


def _heat(name: str, data: pd.DataFrame, curves: dict[str, dict[float, str]], outcome: str) -> str:
    blocks, means, word = analysis.fitted(data, outcome), data.groupby("arm")[outcome].mean(), tables.named(outcome)
    strengths = sorted({s for curve in curves.values() for s in curve})
    values = np.array([[means.get(curve.get(s), np.nan) for s in strengths] for curve in curves.values()])
    best = [blocks.best(curve) for curve in curves.values()] if blocks.df else []
    said = ", with the top of each row's parabola and its 95 % interval" if best else ""
    down = [rest or word for rest in curves]
    title = f"{name}: {word} by strength of augmentation{said}"
    return figures.heat(title, ("strength", strengths), down, values, best)


def _lines(name: str, part: PartFile, data: pd.DataFrame, outcome: str) -> list[str]:
    """The outcome over a grid of one number other than the strength and a seed, a curve an arm."""
    key, values = next(iter(part.grid.items()), ("", []))
    if len(part.grid) != 1 or key == STRENGTH or key.endswith("seed"):
        return []
    if not all(type(value) in (int, float) for value in values) or len({point[key] for point in data.point}) < 2:
        return []
    series, word = {}, tables.named(outcome)
    for arm, of in data.groupby("of", sort=False):
        each = of.assign(x=[point[key] for point in of.point]).groupby("x")[outcome]
        series[arm or word] = (list(each.mean().index), list(each.mean()), list(each.std().fillna(0)))
    return [
        figures.lines(
            f"{name}: mean and s.d. over seeds", key.rpartition(".")[2], f"{word}, %", series, log=min(values) > 0
        )
    ]


def _without_labels(parts: dict[str, pd.DataFrame], study: Study) -> str:
    rows = []
    for name, data in parts.items():
        found = analysis.ranking(data, study.file.parts[name].outcomes[0])
        arms = data.arm.nunique()
        each = ("" if math.isnan(r.regret) else f"{r.rho:+.2f} ({r.regret:.2f})" for r in found.itertuples())
        rows.append([name, arms, f"{analysis.chance(arms):.2f}", *each])
    return f"<h3>Choosing without labels</h3><p>{tables.ranked(study)} The points are in brackets.</p>" + table(
        ["part", "arms", "by chance", *EXPECTED], rows
    )
