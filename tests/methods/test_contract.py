"""The contract of pipeline/methods/__init__.py, for every method."""

import contextlib
from typing import get_args

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import loop
from pipeline.networks import heads, resnet, vit
from pipeline.params.schema import Pretrain, Training
from pipeline.training.batches import Batches
from tests import batches
from tests.methods import contract
from tests.toys import COMPUTE

EVERY = pytest.mark.parametrize("name", contract.METHODS)
COMPARING = pytest.mark.parametrize("name", contract.PAIRED)
COPIES = ("momentum_encoder.", "frozen.")  # never trained themselves
MAE = {"mixing": False, "attention": False, "segments": False, "contrast": 0.0}
LATE = 10  # a step with every phase; in the first step some methods freeze a layer, or see only real images
STEPS = pytest.mark.parametrize("step", [0, LATE])
SCHEDULE = {
    "batch_size": 4,
    "lr": 0.1,
    "min_lr": 0.0,
    "warmup_lr": None,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "log_every": 4,
    "checkpoint_every": 2,
}


def optimisation(steps):
    schedule = Training(steps=steps, seed=0, **SCHEDULE)
    return loop.Optimisation(schedule, lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9, fused=True))


def test_the_methods_of_the_folder_are_those_that_can_be_chosen():
    assert set(contract.METHODS) == set(get_args(Pretrain.model_fields["method"].annotation))


@EVERY
def test_the_gradient_reaches_every_parameter_that_is_trained_and_no_copy(name):
    """The loss of each phase reaches its parameters and no others; every trainable parameter is in one phase."""
    built, trained = contract.build(name), set()
    for phase in built.phases():
        assert phase.due(LATE)
        built.zero_grad(set_to_none=True)
        phase.loss(contract.views(6, name=name), LATE)["loss"].backward()
        optimised = {id(p) for group in phase.groups for p in group.parameters}
        for path, parameter in built.named_parameters():
            assert (parameter.grad is not None) == (id(parameter) in optimised), path
        assert not optimised & trained
        trained |= optimised
    for path, parameter in built.named_parameters():
        assert (id(parameter) in trained) == (not path.startswith(COPIES)), path
        assert parameter.requires_grad == (not path.startswith(COPIES)), path


