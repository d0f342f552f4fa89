import math

import pytest
import torch
from lightly.loss import NTXentLoss

from pipeline.methods import losses
from tests.methods.contract import build, unit, views


def by_the_paper(z, temperature):
    """Equation 1 and the text after it, number by number in float64: (mean loss, share of anchors that agree)."""
    z, n = z.double().tolist(), len(z)
    losses, agreeing = [], 0
    for i in range(n):
        j = (i + n // 2) % n
        cosine = [sum(a * b for a, b in zip(z[i], z[k], strict=True)) for k in range(n)]
        others = [k for k in range(n) if k != i]
        below = sum(math.exp(cosine[k] / temperature) for k in others)
        losses.append(-math.log(math.exp(cosine[j] / temperature) / below))
        agreeing += all(cosine[j] >= cosine[k] for k in others)
    return sum(losses) / n, agreeing / n


@pytest.mark.parametrize("pairs", [1, 2, 5, 9])
@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_the_papers_formula(pairs, dim, temperature):
    z = unit(2 * pairs, dim, seed=pairs)
    loss, agreement = by_the_paper(z, temperature)
    found = losses.nt_xent(z, temperature)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert found["agreement"].item() == pytest.approx(agreement)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_lightlys(temperature):
    z = unit(16, 8)
    theirs = NTXentLoss(temperature=temperature)(z[:8], z[8:])
    assert losses.nt_xent(z, temperature)["loss"].item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("pairs", [1, 3, 8])
def test_of_identical_vectors_the_loss_is_log_of_all_others(pairs):
    z = unit(1, 6).repeat(2 * pairs, 1)
    assert losses.nt_xent(z, 0.2)["loss"].item() == pytest.approx(math.log(2 * pairs - 1), abs=1e-6)


def test_two_orthogonal_pairs_by_hand():
    """Positive at cosine 1, two negatives at 0: log(1 + 2 exp(-1 / t)), and all agree."""
    z = torch.eye(2).repeat(2, 1)
    found = losses.nt_xent(z, 0.5)
    assert found["loss"].item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-6)
    assert found["agreement"] == 1
    swapped = torch.cat([torch.eye(2), torch.eye(2).flip(0)])
    assert losses.nt_xent(swapped, 0.5)["agreement"] == 0


def test_the_order_of_the_images_does_not_matter_and_their_pairing_does():
    z = unit(20, 7)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    together = torch.cat([z[:10][order], z[10:][order]])
    loss = losses.nt_xent(z, 0.2)["loss"]
    assert torch.allclose(losses.nt_xent(together, 0.2)["loss"], loss, rtol=1e-5)
    assert torch.allclose(losses.nt_xent(torch.cat([z[10:], z[:10]]), 0.2)["loss"], loss, rtol=1e-5)
    apart = torch.cat([z[:10], z[10:][order]])
    assert not torch.allclose(losses.nt_xent(apart, 0.2)["loss"], loss, rtol=1e-2)


def test_autocast_does_not_round_the_similarities():
    """Their error over the temperature would be a hundredth and more; ties would fool the agreement."""
    z = unit(64, 32)
    exact = losses.nt_xent(z, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.nt_xent(z, 0.07)
    assert torch.equal(found["loss"], exact["loss"])
    assert torch.equal(found["agreement"], exact["agreement"])


def test_the_loss_is_that_of_the_projected_unit_features():
    built = build("simclr").eval()
    batch = views(6)
    with torch.no_grad():
        z = torch.cat([built.projector(built.encoder(view)) for view in batch]).double()
        assert (z.norm(dim=1) - 1).abs().min() > 1e-3  # so that normalising does something
        expected, _ = by_the_paper(z / z.norm(dim=1, keepdim=True), 0.2)
        assert built.loss(batch, 0)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_views_go_through_the_encoder_together_or_one_by_one():
    """What differs is whose statistics normalise; in evaluation mode nothing does."""
    batch, losses_of = views(6), {}
    for together in (True, False):
        built = build("simclr", views_together=together)
        twin = build("simclr")
        with torch.no_grad():
            z = twin.network(torch.cat(batch)) if together else torch.cat([twin.network(view) for view in batch])
        expected, _ = by_the_paper(torch.nn.functional.normalize(z, dim=1), built.params.temperature)
        losses_of[together] = built.loss(batch, 0)["loss"].item()
        assert losses_of[together] == pytest.approx(expected, rel=1e-5)
    assert losses_of[True] != pytest.approx(losses_of[False], rel=1e-4)
    still = [
        build("simclr", views_together=together).eval().loss(batch, 0)["loss"].item() for together in (True, False)
    ]
    assert still[0] == pytest.approx(still[1], rel=1e-5)
