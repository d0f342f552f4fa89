import collections
import itertools

import pytest
from scipy import stats

from bench.races import EVEN, UNEVEN, World, residuals
from pipeline.recommend import race
from pipeline.recommend.race import Arm, Result, Rules, Run

RULES = Rules()
ARMS = {"without": Arm("none", "none"), "made": Arm("generated", "x1")}


def words(world: World, races: int, rules: Rules = RULES) -> collections.Counter:
    return collections.Counter(world.run(rules, seed)[0].word for seed in range(races))


def at_most(wrong: int, races: int, share: float) -> bool:
    """Whether so many wrong answers are what at most that share would give in 999 of 1,000 cases."""
    return stats.binom.sf(wrong - 1, races, share) > 0.001


@pytest.mark.parametrize("steep", [0.5, 1.0])
def test_images_that_change_nothing_are_seldom_said_to_help_or_to_harm(steep):
    found = words(World(0.0, 3.0, steep), 120)
    assert at_most(found["helps"], 120, 0.025)
    assert at_most(found["harms"], 120, 0.025)
    assert found["no gain"] > 100


def test_what_helps_by_more_than_a_point_is_found_and_what_harms_is_never_said_to_help():
    assert words(World(1.5, 3.0), 60)["helps"] > 50
    harmful = words(World(-2.0, 1.5), 60)
    assert harmful["harms"] > 40
    assert not harmful["helps"]


def test_where_perfect_images_bring_nothing_no_fresh_seed_is_spent():
    """One that loses two points: the race ends after its second heat, unless it is told to go on."""
    answer, results = World(-2.5, -2.0).run(RULES, 0)
    assert answer.word == "could not help"
    assert {run.heat for run in results} == {"short", "full"}
    assert answer.more.high < RULES.least
    amid = dict(list(results.items())[:-1])
    assert race.answer(World(-2.5, -2.0).arms, amid, RULES).word == "not resolved"  # the full heat is not over
    answer, results = World(-2.5, -2.0).run(Rules(anyway=True), 0)
    assert "fresh" in {run.heat for run in results}
    assert answer.word == "harms"


def test_generated_images_that_gain_where_further_real_ones_bring_nothing_are_found():
    """The real images are poor, so they are no ceiling; and no gain is made up where there is none."""
    assert words(World(4.0, 0.0), 40) == {"helps": 40}
    assert at_most(words(World(0.0, 0.0), 120)["helps"], 120, 0.025)


@pytest.mark.parametrize(("spread", "share"), [(EVEN, 0.05), (UNEVEN, 0.08)])
def test_deviations_as_they_were_measured_do_not_lead_astray_either(spread, share):
    """Uneven ones, which the race takes for even, a little more often."""
    measured = residuals()
    assert 0.3 < measured.std() < 0.8
    found = words(World(0.0, 3.0, 1.0, lambda rng: rng.choice(measured), spread=spread), 120)
    assert at_most(found["helps"] + found["harms"], 120, share)


def test_intervals_hold_the_true_difference_of_the_arms_they_are_of_whenever_the_race_ends():
    """Also where it ends because the answer is there, which is when it looks best."""
    world, missed, answered = World(0.5, 3.0), 0, 0
    for seed in range(120):
        answer, _ = world.run(RULES, seed)
        missed += not answer.gain.low <= world.true(answer) <= answer.gain.high
        answered += answer.word != "not resolved"
    assert at_most(missed, 120, 0.05)
    assert answered > 60


def test_choices_do_not_look_at_test_images():
    """The same validation with any test: the same arms in every heat, and the same ones called best."""
    world = World(0.5, 3.0)
    answer, results = world.run(RULES, 3)
    for heats in (("short",), ("short", "full"), ("short", "full", "fresh")):
        seen = {run: found for run, found in results.items() if run.heat in heats}
        other = {run: Result(found.validation, 97.0 - 3 * i % 41) for i, (run, found) in enumerate(seen.items())}
        assert race.kept(world.arms, other, RULES) == race.kept(world.arms, seen, RULES)
        assert [race.racing(world.arms, other, k) for k in range(3)] == [
            race.racing(world.arms, seen, k) for k in range(3)
        ]
    assert answer.best == race.answer(world.arms, other, RULES).best


def test_a_race_that_is_broken_off_anywhere_asks_for_the_same_runs_and_gives_the_same_answer():
    world = World(1.0, 3.0)
    answer, whole = world.run(RULES, 1)
    order = list(whole)
    for kept in range(0, len(order), 7):
        results = {run: whole[run] for run in order[:kept]}
        while runs := race.wanted(world.arms, results, RULES):
            results[runs[0]] = world.result(runs[0], 1)  # one at a time, and looked at again
        assert results == whole
        assert race.answer(world.arms, results, RULES) == answer


