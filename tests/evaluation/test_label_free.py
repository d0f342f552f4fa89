import numpy as np
import pytest
import torch

from pipeline.evaluation import label_free
from tests.toys import COMPUTE


class Mean(torch.nn.Module):
    """The mean of each channel: the same however an image is turned."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


def bright_above(n: int, side: int) -> np.ndarray:
    """Noise, brighter in the upper half."""
    images = np.random.default_rng(0).integers(0, 100, (n, side, side, 3), dtype=np.uint8)
    images[:, : side // 2] += 100
    return images


def test_a_turn_is_told_by_features_that_know_above_from_below():
    assert label_free.rotation(torch.nn.Flatten(), bright_above(60, 8), COMPUTE) == 100


def test_a_turn_is_guessed_by_features_that_it_does_not_change():
    found = label_free.rotation(Mean(), bright_above(400, 8), COMPUTE)
    assert found == pytest.approx(25, abs=4)  # 800 guesses: two standard deviations are 3


def test_no_image_is_both_learned_from_and_judged():
    """Each with a colour of its own in its upper left corner, which says nothing of the others."""
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 2, 3), dtype=np.uint8)
    assert label_free.rotation(torch.nn.Flatten(), images, COMPUTE) < 60
