"""What stages/pretrain.py takes from a method's log and files for metrics/pretrain.json: by hand."""

import numpy as np
import pytest

from pipeline import shards
from stages.pretrain import own


def test_the_games_outcomes_by_hand(tmp_path):
    """Of ten steps the last tenth is the tenth; the game began with the third."""
    rows = [
        {"step": 2, "loss": 5.0},
        {"step": 4, "loss": 5.0, "synthetic": 4.0, "generator_growth": 0.0},
        {"step": 9, "loss": 5.0, "synthetic": 3.0, "generator_growth": 0.3},
        {"step": 10, "loss": 5.0, "synthetic": 2.0, "generator_growth": 0.2},
    ]
    cosines = np.array([[1.0, 1.0], [0.5, 0.75]], np.float32)
    shards.write_arrays(tmp_path / "gan_snapshots.h5", {"cosine": cosines}, {"mode": "both"})
    found = own(rows, {"gan_snapshots.h5": tmp_path / "gan_snapshots.h5"})
    assert found == {
        "synthetic": 2.0,
        "synthetic_start": 4.0,
        "frechet_growth": 0.2,
        "frechet_most": 0.3,
        "cosine": 0.625,
    }


def test_late_rows_are_averaged_and_static_arms_have_no_growth():
    rows = [{"step": step, "reconstruction": 1.0 / step, "top_k": step / 100} for step in range(1, 21)]
    found = own(rows, {})
    assert found == pytest.approx({"reconstruction": (1 / 19 + 1 / 20) / 2, "top_k": 0.195})


def test_a_method_that_says_nothing_of_itself_adds_nothing():
    assert own([{"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5}], {}) == {}
