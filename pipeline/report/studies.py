"""A study's section of the page, from its CSV alone."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.report import figures, races
from pipeline.report.render import render
from pipeline.study import analysis, tables
from pipeline.study.analysis import STRENGTH
from pipeline.study.cells import PERCENT, PartFile, Study

CEILING = "What a perfect generator would bring"


def section(study: Study) -> Markup:
    """A study's parts, in the order of its file; empty if no cell is finished."""
    data = analysis.frame(study)
    if data.empty:
        return Markup()
    parts, kinds = [], []
    for name, part in study.file.parts.items():
        of = data[data.part == name]
        shown = {"figures": _figures(name, part, of), "tables": tables.of_part(of, part)}
        parts.append({"name": name, "asks": part.asks, **shown})
        kinds += _kinds(name, of, part)
    return render(
        "study.html",
        name=study.name,
        title=study.file.title,
        origin=tables.origin(data, study),
        top=races.verdict(study, data) or _ceiling(kinds),
        sections=parts,
        ranking=tables.without_labels(data, study),
        ranked=tables.ranked(study),
        caution=tables.CAUTION,
    )


def _ceiling(kinds: list[tuple[str, analysis.Difference]]) -> Markup:
    """The parts' ceilings and generated images as one figure; empty if no part has a ceiling."""
    if not kinds:
        return Markup()
    generated = any(name.endswith(": generated") for name, _ in kinds)
    title = f"{CEILING}, and what the generated images do" if generated else CEILING
    return figures.forest(title, kinds, "points over the best arm without generated images")


def _kinds(name: str, data: pd.DataFrame, part: PartFile) -> list[tuple[str, analysis.Difference]]:
    """The ceiling and the generated images of a part, over its best arm without generated images."""
    found = analysis.decomposed(data, part.outcomes[0]) if len(data) else None
    if found is None:
        return []
    rows = [(f"{name}: ceiling", found.more), (f"{name}: generated", found.gain)]
    return [(label, difference) for label, difference in rows if difference is not None]


def _figures(name: str, part: PartFile, data: pd.DataFrame) -> list[Markup]:
    if data.empty:
        return []
    outcomes = tables.outcomes(data, part)
    drawn = [figure for outcome in outcomes for figure in _forests(name, data, part, outcome)]
    curves = analysis.curves(data, outcomes[0])
    heat = [_heat(name, data, curves, outcomes[0])] if curves else []
    return [*drawn, *heat, *_lines(name, part, data, outcomes[0])]


def _forests(name: str, data: pd.DataFrame, part: PartFile, outcome: str) -> Iterator[Markup]:
    """Figures of an outcome's differences and of its contrasts."""
    word, percent = tables.named(outcome), outcome in PERCENT
    across = f"points of {word}" if percent else word
    of = "" if outcome == part.outcomes[0] else f" in {word}"
    found = analysis.differences(data, part.against, outcome)[0] if part.against else {}
    if found:
        other = part.against if part.against in set(data.arm) else f"{part.against} at the same point"
        yield figures.forest(f"{name}: {word} minus that of {other}", list(found.items()), across, judged=percent)
    compared = analysis.contrasts(data, part.contrasts, outcome)
    if compared:
        yield figures.forest(f"{name}: comparisons{of}", list(compared.items()), across, judged=percent)


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
    series, word, several = {}, tables.named(outcome), False
    for arm, of in data.groupby("of", sort=False):
        each = of.assign(x=[point[key] for point in of.point]).groupby("x")[outcome]
        series[arm or word] = (list(each.mean().index), list(each.mean()), list(each.std()))
        several |= bool(each.std().notna().any())  # a single seed has none
    title = f"{name}: mean and s.d. over seeds" if several else f"{name}: one seed"
    return [figures.lines(title, key.rpartition(".")[2], f"{word}, %", series, log=min(values) > 0)]
