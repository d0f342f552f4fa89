import math

import pytest
import torch
from lightly.loss import DINOLoss

from pipeline.engine import loop
from pipeline.methods import dino
from pipeline.methods.dino import Head, distillation, teacher_temperature
from pipeline.networks import backbones
from pipeline.networks.heads import momentum
from pipeline.params.schema import Training
from tests.methods import contract
from tests.toys import COMPUTE


def softmax(x):
    return [math.exp(each - max(x)) / sum(math.exp(other - max(x)) for other in x) for each in x]


def slow_loss(student, teacher, center, sharp, temperature):
    """Equation 3 over the number of pairs, number by number in float64: (loss, mean entropy of the targets)."""
    losses, entropies = [], []
    for i, scores in enumerate(teacher):
        for row, t in enumerate(scores.double().tolist()):
            p = softmax([(a - b) / sharp for a, b in zip(t, center.double().tolist(), strict=True)])
            entropies.append(-sum(each * math.log(each) for each in p if each))
            for v, predicted in enumerate(student):
                if v != i:
                    q = softmax([x / temperature for x in predicted[row].double().tolist()])
                    losses.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    return sum(losses) / len(losses), sum(entropies) / len(entropies)


def random(n, k, seed):
    """Cosines of n vectors and k others."""
    return contract.unit(n, 8, seed) @ contract.unit(k, 8, seed + 100).T


def built(**changes):
    """contract.build("dino") with other parameters."""
    params = contract.METHODS["dino"].model_copy(update=changes)
    encoder = backbones.build(contract.RESNET, [0.5], [0.25], 0)
    return dino.DINO.build(params, encoder, 0).train()


@pytest.mark.parametrize("views", [2, 5])
@pytest.mark.parametrize(("sharp", "temperature"), [(0.04, 0.1), (0.5, 1.0)])
def test_the_loss_is_the_papers_formula(views, sharp, temperature):
    student, teacher = [random(4, 6, seed) for seed in range(views)], [random(4, 6, 9), random(4, 6, 10)]
    center = random(1, 6, 11)[0]
    targets = [((scores - center) / sharp).softmax(dim=1) for scores in teacher]
    loss, entropy = slow_loss(student, teacher, center, sharp, temperature)
    found = distillation(student, targets, temperature)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert found["entropy"].item() == pytest.approx(entropy / math.log(6), rel=1e-5)
    assert found["divergence"].item() == pytest.approx(loss - entropy, rel=1e-4)


@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_is_lightlys(views):
    student, teacher = [random(5, 6, seed) for seed in range(views)], [random(5, 6, 9), random(5, 6, 10)]
    theirs = DINOLoss(output_dim=6, teacher_temp=0.05, student_temp=0.1)
    theirs.center.copy_(random(1, 6, 11)[None])
    targets = [((scores - theirs.center[0, 0]) / 0.05).softmax(dim=1) for scores in teacher]
    found = distillation(student, targets, 0.1)["loss"].item()
    assert found == pytest.approx(theirs(teacher, student).item(), rel=1e-5)


def test_the_loss_by_hand():
    """Uniform targets and scores: ln K, entropy 1, divergence 0. A sure target that has 1 / (1 + e^-2)."""
    same = distillation([torch.zeros(3, 8)] * 2, [torch.full((3, 8), 1 / 8)] * 2, 0.1)
    assert same["loss"].item() == pytest.approx(math.log(8))
    assert same["entropy"].item() == pytest.approx(1)
    assert same["divergence"].item() == pytest.approx(0, abs=1e-6)
    sure = distillation([torch.tensor([[1.0, 0.0]])] * 2, [torch.tensor([[1.0, 0.0]])] * 2, 0.5)
    assert sure["loss"].item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)
    assert sure["entropy"].item() == 0


def test_the_teachers_temperature_rises_in_a_straight_line():
    params = contract.METHODS["dino"].model_copy(update={"teacher_warmup_steps": 4})
    found = [teacher_temperature(params, step) for step in (0, 1, 2, 4, 100)]
    assert found == pytest.approx([0.04, 0.0475, 0.055, 0.07, 0.07])
    assert teacher_temperature(params.model_copy(update={"teacher_warmup_steps": 0}), 0) == pytest.approx(0.07)


