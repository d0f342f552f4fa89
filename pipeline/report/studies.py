"""A study's section of the page, from its CSV alone."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report import figures
from pipeline.report.render import render
from pipeline.study import analysis, tables
from pipeline.study.analysis import EXPECTED, STRENGTH, Difference
from pipeline.study.cells import PERCENT, PartFile, Study


def section(study: Study) -> Markup:
    """A study's parts, in the order of its file; empty if no cell is finished."""
    data = analysis.frame(study)
    if data.empty:
        return Markup()
    ranked = {name: of for name, of in data.groupby("part", sort=False) if of.arm.nunique() > 2}
    return render(
        "study.html",
        name=study.name,
        title=study.file.title,
        origin=tables.origin(data, study),
        sections=[_part(name, part, data[data.part == name]) for name, part in study.file.parts.items()],
        ranking=_without_labels(ranked, study) if ranked else None,
        caution=tables.CAUTION,
    )


def _part(name: str, part: PartFile, data: pd.DataFrame) -> dict:
    """What the template shows of a part: figures, and a row for each arm if any cell is finished."""
    shown = {"name": name, "asks": part.asks, "figures": [], "columns": [], "rows": []}
    if data.empty:
        return shown
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
        columns += [f"difference{of}", "95 % interval", "detectable", "verdict"]
    rows = []
    for arm, of in data.groupby("arm", sort=False):
        row = _row(arm, of, (outcome, *further))
        rows.append(row + [cell for each in compared for cell in _difference(compared[each].get(arm), each)])
    return shown | {"figures": drawn, "columns": columns, "rows": rows}


def _differences(data: pd.DataFrame, part: PartFile, outcome: str) -> dict[str, Difference]:
    return analysis.differences(data, part.against, outcome)[0] if part.against else {}


def _forests(
    name: str, data: pd.DataFrame, part: PartFile, outcome: str, found: dict[str, Difference]
) -> Iterator[Markup]:
    """Figures of an outcome's differences and of its contrasts."""
    word, percent = tables.named(outcome), outcome in PERCENT
    across = f"points of {word}" if percent else word
    of = "" if outcome == part.outcomes[0] else f" in {word}"
    if found:
        other = part.against if part.against in set(data.arm) else f"{part.against} at the same point"
        yield figures.forest(f"{name}: {word} minus that of {other}", list(found.items()), across, judged=percent)
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


def _heat(name: str, data: pd.DataFrame, curves: dict[str, dict[float, str]], outcome: str) -> Markup:
    blocks, means, word = analysis.fitted(data, outcome), data.groupby("arm")[outcome].mean(), tables.named(outcome)
    strengths = sorted({s for curve in curves.values() for s in curve})
    values = np.array([[means.get(curve.get(s), np.nan) for s in strengths] for curve in curves.values()])
    best = [blocks.best(curve) for curve in curves.values()] if blocks.df else []
    marks = ", with the top of each row's parabola and its 95 % interval" if best else ""
    down = [rest or word for rest in curves]
    title = f"{name}: {word} by strength of augmentation{marks}"
    return figures.heat(title, ("strength", strengths), down, values, best)


def _lines(name: str, part: PartFile, data: pd.DataFrame, outcome: str) -> list[Markup]:
    """The outcome over a grid of one number that is neither the strength nor a seed; a curve for each arm."""
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


def _without_labels(parts: dict[str, pd.DataFrame], study: Study) -> dict:
    rows = []
    for name, data in parts.items():
        found = analysis.ranking(data, study.file.parts[name].outcomes[0])
        arms = data.arm.nunique()
        shown = ((tables.number(r.rho, "+.2f"), tables.number(r.regret, ".2f")) for r in found.itertuples())
        each = (f"{rho} ({regret})" if regret else "" for rho, regret in shown)
        rows.append([name, arms, f"{analysis.chance(arms):.2f}", *each])
    return {"words": tables.ranked(study), "columns": ["part", "arms", "by chance", *EXPECTED], "rows": rows}
