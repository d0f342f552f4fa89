"""CLSP's two losses against their formulas, number by number; the control; which views they ask for."""

import math

import pytest
import torch

from pipeline.methods import View, losses
from tests.methods.contract import build, unit, views
from tests.methods.test_moco import by_the_paper as info_nce_by_the_paper
from tests.methods.test_simclr import by_the_paper as nt_xent_by_the_paper

NAMES = pytest.mark.parametrize("name", ["clsp_simclr", "clsp_moco"])


def projections(method, batch, together):
    """Unit vectors of each view, as lists: through the network in one pass, or one after the other."""
    with torch.no_grad():
        found = method.network(torch.cat(batch)).chunk(len(batch)) if together else [method.network(v) for v in batch]
    return [torch.nn.functional.normalize(z.double(), dim=1) for z in found]


def distance_by_the_paper(a, b):
    """mean (2 - 2 cos), pair by pair."""
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return sum(2 - 2 * sum(x * y for x, y in zip(one, other, strict=True)) for one, other in pairs) / len(a)


def test_clsp_simclr_is_simclr_of_two_views_and_lambda_times_the_distance_of_the_third_to_the_first():
    batch = views(6, name="clsp_simclr")
    one, two, third = projections(build("clsp_simclr"), batch, together=True)
    found = build("clsp_simclr").loss(batch, 0)
    contrast, agreement = nt_xent_by_the_paper(torch.cat([one, two]), 0.2)
    distance = distance_by_the_paper(one, third)
    assert found["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    assert found["alignment"].item() == pytest.approx(distance, rel=1e-5)
    assert found["loss"].item() == pytest.approx(contrast + 0.5 * distance, rel=1e-5)
    assert found["agreement"].item() == pytest.approx(agreement)


def test_clsp_moco_is_moco_of_two_views_and_lambda_times_the_distance_of_the_third_to_the_first():
    batch, method = views(6, name="clsp_moco"), build("clsp_moco")
    queues = method.queue.keys.clone()
    one, two, third = projections(build("clsp_moco"), batch, together=False)
    with torch.no_grad():
        keys = [torch.nn.functional.normalize(method.momentum_encoder(v).double(), dim=1) for v in batch[:2]]
    found = method.loss(batch, 0)
    contrast = (
        sum(
            info_nce_by_the_paper(q, k, old, 0.2)[0]
            for q, k, old in zip((one, two), keys[::-1], queues.flip(0), strict=True)
        )
        / 2
    )
    distance = distance_by_the_paper(one, third)
    assert found["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    assert found["alignment"].item() == pytest.approx(distance, rel=1e-5)
    assert found["loss"].item() == pytest.approx(contrast + 0.5 * distance, rel=1e-5)
    method.after_step(0, 0.0)
    assert torch.allclose(
        method.queue.keys[:, :6], torch.stack(keys).float(), atol=1e-6
    )  # of two views, never of the third


def test_distance_of_equal_opposite_and_square_vectors():
    e = torch.eye(3)
    assert losses.alignment(e, e).item() == 0
    assert losses.alignment(e, -e).item() == pytest.approx(4)
    assert losses.alignment(e, e.roll(1, 0)).item() == pytest.approx(2)
    one, other = unit(50, 8), unit(50, 8, seed=1)
    assert losses.alignment(one, other).item() == pytest.approx(distance_by_the_paper(one, other), rel=1e-5)


@NAMES
def test_a_third_view_that_equals_the_first_costs_nothing_and_leaves_the_base_methods_loss(name):
    """One view at a time, batch statistics of equal views are equal; SimCLR takes all at once, where they are too."""
    one, two, _ = views(6, name=name)
    found = build(name).loss([one, two, one], 0)
    assert found["alignment"].item() == pytest.approx(0, abs=1e-5)
    assert found["loss"].item() == pytest.approx(found["contrast"].item(), rel=1e-5)


@NAMES
def test_gradient_flows_through_the_first_view_and_through_the_third(name):
    batch = [view.requires_grad_() for view in views(6, name=name)]
    (build(name).loss(batch, 0)["alignment"]).backward()
    assert batch[0].grad.abs().sum() > 0
    assert batch[2].grad.abs().sum() > 0


def test_the_third_view_is_of_a_positive_or_in_the_control_of_the_image_itself():
    for name in ("clsp_simclr", "clsp_moco"):
        for third, source in (("candidate", "positive"), ("augmented", "anchor")):
            wanted = (View(recipe=0), View(recipe=1), View(source=source, recipe=1))
            assert build(name, third_view=third).views == wanted


def test_without_weight_the_third_view_changes_nothing():
    """lambda 0: in MoCo, whose views go through one by one, the loss and its gradient are MoCo's own."""
    clsp, moco = build("clsp_moco", alignment=0.0), build("moco")
    batch = views(6, name="clsp_moco")
    ours, theirs = clsp.loss(batch, 0)["loss"], moco.loss(batch[:2], 0)["loss"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    ours.backward()
    theirs.backward()
    for one, other in zip(clsp.network.parameters(), moco.network.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
    assert math.isfinite(ours.item())
