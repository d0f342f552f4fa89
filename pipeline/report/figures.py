"""Matplotlib's figures as SVG inside HTML, in the page's own colours, so that they are light or dark as it is.

All are 4.6 inches wide: on a phone, their text is then about as large as the page's.
"""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipeline.report.render import render
from pipeline.study.analysis import Difference

WIDTH = 4.6  # inches
MANY = 20  # classes; the names of more would overlap
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#06b6d4", "#eab308", "#ec4899", "#84cc16", "#78716c")
_INK, _FAINT = "#010203", "#040506"  # replaced by the page's colours
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $0-$10
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _FAINT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def _drawing(height: float, draw: Callable[[Axes], None], title: str) -> Markup:
    """A figure in HTML; draw(axes) fills it. The title is its caption, and its label for screen readers."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        out, unnamed = io.StringIO(), dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(out, format="svg", transparent=True, metadata=unnamed)
    box, svg = re.search(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>(.*)</svg>', out.getvalue(), re.DOTALL).groups()
    svg = svg.replace(_INK, "currentColor").replace(_FAINT, "var(--faint)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # not needed inside HTML; a test looks for any address
    svg = _own_ids(svg, hashlib.sha256(title.encode()).hexdigest()[:8])
    return render("drawing.html", title=title, box=box, svg=Markup(svg))


def _own_ids(svg: str, prefix: str) -> str:
    """Matplotlib gives the same names in every drawing: those that are used become this one's own, the others go."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda name: f' id="{prefix}-{name[1]}"' if name[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def forest(title: str, rows: Sequence[tuple[str, Difference]], across: str, judged: bool = True) -> Markup:
    """Differences and their intervals, one below the other; significant ones are filled. judged: better is green,
    worse is red. across: the axis's name."""

    def draw(axes: Axes) -> None:
        finite = [v for _, d in rows for v in (d.low, d.high, d.points) if np.isfinite(v)]
        least, most = min([0.0, *finite]), max([0.0, *finite])
        rim = 0.06 * (most - least) or 1.0
        least, most = least - rim, most + rim
        for y, (_, d) in enumerate(rows):
            colour = {"better": COLOURS[2], "worse": COLOURS[4]}.get(d.verdict, _INK) if judged else _INK
            axes.plot([max(d.low, least), min(d.high, most)], [y, y], color=colour, linewidth=2, alpha=0.8)
            filled = colour if d.verdict != "not resolved" else "none"
            axes.plot(d.points, y, "o", color=colour, markerfacecolor=filled, markersize=6)
        axes.axvline(0, color=_FAINT, linewidth=1)
        axes.set(xlim=(least, most), ylim=(len(rows) - 0.5, -0.5), xlabel=f"{across}, 95 % interval")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    return _drawing(0.75 + 0.27 * len(rows), draw, title)


def heat(
    title: str,
    across: tuple[str, list],
    down: list[str],
    values: np.ndarray,
    best: Sequence[tuple] = (),
    signed: bool = False,
) -> Markup:
    """Numbers in rows and columns, shaded white to blue; what is not finite is empty.

    best: (place, low, high) of each row on the columns' scale. signed: whether numbers have their sign.
    """

    def draw(axes: Axes) -> None:
        name, xs = across
        low, high = np.nanmin(values), np.nanmax(values)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if np.isfinite(value):
                    _cell(axes, i, j, COLOURS[0], 0.05 + 0.85 * (value - low) / max(high - low, 1e-9))
                    text = f"{round(value, 1) + 0.0:+.1f}" if signed else f"{value:.1f}"
                    axes.text(j, i - 0.1 * bool(best), text, ha="center", va="center")
            if best and np.isfinite(row).all():
                place, left, right = (np.interp(x, xs, range(len(xs))) for x in best[i])
                axes.plot([left, right], [i + 0.3, i + 0.3], color=COLOURS[1], linewidth=2)
                axes.plot(place, i + 0.3, "o", color=COLOURS[1], markersize=5)
        axes.set_xticks(range(len(xs)), [x if isinstance(x, str) else f"{x:g}" for x in xs])
        _rows_of_cells(axes, down, len(xs))
        axes.set_xlabel(name)

    return _drawing(0.8 + 0.42 * len(down), draw, title)


