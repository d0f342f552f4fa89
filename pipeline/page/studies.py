"""A study's part of the page: from its CSV alone."""

import html
import math

import numpy as np
import pandas as pd

from pipeline.page import figures
from pipeline.study import analysis, tables
from pipeline.study.analysis import EXPECTED, OUTCOME, STRENGTH, Difference
from pipeline.study.cells import PartFile, Study


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
        f"<p class=made>{made} <code>python -m pipeline.study table {study.name}</code></p>"
        f"{''.join(parts)}{_without_labels(ranked) if ranked else ''}<p>{tables.CAUTION}</p></section>"
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
    drawn = []
    found = analysis.differences(data, part.against)[0] if part.against else {}
    if found:
        less = part.against if part.against in set(data.arm) else f"{part.against} at the same point"
        drawn.append(figures.forest(f"{name}: top-1 less that of {less}", list(found.items())))
    compared = analysis.contrasts(data, part.contrasts)
    if compared:
        drawn.append(figures.forest(f"{name}: comparisons", list(compared.items())))
    curves = analysis.curves(data)
    if curves:
        drawn.append(_heat(name, data, curves))
    drawn += _lines(name, part, data)
    rows = [
        _row(arm, of) + (_difference(found.get(arm)) if found else []) for arm, of in data.groupby("arm", sort=False)
    ]
    columns = ["arm", "seeds", "beta", "passes", "top-1", "s.d.", "kNN"]
    columns += ["difference", "95 % interval", "seen if", "verdict"] if found else []
    return f"{title}<div class=figures>{''.join(drawn)}</div>{table(columns, rows)}"


def _row(arm: str, of: pd.DataFrame) -> list:
    mean = of.mean(numeric_only=True)
    row = [arm, len(of), f"{mean.beta:.3f}", f"{mean.real_passes:.0f}", f"{mean[OUTCOME]:.2f}"]
    return [*row, f"{of[OUTCOME].std():.2f}" if len(of) > 1 else "", f"{mean.knn:.2f}"]


def _difference(d: Difference | None) -> list:
    if d is None:
        return [""] * 4
    if math.isinf(d.visible):
        return [tables.signed(d.points), "", "", "one seed"]
    interval = f"{tables.signed(d.low)} to {tables.signed(d.high)}"
    return [tables.signed(d.points), interval, f"> {d.visible:.2f}", d.verdict]


def _heat(name: str, data: pd.DataFrame, curves: dict[str, dict[float, str]]) -> str:
    blocks, means = analysis.fitted(data), data.groupby("arm")[OUTCOME].mean()
    strengths = sorted({s for curve in curves.values() for s in curve})
    values = np.array([[means.get(curve.get(s), np.nan) for s in strengths] for curve in curves.values()])
    best = [blocks.best(curve) for curve in curves.values()] if blocks.df else []
    said = ", with the top of each row's parabola and its 95 % interval" if best else ""
    down = [rest or "top-1" for rest in curves]
    return figures.heat(f"{name}: top-1 by strength of augmentation{said}", ("strength", strengths), down, values, best)


def _lines(name: str, part: PartFile, data: pd.DataFrame) -> list[str]:
    """Top-1 over a grid of one number other than the strength and a seed, a curve an arm."""
    key, values = next(iter(part.grid.items()), ("", []))
    if len(part.grid) != 1 or key == STRENGTH or key.endswith("seed"):
        return []
    if not all(type(value) in (int, float) for value in values) or len({point[key] for point in data.point}) < 2:
        return []
    series = {}
    for arm, of in data.groupby("of", sort=False):
        each = of.assign(x=[point[key] for point in of.point]).groupby("x")[OUTCOME]
        series[arm or "top-1"] = (list(each.mean().index), list(each.mean()), list(each.std().fillna(0)))
    return [
        figures.lines(
            f"{name}: mean and s.d. over seeds", key.rpartition(".")[2], "top-1, %", series, log=min(values) > 0
        )
    ]


def _without_labels(parts: dict[str, pd.DataFrame]) -> str:
    rows = []
    for name, data in parts.items():
        found = analysis.ranking(data)
        arms = data.arm.nunique()
        each = (f"{r.rho:+.2f} ({r.regret:.2f})" for r in found.itertuples())
        rows.append([name, arms, f"{analysis.chance(arms):.2f}", *each])
    return f"<h3>Choosing without labels</h3><p>{tables.RANKED} The points are in brackets.</p>" + table(
        ["part", "arms", "by chance", *EXPECTED], rows
    )
