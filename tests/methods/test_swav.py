import math

import pytest
import torch
from lightly.loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightlys
from timm.optim import Lars

from pipeline.engine import loop
from pipeline.methods import swav
from pipeline.methods.losses import cross_prediction
from pipeline.methods.swav import sinkhorn, usage
from pipeline.networks import backbones
from pipeline.params.schema import Training
from tests.methods import contract
from tests.toys import COMPUTE


def slow_codes(scores, epsilon, iterations):
    """The authors' steps on Q (K, N), number by number in float64: divided by its sum; rows to 1/K, columns to 1/N."""
    q = [[math.exp(x / epsilon) for x in column] for column in scores.double().T.tolist()]
    k, n = len(q), len(q[0])
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / k for x in row] for row in q]
        sums = [sum(row[j] for row in q) for j in range(n)]
        q = [[x / sums[j] / n for j, x in enumerate(row)] for row in q]
    return torch.tensor(q, dtype=torch.float64).T * n


def slow_loss(scores, codes, temperature):
    """Mean over the pairs, number by number in float64."""
    losses = []
    for i, code in enumerate(codes):
        for v, predicted in enumerate(scores):
            if v == i:
                continue
            for q, x in zip(code.double().tolist(), predicted.double().tolist(), strict=True):
                below = sum(math.exp(each / temperature) for each in x)
                losses.append(-sum(a * math.log(math.exp(b / temperature) / below) for a, b in zip(q, x, strict=True)))
    return sum(losses) / len(losses)


def random(n, k, seed):
    """Cosines of n vectors and k prototypes."""
    return contract.unit(n, 16, seed) @ contract.unit(k, 16, seed + 100).T


def built(**changes):
    """contract.build("swav") with other parameters."""
    params = contract.METHODS["swav"].model_copy(update=changes)
    encoder = backbones.build(contract.RESNET, [0.5], [0.25], 0)
    return swav.SwAV.build(params, encoder, 0).train()


def projections(method, views):
    """Unit vectors of each view, all of one size together: (views, B, D)."""
    size = method.params.small_size
    large, small = ([view for view in views if (view.shape[-1] == size) == same] for same in (False, True))
    with torch.no_grad():
        features = [method.encoder(torch.cat(alike)) for alike in (large, small) if alike]
        z = method.projector(torch.cat(features))
    return torch.nn.functional.normalize(z, dim=1).view(len(views), -1, z.shape[1])


@pytest.mark.parametrize(("rows", "prototypes"), [(1, 2), (6, 4), (5, 9)])
@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.5, 1), (0.02, 10)])
def test_codes_are_the_authors_number_by_number(rows, prototypes, epsilon, iterations):
    scores = random(rows, prototypes, 1)
    expected = slow_codes(scores, epsilon, iterations)
    assert torch.allclose(sinkhorn(scores, epsilon, iterations).double(), expected, atol=1e-5)


def test_codes_and_loss_are_lightlys():
    scores = [random(8, 5, seed) for seed in range(4)]
    queued = [random(6, 5, seed) for seed in (7, 8)]
    assert torch.allclose(sinkhorn(scores[0], 0.05, 3), lightlys(scores[0]), atol=1e-5)
    codes = [sinkhorn(torch.cat([scores[i], queued[i]]), 0.05, 3)[:8] for i in (0, 1)]
    theirs = SwaVLoss(temperature=0.1)(scores[:2], scores[2:], queued).item()
    assert cross_prediction(scores, codes, 0.1).item() == pytest.approx(theirs, rel=1e-5)


def test_codes_sum_to_one_and_in_the_limit_every_prototype_gets_as_much():
    codes = sinkhorn(random(12, 4, 1), 0.05, 3)
    assert torch.allclose(codes.sum(dim=1), torch.ones(12), atol=1e-5)
    assert not torch.allclose(codes.sum(dim=0), torch.full((4,), 3.0), atol=1e-3)
    balanced = sinkhorn(random(12, 4, 1), 0.5, 50)
    assert torch.allclose(balanced.sum(dim=1), torch.ones(12), atol=1e-5)
    assert torch.allclose(balanced.sum(dim=0), torch.full((4,), 3.0), atol=1e-4)


