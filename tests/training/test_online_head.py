"""The layer that learns labels beside: it changes nothing of the encoder, and learns as solo-learn's does."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import distributed, loop
from pipeline.training import batches, encoder
from pipeline.training.online_head import OnlineHead
from tests import batches as recipes
from tests.methods import contract
from tests.toys import COMPUTE, pretrain_params

N, CLASSES = 6, 3
LABELS = torch.tensor([2, -1, 0, 1, -1, 2])
SGD = {"optimizer": "sgd"}
LARS = {"optimizer": "lars", "trust_coefficient": 0.02, "trust_clip": True}
ADAMW = {"optimizer": "adamw", "beta2": 0.95}
WHOLE = [name for name in contract.METHODS if name != "mixed_ae"]  # methods whose encoder sees whole images
FIRST = ("simclr", "moco", "swav", "joint_gan")  # views together, one by one, small ones, a game; the others are slow


def head_of(method, seed=0):
    return OnlineHead(method.encoder, method.views, CLASSES, seed)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(built, folder, head=None, labels=lambda step: LABELS, batch=None, made=None, online_head=0.5, **changes):
    """The rows of the log of a method's training by the loop, with or without a layer that learns labels beside."""
    params = pretrain_params(**{"steps": 3, "log_every": 1, "decay_vectors": True, **changes})
    phases, objects = encoder.phases_of(built, params.decay_vectors), {"method": built}
    if head is not None:
        phases[-1] = head.beside(phases[-1], labels, online_head)
        objects["head"] = head
    batch = batch or (lambda step: contract.views(N, step, params.method))
    task = loop.Task(phases, batch, objects, built.before_step, built.after_step)

    def build(groups, lr):
        found = encoder.optimiser(params, groups, lr)
        if made is not None:
            made.append(found)
        return found

    plan = loop.Optimisation(params, build, parts=params.accumulate)
    return loop.train("toy", task, plan, COMPUTE, folder, "work")


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] * (name not in FIRST))
        for name in WHOLE
        for kind in (SGD, LARS, ADAMW)
        if kind is SGD or name in ("simclr", "moco", "swav")
    ],
    ids=lambda value: value if isinstance(value, str) else value["optimizer"],
)
def test_the_method_is_the_same_bit_for_bit_with_and_without_it(tmp_path, name, optimizer):
    """Encoder, heads, momentum encoder and queue after some steps, and every number of the log but the layer's."""
    rate = 0.001 if optimizer is ADAMW else 0.1
    alone, beside = contract.build(name), contract.build(name)
    head = head_of(beside)
    before = state(head)
    plain = train(alone, tmp_path / "alone", method=name, lr=rate, **optimizer)
    rows = train(beside, tmp_path / "beside", head, method=name, lr=rate, **optimizer)
    assert same(state(alone), state(beside))
    assert not any(torch.equal(before[key], value) for key, value in state(head).items())
    added = {"online_loss", "online_agreement"}
    for one, two in zip(plain, rows, strict=True):
        assert two.keys() - one.keys() == added
        of_both = "gradient_norm"  # is of all that is optimised
        assert {k: v for k, v in one.items() if k != of_both} == {k: two[k] for k in one if k != of_both}


class Means(nn.Module):
    """In place of a backbone: every feature of an image is its mean."""

    def __init__(self, width):
        super().__init__()
        self.width, self.scale = width, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * x.mean(dim=(1, 2, 3))[:, None].expand(-1, self.width)


@pytest.mark.parametrize("name", WHOLE)
def test_the_features_that_it_takes_are_those_of_the_large_views_in_the_order_of_the_labels(name):
    """By images of one grey each, which their features tell."""
    built = contract.build(name)
    built.encoder.backbone = Means(built.encoder.width)
    head = head_of(built)
    views = contract.views(N, name=name)
    grey = torch.arange(len(views) * N).view(len(views), N) / 100
    views = [torch.ones_like(view) * shades.view(-1, 1, 1, 1) for view, shades in zip(views, grey, strict=True)]
    built.phases()[-1].loss(views, 10)
    seen = torch.cat(head.seen)[: head.large * N, 0] * built.encoder.std + built.encoder.mean
    assert head.large == 2  # a small view is none of them, nor one of a positive
    assert torch.allclose(seen.flatten(), grey[:2].flatten(), atol=1e-5)


def features_by_hand(method, views, together):
    """Of the two large views, by an encoder of its own in training mode: numpy (2 N, width)."""
    own = copy.deepcopy(method.encoder).train()
    with torch.no_grad():
        return (own(torch.cat(views[:2])) if together else torch.cat([own(view) for view in views[:2]])).numpy()


