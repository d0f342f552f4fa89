import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import REFUSED, UserError
from pipeline.core.shares import rounded
from pipeline.data.mixture import Copies, Mixture, Weighted, alone, mixture, positives, replaced

PROPERTY = settings(max_examples=80, deadline=None, derandomize=True, database=None)
WEIGHTS = [0.1, 0.3, 0.5, 1.0, 2.0, 2.5, 10.0, 33.3]
SIZES = {
    "n_real": st.integers(1, 60),
    "n_generated": st.integers(0, 90),
    "weight": st.sampled_from(WEIGHTS),
    "batch": st.integers(1, 32),
    "seed": st.integers(0, 2**63 - 1),
}


def share(n_real: int, n_generated: int, weight: float) -> Fraction:
    """What the paper's list of N copies of every real image and one of every generated one holds of real images."""
    ten_copies = round(10 * weight)  # WEIGHTS have one decimal: a list ten times as long has whole copies
    return Fraction(ten_copies * n_real, ten_copies * n_real + 10 * n_generated)


def slots(beta: Fraction, batch: int, steps: int) -> list[int]:
    """Real slots of each batch: the nearest whole number of what is due, the remainder carried over."""
    due, taken = Fraction(0), []
    for _ in range(steps):
        due += beta * batch
        taken.append(int(due + Fraction(1, 2)) if due >= 0 else 0)
        due -= taken[-1]
    return taken


def fits(n_real: int, n_generated: int, weight: float, batch: int) -> bool:
    """Whether every batch of a whole period of the shares finds enough images of both kinds."""
    beta = share(n_real, n_generated, weight)
    counts = slots(beta, batch, (beta * batch).denominator)
    return max(counts) <= n_real and batch - min(counts) <= n_generated


def made(n_real: int, n_generated: int, weight: float, batch: int, seed: int = 0) -> Mixture:
    return Mixture(n_real, n_generated, weight, batch, seed)


@pytest.mark.parametrize(
    ("n_real", "n_generated", "weight", "beta"),
    [
        (50_000, 1_000_000, 10.0, Fraction(1, 3)),  # AdaInf: 500k of 1.5M
        (50_000, 1_000_000, 1.0, Fraction(1, 21)),  # vanilla inflation: 50k of 1.05M
        (5_000, 5_000, 10.0, Fraction(10, 11)),
        (5_000, 0, 10.0, Fraction(1)),
        (5_000, 20_000, 0.1, Fraction(1, 41)),  # 500 of 20,500: the decimal 0.1, not the binary number next to it
    ],
)
def test_beta_by_hand(n_real, n_generated, weight, beta):
    assert made(n_real, n_generated, weight, 64).beta == beta


def test_slots_by_hand():
    # beta 1/3 and 4 a batch: 4/3 due at each step, 1.33, 2.67, 4, 5.33, 6.67, 8 after 1..6 steps -> 1, 3, 4, 5, 7, 8
    mixture = made(10, 200, 10.0, 4)
    assert [mixture.real_before(step) for step in range(7)] == [0, 1, 3, 4, 5, 7, 8]
    assert [int((mixture.rows(step) < 10).sum()) for step in range(6)] == [1, 2, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("n_real", "ratio", "count"),
    [
        (5000, 1.0, 5000),
        (5000, 0.0, 0),
        (5000, 20.0, 100_000),
        (3, 0.5, 2),  # 1.5: halves up, ...
        (5, 0.5, 3),  # ... not to even
        (5, 0.3, 2),  # 1.5, although the binary number next to 0.3 is below it
        (7, 0.1, 1),  # 0.7
        (4, 0.1, 0),  # 0.4
        (50_000, 1e-05, 1),  # 0.5, written with an exponent
    ],
)
def test_halves_are_rounded_up(n_real, ratio, count):
    assert rounded(ratio, n_real) == count


@given(**SIZES)
@PROPERTY
def test_batches_are_refused_exactly_when_they_need_more_than_there_is(n_real, n_generated, weight, batch, seed):
    if fits(n_real, n_generated, weight, batch):
        made(n_real, n_generated, weight, batch, seed)
    else:
        with pytest.raises(UserError, match=f"a batch of {batch} needs") as caught:
            made(n_real, n_generated, weight, batch, seed)
        assert caught.value.code == REFUSED


