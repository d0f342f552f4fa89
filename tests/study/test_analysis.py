"""Checked against scipy's tests, hand-worked designs and simulated studies whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.study import analysis, rows
from pipeline.study.analysis import Blocks


@pytest.mark.parametrize(
    ("confidence", "df", "t"), [(0.95, 1, 12.706), (0.95, 10, 2.228), (0.99, 4, 4.604), (0.6, 5, 0.920)]
)
def test_students_quantile_is_that_of_the_published_tables(confidence, df, t):
    assert analysis.quantile(confidence, df) == pytest.approx(t, abs=5e-4)


def test_two_arms_are_the_paired_t_test():
    a, b = [84.1, 85.0, 83.2, 86.1, 84.4], [84.9, 85.1, 84.6, 86.0, 85.5]
    found = Blocks({("a", i): v for i, v in enumerate(a)} | {("b", i): v for i, v in enumerate(b)}).contrast(
        {"b": 1, "a": -1}
    )
    expected = stats.ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    assert found.points == pytest.approx(np.mean(b) - np.mean(a))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.visible == pytest.approx(
        found.points - found.low + stats.t.ppf(0.8, 4) * expected.statistic**-1 * found.points
    )


def test_seeds_that_move_all_arms_alike_do_not_count():
    effects, seeds = {"a": 80.0, "b": 81.0, "c": 83.5}, [0.0, 7.0, -4.0]
    found = Blocks({(arm, i): y + s for arm, y in effects.items() for i, s in enumerate(seeds)})
    assert found.df == 4  # nine numbers, three arms, two further seeds
    assert found.variance == pytest.approx(0, abs=1e-18)
    assert found.contrast({"c": 1, "a": -0.5, "b": -0.5}).points == pytest.approx(3.0)


def test_a_design_of_two_by_two_by_hand():
    # Arms differ by 2 in one seed and 4 in the other: 3 +- t(1) x sqrt(2 s2 / 2), s2 = (4 x .5^2) / 1 = 1
    found = Blocks({("a", 0): 10.0, ("b", 0): 12.0, ("a", 1): 10.0, ("b", 1): 14.0})
    difference = found.contrast({"b": 1, "a": -1})
    assert found.df == 1
    assert found.variance == pytest.approx(1)
    assert difference.points == pytest.approx(3)
    assert difference.high - difference.points == pytest.approx(12.7062, rel=1e-5)
    assert difference.verdict == "not resolved"


def test_missing_cells_leave_the_differences_unbiased():
    """A seed that is 10 points higher and lacks one arm does not move that arm."""
    values = {("a", 0): 80.0, ("b", 0): 81.0, ("a", 1): 90.0, ("b", 1): 91.0, ("c", 0): 82.0}
    found = Blocks(values)
    assert found.contrast({"c": 1, "a": -1}).points == pytest.approx(2)
    assert found.df == 1


def test_arms_over_a_grid_are_compared_at_the_same_point():
    """What a seed does at one size tells nothing of what it does at another: a block is a seed at a point."""
    true = {("none", 500): 80.0, ("some", 500): 81.0, ("none", 1000): 84.0, ("some", 1000): 83.5}
    shift = {(0, 500): 1.0, (1, 500): -3.0, (0, 1000): -2.0, (1, 1000): 5.0}
    data = pd.DataFrame(
        [
            {"arm": f"{of}, n {n}", "of": of, "seed": seed, "point": {"n": n}, "top1_labelled": y + shift[seed, n]}
            for (of, n), y in true.items()
            for seed in (0, 1)
        ]
    )
    found, blocks = analysis.differences(data, "none")
    assert {arm: d.points for arm, d in found.items()} == pytest.approx({"some, n 500": 1.0, "some, n 1000": -0.5})
    assert blocks.df == 2  # eight numbers, two arms at each of two points, four blocks
    assert blocks.variance == pytest.approx(0, abs=1e-18)
    assert analysis.fitted(data).variance > 1  # seeds alone leave what they do at each point
    there, _ = analysis.differences(data, "none, n 500")
    assert {arm: d.points for arm, d in there.items()} == pytest.approx(
        {"some, n 500": 1.0, "none, n 1000": 4 + 2.5, "some, n 1000": 3.5 + 2.5}
    )


def test_arms_that_no_seed_connects_are_not_compared():
    found = Blocks({("a", 0): 80.0, ("c", 0): 81.0, ("a", 1): 80.5, ("c", 1): 81.0, ("b", 2): 90.0, ("d", 2): 90.0})
    assert math.isnan(found.contrast({"b": 1, "a": -1}).points)
    assert found.contrast({"b": 1, "a": -1}).verdict == "not resolved"
    assert found.contrast({"c": 1, "a": -1}).points == pytest.approx(0.75)


def test_a_wide_design_is_as_exact_as_a_small_one():
    random = np.random.default_rng(3)
    arms = {f"{i}": 80 + random.normal() for i in range(45)}
    found = Blocks({(arm, s): y + s for arm, y in arms.items() for s in range(5)})
    assert found.variance == pytest.approx(0, abs=1e-18)
    assert found.df == 4 * 44
    assert found.contrast({"7": 1, "31": -1}).points == pytest.approx(arms["7"] - arms["31"])


def test_one_seed_resolves_nothing():
    found = Blocks({("a", 0): 80.0, ("b", 0): 90.0}).contrast({"b": 1, "a": -1})
    assert found.points == pytest.approx(10)
    assert (found.low, found.high, found.visible) == (-math.inf, math.inf, math.inf)
    assert found.verdict == "not resolved"


def test_verdicts_are_of_the_interval():
    def verdict(low, high):
        return analysis.Difference((low + high) / 2, low, high, 1.0).verdict

    assert [verdict(0.1, 2), verdict(-2, -0.1), verdict(-0.1, 2)] == ["better", "worse", "not resolved"]


def parabola(curve, seeds, noise, random):
    """Numbers of arms "s" along a parabola over log2(s) with its top at `curve`, over several seeds."""
    strengths = [0.5, 1.0, 2.0, 3.0, 4.0]
    seed = random.normal(0, 1, seeds)
    return {
        (f"{s}", i): 85 - 2 * math.log2(s / curve) ** 2 + seed[i] + random.normal(0, noise)
        for s in strengths
        for i in range(seeds)
    }


def test_the_best_strength_of_an_exact_parabola_is_its_top():
    found = Blocks(parabola(1.7, 3, 1e-9, np.random.default_rng(0)))
    curve = {float(arm): arm for arm in found.arms}
    assert found.best(curve) == pytest.approx((1.7, 1.7, 1.7), abs=0.004)  # the grid of places


def test_the_interval_of_the_best_strength_covers_the_truth_as_often_as_it_says():
    random, inside = np.random.default_rng(1), 0
    for _ in range(400):
        found = Blocks(parabola(1.8, 3, 0.8, random))
        _, low, high = found.best({float(arm): arm for arm in found.arms})
        inside += low <= 1.8 <= high
    assert 0.92 < inside / 400 < 0.98


def test_what_rises_to_the_end_has_its_best_strength_there_and_what_sags_nowhere():
    late = {
        (f"{s}", i): 80 - math.log2(s / 6) ** 2 + 0.01 * (-1) ** i * s for s in (1.0, 2.0, 3.0, 4.0) for i in range(2)
    }
    rising = Blocks(late)  # a parabola whose top lies beyond
    top, low, high = rising.best({float(arm): arm for arm in rising.arms})
    assert (top, high) == (4.0, 4.0)
    assert low > 3.5
    sagging = Blocks(
        {(f"{s}", i): 80 + math.log2(s / 1.9) ** 2 + 0.1 * i * s for s in (1.0, 2.0, 4.0) for i in range(2)}
    )
    assert sagging.best({float(arm): arm for arm in sagging.arms}) == (4.0, 1.0, 4.0)


def test_the_slope_is_the_straight_lines():
    curve = {1.0: "x", 2.0: "y", 4.0: "z"}
    values = {"x": 80.0, "y": 83.0, "z": 82.0}
    expected = np.polyfit(np.log2(list(curve)), list(values.values()), 1)[0]
    assert sum(w * values[arm] for arm, w in analysis.slope(curve).items()) == pytest.approx(expected)


def test_rankings_by_hand():
    """RankMe orders three arms rightly, LiDAR the other way round; alignment is better when it is lower."""
    data = pd.DataFrame(
        dict.fromkeys(rows.LABEL_FREE, math.nan)
        | {
            "arm": ["a", "b", "c"],
            "seed": [0, 0, 0],
            "point": [{}, {}, {}],
            "top1_labelled": [80.0, 82.0, 85.0],
            "rankme": [10.0, 20.0, 30.0],
            "lidar": [9.0, 8.0, 7.0],
            "alignment": [0.1, 0.3, 0.2],
            "uniformity": [-1.0, -2.0, -3.0],
            "connectivity": [50.0, 60.0, 55.0],
            "rotation": [40.0, 60.0, 50.0],
            "cluster_learnability": [10.0, 40.0, 40.0],
            "intrinsic_dimension": [2.0, 3.0, 7.0],
        }
    )
    found = analysis.ranking(data).set_index("measure")
    assert found.rho.to_dict() == pytest.approx(
        {"rankme": 1, "lidar": -1, "alignment": -0.5, "uniformity": 1, "connectivity": 0.5, "rotation": 0.5, "clid": 1}
    )
    assert found.regret.to_dict() == pytest.approx(
        {"rankme": 0, "lidar": 5, "alignment": 5, "uniformity": 0, "connectivity": 3, "rotation": 3, "clid": 0},
        abs=1e-9,
    )


def test_a_measure_that_an_arm_lacks_ranks_nothing_and_an_arm_without_the_outcome_does_not_count():
    data = pd.DataFrame({"arm": list("abcd"), "seed": 0, "point": [{}] * 4, "top1": [80.0, 82.0, 85.0, math.nan]})
    measures = {name: [1.0, 2.0, 3.0, 4.0] for name in rows.LABEL_FREE} | {"lidar": [1.0, math.nan, 3.0, 4.0]}
    data = data.assign(**measures)
    found = analysis.ranking(data, "top1").set_index("measure")
    assert set(found.arms) == {3}
    assert found.loc["rankme", ["rho", "regret"]].tolist() == pytest.approx([1, 0], abs=1e-9)
    assert found.loc["lidar", ["rho", "regret"]].isna().all()


KINDS = {  # ratio, source, positives, replace, method; top-1 of two seeds
    "none, weak": (0, "ddpm", "none", 0, "simclr", 80.0, 81.0),
    "none, strong": (0, "real", "none", 0, "simclr", 82.0, 83.0),
    "ceiling, weak": (20, "real", "none", 0, "simclr", 85.0, 86.2),
    "ceiling, strong": (20, "real", "none", 0, "simclr", 84.0, 84.0),
    "ours": (10, "ddpm", "none", 0, "simclr", 83.0, 83.5),
    "positives": (0, "ddpm", "nearest", 0, "simclr", 70.0, 71.0),
    "played": (0, "ddpm", "none", 0, "joint_gan", 58.0, 58.0),
    "versions": (0, "ddpm", "none", 0.5, "simclr", 60.0, 61.0),
}


def of_kinds(*arms: str) -> pd.DataFrame:
    columns = ("ratio", "source", "positives", "replace", "method")
    cells = [
        {"arm": arm, "seed": seed, "point": {}, "top1_labelled": KINDS[arm][5 + seed]}
        | dict(zip(columns, KINDS[arm][:5], strict=True))
        for arm in arms
        for seed in (0, 1)
    ]
    return pd.DataFrame(cells)


def test_a_gain_is_the_ceilings_less_what_the_images_lack():
    """The best of each kind by mean: 82.5 without, 85.6 with perfect images, 83.25 with generated ones."""
    found = analysis.decomposed(of_kinds(*KINDS))
    assert (found.none, found.ceiling, found.generated) == ("none, strong", "ceiling, weak", "ours")
    assert [d.points for d in (found.more, found.gain, found.wrong)] == pytest.approx([3.1, 0.75, -2.35])
    assert found.gain.low < found.gain.points < found.gain.high


def test_a_part_without_generated_images_has_its_ceiling_alone_and_without_a_ceiling_nothing_is_taken_apart():
    found = analysis.decomposed(of_kinds("none, weak", "ceiling, strong"))
    assert found.more.points == pytest.approx(3.5)
    assert (found.generated, found.gain, found.wrong) == (None, None, None)
    assert analysis.decomposed(of_kinds("none, weak", "ours")) is None
    assert analysis.decomposed(of_kinds("ceiling, weak", "ours")) is None


def test_what_uses_generated_images_in_another_way_is_not_an_arm_without_them():
    found = analysis.decomposed(of_kinds("none, weak", "ceiling, strong", "positives", "versions", "played"))
    assert (found.none, found.generated) == ("none, weak", "positives")


@pytest.mark.parametrize(("arms", "within"), [(4, 1.0), (5, 0.9), (6, 29 / 35), (7, 0.75), (8, 5 / 7)])
def test_rank_correlations_beyond_chance_are_those_of_the_published_table(arms, within):
    """The next possible value is Zar's critical one, two-sided at 5 %: 1.000, .886, .786, .738 for 5 to 8 arms."""
    assert analysis.chance(arms) == pytest.approx(within)


