"""A batch in parts: the same step as the batch at once where losses are means over images, told where they are not."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import distributed, loop
from pipeline.methods import View
from pipeline.networks import backbones
from pipeline.params.methods import METHODS
from pipeline.params.parts import Apart
from pipeline.params.schema import Training
from pipeline.training.batches import Batches
from tests.batches import noise, section
from tests.methods import contract
from tests.toys import COMPUTE

N = 8
VIT = backbones.vit(8, 2, 2, 4)
MAE = {"mixing": False, "attention": False, "segments": False, "contrast": 0.0}


def schedule(steps=3, **changes):
    given = {"batch_size": N, "lr": 0.1, "min_lr": 0.0, "warmup_steps": 0, "warmup_lr": None, "weight_decay": 0.01}
    return Training(steps=steps, **given | {"log_every": 1, "checkpoint_every": 2, "seed": 0} | changes)


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr, momentum=0.9)


# --- rows


@pytest.mark.parametrize(("n", "parts", "size"), [(12, 3, 1), (12, 2, 3), (24, 4, 2), (8, 1, 2)])
def test_every_row_is_in_one_part_of_one_process(n, parts, size, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(size))
    found = []
    for k, rank in itertools.product(range(parts), range(size)):
        monkeypatch.setenv("RANK", str(rank))
        with distributed.part(k, parts):
            mine = np.arange(n)[distributed.share(n)]
            assert distributed.whole(len(mine)) == (n, distributed.share(n))
        assert len(mine) == n // parts // size
        assert set(mine % parts) == {k}  # every so many rows: what stands first in a batch is in every part
        found += mine.tolist()
    assert sorted(found) == list(range(n))
    assert found == sorted(found, key=lambda row: (row % parts, row))  # processes in order, as `gather` has them
    assert (distributed.parts(), distributed.of_part(5)) == (1, 5)


def test_a_batch_that_has_no_equal_parts_is_refused_and_the_part_is_left_behind(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a batch of 12 in 4 parts among 2 processes"), distributed.part(3, 4):
        distributed.share(12)
    assert distributed.parts() == 1


def test_numbers_of_parts_are_of_one_step_and_part_each():
    found = []
    for step, k in itertools.product(range(4), range(3)):
        with distributed.part(k, 3):
            found.append(distributed.of_part(step))
    assert found == list(range(12))


def test_views_of_the_parts_are_those_of_the_whole_batch():
    """Real and generated images in every part in the batch's shares, each with the augmentation that it has at once."""
    real, made = (noise(20, (12, 12, 3)).numpy() for _ in range(2))
    draw = mixture.Mixture(20, 20, 1.0, N, 0)
    bank = ImageBank(real, [made], "cpu")
    views = (View(recipe=0), View(recipe=1), View(recipe=1, size=8, crop=(0.1, 0.4)))
    batches = Batches(draw, bank, 0, views, section(seed=3, replace=0.0, replaced="second"))
    answers = torch.arange(20) % 5
    for step in range(3):
        whole, labels = batches(step), batches.labels(step, answers)
        rows = draw.rows(step)
        expected = [answers[row].item() if row < 20 else -1 for row in rows]
        assert labels.tolist() == expected
        for k in range(2):
            with distributed.part(k, 2):
                for part, view in zip(batches(step), whole, strict=True):
                    assert torch.allclose(part, view[k::2], rtol=0, atol=1e-6)
                assert batches.labels(step, answers).tolist() == expected
        assert sum(label >= 0 for label in expected[k::2]) == 2  # half of four


# --- the loop


def quadratic(crash=None):
    """A linear layer whose loss is a mean over images; crash: (step, part) whose loss is not reached."""
    with seeds.scope(0, "toy"):
        net = torch.nn.Linear(3, 2)
    seen = []

    def loss(x, step):
        seen.append((step, len(x)))
        if crash == (step, len([s for s, _ in seen if s == step]) - 1):
            raise KeyboardInterrupt
        error = (net(x) - x[:, :2]).square().mean()
        return {"loss": error, "largest": x.abs().max()}

    def batch(step):
        return torch.randn(N, 3, generator=seeds.generator(0, "rows", step))[distributed.share(N)]

    return net, seen, loop.Task([loop.Phase(loop.groups_of(net), loss)], batch, {"net": net})