def test_codes_by_hand():
    """Two rows that both prefer the first prototype, one more so, by ln 4: one turn shares the prototypes out."""
    scores = torch.tensor([[math.log(4), 0.0], [0.0, 0.0]])  # exp: 4 1, 1 1; columns to 1: 4/5 1/2, 1/5 1/2
    expected = torch.tensor([[8 / 13, 5 / 13], [2 / 7, 5 / 7]])
    assert torch.allclose(sinkhorn(scores, 1.0, 1), expected, atol=1e-6)
    assert torch.allclose(sinkhorn(torch.zeros(3, 4), 0.05, 3), torch.full((3, 4), 0.25), atol=1e-6)


def test_an_epsilon_whose_exponential_overflows_gives_finite_codes():
    scores = random(6, 4, 1)
    assert torch.exp(scores.max() / 0.002).isinf()
    codes = sinkhorn(scores, 0.002, 3)
    assert torch.allclose(codes.sum(dim=1), torch.ones(6), atol=1e-4)


def test_codes_have_no_gradient():
    assert not sinkhorn(random(6, 4, 1).requires_grad_(), 0.05, 3).requires_grad


@pytest.mark.parametrize("views", [2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_the_papers_formula(views, temperature):
    scores = [random(4, 6, seed) for seed in range(views)]
    codes = [sinkhorn(each, 0.05, 3) for each in scores[:2]]
    expected = slow_loss(scores, codes, temperature)
    assert cross_prediction(scores, codes, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_of_equal_scores_the_loss_is_ln_k_and_of_random_ones_near_it():
    """Scores x of independent random vectors have variance 1 / D: E(-x / t + ln mean exp(x / t)) = 1 / (2 D t^2)."""
    same = [torch.zeros(5, 30)] * 2
    assert cross_prediction(same, [sinkhorn(x, 0.05, 3) for x in same], 0.1).item() == pytest.approx(math.log(30))
    prototypes = contract.unit(300, 128, 9)
    scores = [contract.unit(256, 128, seed) @ prototypes.T for seed in range(4)]
    loss = cross_prediction(scores, [sinkhorn(x, 0.05, 3) for x in scores[:2]], 0.1).item()
    assert loss == pytest.approx(math.log(300) + 1 / (2 * 128 * 0.1**2), abs=0.05)


def test_usage_by_hand():
    half = usage(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]] * 2))
    assert half["entropy"].item() == pytest.approx(0.5)  # ln 2 / ln 4
    assert half["used"].item() == pytest.approx(0.5)
    assert usage(torch.eye(2, 4))["used"].item() == pytest.approx(1.0)  # two codes cannot use more than two
    one = usage(torch.tensor([[0.0, 1.0]] * 5))
    assert (one["entropy"].item(), one["used"].item()) == (0, 0.5)
    assert usage(torch.full((3, 4), 0.25))["entropy"].item() == pytest.approx(1)


def test_views_are_what_the_section_says():
    views = built(small_views=3, small_size=9, small_crop_min=0.2, small_crop_max=0.3).views
    assert [view.size for view in views] == [None, None, 9, 9, 9]
    assert [view.crop for view in views] == [None, None, *[(0.2, 0.3)] * 3]
    assert [view.recipe for view in views] == [0, 1, 1, 1, 1]
    assert len(built(small_views=0).views) == 2


def test_prototypes_are_unit_vectors_from_the_beginning():
    assert torch.allclose(built().prototypes.weight.norm(dim=1), torch.ones(7), atol=1e-6)


@pytest.mark.parametrize("small", [0, 3])
def test_large_views_are_predicted_by_all_others_and_join_the_queue(small):
    method, twin = built(small_views=small), built(small_views=small)
    views = contract.views(4) + [torch.rand(4, 1, 8, 8) for _ in range(small)]
    before = method.queue.keys.clone()
    z = projections(twin, views)
    scores = z.double() @ twin.prototypes.weight.detach().double().T
    codes = [slow_codes(scores[i], 0.05, 3) for i in (0, 1)]
    found = method.loss(views, 0)
    assert found["loss"].item() == pytest.approx(slow_loss(scores, codes, 0.1), rel=1e-4)
    method.after_step(0, 0.0)
    assert torch.allclose(method.queue.keys[:, :4], z[:2], atol=1e-6)
    assert torch.equal(method.queue.keys[:, 4:], before[:, 4:])


