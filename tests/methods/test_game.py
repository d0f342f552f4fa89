"""The guard by hand, and what is drawn of snapshots; monitor and snapshots in a game: methods/test_joint_gan.py."""

import numpy as np
import pytest
import torch

from pipeline.methods import game


@pytest.mark.parametrize(("a", "b", "factor"), [(1.0, 0.1, 1.0), (1.0, 0.5, 1.0), (1.0, 2.0, 0.25), (0.0, 1.0, 0.0)])
def test_the_guard_bounds_the_gradient_at_the_last_layer(a, b, factor):
    """|grad| are |a| sqrt(2) and |b| sqrt(2) over the two weights of 3-4-5: rho = .5."""
    weights = [torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([4.0]))]
    adversarial, pulling = (x * sum(w.sum() for w in weights) for x in (a, b))
    assert game.guard(adversarial, pulling, weights, 0.5).item() == pytest.approx(factor)


def test_the_guard_lets_a_term_without_gradient_pass():
    weight = torch.nn.Parameter(torch.ones(2))
    assert game.guard(weight.sum(), 0 * weight.sum(), [weight], 0.5).item() == 1


@pytest.mark.parametrize("steps", [1, 22, 23, 100, 2600])
def test_all_snapshots_are_kept_by_the_last_step_even_one_a_step(steps):
    for n in {2, steps // 2 + 2, steps + 1}:
        made = game.Snapshots(n, torch.zeros(1, 4), torch.zeros(1, 4), (1, 1, 1))
        for step in range(steps + 1):
            if made.due(step / steps):
                made.keep(step, [torch.zeros(1, 1, 1, 1)] * 2, torch.ones(1))
        assert made.taken == n
        assert made.steps[-1] == steps
        assert len(set(made.steps.tolist())) == n


def test_snapshots_are_due_evenly_and_drawn_with_their_partners_where_these_differ(tmp_path):
    made, due = game.Snapshots(3, torch.zeros(2, 4), torch.zeros(2, 4), (2, 2, 1)), []
    grey, other = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    for step in range(6):
        if made.due(step / 5):
            due.append(step)
            made.keep(step, [grey, other if step == 3 else grey], torch.tensor([1.0, 0.5]))
    assert due == [0, 3, 5]
    made.write(tmp_path, "pair")
    found = game.pictures(tmp_path / game.SNAPSHOTS)
    assert [title for title, _ in found] == ["step 0", "step 3", "step 3, their partners, mean cosine 0.75", "step 5"]
    assert [np.unique(images).tolist() for _, images in found] == [[128], [128], [255], [128]]
    assert {images.shape for _, images in found} == {(2, 2, 2, 1)}