def run(folder, parts, crash=None, **changes):
    net, seen, task = quadratic(crash)
    rows = loop.train("toy", task, loop.Optimisation(schedule(**changes), sgd, parts=parts), COMPUTE, folder, "work")
    return {name: value.clone() for name, value in net.state_dict().items()}, rows, seen


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_step_in_parts_is_one_step_with_the_gradient_of_the_whole_batch(parts, tmp_path):
    """Rate, decay and momentum act once; the loss and its gradient's norm in the log are those of the whole batch."""
    whole, rows, _ = run(tmp_path / "whole", 1)
    found, parted, seen = run(tmp_path / "parts", parts)
    assert seen == [(step, N // parts) for step in range(3) for _ in range(parts)]
    for name, value in whole.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6)
    for row, other in zip(rows, parted, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-6)
        assert other["gradient_norm"] == pytest.approx(row["gradient_norm"], rel=1e-5)
        assert other["lr"] == row["lr"]


def test_what_is_logged_is_the_mean_over_the_parts(tmp_path):
    _, rows, _ = run(tmp_path, 2, steps=1)
    x = torch.randn(N, 3, generator=seeds.generator(0, "rows", 0)).abs()
    assert rows[0]["largest"] == pytest.approx((x[::2].max() + x[1::2].max()).item() / 2)


@pytest.mark.fault(4)
@pytest.mark.parametrize("crash", [(1, 1), (2, 0), (3, 3), (5, 2)], ids=str)
def test_a_run_that_ends_within_a_batch_goes_on_to_the_same_bits(crash, tmp_path):
    """Of the step in hand nothing is kept: it is taken again from its first part."""
    straight, rows, _ = run(tmp_path / "straight", 4, steps=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "chain", 4, crash, steps=6)
    found, again, seen = run(tmp_path / "chain", 4, steps=6)
    assert seen[0] == (crash[0] - crash[0] % 2, 2)  # from the last checkpoint
    assert all(torch.equal(found[name], value) for name, value in straight.items())
    assert again == rows


def test_a_batch_that_cannot_be_parted_is_refused_before_a_step(tmp_path):
    with pytest.raises(UserError, match="a batch of 8 in 3 parts"):
        run(tmp_path, 3)


# --- methods


def trained(name, folder, parts, steps=4, **changes):
    """A method's state and rows after some steps of batches in so many parts, in fp32."""
    backbone = changes.pop("backbone", VIT)
    built = contract.build(name, backbone=backbone, **changes)

    def batch(step):
        return [view[distributed.share(N)] for view in contract.views(N, step, name)]

    task = loop.Task(built.phases(), batch, {"method": built}, built.before_step, built.after_step)
    plan = loop.Optimisation(schedule(steps, lr=0.02), sgd, parts=parts)
    rows = loop.train(name, task, plan, COMPUTE, folder, "work")
    return {key: value.clone() for key, value in built.state_dict().items()}, rows


def apart(one, other):
    """The largest difference of two states; of a queue's batches, whose order is another one, as sets of rows."""
    worst = 0.0
    for key, value in one.items():
        there = other[key]
        if key == "queue.keys":
            value, there = (x[x.flatten(1).sum(dim=1).argsort()] if x.ndim == 2 else x for x in (value, there))
            gaps = torch.cdist(value.double(), there.double()).amin(dim=2)  # each old key is there
            worst = max(worst, gaps.max().item())
        else:
            worst = max(worst, (value.double() - there.double()).abs().max().item())
    return worst


# Of which the check does not warn.
ALONE = [*((name, {}) for name, section in METHODS.items() if issubclass(section, Apart)), ("mixed_ae", MAE)]


@pytest.mark.parametrize(("name", "changes"), ALONE, ids=[name for name, _ in ALONE])
def test_methods_whose_images_do_not_meet_take_the_same_steps_in_parts(name, changes, tmp_path):
    """On a ViT, which has no batch statistics: to 1e-5 in fp32, with momentum encoder, queue and centre."""
    whole, rows = trained(name, tmp_path / "whole", 1, queue_size=2 * N, **changes)
    found, parted = trained(name, tmp_path / "parts", 2, queue_size=2 * N, **changes)
    assert apart(whole, found) < 1e-5
    assert [row["loss"] for row in parted] == pytest.approx([row["loss"] for row in rows], abs=1e-5)
    start = contract.build(name, backbone=VIT, queue_size=2 * N, **changes).state_dict()
    assert apart(start, whole) > 1e-3


MEETING = [name for name in contract.METHODS if name not in ("joint_gan", *(name for name, _ in ALONE))]


@pytest.mark.parametrize("name", [*MEETING, "moco", "mixed_ae"])
def test_methods_whose_images_meet_take_other_steps_in_parts(name, tmp_path):
    """In negatives, batch statistics, codes or mixed images; MoCo on a ResNet. They run, and the check warns of it."""
    backbone = contract.RESNET if name == "moco" else contract.BACKBONES.get(name, contract.RESNET)
    whole, _ = trained(name, tmp_path / "whole", 1, steps=2, queue_size=2 * N, backbone=backbone)
    found, rows = trained(name, tmp_path / "parts", 2, steps=2, queue_size=2 * N, backbone=backbone)
    assert apart(whole, found) > 1e-4
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_a_queue_grows_once_a_step_by_the_whole_batch(tmp_path):
    for name in ("moco", "nnclr", "all4one", "swav"):
        state, _ = trained(name, tmp_path / name, 2, steps=1, queue_size=3 * N, backbone=contract.RESNET)
        before = contract.build(name, backbone=contract.RESNET, queue_size=3 * N).queue.keys
        assert state["queue.place"] == N
        assert torch.equal(state["queue.keys"][:, N:], before[:, N:])
        assert not (state["queue.keys"][:, :N] == before[:, :N]).all(dim=2).any()


def test_swavs_queue_is_full_after_as_many_steps_in_parts_as_at_once(tmp_path):
    """16 places and batches of 8, seen by the entropy of the codes: before it is full a queue changes nothing."""

    def losses(parts, size):
        _, rows = trained("swav", tmp_path / f"{parts} {size}", parts, queue_size=size, queue_start=0, small_views=0)
        return [row["loss"] for row in rows]

    queued, without = losses(2, 2 * N), losses(2, 0)
    assert queued[:2] == without[:2]
    assert queued[2] != without[2]


def test_dropout_of_the_parts_is_not_the_same():
    built, views = contract.build("all4one", dropout=0.5), contract.views(6)
    found = []
    for k in range(2):
        with distributed.part(k, 2):
            found.append(built.loss(views, 3)["centroids"].item())
    assert found[0] != found[1]


def test_a_mask_is_drawn_for_the_whole_batch():
    """MAE's maps in parts are rows of those at once."""
    built = contract.build("mixed_ae", **MAE)
    whole = built.maps(N, 9, 5)
    for k in range(2):
        with distributed.part(k, 2):
            assert torch.equal(built.maps(N // 2, 9, 5), whole[k::2])
