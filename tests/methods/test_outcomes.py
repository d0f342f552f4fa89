"""What methods take from their log and files for metrics/pretrain.json: by hand."""

import numpy as np
import pytest

from pipeline.data import shards
from pipeline.methods import joint_gan, mixed_ae


def snapshots(folder):
    cosines = np.array([[1.0, 1.0], [0.5, 0.75]], np.float32)
    shards.write_arrays(folder / "gan_snapshots.h5", {"cosine": cosines}, {"mode": "both"})
    return {"gan_snapshots.h5": folder / "gan_snapshots.h5"}


def test_the_games_outcomes_by_hand(tmp_path):
    """Of ten steps the last tenth is the tenth; the game began with the fourth."""
    rows = [
        {"step": 2, "loss": 5.0},
        {"step": 4, "loss": 5.0, "synthetic": 4.0, "generator_growth": 0.0},
        {"step": 9, "loss": 5.0, "synthetic": 3.0, "generator_growth": 0.3},
        {"step": 10, "loss": 5.0, "synthetic": 2.0, "generator_growth": 0.2},
    ]
    assert joint_gan.JointGAN.outcomes(rows, snapshots(tmp_path)) == {
        "synthetic": 2.0,
        "synthetic_start": 4.0,
        "frechet_growth": 0.2,
        "frechet_most": 0.3,
        "cosine": 0.625,
    }


def test_static_arms_have_no_growth_and_a_game_that_never_begins_no_synthetic_loss(tmp_path):
    made = snapshots(tmp_path)
    found = joint_gan.JointGAN.outcomes([{"step": 1, "synthetic": 3.0}, {"step": 2, "synthetic": 1.0}], made)
    assert found == {"synthetic": 1.0, "synthetic_start": 3.0, "cosine": 0.625}
    assert joint_gan.JointGAN.outcomes([{"step": 1, "loss": 5.0}], made) == {"cosine": 0.625}
    late = [{"step": 95, "loss": 5.0}, {"step": 100, "synthetic": 1.5}]  # it begins within the last tenth
    assert joint_gan.JointGAN.outcomes(late, made) == {"synthetic": 1.5, "synthetic_start": 1.5, "cosine": 0.625}


def test_late_rows_are_averaged_and_mae_has_no_top_k():
    rows = [{"step": step, "reconstruction": 1.0 / step, "top_k": step / 100} for step in range(1, 21)]
    wanted = {"reconstruction": (1 / 19 + 1 / 20) / 2, "top_k": 0.195}
    assert mixed_ae.MixedAE.outcomes(rows, {}) == pytest.approx(wanted)
    alone = [{name: row[name] for name in ("step", "reconstruction")} for row in rows]
    assert mixed_ae.MixedAE.outcomes(alone, {}) == pytest.approx({"reconstruction": wanted["reconstruction"]})