def test_the_heads_scores_are_cosines_whatever_the_last_layers_lengths():
    """And of the size that a cosine of random vectors has, in narrow heads as in the published one."""
    for hidden in (16, 2048):
        torch.manual_seed(0)
        head, x = Head(64, hidden, 32, 50), torch.randn(20, 64)
        scores = head(x)
        bottleneck = torch.nn.functional.normalize(head.layers(x), dim=1)
        expected = bottleneck @ torch.nn.functional.normalize(head.last.weight, dim=1).T
        assert torch.allclose(scores, expected, atol=1e-6)
        assert head.layers(x).norm(dim=1).mean() > 0.01
        with torch.no_grad():
            head.last.weight *= 7
        assert torch.allclose(head(x), scores, atol=1e-6)
        assert head.layers[0].weight.std().item() == pytest.approx(0.02 * math.sqrt(2048 / hidden), rel=0.05)
        assert not any(layer.bias.any() for layer in head.layers[::2])


@pytest.mark.parametrize("small", [0, 3])
def test_all_views_predict_what_the_teacher_says_of_the_others_large_ones_and_the_centre_moves(small):
    method, twin = built(small_views=small), built(small_views=small)
    center = random(1, 9, 5)[0]
    method.center.copy_(center)
    views = contract.views(4) + [torch.rand(4, 1, 8, 8) for _ in range(small)]
    encoder, head = twin.network
    with torch.no_grad():
        features = [encoder(torch.cat(alike)) for alike in (views[:2], views[2:]) if alike]
        student = head(torch.cat(features)).view(len(views), 4, 9)
        teacher = twin.momentum_encoder.module(torch.cat(views[:2])).view(2, 4, 9)
    sharp = 0.04 + 0.03 / 3
    loss, entropy = slow_loss(student, teacher, center, sharp, 0.1)
    found = method.loss(views, 1)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert found["entropy"].item() == pytest.approx(entropy / math.log(9), rel=1e-4)
    assert torch.equal(method.center, center)
    method.after_step(1, 0.5)
    moved = 0.8 * center.double() + 0.2 * teacher.double().mean(dim=(0, 1))
    assert torch.allclose(method.center.double(), moved, atol=1e-6)


def test_views_are_what_the_section_says():
    method = built(small_views=3, small_size=9, small_crop_min=0.2, small_crop_max=0.3)
    assert [view.size for view in method.views] == [None, None, 9, 9, 9]
    assert [view.crop for view in method.views] == [None, None, *[(0.2, 0.3)] * 3]
    assert [view.recipe for view in method.views] == [0, 1, 1, 1, 1]
    assert method.passes(0) == (4, 4, 3, 3, 3)


def test_the_teacher_moves_after_the_step_by_the_momentum_of_the_progress():
    method = built()
    before = [p.clone() for p in method.momentum_encoder.parameters()]
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1.0)
    method.after_step(0, 0.25)
    moved = 1 - momentum(0.99, 1.0, 0.25)
    for parameter, there in zip(method.momentum_encoder.parameters(), before, strict=True):
        assert torch.allclose(parameter, there + moved, atol=1e-6)


def test_the_frozen_last_layer_does_not_move_by_a_bit(tmp_path):
    """Under decay and momentum."""
    method, seen = built(freeze_steps=3), []

    def batch(step):
        seen.append(method.projector.last.weight.detach().clone())
        return contract.views(4, step, "dino")

    schedule = {"batch_size": 4, "lr": 0.1, "warmup_steps": 0, "weight_decay": 0.1, "log_every": 1, "seed": 0}
    plan = loop.Optimisation(
        Training(steps=5, checkpoint_every=9, min_lr=0.0, warmup_lr=None, **schedule),
        lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9, fused=True),
    )
    task = loop.Task(method.phases(), batch, {"method": method}, method.before_step, method.after_step)
    loop.train("dino", task, plan, COMPUTE, tmp_path, "work")
    assert all(torch.equal(seen[0], weight) for weight in seen[:4])
    assert not torch.equal(seen[3], seen[4])


def test_autocast_does_not_round_the_scores():
    head, x = Head(8, 16, 5, 9), torch.randn(6, 8)
    head.layers = torch.nn.Identity()  # its rounding is the network's own
    head.last = torch.nn.Linear(8, 9, bias=False)
    exact = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(x), exact)
