"""Conditioned sampling: conditions and their dropout, guidance, the sampler against its formula, the set."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import positives
from pipeline.core import seeds, weights
from pipeline.data import shards
from pipeline.generators import ddpm
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params.schema import Conditioned, Positives, RealOnly
from pipeline.positives import conditioned
from pipeline.training import encoder, generator
from pipeline.training.batches import Images
from tests import toys
from tests.batches import section
from tests.toys import COMPUTE

SIZE, N, WIDTH, STEPS = 8, 6, 5, 4
_ENCODER = toys.pretrain_params(steps=4, evaluate_every=2).model_dump() | {
    "hidden_dim": 8,
    "output_dim": 4,
    "temperature": 0.2,
    "views_together": True,
    "family": "symmetric",
    "strength": 1.0,
}


def own(**changes):
    given = toys.ddpm_params().model_dump() | {"condition_dropout": 0.3, "hidden_dim": 7}
    return Conditioned(**given | {"encoder": RealOnly(**_ENCODER)} | changes)


def params(**changes):
    given = {"kind": "conditioned", "candidates": 2, "weight": None, "guidance": 2.0, "steps": STEPS, "eta": 0.5}
    return Positives(**given | {"clip": False, "batch_size": 2, "shard_size": 4, "seed": 0} | changes)


def unit(n=N, width=WIDTH, seed=0):
    drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def pictures(n=N):
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that says something of its own: a fresh one's last convolution is near zero."""
    network = conditioned.Network(own(), SIZE, 1, WIDTH)
    with seeds.scope(1, "test"), torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made = tmp_path_factory.mktemp("conditioned")
    weights.save(made / "conditioned.safetensors", network)
    return made


pytestmark = pytest.mark.usefixtures("store")


def sampled(folder, numbers, features=None, guidance=2.0, **changes):
    """Float images of some numbers, before they are rounded."""
    features, found = unit() if features is None else features, []
    before = ddpm.to_uint8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddpm, "to_uint8", lambda x, size: found.append(x) or before(x, size))
        given = toys.inputs(pictures(), positives=params(**changes), conditioned=own())
        conditioned.start(given, folder, features)(numbers, guidance)
    return found[0]


# ---- conditions


def test_features_go_through_two_layers_into_the_time_embedding_which_scales_and_shifts():
    network = conditioned.Network(own(), SIZE, 1, WIDTH)
    assert network.unet.config.class_embed_type == "identity"
    assert network.unet.config.resnet_time_scale_shift == "scale_shift"
    features, seen = unit(), []
    network.unet.down_blocks[0].resnets[0].time_emb_proj.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    x, t = torch.randn(N, 1, SIZE, SIZE), torch.arange(N)
    network(x, t, features)
    first, _, last = network.embed
    by_hand = torch.relu(features @ first.weight.T + first.bias) @ last.weight.T + last.bias
    time = network.unet.time_embedding(network.unet.time_proj(t))
    assert torch.allclose(seen[0], torch.nn.functional.silu(time + by_hand), atol=1e-6)


def test_conditions_are_those_of_the_images_and_are_dropped_as_often_as_asked():
    images, features = torch.from_numpy(pictures(40)), unit(40)
    made = conditioned.Training(own(batch_size=20), images, features)
    known = {images[k].permute(2, 0, 1).flatten().numpy().tobytes(): features[k] for k in range(40)}
    dropped = 0
    for step in range(50):
        x, conditions = made.batch(step)
        again, same = made.batch(step)
        assert torch.equal(x, again)
        assert torch.equal(conditions, same)
        for image, condition in zip(x, conditions, strict=True):
            pixels = ((image.double() + 1) * 127.5).round().to(torch.uint8).flatten().numpy().tobytes()
            if condition.any():
                assert torch.equal(condition, known[pixels])
            else:
                dropped += 1
    assert dropped / 1000 == pytest.approx(0.3, abs=0.05)


def test_without_dropout_every_image_has_its_condition():
    made = conditioned.Training(own(condition_dropout=0.0), torch.from_numpy(pictures()), unit())
    assert all(bool(made.batch(step)[1].any(dim=1).all()) for step in range(10))


