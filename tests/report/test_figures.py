import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.report import figures
from pipeline.study.analysis import Difference

ROWS = [("some <b>", Difference(1.0, 0.5, 1.5, 0.9)), ("other", Difference(-0.1, -math.inf, math.inf, math.inf))]
DRAWN = {
    "forest": lambda: figures.forest("A & B", ROWS, "points of top-1"),
    "heat": lambda: figures.heat(
        "Heat", ("strength", [1.0, 2.0, 4.0]), ["0", "20"], np.array([[80.0, 81.5, 79.0], [80, np.nan, 78]]), []
    ),
    "lines": lambda: figures.lines(
        "Lines", "n", "%", {"a": ([500, 1000], [80, 81], [1, 1]), "b": ([500], [82])}, log=True
    ),
    "scatter": lambda: figures.scatter(
        "Map", np.eye(4)[:, :2], np.array([0, 1, -1, 0]), ["x", "y"], np.array([False, False, True, False])
    ),
    "confusion": lambda: figures.confusion("Confusion", ["x", "y"], np.array([[3, 1], [0, 0]])),
    "bars": lambda: figures.bars("Bars", [("x as y", 7), ("y as x", 2)], "images"),
}
EVERY = pytest.mark.parametrize("name", DRAWN)


@EVERY
def test_a_figure_is_the_same_bytes_again_and_in_the_pages_own_ink(name):
    drawn = DRAWN[name]()
    assert drawn == DRAWN[name]()
    assert "currentColor" in drawn
    assert "#010203" not in drawn
    assert "#040506" not in drawn
    assert "http" not in drawn
    assert re.search(r'<svg viewBox="0 0 [\d.]+ [\d.]+" role="img" aria-label="', drawn)


def test_two_figures_share_no_name_that_one_could_take_from_the_other():
    def names(drawn):
        return set(re.findall(r'clipPath id="([^"]+)"', drawn))

    assert names(DRAWN["forest"]())
    assert names(DRAWN["forest"]()).isdisjoint(names(DRAWN["heat"]()))


def test_words_of_a_study_are_no_markup():
    drawn = DRAWN["forest"]()
    assert "some &lt;b&gt;" in drawn
    assert "<b>" not in drawn
    assert "<figcaption>A &amp; B</figcaption>" in drawn


def test_a_forest_fills_what_is_told_from_nothing():
    drawn = DRAWN["forest"]()
    assert figures.COLOURS[2] in drawn  # better
    assert figures.COLOURS[4] not in drawn
    worse = [("w", Difference(-1.0, -1.5, -0.5, 0.9))]
    assert figures.COLOURS[4] in figures.forest("x", worse, "points of top-1")
    assert figures.COLOURS[4] not in figures.forest("x", worse, "cosine", judged=False)


def test_a_heat_map_shows_every_number_there_is_and_the_best_places():
    assert all(text in DRAWN["heat"]() for text in ("80.0", "81.5", "79.0", "78.0"))
    assert "nan" not in DRAWN["heat"]()
    assert figures.COLOURS[1] not in DRAWN["heat"]()
    marked = figures.heat("Heat", ("s", [1.0, 2.0]), ["0"], np.array([[80.0, 81.5]]), [(1.5, 1.0, 2.0)])
    assert figures.COLOURS[1] in marked


def test_a_picture_is_inside_the_page_whole():
    out = io.BytesIO()
    Image.new("RGB", (5, 3)).save(out, "PNG")
    drawn = figures.picture("A picture", out.getvalue())
    assert 'width="5" height="3"' in drawn
    assert 'src="data:image/png;base64,' in drawn


def test_a_map_has_every_point_also_those_without_a_label_and_names_of_few_classes_only():
    points, groups = np.array([[0.0, 0], [1, 1], [2, 0], [3, 1]]), np.array([-1, -1, 0, 0])
    drawn = figures.scatter("Map", points, groups, ["x"], np.array([False, False, False, True]))
    assert all(f">{name}<" in drawn for name in ("no label", "generated", "x"))
    many = figures.scatter("Map", points, groups, [f"class {i}" for i in range(30)], np.zeros(4, bool))
    assert "class 3" not in many


def test_names_of_classes_are_shown_as_they_are_and_no_two_look_alike():
    names = ["_background_", "$0-$10", *(f"class {i}" for i in range(9))]
    points, groups, none = np.random.default_rng(0).normal(size=(22, 2)), np.arange(22) % 11, np.zeros(22, bool)
    drawn = figures.scatter("Map", points, groups, names, none)
    assert all(f">{name}<" in drawn for name in names)
    first, last = (figures.scatter("Map", points, np.full(22, k), ["x"] * 11, none) for k in (0, 10))
    assert first != last  # ten colours


def test_a_map_of_thousands_of_classes_draws_those_that_it_shows():
    points, groups = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) * 500
    drawn = figures.scatter("Map", points, groups, [f"class {i}" for i in range(20_000)], np.zeros(40, bool))
    assert len(drawn) < 100_000


def test_a_point_of_one_seed_has_no_error_bar():
    """Half lengths that are not known; a bar of no length would be a deviation of zero."""

    def marks(*bars):
        return figures.lines("Lines", "n", "%", {"a": ([1, 2], [80, 81], *bars)}).count("<use")

    assert marks([np.nan, np.nan]) == marks()
    assert marks([0.0, 0.0]) > marks()