def lines(title: str, x: str, y: str, series: dict[str, tuple], log: bool = False, from_zero: bool = False) -> Markup:
    """Curves; each is (xs, ys) or (xs, ys, half lengths of error bars)."""

    def draw(axes: Axes) -> None:
        for name, (xs, ys, *bars) in series.items():
            marked = {"marker": "o" if len(xs) < 12 else "", "markersize": 4}
            axes.errorbar(xs, ys, bars[0] if bars else None, label=name, **marked, linewidth=1.6, capsize=2)
        if log:
            axes.set_xscale("log")
            ticks = sorted({v for xs, *_ in series.values() for v in xs})
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
            axes.minorticks_off()
        axes.set(xlabel=x, ylabel=y)
        if from_zero:
            axes.set_ylim(0, 1.05 * max(axes.get_ylim()))
        axes.grid(axis="y")
        if len(series) > 1:
            axes.legend()

    return _drawing(2.8, draw, title)


def scatter(title: str, points: np.ndarray, groups: np.ndarray, names: Sequence[str], marked: np.ndarray) -> Markup:
    """Points, float (N, 2), coloured by group, int (N,) into names, -1: none. `marked`, bool (N,), are rings."""

    def draw(axes: Axes) -> None:
        shown = []  # points and their names; told to the legend, which would leave out a name that begins with _

        def put(of: np.ndarray, form: str, name: str, **style: object) -> None:
            (line,) = axes.plot(*of.T, form, markersize=3.5, **style)
            shown.append((line, name))

        for i in np.unique(groups[(groups >= 0) & ~marked]):
            form, colour = ".x"[i // len(COLOURS) % 2], COLOURS[i % len(COLOURS)]
            put(points[(groups == i) & ~marked], form, names[i], color=colour, alpha=0.8)
        none = points[(groups < 0) & ~marked]
        if len(none):
            put(none, ".", "no label", color=_FAINT, alpha=0.8)
        if marked.any():
            ring = {"color": _INK, "markerfacecolor": "none", "markeredgewidth": 0.6}
            put(points[marked], "o", "generated", **ring, alpha=0.7)
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        if len(names) > MANY:
            return
        tight = {"fontsize": 8, "markerscale": 2, "handletextpad": 0.2, "columnspacing": 1}
        axes.legend(*zip(*shown, strict=True), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, **tight)

    return _drawing(5.2, draw, title)


def confusion(title: str, names: Sequence[str], counts: np.ndarray) -> Markup:
    """Rows: at most MANY actual classes; columns: predicted ones; each row's shares as shades, counts as numbers."""

    def draw(axes: Axes) -> None:
        shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        axes.set(xlabel="predicted", ylabel="actual")
        for i, j in np.ndindex(*counts.shape):
            _cell(axes, i, j, COLOURS[0] if i == j else COLOURS[4], 0.04 + 0.8 * float(shares[i, j]) ** 0.6)
            if counts[i, j]:
                axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=6.5)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        _rows_of_cells(axes, names, len(names))

    return _drawing(4.2, draw, title)


def bars(title: str, rows: Sequence[tuple[str, float]], across: str) -> Markup:
    """Names and numbers from 0 on, one below the other. across: the axis's name."""

    def draw(axes: Axes) -> None:
        axes.barh(range(len(rows)), [value for _, value in rows], color=COLOURS[4], alpha=0.8)
        axes.set(xlabel=across, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", length=0)

    return _drawing(0.75 + 0.2 * len(rows), draw, title)


def _cell(axes: Axes, i: int, j: int, colour: str, alpha: float) -> None:
    """The square of row i and column j."""
    corners = [j - 0.5, j + 0.5, j + 0.5, j - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5]
    axes.fill(*corners, colour, alpha=alpha, linewidth=0)


def _rows_of_cells(axes: Axes, names: Sequence[str], columns: int) -> None:
    """Rows under one another from the top, with their names and without lines around."""
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def picture(title: str, png: bytes) -> Markup:
    """A PNG inside the page."""
    width, height = Image.open(io.BytesIO(png)).size
    data = base64.b64encode(png).decode()
    return render("picture.html", title=title, data=data, width=width, height=height)