def test_the_loss_is_a_ddpms_of_a_network_that_knows_the_features():
    """By hand: a network that gives the first feature back for noise has this loss."""
    made = conditioned.Training(own(condition_dropout=0.0), torch.from_numpy(pictures()), unit())
    seen = []

    def network(noisy, t, features):
        seen.append((noisy.double(), t, features))
        return SimpleNamespace(sample=features[:, :1, None, None].expand_as(noisy))

    made.unet = network
    batch = made.batch(0)
    loss = made.loss(batch, 0)["loss"].item()
    noisy, t, features = seen[0]
    assert torch.equal(features, batch[1])
    alpha = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t][:, None, None, None]
    noise = (noisy - alpha.sqrt() * batch[0].double()) / (1 - alpha).sqrt()
    expected = (features[:, :1, None, None].double() - noise).square().mean().item()
    assert loss == pytest.approx(expected, rel=1e-3)


def test_training_reaches_both_parts_and_resumes_to_the_same_bytes(monkeypatch, tmp_path):
    images, features = pictures(), unit().numpy()
    made, rows = generator.train(conditioned.Training, own(), images, COMPUTE, features)
    (weights,) = made.values()
    straight = weights.read_bytes()
    fresh = conditioned.Network(own(), SIZE, 1, WIDTH)
    trained = conditioned.load(own(), weights.parent, SIZE, 1, WIDTH)
    for part in ("embed", "unet"):
        one, other = (list(getattr(network, part).parameters()) for network in (fresh, trained))
        assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True) if a.ndim > 1)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "another"))
    loss, count = conditioned.Training.loss, itertools.count()

    def crashing(self, batch, step):
        if next(count) == 3:
            raise KeyboardInterrupt
        return loss(self, batch, step)

    monkeypatch.setattr(conditioned.Training, "loss", crashing)
    with pytest.raises(KeyboardInterrupt):
        generator.train(conditioned.Training, own(), images, COMPUTE, features)
    again, rows_again = generator.train(conditioned.Training, own(), images, COMPUTE, features)
    assert next(iter(again.values())).read_bytes() == straight
    assert rows_again == rows
    others = unit(seed=1).numpy()
    assert generator.train(conditioned.Training, own(), images, COMPUTE, others)[0] != made


# ---- the sampler


@torch.no_grad()
def by_the_paper(folder, number, features, guidance, eta, steps, clip):
    """One image by the formulas alone: no scheduler's step, no batch."""
    network = conditioned.load(own(), folder, SIZE, 1, WIDTH)
    alpha = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    seed = seeds.key(0, "conditioned")
    x = seeds.noise((1, SIZE, SIZE), seed, "image", number)[None]
    draw = seeds.generator(seed, "sample", number)
    condition, unconditional = features[number % len(features)][None], torch.zeros(1, WIDTH)
    for t, after in itertools.pairwise([int(t) for t in np.linspace(-1, 999, steps + 1)][::-1]):
        here, there = alpha[t], alpha[after] if after >= 0 else 1.0
        with_it, without = (network(x, torch.tensor([t]), features).sample for features in (condition, unconditional))
        predicted = without + guidance * (with_it - without)
        start = (x - (1 - here) ** 0.5 * predicted) / here**0.5
        start = start.clamp(-1, 1) if clip else start
        sigma = eta * ((1 - there) / (1 - here) * (1 - here / there)) ** 0.5
        x = there**0.5 * start + (1 - there - sigma**2) ** 0.5 * predicted
        if eta:
            x = x + sigma * torch.randn((1, SIZE, SIZE), generator=draw)[None]
    return x[0]


@pytest.mark.parametrize(
    ("guidance", "eta", "steps", "clip"), [(1.0, 0.0, 4, False), (0.0, 0.5, 4, False), (2.5, 1.0, 10, False)]
)
def test_the_sampler_is_ddim_of_the_guided_prediction(folder, guidance, eta, steps, clip):
    numbers = range(4, 8)  # two of the first versions and two of the second
    found = sampled(folder, numbers, guidance=guidance, eta=eta, steps=steps, clip=clip)
    for row, number in zip(found, numbers, strict=True):
        expected = by_the_paper(folder, number, unit(), guidance, eta, steps, clip)
        assert torch.allclose(row, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), number