@pytest.mark.parametrize(("name", "changes"), [*((name, {}) for name in contract.METHODS), ("mixed_ae", MAE)])
@STEPS
def test_a_step_asks_the_device_for_no_value(name, changes, step, monkeypatch):
    """A question would make the next step's drawing wait for a GPU. Meta tensors have no values and cannot answer."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no such device
    built = contract.build(name, **changes).to("meta")
    if built.GENERATOR and step == LATE:
        pytest.skip("its game draws noise on the device, as meta tensors cannot")
    real, made = np.zeros((2, 8, contract.SIZE, contract.SIZE, 1), np.uint8)
    bank = ImageBank(real, [made, made], "meta")
    draw = mixture.Mixture(len(real), len(made), 1.0, 6, 0)
    views = Batches(draw, bank, 1, built.views, batches.section("asymmetric", "grey", 2.0))(step)
    assert {view.device.type for view in views} == {"meta"}
    for phase in built.phases():
        if phase.due(step):
            phase.loss(views, step)["loss"].backward()
    built.after_step(step, 0.5)


@EVERY
def test_the_passes_of_the_backbone_are_those_that_the_method_states(name):
    """One for each image in each forward pass, two more if a backward pass follows; a ViT's are counted by patches."""
    built, counted = contract.build(name), []

    def passed(y, share):
        counted.append(len(y) * share * (3 if y.requires_grad else 1))

    for module in built.modules():
        if isinstance(module, resnet.ResNet):
            module.register_forward_hook(lambda _, x, y: passed(y, 1))
        if isinstance(module, vit.SmallViT):
            module.norm.register_forward_hook(lambda _, x, y: passed(y, (y.shape[1] - 1) / (contract.SIZE // 4) ** 2))
    for step in range(LATE + 1):
        counted.clear()
        for phase in built.phases():
            if phase.due(step):
                phase.loss(contract.views(6, name=name), step)
        passes = built.passes(step)
        assert sum(counted) == 6 * sum(passes)
        assert len(passes) == len(built.views)


@EVERY
def test_vectors_are_not_decayed(name):
    for phase in contract.build(name).phases():
        for group in phase.groups:
            assert all((parameter.ndim > 1) == group.decay for parameter in group.parameters)


@STEPS
@COMPARING
def test_the_order_of_the_images_does_not_matter_and_their_pairing_does(name, step):
    def loss(views):
        return contract.build(name).loss(views, step)["loss"].item()

    views, order = contract.views(8, name=name), torch.randperm(8, generator=torch.Generator().manual_seed(3))
    assert loss([view[order] for view in views]) == pytest.approx(loss(views), rel=1e-4)
    assert loss([views[0], *(view[order] for view in views[1:])]) != pytest.approx(loss(views), rel=1e-4)


@STEPS
@COMPARING
def test_the_two_views_count_alike(name, step):
    def loss(views):
        built = contract.build(name)
        if len(getattr(getattr(built, "queue", None), "keys", ())) == 2:
            built.queue.keys[1] = built.queue.keys[0]  # each view has a queue of its own
        found = built.loss(views, step)
        return found.get("contrast", found["loss"]).item()  # CLSP's third is drawn to the first alone

    one, two, *others = contract.views(8, name=name)
    assert loss([two, one, *others]) == pytest.approx(loss([one, two, *others]), rel=1e-4)


@COMPARING
def test_every_method_runs_on_a_vit_too(name):
    """Small views as well, which have fewer patches."""
    built = contract.build(name, backbone=contract.VIT)
    found = built.loss(contract.views(6, name=name), 9)
    found["loss"].backward()
    assert all(torch.isfinite(value) for value in found.values())
    weights = next(module for module in built.modules() if isinstance(module, vit.SmallViT)).parameters()
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


@EVERY
def test_training_lowers_the_loss(name, tmp_path, monkeypatch):
    """Of one batch, seen again and again: whatever the method, its views come to agree."""
    built = contract.build(name)
    monkeypatch.setattr(heads.Queue, "add", lambda queue, keys: None)  # the batch's own old keys would be in it
    views = contract.views(16, name=name)
    task = loop.Task(built.phases(), lambda step: views, {"method": built}, built.before_step, built.after_step)
    rows = loop.train(name, task, optimisation(30), COMPUTE, tmp_path, "work")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(set(row) == set(rows[0]) for row in rows)


@EVERY
def test_a_method_is_a_function_of_the_seed(name):
    first, again, other = (contract.made(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    heads = contract.made(name, 1, encoder_seed=0).state_dict()  # of the same encoder
    assert not all(torch.equal(first[key], heads[key]) for key in first)


@pytest.mark.fault(4)
@EVERY
def test_interrupted_training_ends_with_the_same_bits(name, tmp_path):
    class Crash(Exception):
        pass

    def run(folder, crash_at=None):
        built = contract.build(name)

        def batch(step):
            if step == crash_at:
                raise Crash
            return contract.views(4, step, name)

        task = loop.Task(built.phases(), batch, {"method": built}, built.before_step, built.after_step)
        rows = loop.train(name, task, optimisation(6), COMPUTE, folder, "work")
        return rows, {key: value.numpy().tobytes() for key, value in built.state_dict().items()}

    straight = run(tmp_path / "straight")
    for crash_at in (3, 5):
        with pytest.raises(Crash):
            run(tmp_path / "chain", crash_at)
    assert run(tmp_path / "chain") == straight


@EVERY
def test_saving_artifacts_changes_nothing_and_they_can_be_looked_at(name, tmp_path):
    """Neither its state nor its mode nor torch's random numbers change; a file that is written twice is the same."""
    built = contract.build(name)
    saves, shows = (
        getattr(type(built), what) is not getattr(methods.Method, what) for what in ("save_artifacts", "pictures")
    )
    assert saves == shows
    if not saves:
        assert built.save_artifacts(tmp_path, contract.given().images) == []
        assert built.pictures({}) == []
        return
    state = {path: value.clone() for path, value in built.state_dict().items()}
    modes, random = [part.training for part in built.modules()], torch.get_rng_state()
    images, found = contract.given().images, []
    for _ in range(2):
        (file,) = built.save_artifacts(tmp_path, images)
        found.append((tmp_path / file).read_bytes())
    assert found[0] == found[1]
    assert all(torch.equal(value, state[path]) for path, value in built.state_dict().items())
    assert [part.training for part in built.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(p.grad is not None for p in built.parameters())
    for title, pictures in built.pictures({file: tmp_path / file}):
        assert title
        assert pictures.dtype == np.uint8
        assert pictures.ndim == 4