def test_a_refusal_names_both_numbers():
    with pytest.raises(UserError, match="a batch of 11 needs 11 real images and there are 10"):
        made(10, 0, 1.0, 11)
    with pytest.raises(UserError, match="a batch of 10 needs 5 generated images and there are 4"):
        made(100, 4, 0.04, 10)  # beta 1/2
    with pytest.raises(UserError, match="a batch of 9 needs 5 generated images and there are 4"):
        made(100, 4, 0.04, 9)  # 4.5 a batch: some batch would need 5
    made(100, 4, 0.04, 8)


@given(**SIZES, steps=st.integers(1, 40))
@PROPERTY
def test_the_mixture_holds_what_it_promises(n_real, n_generated, weight, batch, seed, steps):
    assume(fits(n_real, n_generated, weight, batch))
    mixture = made(n_real, n_generated, weight, batch, seed)
    expected = slots(share(n_real, n_generated, weight), batch, steps)
    drawn = Counter()
    for step in range(steps):
        rows = mixture.rows(step)
        assert rows.dtype == np.int64
        assert len(rows) == batch
        real = rows[: expected[step]]
        generated = rows[expected[step] :]
        assert all(0 <= row < n_real for row in real)
        assert all(n_real <= row < n_real + n_generated for row in generated)
        assert len(set(rows.tolist())) == batch, "an index stands twice in a batch"
        drawn.update(rows.tolist())
        for kind in (range(n_real), range(n_real, n_real + n_generated)):
            counts = [drawn[row] for row in kind]
            assert not counts or max(counts) - min(counts) <= 1, "an image is two draws ahead of another"


@given(**SIZES, first=st.integers(0, 10**6), length=st.integers(1, 10**5))
@PROPERTY
def test_the_real_share_of_any_window_is_exact_to_within_an_image(
    n_real, n_generated, weight, batch, seed, first, length
):
    assume(fits(n_real, n_generated, weight, batch))
    mixture = made(n_real, n_generated, weight, batch, seed)
    due = share(n_real, n_generated, weight) * batch * length
    assert abs(mixture.real_before(first + length) - mixture.real_before(first) - due) < 1


@given(**SIZES, steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=6), data=st.data())
@PROPERTY
def test_a_batch_depends_on_seed_and_step_alone(n_real, n_generated, weight, batch, seed, steps, data):
    assume(fits(n_real, n_generated, weight, batch))
    mixture = made(n_real, n_generated, weight, batch, seed)
    found = {step: mixture.rows(step) for step in steps}
    for step in data.draw(st.permutations(steps)):
        assert np.array_equal(mixture.rows(step), found[step])
        assert np.array_equal(made(n_real, n_generated, weight, batch, seed).rows(step), found[step])
        assert len(set(found[step].tolist())) == batch


# Around one batch a pass, and around three, where the passes begin to be shuffled anew: every straddling of two passes.
@pytest.mark.parametrize("n", [8, 9, 11, 15, 16, 17, 23, 24, 25, 26, 31, 40])
@pytest.mark.parametrize("kind", ["real", "generated"])
def test_small_sets_repeat_no_image_in_a_batch_and_pass_evenly(n, kind):
    batch, steps = 16, 5 * n  # 8 slots of each kind
    mixture = made(n, 10 * n, 10.0, batch) if kind == "real" else made(10 * n, n, 0.1, batch)
    assert mixture.beta == Fraction(1, 2)
    walk = []
    for step in range(steps):
        rows = mixture.rows(step)
        mine = rows[:8] if kind == "real" else rows[8:] - 10 * n
        assert len(set(mine.tolist())) == 8
        walk += mine.tolist()
    for first in range(0, len(walk), n):
        assert sorted(walk[first : first + n]) == list(range(n)), "a pass that is no permutation"


def passes(mixture: Mixture, count: int) -> np.ndarray:
    """The first `count` passes over the real images of a mixture without generated ones."""
    steps = count * mixture.n_real // mixture.batch_size
    return np.concatenate([mixture.rows(step) for step in range(steps)]).reshape(count, mixture.n_real)


