"""Regret of a race against a grid, by hand."""

import pandas as pd
import pytest

from bench import regret
from pipeline.recommend.race import Result, Run
from pipeline.study import analysis

ARMS = ("none", "some", "many")


def grid(validation: tuple[float, ...], test: tuple[float, ...]) -> pd.DataFrame:
    """Three arms in two seeds; the second seed's are two points better."""
    rows = [
        {"arm": arm, "seed": seed, "point": {}, "validation": chosen + 2 * seed, "top1_labelled": judged + 2 * seed}
        for seed in (200, 201)
        for arm, chosen, judged in zip(ARMS, validation, test, strict=True)
    ]
    return pd.DataFrame(rows)


def test_the_grid_chooses_by_validation_images_and_is_judged_on_test_images():
    data = grid((50, 53, 51), (60, 61, 64))
    fit = analysis.fitted(data)
    taken = regret.best(data)
    assert taken == "some"
    assert regret.regret(fit, taken, "none").points == pytest.approx(1)
    assert regret.regret(fit, taken, "many").points == pytest.approx(-3)  # a race may do better than the grid


def test_a_share_of_the_time_has_the_runs_that_ended_in_it():
    results = {Run("short", arm, seed): Result(seed, seed) for seed in (0, 1) for arm in ARMS}
    results |= {Run("full", "none", seed): Result(seed, seed) for seed in (0, 1)}
    found = regret.Raced({}, results, short=0.5)
    assert found.whole == 5.0
    assert list(found.within(1.9)) == list(results)[:3]
    assert list(found.within(3.9)) == list(results)[:6]
    assert found.within(0.4) == {}
    assert found.within(5.0) == results