def by_hand(x, layer, labels):
    """Cross-entropy, agreement, and the gradients of matrix and bias, float64, of rows that have a label."""
    matrix, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    known = labels >= 0
    x, y = x[known].astype(np.float64), labels[known]
    logits = x @ matrix.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    wrong = p - np.eye(CLASSES)[y]
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    return loss, (p.argmax(axis=1) == y).mean(), wrong.T @ x / len(y), wrong.mean(axis=0)


@pytest.mark.parametrize(
    ("name", "changes", "together"),
    [
        ("simclr", {}, True),
        ("simclr", {"views_together": False}, False),
        ("moco", {}, False),
        ("byol", {}, False),
        ("swav", {}, True),
        ("dino", {}, True),
    ],
)
def test_its_loss_is_cross_entropy_of_the_labelled_rows_of_both_large_views(name, changes, together):
    built = contract.build(name, **changes)
    views, twice = contract.views(N, name=name), np.tile(LABELS.numpy(), 2)
    x = features_by_hand(built, views, together)
    plain = built.phases()[-1].loss(views, 0)["loss"].item()
    built = contract.build(name, **changes)
    head = head_of(built)
    built.encoder(views[1])  # an earlier pass of the step, of another phase say, is not its
    found = head.beside(built.phases()[-1], lambda step: LABELS, 1.0).loss(views, 0)
    loss, right, matrix, bias = by_hand(x, head.layer, twice)
    assert found["online_loss"].item() == pytest.approx(loss, rel=1e-5)
    assert found["online_agreement"].item() == pytest.approx(right)
    assert found["loss"].item() == plain
    found["loss"].backward()
    assert head.layer.weight.grad.numpy() == pytest.approx(matrix, rel=1e-4, abs=1e-6)
    assert head.layer.bias.grad.numpy() == pytest.approx(bias, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, LARS, ADAMW], ids=["sgd", "lars", "adamw"])