def test_without_guidance_the_features_do_not_matter_and_with_it_they_do(folder):
    others = unit(seed=1)
    one, other = (sampled(folder, range(4), features, guidance=0.0) for features in (unit(), others))
    assert torch.equal(one, other)
    for guidance in (1.0, 2.0):
        one, other = (sampled(folder, range(4), features, guidance=guidance) for features in (unit(), others))
        assert not torch.allclose(one, other, atol=1e-3)


def test_versions_of_an_image_differ_by_their_noise(folder):
    same = unit(1).expand(N, -1).contiguous()
    found = sampled(folder, range(4), same)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_one_pass_does_where_guidance_is_nothing_or_one(folder, monkeypatch):
    counted = []
    forward = torch.nn.Module.__call__

    def counting(self, *given, **further):
        if isinstance(self, ddpm.UNet2DModel):
            counted.append(len(given[0]))
        return forward(self, *given, **further)

    monkeypatch.setattr(torch.nn.Module, "__call__", counting)
    for guidance, rows in ((0.0, 2), (1.0, 2), (1.5, 4)):
        counted.clear()
        sampled(folder, range(2), guidance=guidance)
        assert counted == [rows] * STEPS


# ---- the set


def fill(folder, features=None, names=None, **changes):
    features = unit() if features is None else features
    names = 100 + np.arange(len(features)) if names is None else names
    inputs = toys.inputs(pictures(len(features)), positives=params(**changes), conditioned=own())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditioned, "train", lambda *_: (folder, features))
        return positives.sample(conditioned.prepare(inputs), inputs, names)


def test_a_set_goes_version_by_version_and_more_versions_add_shards(folder):
    small, fingerprint = fill(folder, candidates=1)
    before = {name: path.read_bytes() for name, path in small.items()}
    large, again = fill(folder, candidates=3)
    assert fingerprint == again
    assert {name: large[name].read_bytes() for name in before} == before
    images, anchors, versions = toys.positives(large)
    assert anchors[:18] == 3 * list(range(100, 106))
    assert versions[:18] == [0] * 6 + [1] * 6 + [2] * 6
    numbers = [sampled(folder, range(k, k + 2)) for k in range(0, 12, 2)]
    assert np.array_equal(images[:12], ddpm.to_uint8(torch.cat(numbers), SIZE))


def test_whatever_decides_the_pixels_makes_another_set(folder):
    found = [fill(folder)[1], fill(folder, unit(seed=1))[1], fill(folder, names=np.arange(N))[1]]
    changes = (("guidance", 1.0), ("steps", 5), ("eta", 0.0), ("seed", 1), ("clip", True))
    found += [fill(folder, **{name: value})[1] for name, value in changes]
    assert len(set(found)) == len(found)


# ---- the encoder of the condition


@pytest.fixture
def real():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (24, SIZE, SIZE, 1), dtype=np.uint8)
    split = np.repeat([shards.TRAIN, shards.VALIDATION], 12).astype(np.uint8)
    labels = (np.arange(24) % 3).astype(np.int64)
    return shards.RealSet(images, labels, split, np.arange(24), ("a", "b", "c"), "toy", 12)


def test_it_is_the_encoder_of_an_arm_without_generated_images_found_and_not_trained_again(real, monkeypatch):
    arm = conditioned.arm_of(own().encoder, 1)
    assert arm.augment == section("symmetric", "grey", 1.0)
    assert (arm.inflation.ratio, arm.pretrain.method, arm.method.temperature) == (0.0, "simclr", 0.2)
    made, _, _ = encoder.pretrain(arm, Images(real, [], []), None, COMPUTE)
    before = made["encoder.safetensors"].read_bytes()
    trained = []
    train = encoder.loop.train
    monkeypatch.setattr(encoder.loop, "train", lambda what, *given: trained.append(what) or train(what, *given))
    folder, features = conditioned.train(own(), real, COMPUTE)
    assert trained == ["training conditioned"]  # and no encoder
    assert (folder / "conditioned.safetensors").exists()
    images, _ = real.part(shards.TRAIN)
    expected = probes.features(backbones.load(made["card.json"].parent), images, COMPUTE)
    assert torch.allclose(features, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    assert made["encoder.safetensors"].read_bytes() == before
    assert conditioned.train(own(), real, COMPUTE)[0] == folder
    assert trained == ["training conditioned"]


def test_of_colour_images_it_sees_colour():
    augmentation = conditioned.arm_of(own().encoder, 3).augment
    assert augmentation.form == "colour"
