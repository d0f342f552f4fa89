import numpy as np
import pytest

from pipeline.core import store
from pipeline.core.errors import UserError
from pipeline.data import mixture, scores

SET = {"n": 6, "fingerprint": "f" * 64}
SCORE = np.array([0.5, -1.0, 2.0, 0.5, -3.0, 1.0])


def asked(**changes):
    return mixture.alone(0).model_copy(update={"ratio": 1.0, "score": "density_ratio"} | changes)


@pytest.fixture
def folder(tmp_path):
    scores.write(tmp_path, SCORE)
    store.seal(tmp_path, [scores.FILE], {"n": 6, "generated": SET["fingerprint"]})
    return tmp_path


@pytest.mark.parametrize(
    ("select", "rows"),
    [
        (0.5, [0, 2, 5]),  # of the two of 0.5, the first
        (0.6, [0, 2, 3, 5]),  # 3.6 images: four
        (0.25, [2, 5]),  # 1.5: halves up
        (0.05, []),  # 0.3
    ],
)
def test_the_share_with_the_highest_scores_takes_part_and_a_smaller_one_is_inside_it(folder, select, rows):
    found = scores.kept(asked(select=select), SET, folder)
    assert (found.rows.tolist(), found.weights) == (rows, None)


def test_nothing_is_read_where_all_images_take_part_alike(tmp_path):
    found = scores.kept(asked(), SET, tmp_path / "none")
    assert (found.rows.tolist(), found.weights) == (list(range(6)), None)


def test_weights_are_density_ratios_of_what_takes_part(folder):
    found = scores.kept(asked(weighting="density_ratio"), SET, folder)
    expected = np.exp(SCORE) / np.exp(SCORE).mean()  # 0.70, 0.16, 3.14, 0.70, 0.02, 1.15
    expected[4] = 0.1  # an image is drawn a tenth as often as the average one at least
    assert found.weights == pytest.approx(expected)
    half = scores.kept(asked(weighting="density_ratio", select=0.5), SET, folder)
    assert half.rows.tolist() == [0, 2, 5]
    assert half.weights == pytest.approx(np.exp([0.5, 2.0, 1.0]) / np.exp([0.5, 2.0, 1.0]).mean())
    assert scores.effective(np.ones(7)) == pytest.approx(7)
    assert scores.effective(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)


def test_ratios_beyond_what_a_number_holds_stay_weights():
    assert scores.importance(np.array([-1000.0, 0.0, 1000.0])) == pytest.approx([0.1, 0.1, 3.0])


def test_scores_of_other_images_or_of_none_are_refused(folder, tmp_path):
    for other in (SET | {"n": 5}, SET | {"fingerprint": "e" * 64}):
        with pytest.raises(UserError, match="are of other generated images, or of none") as caught:
            scores.kept(asked(select=0.5), other, folder)
        assert "dvc repro score" in str(caught.value)
    with pytest.raises(UserError, match="dvc repro score"):
        scores.kept(asked(select=0.5), SET, tmp_path / "none")


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