def test_passes_over_many_images_are_shuffled_anew():
    found = passes(made(512, 0, 1.0, 64), 6)
    for i in range(6):
        for j in range(i):
            assert (found[i] == found[j]).sum() <= 8  # Poisson(1)
    for i in range(1, 6):  # and which images meet in a batch changes
        meetings = [set(row.tolist()) & set(found[0, :64].tolist()) for row in found[i].reshape(8, 64)]
        assert max(map(len, meetings)) <= 22  # 8 of 64 expected, deviation 2.5


def test_seeds_give_other_orders_and_real_and_generated_walk_apart():
    one, other = (made(512, 512, 1.0, 64, seed).rows(0) for seed in (0, 1))
    assert (one == other).sum() <= 8
    assert (one[:32] == one[32:] - 512).sum() <= 6


def test_keeping_passes_apart_moves_no_image_to_a_favoured_place():
    # 12 images in batches of 4: two thirds of each pass are reordered.
    found = passes(made(12, 0, 1.0, 4), 900)
    for place in range(12):
        expected = 900 / 12
        statistic = ((np.bincount(found[:, place], minlength=12) - expected) ** 2 / expected).sum()
        assert statistic < 11 + 5 * np.sqrt(22), place


def test_batches_far_into_a_paper_sized_run_are_found_without_the_ones_before():
    mixture = made(50_000, 1_000_000, 10.0, 512)
    random.seed(0)
    for step in [99_999, *random.sample(range(100_000), 20)]:
        rows = mixture.rows(step)
        assert len(np.unique(rows)) == 512
        assert (rows < 50_000).sum() in (170, 171)  # 512 / 3
        assert rows.max() < 1_050_000
    assert mixture.real_before(100_000) == 17_066_667  # 51,200,000 / 3 = 17,066,666.67


# --- the authors' list of copies


