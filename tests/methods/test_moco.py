import math

import pytest
import torch
from lightly.loss import NTXentLoss

from pipeline.methods.losses import info_nce
from pipeline.networks.heads import momentum
from tests.methods import contract


def by_the_paper(q, k, queue, temperature):
    """Equation 1, number by number in float64: (mean loss, share of queries that agree)."""
    losses, agreeing = [], 0
    for query, key in zip(q.double().tolist(), k.double().tolist(), strict=True):
        keys = [key, *queue.double().tolist()]
        cosine = [sum(a * b for a, b in zip(query, other, strict=True)) for other in keys]
        below = sum(math.exp(c / temperature) for c in cosine)
        losses.append(-math.log(math.exp(cosine[0] / temperature) / below))
        agreeing += cosine[0] == max(cosine)
    return sum(losses) / len(losses), agreeing / len(losses)


@pytest.mark.parametrize("images", [1, 4, 9])
@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_is_the_papers_formula(images, size, temperature):
    q, k, queue = contract.unit(images, 5, 1), contract.unit(images, 5, 2), contract.unit(size, 5, 3)
    loss, agreement = by_the_paper(q, k, queue, temperature)
    found = info_nce(q, k, queue, temperature)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert found["agreement"].item() == pytest.approx(agreement)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_is_lightlys(temperature):
    q, k, queue = contract.unit(8, 6, 1), contract.unit(8, 6, 2), contract.unit(32, 6, 3)
    theirs = NTXentLoss(temperature=temperature, memory_bank_size=(32, 6))
    theirs.memory_bank.bank = queue.clone()
    theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    assert info_nce(q, k, queue, temperature)["loss"].item() == pytest.approx(theirs(q, k).item(), rel=1e-5)


def test_of_equal_vectors_the_loss_is_log_of_all_keys():
    one = contract.unit(1, 4).repeat(6, 1)
    assert info_nce(one, one, one, 0.2)["loss"].item() == pytest.approx(math.log(7), rel=1e-6)


def test_negatives_at_right_angles_by_hand():
    q, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    assert info_nce(q, q, queue, 0.5)["loss"].item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-6)


def test_autocast_does_not_round_the_similarities():
    q, k, queue = contract.unit(8, 32, 1), contract.unit(8, 32, 2), contract.unit(64, 32, 3)
    exact = info_nce(q, k, queue, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(q, k, queue, 0.07)["loss"], exact["loss"])


def test_the_loss_crosses_the_views_and_sees_the_queue_before_it_grows():
    built, views = contract.build("moco"), contract.views(4)
    queue = built.queue.keys.clone()
    twin = contract.build("moco")
    with torch.no_grad():
        queries = [torch.nn.functional.normalize(twin.network(view), dim=1) for view in views]
        keys = [torch.nn.functional.normalize(twin.momentum_encoder(view), dim=1) for view in views]
    first = by_the_paper(queries[0], keys[1], queue[1], 0.2)[0]  # the queue of the view that the keys are of
    second = by_the_paper(queries[1], keys[0], queue[0], 0.2)[0]
    assert built.loss(views, 0)["loss"].item() == pytest.approx((first + second) / 2, rel=1e-4)
    assert torch.equal(built.queue.keys, queue)
    built.after_step(0, 0.0)
    assert torch.allclose(built.queue.keys[:, :4], torch.stack(keys), atol=1e-6)
    assert torch.equal(built.queue.keys[:, 4:], queue[:, 4:])


def test_the_queue_is_first_in_first_out_and_goes_round():
    built = contract.build("moco")  # 12 places
    batches = [torch.full((2, 4, built.queue.keys.shape[2]), float(i)) for i in range(5)]
    for batch in batches:
        built.queue.add(batch)
        built.queue.advance()
    assert built.queue.keys[0, :, 0].tolist() == [3.0] * 4 + [4.0] * 4 + [2.0] * 4
    assert torch.equal(*built.queue.keys)
    assert built.queue.place == 8


def test_the_momentum_encoder_moves_after_the_step_by_the_momentum_of_the_progress():
    built = contract.build("moco")
    average = list(built.momentum_encoder.parameters())
    before = [p.clone() for p in average]
    with torch.no_grad():
        for parameter in built.network.parameters():
            parameter.add_(1.0)
    built.before_step(0, 0.0)
    assert all(torch.equal(p, b) for p, b in zip(average, before, strict=True))
    built.after_step(0, 0.25)
    moved = 1 - momentum(0.9, 0.99, 0.25)
    assert all(torch.allclose(p, b + moved, atol=1e-6) for p, b in zip(average, before, strict=True))