@pytest.mark.parametrize(("start", "first"), [(0, 3), (2, 3), (5, 5)])
def test_the_queue_is_used_from_its_step_on_once_it_is_full(start, first):
    """12 places, batches of 4: full before step 3. Until then the codes are those of a method without one."""
    method, without = built(queue_start=start), built(queue_size=0)
    assert without.queue is None
    for step in range(7):
        views = contract.views(4, step, "swav")
        z, weight = projections(built(), views), method.prototypes.weight.detach()
        queue = method.queue.keys.clone()
        found, plain = (each.loss(views, step)["loss"].item() for each in (method, without))
        method.queue.advance()
        if step < first:
            assert found == plain
            continue
        scores = z.double() @ weight.double().T
        queued = [queue[i].double() @ weight.double().T for i in (0, 1)]
        codes = [slow_codes(torch.cat([scores[i], queued[i]]), 0.05, 3)[:4] for i in (0, 1)]
        assert found == pytest.approx(slow_loss(scores, codes, 0.1), rel=1e-4)
        assert found != pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, Lars])
def test_frozen_prototypes_do_not_move_by_a_bit_and_can_be_resumed(optimizer, tmp_path):
    """Under decay and momentum, by the optimisers of training/encoder.py, which have no state of them after step 2."""
    own = {"fused": True} if optimizer is torch.optim.SGD else {"trust_clip": True}
    schedule = {"batch_size": 4, "lr": 0.1, "warmup_steps": 0, "weight_decay": 0.1, "log_every": 5, "seed": 0}
    schedule = Training(steps=5, checkpoint_every=2, min_lr=0.0, warmup_lr=None, **schedule)
    plan = loop.Optimisation(schedule, lambda groups, lr: optimizer(groups, lr, momentum=0.9, **own))

    def run(folder, crash_at=None):
        method, seen = built(freeze_steps=3), []

        def batch(step):
            if step == crash_at:
                raise InterruptedError
            seen.append(method.prototypes.weight.detach().clone())
            return contract.views(4, step, "swav")

        task = loop.Task(method.phases(), batch, {"method": method}, method.before_step, method.after_step)
        loop.train("swav", task, plan, COMPUTE, folder, "work")
        return seen, method.prototypes.weight

    seen, last = run(tmp_path / "straight")
    assert all(torch.equal(seen[0], weight) for weight in seen[:4])
    assert not torch.equal(seen[3], seen[4])
    assert torch.allclose(last.norm(dim=1), torch.ones(7), atol=1e-6)
    with pytest.raises(InterruptedError):
        run(tmp_path / "chain", crash_at=3)
    assert torch.equal(run(tmp_path / "chain")[1], last)


def test_the_first_step_of_prototypes_is_decay_and_gradient_alone():
    method = built(freeze_steps=2)
    optimiser = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        optimiser.zero_grad()
        before = method.prototypes.weight.detach().clone()
        method.loss(contract.views(4, step, "swav"), step)["loss"].backward()
        gradient = method.prototypes.weight.grad
        optimiser.step()
        if step < 2:
            assert gradient is None
            method.after_step(step, 0.0)
            assert torch.equal(method.prototypes.weight, before)
    assert torch.allclose(method.prototypes.weight, before - 0.1 * (gradient + 0.1 * before), atol=1e-7)


def test_autocast_does_not_round_scores_and_codes():
    method = built(small_views=0, queue_start=0)
    method.encoder, method.projector = torch.nn.Flatten(), torch.nn.Identity()  # their rounding is the network's own
    views = [contract.unit(6, 6, seed)[:, :, None, None] for seed in (1, 2)]
    exact = method.loss(views, 9)["loss"]
    method.queue.load_state_dict(built().queue.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.loss(views, 9)["loss"], exact)