@given(
    n_real=st.integers(1, 30),
    n_generated=st.integers(0, 40),
    copies=st.integers(1, 5),
    batch=st.integers(1, 50),
    seed=st.integers(0, 2**63 - 1),
)
@PROPERTY
def test_copies_walk_shuffles_of_the_whole_list(n_real, n_generated, copies, batch, seed):
    """Each pass over the list holds every real image `copies` times and every generated one once."""
    drawn = Copies(n_real, n_generated, float(copies), batch, seed)
    length = copies * n_real + n_generated
    steps = -(-3 * length // batch)
    rows = np.concatenate([drawn.rows(step) for step in range(steps)])
    expected = Counter({row: copies if row < n_real else 1 for row in range(n_real + n_generated)})
    for number in range(3):
        assert Counter(rows[number * length : (number + 1) * length].tolist()) == expected
    for step in (0, 1, steps // 2, steps):
        assert drawn.real_before(step) == (rows[: step * batch] < n_real).sum()
    assert drawn.beta == Fraction(copies * n_real, length)


def test_copies_are_shuffled_anew_in_each_pass_and_by_each_seed():
    drawn = Copies(5, 10, 2.0, 20, 0)
    assert not np.array_equal(drawn.rows(0), drawn.rows(1))
    assert not np.array_equal(drawn.rows(0), Copies(5, 10, 2.0, 20, 1).rows(0))


def test_copies_may_meet_in_a_batch_and_slots_do_not():
    """What the two orders are compared for: 2.72 pairs a batch for these sizes (docs/methods/inflation.md)."""
    copies, slots = Copies(5000, 100_000, 10.0, 512, 0), made(5000, 100_000, 10.0, 512)

    def repeats(mixture):
        return np.mean([512 - len(np.unique(mixture.rows(step))) for step in range(60)])

    assert repeats(slots) == 0
    assert 2 < repeats(copies) < 3.5


def test_the_parameter_decides_between_them():
    common = alone(5).model_copy(update={"ratio": 2.0, "real_weight": 3.0})
    for order, kind in (("slots", Mixture), ("copies", Copies)):
        found = mixture(10, 20, common.model_copy(update={"order": order}), 8, 100)
        assert type(found) is kind
        assert np.array_equal(found.rows(3), kind(10, 20, 3.0, 8, 5).rows(3))


def test_the_parameters_pass_weights_and_the_end_on():
    asked = alone(5).model_copy(update={"real_weight": 3.0, "final_real_share": 0.9})
    weights = np.arange(1.0, 21.0)
    found = mixture(10, 20, asked, 8, 100, weights)
    by_hand = Mixture(10, 20, 3.0, 8, 5, weights, (Fraction(9, 10), 100))
    assert [found.rows(step).tolist() for step in (0, 50, 99)] == [by_hand.rows(s).tolist() for s in (0, 50, 99)]


# ---- a real share that moves


def test_a_moving_share_by_hand():
    # from 1/2 to 1 in 4 steps of 8: 8 (s / 2 + s^2 / 16) = 0, 4.5, 10, 16.5, 24 are due, halves up
    moving = Mixture(20, 20, 1.0, 8, 0, end=(Fraction(1), 4))
    assert [moving.real_before(step) for step in range(7)] == [0, 5, 10, 17, 24, 32, 40]
    assert [int((moving.rows(step) < 20).sum()) for step in range(5)] == [5, 5, 7, 7, 8]
    assert moving.share == Fraction(3, 4)  # 24 of 32


@given(**SIZES, end=st.fractions(0, 1, max_denominator=20), steps=st.integers(1, 40))
@PROPERTY
def test_a_moving_share_is_the_integral_of_a_line_and_no_image_is_twice_in_a_batch(
    n_real, n_generated, weight, batch, seed, end, steps
):
    first = share(n_real, n_generated, weight)
    most = max(first, end) * batch, (1 - min(first, end)) * batch
    fitting = -(-most[0] // 1) <= n_real and -(-most[1] // 1) <= n_generated
    if not fitting:
        with pytest.raises(UserError, match=f"a batch of {batch} needs"):
            Mixture(n_real, n_generated, weight, batch, seed, end=(end, steps))
        return
    moving, drawn = Mixture(n_real, n_generated, weight, batch, seed, end=(end, steps)), 0
    for step in range(steps):
        rows = moving.rows(step)
        assert len(set(rows.tolist())) == batch
        drawn += int((rows < n_real).sum())
        due = sum(batch * (first + (end - first) * Fraction(2 * s + 1, 2 * steps)) for s in range(step + 1))
        assert abs(drawn - due) <= Fraction(1, 2)  # each step by the share in its middle


# ---- weights


@given(
    weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    k=st.integers(0, 30),
    seed=st.integers(0, 2**63 - 1),
    every=st.integers(1, 9),
    draw=st.integers(0, 40),
)
@PROPERTY
def test_what_is_drawn_in_proportion_has_the_number_asked_for_and_nothing_twice(weights, k, seed, every, draw):
    assume(k <= len(weights))
    found = Weighted(np.array(weights), seed, every).rows(k, draw)
    assert (len(found), len(set(found.tolist()))) == (k, k)
    assert set(found.tolist()) <= set(range(len(weights)))


@pytest.mark.parametrize("draw", [0, 3])
def test_images_are_drawn_in_proportion_to_their_weights(draw):
    """Over seeds, each draw of a pass: within four standard errors; an image whose share is above one is in each."""
    weights, k, draws = np.array([1.0, 2.0, 3.0, 4.0, 10.0, 40.0]), 3, 4000
    # 40 / 60 of three slots is above one: certain. Two slots for the others, 10 / 20 of them is one: certain. One left.
    expected = np.array([0.1, 0.2, 0.3, 0.4, 1.0, 1.0])
    count = np.zeros(6)
    for seed in range(draws):
        count[Weighted(weights, seed, 5).rows(k, draw)] += 1
    assert (count[4:] == draws).all()
    error = np.sqrt(expected[:4] * (1 - expected[:4]) / draws)
    assert (np.abs(count[:4] / draws - expected[:4]) < 4 * error).all()


@given(
    weights=st.lists(st.floats(0.1, 10), min_size=12, max_size=60),
    k=st.integers(1, 4),
    number=st.integers(0, 5),
    seed=st.integers(0, 2**63 - 1),
)
@PROPERTY
def test_a_pass_draws_each_image_as_often_as_it_weighs_up_or_down_to_a_whole_number(weights, k, number, seed):
    every, count = len(weights) // k, Counter()
    draws = Weighted(np.array(weights), seed, every)
    for draw in reversed(range(number * every, (number + 1) * every)):  # a draw does not depend on those before
        count.update(draws.rows(k, draw).tolist())
    share = k * np.array(weights) / sum(weights)
    assume(share.max() < 1)
    assert all(abs(count[j] - every * share[j]) < 1 + 1e-9 for j in range(len(weights)))


def test_of_equal_weights_a_pass_draws_every_image_once_and_the_next_one_in_another_order():
    draws = Weighted(np.ones(60), 7, 12)
    passes = [[draws.rows(5, 12 * number + place) for place in range(12)] for number in range(2)]
    assert [np.sort(np.concatenate(found)).tolist() for found in passes] == [list(range(60))] * 2
    assert {frozenset(of.tolist()) for of in passes[0]}.isdisjoint(frozenset(of.tolist()) for of in passes[1])


@given(**SIZES, steps=st.integers(1, 20))
@PROPERTY
def test_weights_leave_the_real_images_and_the_real_share_as_they_are(n_real, n_generated, weight, batch, seed, steps):
    assume(fits(n_real, n_generated, weight, batch))
    plain = made(n_real, n_generated, weight, batch, seed)
    weighed = Mixture(n_real, n_generated, weight, batch, seed, np.linspace(0.1, 10, n_generated))
    assert weighed.beta == plain.beta
    for step in range(steps):
        rows, others = weighed.rows(step), plain.rows(step)
        assert np.array_equal(rows[rows < n_real], others[others < n_real])
        assert (len(rows), len(set(rows.tolist()))) == (batch, batch)


def test_a_weighted_mixture_shows_images_as_often_as_they_weigh():
    weights = np.array([0.5] * 50 + [1.5] * 50)
    weighed, drawn = Mixture(40, 100, 1.0, 28, 3, weights), Counter()  # beta 2 / 7: eight real slots, twenty generated
    for step in range(1000):
        drawn.update(weighed.rows(step).tolist())
    light, heavy = (sum(drawn[40 + j] for j in half) / 50_000 for half in (range(50), range(50, 100)))
    assert (light, heavy) == pytest.approx((0.1, 0.3), abs=0.003)


# ---- positives


def test_a_real_images_positive_is_one_of_its_candidates_and_a_generated_image_has_none():
    """Five real images, three generated, two candidates of each real one: rows 8 to 12 and 13 to 17."""
    rows = np.array([4, 0, 2, 7, 5, 1])
    seen = [positives(rows, 5, 3, 2, seed=0, step=step) for step in range(200)]
    for found in seen:
        assert found[3:5].tolist() == [7, 5]
        for row, positive in zip(rows, found, strict=True):
            assert row >= 5 or positive in (8 + row, 13 + row)
    share = np.mean([found[[0, 1, 2, 5]] >= 13 for found in seen])
    assert share == pytest.approx(0.5, abs=0.06)  # 800 draws: four deviations
    assert len({tuple(found) for found in seen}) == 16  # each image draws its own


def test_positives_are_a_function_of_seed_and_step():
    rows = np.arange(50)
    same, again, later, other = (
        positives(rows, 50, 0, 4, seed, step) for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert np.array_equal(same, again)
    assert not np.array_equal(same, later)
    assert not np.array_equal(same, other)
    assert np.array_equal(positives(rows, 50, 0, 1, 0, 0), 50 + rows)


def test_views_are_replaced_by_positives_as_often_as_asked_each_for_itself():
    """Fifty real images and ten generated ones, two candidates of each real one: rows 60 to 159."""
    rows = np.arange(60)

    def seen(p0, view=1):
        return np.stack([replaced(rows, p0, 50, 10, 2, seed=0, step=step, view=view) for step in range(40)])

    assert np.array_equal(seen(0.0), np.tile(rows, (40, 1)))
    half, other = seen(0.5), seen(0.5, view=2)
    for found in (half, other, seen(1.0)):
        assert (found[:, 50:] == rows[50:]).all()  # a generated image has no positives
        real = found[:, :50]
        assert ((real == rows[:50]) | (real == 60 + rows[:50]) | (real == 110 + rows[:50])).all()
    taken = half[:, :50] != rows[:50]
    assert taken.mean() == pytest.approx(0.5, abs=0.05)  # 2,000 draws: four deviations
    assert (half[:, :50][taken] >= 110).mean() == pytest.approx(0.5, abs=0.07)
    assert (taken == (other[:, :50] != rows[:50])).mean() == pytest.approx(0.5, abs=0.05)  # views know no other
    assert (seen(1.0)[:, :50] >= 60).all()
    assert np.array_equal(half, seen(0.5))