@pytest.mark.parametrize("arms", [9, 14, 20])
def test_rank_correlations_beyond_chance_of_many_arms_are_those_of_random_orders(arms):
    random, place = np.random.default_rng(0), np.arange(arms)
    rho = [np.corrcoef(random.permutation(arms), place)[0, 1] for _ in range(20_000)]
    assert analysis.chance(arms) == pytest.approx(np.quantile(np.abs(rho), 0.95), abs=0.025)


def test_what_lies_off_the_parabola_is_said_and_a_parabola_has_nothing_off_it():
    found = Blocks(parabola(1.7, 2, 0.0, np.random.default_rng(0)))
    assert found.misfit({float(arm): arm for arm in found.arms}) == pytest.approx(0, abs=1e-6)
    heights = {1.0: 80.0, 2.0: 81.0, 3.0: 80.0, 4.0: 83.0}
    bent = Blocks({(f"{s}", i): height + i for s, height in heights.items() for i in range(2)})
    fit = np.polynomial.Polynomial.fit(np.log2(list(heights)), list(heights.values()), 2)
    expected = max(abs(fit(math.log2(s)) - height) for s, height in heights.items())
    assert bent.misfit({float(arm): arm for arm in bent.arms}) == pytest.approx(expected)
    assert expected > 0.5


def test_a_fit_is_the_same_number_whatever_the_order_of_its_rows():
    """Least squares differ by noise from processor to processor, as they do from order to order."""
    random = np.random.default_rng(0)
    values = {(f"{arm}", seed): round(80 + random.normal(), 2) for arm in range(6) for seed in range(4)}
    orders = [[list(values)[i] for i in random.permutation(len(values))] for _ in range(20)]
    fits = [Blocks({key: values[key] for key in order}) for order in orders]
    found = {fit.contrast({"0": 0.5, "1": 0.5, "2": -1}).points for fit in fits}
    assert len(found) == 1
