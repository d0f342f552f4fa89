import numpy as np
import pytest

from pipeline.core import store
from pipeline.core.errors import UserError
from pipeline.data import mixture, scores

SET = {"n": 6, "fingerprint": "f" * 64}
REAL = {"files": {"images.h5": "a" * 64}}
SCORE = np.array([0.5, -1.0, 2.0, 0.5, -3.0, 1.0])


def asked(**changes):
    return mixture.alone(0).model_copy(update={"ratio": 1.0, "score": "density_ratio"} | changes)


@pytest.fixture
def folder(tmp_path):
    scores.write(tmp_path, SCORE)
    store.seal(tmp_path, [scores.FILE], scores.facts("density_ratio", SET, REAL))
    return tmp_path


@pytest.mark.parametrize(
    ("select", "rows"),
    [
        (0.5, [0, 2, 5]),  # of the two of 0.5, the first
        (0.6, [0, 2, 3, 5]),  # 3.6 images: four
        (0.25, [2, 5]),  # 1.5: halves up
    ],
)
def test_the_share_with_the_highest_scores_takes_part_and_a_smaller_one_is_inside_it(folder, select, rows):
    found = scores.kept(asked(select=select), SET, REAL, folder)
    assert (found.rows.tolist(), found.weights) == (rows, None)


def test_nothing_is_read_where_all_images_take_part_alike(tmp_path):
    found = scores.kept(asked(), SET, REAL, tmp_path / "none")
    assert (found.rows.tolist(), found.weights) == (list(range(6)), None)
    none = scores.kept(asked(select=0.5, weighting="density_ratio"), SET | {"n": 0}, REAL, tmp_path / "none")
    assert (none.rows.tolist(), none.weights) == ([], None)


def test_weights_are_density_ratios_of_what_takes_part(folder):
    found = scores.kept(asked(weighting="density_ratio"), SET, REAL, folder)
    others = np.exp(np.delete(SCORE, 4))  # 1.65, 0.37, 7.39, 1.65, 2.72
    expected = np.insert(5.9 * others / others.sum(), 4, 0.1)  # the fifth would have 0.02: it gets a tenth
    assert found.weights == pytest.approx(expected)
    half = scores.kept(asked(weighting="density_ratio", select=0.5), SET, REAL, folder)
    assert half.rows.tolist() == [0, 2, 5]
    assert half.weights == pytest.approx(np.exp([0.5, 2.0, 1.0]) / np.exp([0.5, 2.0, 1.0]).mean())
    assert scores.effective(np.ones(7)) == pytest.approx(7)
    assert scores.effective(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)


@pytest.mark.parametrize("spread", [0.1, 1.5, 3.0, 1000.0])
def test_weights_lie_within_ten_times_their_mean_and_keep_the_ratios_between(spread):
    log_ratio = np.random.default_rng(0).normal(0, spread, 5000)
    found = scores.importance(log_ratio)
    assert found.mean() == pytest.approx(1)
    assert found.min() > 0.1 - 1e-9
    assert found.max() < 10 + 1e-9
    inside = (found > 0.1001) & (found < 9.999)
    if inside.sum() > 1:
        shift = np.log(found[inside]) - log_ratio[inside]
        assert np.ptp(shift) < 1e-6


def test_one_image_that_looks_real_beyond_all_bounds_does_not_fill_every_batch():
    found = scores.importance(np.array([20.0] + [0.0] * 4999))
    assert found[0] == pytest.approx(10)
    assert 64 * found[0] / found.sum() < 0.2
    assert scores.importance(np.array([-1000.0, 0.0, 1000.0])) == pytest.approx([0.1, 0.1, 2.8])


def test_scores_of_other_images_or_of_none_are_refused(folder, tmp_path):
    others = [(SET | {"n": 5}, REAL, {}), (SET | {"fingerprint": "e" * 64}, REAL, {})]
    others += [(SET, {"files": {"images.h5": "b" * 64}}, {}), (SET, REAL, {"score": "coverage"})]
    for generated, real, kind in others:
        with pytest.raises(UserError, match="are of other images or of another kind") as caught:
            scores.kept(asked(select=0.5, **kind), generated, real, folder)
        assert "dvc repro score" in str(caught.value)
    with pytest.raises(UserError, match="dvc repro score"):
        scores.kept(asked(select=0.5), SET, REAL, tmp_path / "none")


def test_what_is_judged_is_the_first_or_drawn_in_proportion():
    rows = np.arange(10, 110)
    assert scores.judged(scores.Kept(rows, None), 4, 0).tolist() == [10, 11, 12, 13]
    weights = np.array([0.1] * 50 + [2.0] * 50)
    count = np.zeros(200)
    for seed in range(200):
        found = scores.judged(scores.Kept(rows, weights), 20, seed)
        assert (np.diff(found) > 0).all()
        count[found] += 1
    assert count[60:110].sum() / count.sum() == pytest.approx(2.0 / 2.1, abs=0.01)
    # Of all hundred, each once, none would weigh more: as many are judged as the weights are worth, 54 and a half.
    found = scores.judged(scores.Kept(rows, weights), 100, 0)
    assert len(found) == 54
    assert (found >= 60).mean() > 0.8


def test_a_protocol_says_what_takes_part(folder):
    for asking, words in (
        (asked(), "all of 6 generated images"),
        (asked(select=0.5), "3 of 6 generated images, those of the highest density_ratio"),
        (asked(weighting="density_ratio"), "drawn in proportion to it, as varied as 3 drawn alike"),
    ):
        assert words in scores.told(asking, 6, scores.kept(asking, SET, REAL, folder))