def test_what_is_there_in_any_order_counts_alike():
    world = World(1.0, 3.0)
    answer, whole = world.run(RULES, 2)
    turned = dict(reversed(whole.items()))
    assert race.answer(world.arms, turned, RULES).best == answer.best
    assert race.answer(world.arms, turned, RULES).gain.points == pytest.approx(answer.gain.points)
    assert race.wanted(world.arms, turned, RULES) == []


def test_without_labels_there_are_two_heats_and_no_verdict():
    """A measure that likes the generated images by two of its units says so, and no more."""
    world, rules = World(2.0, 3.0, steep=0.5), Rules(labels=False)
    answer, results = world.run(rules, 0)
    assert {run.heat for run in results} == {"short", "full"}
    assert answer.word == "weak evidence"
    assert set(answer.best) == {"none", "generated", "ceiling"}
    assert answer.gain.points == pytest.approx(2.0, abs=1.5)
    assert race.answer(world.arms, {}, rules).word == "weak evidence"
    assert race.answer(world.arms, {}, rules).gain is None


def given(**arms: tuple[float, ...]) -> race.Results:
    """Two seeds of the second heat, and fresh ones; validation and test alike."""
    seeds = (("full", 0), ("full", 1), *(("fresh", race.FIRST_FRESH + k) for k in range(3)))
    return {
        Run(heat, arm, seed): Result(value, value)
        for arm, values in arms.items()
        for (heat, seed), value in zip(seeds, values, strict=False)
    }


def test_the_answer_by_hand():
    """Fresh seeds: +2, +3 and +4, so 3. All ten runs deviate by d = (gain - 2.8) / 2 of their seed: gains 2, 3, 2, 3
    and 4 less their mean, 2.8; squares of all residuals 2 (.64 + .04 + .64 + .04 + 1.44) / 4 = 1.4, over 4 degrees of
    freedom: .35. The difference of means of three: s.e. sqrt(2 .35 / 3) = .4830."""
    results = given(without=(50, 51, 50, 52, 51), made=(52, 54, 52, 55, 55))
    found = race.answer(ARMS, results, RULES)
    half = stats.t.ppf((1 + race.CONFIDENCE) / 2, 4) * (0.7 / 3) ** 0.5
    assert found.gain.points == pytest.approx(3)
    assert (found.gain.low, found.gain.high) == pytest.approx((3 - half, 3 + half))
    assert found.deviation == pytest.approx(0.35**0.5)
    assert found.fresh == 3
    assert found.word == "helps"
    assert found.best == {"none": "without", "generated": "made"}
    assert found.more is None


def test_a_gain_over_the_first_of_two_arms_without_is_none_where_the_second_is_as_good():
    """`other` is a little worse on validation images and as good as `made` on the test: it may be the better one."""
    results = given(without=(50, 51, 50, 52, 51), made=(54, 55.2, 54, 56, 55.1), other=(49.9, 50.8, 50, 52, 51))
    arms = ARMS | {"other": Arm("none", "other")}
    assert race.answer(arms, results, RULES).word == "helps"
    level = {run: Result(found.validation, found.test + 4 * (run.arm == "other")) for run, found in results.items()}
    assert race.answer(arms, level, RULES).word != "helps"


def test_families_are_not_compared_in_the_short_heat():
    """Generated images lose ten points there and go on; what is surely worse in its own family does not."""
    values = {"none, 1": 60, "none, 2": 50, "x1, 1": 45, "x1, 2": 44, "x10, 1": 30, "x10, 2": 31, "perfect, 1": 40}
    kinds = {"n": "none", "x": "generated", "p": "ceiling"}
    arms = {arm: Arm(kinds[arm[0]], arm.partition(",")[0]) for arm in values}
    wobble = itertools.cycle((0.0, 0.1, -0.1))
    results = {
        Run("short", arm, seed): Result(value + seed + next(wobble), 0.0)
        for arm, value in values.items()
        for seed in (0, 1)
    }
    assert race.kept(arms, results, RULES) == ["none, 1", "x1, 1", "x10, 2", "perfect, 1"]


def test_broken_off_in_the_short_heat_it_names_the_best_strength_so_far_and_says_nothing_of_images():
    arms = ARMS | {"weak": Arm("none", "none"), "strong": Arm("none", "none")}
    values = {"without": 60.0, "weak": 58.0, "made": 70.0}
    results = {Run("short", arm, 0): Result(value, 0.0) for arm, value in values.items()}
    assert race.answer(arms, results, RULES).chosen is None
    results[Run("short", "strong", 0)] = Result(61.0, 0.0)
    found = race.answer(arms, results, RULES)
    assert (found.word, found.gain, found.best, found.chosen) == ("not resolved", None, {"none": "strong"}, "strong")


def test_without_arms_to_compare_there_is_no_answer():
    found = race.answer(ARMS, {}, RULES)
    assert (found.word, found.gain, found.fresh) == ("not resolved", None, 0)
    assert len(race.wanted(ARMS, {}, RULES)) == 4