def test_batches_of_generated_images_alone_teach_it_nothing_and_decay_never_touches_it(tmp_path, optimizer):
    """With `decay_vectors`, and a decay that halves what it touches."""
    built = contract.build("simclr")
    head = head_of(built)
    before = state(head)
    none = lambda step: torch.full((N,), -1)  # noqa: E731
    rows = train(built, tmp_path, head, none, weight_decay=0.5, lr=0.01, **optimizer)
    assert same(before, state(head))
    assert all(row["online_loss"] == row["online_agreement"] == 0 for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize(("rate", "clipped"), [(0.001, True), (50.0, False)])
@pytest.mark.parametrize("decay_vectors", [True, False])
def test_lars_adapts_its_matrix_as_solo_learn_does_and_not_its_bias(tmp_path, rate, clipped, decay_vectors):
    """solo/utils/lars.py: eta |W| / (|g| + decay |W|) over the rate, 1 at most; its decay is 0."""
    built = contract.build("simclr")
    head = head_of(built)
    views, twice = contract.views(N), np.tile(LABELS.numpy(), 2)
    _, _, g, g_bias = by_hand(features_by_hand(built, views, True), head.layer, twice)
    matrix, bias = (p.detach().double().numpy() for p in head.layer.parameters())
    trust = np.linalg.norm(matrix) * 0.02 / (np.linalg.norm(g) + 1e-8) / rate
    assert (trust > 1) == clipped
    once = {"steps": 1, "warmup_steps": 0, "momentum": 0.0, "lr": 2 * rate, "decay_vectors": decay_vectors}
    train(built, tmp_path, head, online_head=0.5, weight_decay=0.5, **once, **LARS)
    steps = [
        (p.detach().double().numpy() - was) for p, was in zip(head.layer.parameters(), (matrix, bias), strict=True)
    ]
    assert steps[0] == pytest.approx(-rate * min(trust, 1) * g, rel=1e-3, abs=1e-7)
    assert steps[1] == pytest.approx(-rate * g_bias, rel=1e-3, abs=1e-7)


def test_its_rate_is_its_multiple_of_the_schedules_in_every_step(tmp_path):
    built, made, rates = contract.build("moco"), [], []

    def labels(step):
        rates.append([group["lr"] for group in made[0].param_groups])
        return LABELS

    changes = {"steps": 6, "warmup_steps": 2, "min_lr": 0.01, "method": "moco"}
    train(built, tmp_path, head_of(built), labels, made=made, online_head=0.25, **changes)
    schedule = pretrain_params(**changes)
    expected = [loop.learning_rate(schedule, step) for step in range(6)]
    assert expected[0] == 0.05
    assert len(set(expected)) == 5
    for found, rate in zip(rates, expected, strict=True):
        assert found[-2:] == pytest.approx([0.25 * rate] * 2)
        assert found[:-2] == pytest.approx([rate] * (len(found) - 2))


def test_its_first_weights_are_of_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    built = contract.build("simclr")
    first = state(head_of(built, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first, state(head_of(contract.build("simclr"), seed=3)))
    assert not same(first, state(head_of(built, seed=4)))


def test_features_of_evaluation_are_not_for_it_and_leave_nothing_behind(tmp_path):
    built = contract.build("simclr")
    head = head_of(built)
    built.encoder.eval()
    built.encoder(torch.rand(3, 1, 12, 12))
    assert head.seen == []
    built.train()
    train(built, tmp_path, head)
    assert head.seen == []  # a graph or features of the last step would hold memory


def test_it_learns_what_the_features_tell(tmp_path):
    """Three greys."""
    built = contract.build("simclr")
    head = head_of(built)
    labels = lambda step: torch.randint(3, (N,), generator=torch.Generator().manual_seed(step))  # noqa: E731

    def batch(step):
        noise = torch.rand(2, N, 1, 12, 12, generator=torch.Generator().manual_seed(100 + step))
        return list(0.1 + 0.35 * labels(step).view(1, N, 1, 1, 1) + 0.1 * noise)

    changes = {"steps": 240, "log_every": 4, "checkpoint_every": 240, "lr": 0.01, "warmup_steps": 0}
    rows = train(built, tmp_path, head, labels, batch, online_head=2.0, **changes)
    assert rows[0]["online_agreement"] < 0.5
    assert rows[-1]["online_agreement"] > 0.9
    assert rows[-1]["online_loss"] < 0.5 * rows[0]["online_loss"]
    x = built.encoder.eval()(batch(99)[0])
    assert (head.predict(x.detach()) == labels(99)).float().mean() > 0.8


def drawn(n_real, n_generated, batch_size):
    """Batches without augmentation of images that tell who they are, and the images."""
    images = np.arange(n_real + n_generated, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    draw = mixture.Mixture(n_real, n_generated, 1.0, batch_size, 0)
    bank = ImageBank(images[:n_real], [images[n_real:]] if n_generated else [], "cpu")
    plain = recipes.section("symmetric", "grey", 0.0)
    return batches.Batches(draw, bank, 0, contract.build("simclr").views, plain)


@pytest.mark.parametrize("n_generated", [0, 10])
@pytest.mark.parametrize("parts", [1, 3])
def test_labels_are_those_of_the_images_that_the_batch_shows(n_generated, parts):
    """None of a generated image, and of a real one without; of the whole batch, whichever part is at hand."""
    found = drawn(12, n_generated, 6)
    answers = torch.tensor([5, 4, 3, 2, 1, 0, -1, 7, 8, 9, 10, 11])
    of = torch.cat([answers, torch.full((n_generated,), -1)])
    seen = set()
    for step in range(9):
        for k in range(parts):
            with distributed.part(k, parts):
                labels, views = found.labels(step, answers), found(step)
            shown = (255 * views[0][:, 0, 0, 0]).round().long()
            assert torch.equal(labels[k::parts], of[shown])
            assert labels.dtype == torch.int64
            seen |= set(labels.tolist())
    assert seen == set(of.tolist())


def test_in_parts_every_label_counts_alike(tmp_path):
    """Two parts of every other row, with two labels and with one; momentum and decay are off: one step tells it."""
    known, labels = (2, 1), torch.tensor([2, -1, 0, 1, -1, -1])
    built = contract.build("moco")
    head = head_of(built)
    views = contract.views(N, name="moco")
    own = copy.deepcopy(built)
    found = []
    for k in range(2):
        x = features_by_hand(own, [view[k::2] for view in views], False)
        found.append(by_hand(x, head.layer, np.tile(labels.numpy()[k::2], 2)))
    loss, right, *gradients = (np.average(each, axis=0, weights=known) for each in zip(*found, strict=True))
    before = [p.detach().double().numpy() for p in head.layer.parameters()]
    part = lambda step: [view[distributed.share(N)] for view in views]  # noqa: E731
    once = {"steps": 1, "warmup_steps": 0, "momentum": 0.0, "accumulate": 2, "method": "moco", "lr": 0.1}
    (row,) = train(built, tmp_path, head, lambda step: labels, part, online_head=2.0, **once)
    assert (row["online_loss"], row["online_agreement"]) == pytest.approx((loss, right), rel=1e-5)
    for p, was, g in zip(head.layer.parameters(), before, gradients, strict=True):
        assert p.detach().double().numpy() - was == pytest.approx(-0.2 * g, rel=1e-3, abs=1e-6)
