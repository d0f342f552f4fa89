"""Anchored sampling against CLSP's formulas written out step by step, and what a set of positives is held to."""

import itertools

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from pipeline import positives
from pipeline.core import files, seeds, store
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.generators import ddpm
from pipeline.params.schema import Positives
from pipeline.positives import anchored
from tests import toys
from tests.toys import COMPUTE, ddpm_params

SIZE, STEPS, ANCHORS = 8, 4, 6
OWN = ddpm_params()


def params(**changes):
    given = {
        "kind": "anchored",
        "candidates": 2,
        "weight": 0.3,
        "guidance": None,
        "steps": STEPS,
        "eta": 0.5,
        "clip": False,
    }
    return Positives(**given | {"batch_size": 2, "shard_size": 4, "seed": 0} | changes)


def save(folder, own=OWN, size=SIZE):
    """A generator's folder whose UNet says something of its own: fresh ones end in a convolution near zero."""
    model = ddpm.unet(own, size, 1)
    with seeds.scope(1, "test"), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    names = ddpm.save(model, ddpm.scheduler(own), folder)
    digests = {name: files.sha256(folder / name) for name in names}
    files.write_sealed(folder / "card.json", {"kind": "ddpm", "source": "train", "files": digests})
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return save(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def anchors():
    return np.random.default_rng(0).integers(0, 256, (ANCHORS, SIZE, SIZE, 1), dtype=np.uint8)


pytestmark = pytest.mark.usefixtures("store")


def sample(generator, anchors, numbers, **changes):
    """Float images of some numbers, before they are rounded."""
    given, found = params(**changes), []
    before = ddpm.to_uint8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddpm, "to_uint8", lambda x, size: found.append(x) or before(x, size))
        anchored.prepare(toys.inputs(anchors, generator, positives=given)).start()(numbers, given.weight)
    return found[0]


def plain(generator, numbers, **changes):
    """The same numbers' images of the repository's plain DDIM, which knows no anchor."""
    given = params(**changes)
    model, noise = ddpm.load(generator)
    seed = seeds.key(given.seed, "anchored")
    return ddpm.sample(ddpm.for_sampling(model, COMPUTE), noise, given, numbers, seed)


class Halves:
    """A UNet2DModel's forward pass in two halves, spelt out: up to the middle block and from it on."""

    def __init__(self, model):
        self.model = model

    def down(self, x, t):
        m = self.model
        time = m.time_embedding(m.time_proj(torch.full((len(x),), t)).to(x.dtype))
        h = m.conv_in(x)
        skips = [h]
        for block in m.down_blocks:
            h, more = block(hidden_states=h, temb=time)
            skips += more
        return m.mid_block(h, time), skips, time

    def up(self, h, skips, time):
        m = self.model
        for block in m.up_blocks:
            taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            h = block(h, tuple(taken), time)
        return m.conv_out(m.conv_act(m.conv_norm_out(h)))


@torch.no_grad()
def by_the_paper(generator, anchors, number, weight, eta, steps, clip):
    """One image by papers' formulas alone: no scheduler's step, no hook, no batch; float64 where they are scalars."""
    model, _ = ddpm.load(generator)
    halves = Halves(model)
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha = np.cumprod(1 - betas)
    anchor = torch.from_numpy(anchors[number % len(anchors)]).permute(2, 0, 1)[None].float() / 127.5 - 1
    seed = seeds.key(0, "anchored")
    x = seeds.noise((1, SIZE, SIZE), seed, "image", number)[None]
    of_anchor, of_sample = seeds.generator(seed, "anchor", number), seeds.generator(seed, "sample", number)
    times = [int(t) for t in np.linspace(-1, 999, steps + 1)][::-1]
    for t, after in itertools.pairwise(times):
        here, there = alpha[t], alpha[after] if after >= 0 else 1.0
        noise = torch.randn(anchor.shape[1:], generator=of_anchor)[None]
        noisy = here**0.5 * anchor + (1 - here) ** 0.5 * noise
        own, skips, time = halves.down(x, t)
        theirs, _, _ = halves.down(noisy, t)
        predicted = halves.up(weight * own + (1 - weight) * theirs, skips, time)
        start = (x - (1 - here) ** 0.5 * predicted) / here**0.5
        if clip:
            start = start.clamp(-1, 1)
        sigma = eta * ((1 - there) / (1 - here) * (1 - here / there)) ** 0.5
        x = there**0.5 * start + (1 - there - sigma**2) ** 0.5 * predicted
        if eta:
            x = x + sigma * torch.randn(anchor.shape[1:], generator=of_sample)[None]
    return x[0]


@pytest.mark.parametrize(
    ("weight", "eta", "steps", "clip"),
    [(0.1, 0.1, 10, False), (0.0, 0.0, 4, False), (0.3, 1.0, 25, True), (1.0, 0.5, 5, False)],
)
def test_the_sampler_is_the_papers_formula(generator, anchors, weight, eta, steps, clip):
    numbers = range(4, 8)  # two of the first candidates and two of the second
    found = sample(generator, anchors, numbers, weight=weight, eta=eta, steps=steps, clip=clip)
    for row, number in zip(found, numbers, strict=True):
        expected = by_the_paper(generator, anchors, number, weight, eta, steps, clip)
        assert torch.allclose(row, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), number


def test_with_weight_one_it_is_plain_sampling_bit_for_bit(generator, anchors):
    numbers = range(4)
    assert torch.equal(sample(generator, anchors, numbers, weight=1.0), plain(generator, numbers))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_below_one_the_anchor_decides_too_and_with_zero_noise_still_does(generator, anchors, eta):
    numbers = range(2)
    usual = plain(generator, numbers, eta=eta)
    for weight in (0.0, 0.3):
        one = sample(generator, anchors, numbers, weight=weight, eta=eta)
        assert not torch.allclose(one, usual, atol=1e-3)
        other = sample(generator, anchors[::-1].copy(), numbers, weight=weight, eta=eta)
        assert not torch.allclose(one, other, atol=1e-4)
    again = sample(generator, np.broadcast_to(anchors[:1], anchors.shape).copy(), numbers, weight=0.0, eta=eta)
    assert not torch.allclose(again[0], again[1], atol=1e-3)  # weight 0 is no copy: skips and noise are the sample's


def test_the_anchor_is_felt_through_the_middle_block_alone(generator, anchors, monkeypatch):
    """With the anchors' middle block taken from elsewhere, it does not matter what they are."""
    constant = {}

    def elsewhere(model, x, t):
        found = constant.setdefault("shape", bottleneck(model, x, t))
        return torch.full_like(found, 0.25)

    bottleneck = anchored.bottleneck
    monkeypatch.setattr(anchored, "bottleneck", elsewhere)
    one, other = (sample(generator, some, range(2)) for some in (anchors, 255 - anchors))
    assert torch.equal(one, other)


def test_anchors_are_given_noise_of_their_step_anew_at_each(generator, anchors, monkeypatch):
    """At the last step, t = 249 of 4 steps, they are near themselves; noises of two steps have nothing in common."""
    seen, bottleneck = [], anchored.bottleneck
    monkeypatch.setattr(anchored, "bottleneck", lambda model, x, t: seen.append((int(t), x)) or bottleneck(model, x, t))
    sample(generator, anchors, range(ANCHORS))
    assert [t for t, _ in seen] == [999, 749, 499, 249]
    clean = torch.from_numpy(anchors).permute(0, 3, 1, 2).float() / 127.5 - 1
    alpha = DDPMScheduler().alphas_cumprod
    noises = [(x - alpha[t] ** 0.5 * clean) / (1 - alpha[t]) ** 0.5 for t, x in seen]
    for noise in noises:
        assert abs(float(noise.mean())) < 0.2
        assert float(noise.std()) == pytest.approx(1, abs=0.15)
    for one, other in itertools.pairwise(noises):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.2


def test_an_image_is_the_same_in_whatever_set_and_batch_order_it_is_made(generator, anchors):
    """Its number, its anchor and its row decide."""
    whole = sample(generator, anchors, range(6))
    assert torch.allclose(sample(generator, anchors, range(2, 4)), whole[2:4], atol=1e-4)


def test_the_way_up_is_not_computed_for_anchors(generator, anchors, monkeypatch):
    counted = {"down": 0, "mid": 0, "up": 0}
    load = ddpm.load

    def counting(folder):
        model, noise = load(folder)
        for name, block in (("down", model.down_blocks[0]), ("mid", model.mid_block), ("up", model.up_blocks[-1])):
            block.register_forward_hook(lambda *_, name=name: counted.update({name: counted[name] + 1}))
        return model, noise

    monkeypatch.setattr(ddpm, "load", counting)
    sample(generator, anchors, range(2))
    assert counted == {"down": 2 * STEPS, "mid": 2 * STEPS, "up": STEPS}


def fill(generator, anchors, names=None, **changes):
    names = 100 + np.arange(len(anchors)) if names is None else names
    inputs = toys.inputs(anchors, generator, positives=params(**changes))
    return positives.sample(anchored.prepare(inputs), inputs, names)


def read(made):
    found = {"images": [], "anchor_index": [], "candidate": []}
    for name in sorted(made):
        with h5py.File(made[name]) as file:
            assert set(file) == set(found)
            for key, parts in found.items():
                parts.append(file[key][:])
    return {key: np.concatenate(parts) for key, parts in found.items()}


def test_a_set_goes_candidate_by_candidate_over_the_anchors(generator, anchors):
    made, _ = fill(generator, anchors)
    found = read(made)
    assert found["anchor_index"].dtype == np.int64
    assert found["anchor_index"].tolist() == 2 * list(range(100, 106))
    assert found["candidate"].tolist() == 6 * [0] + 6 * [1]
    assert found["images"].shape == (12, SIZE, SIZE, 1)
    assert len({image.tobytes() for image in found["images"]}) == 12
    numbers = [sample(generator, anchors, range(k, k + 2)) for k in range(0, 12, 2)]
    assert np.array_equal(found["images"], ddpm.to_uint8(torch.cat(numbers), SIZE))


def test_more_candidates_add_shards_and_fewer_are_a_prefix(generator, anchors, monkeypatch):
    small, fingerprint = fill(generator, anchors, candidates=1)
    assert list(small) == ["shard-00000.h5", "shard-00001.h5"]  # the second holds two of the next candidates already
    before = {name: path.read_bytes() for name, path in small.items()}
    calls, forward = [], UNet2DModel.forward
    monkeypatch.setattr(UNet2DModel, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    large, again = fill(generator, anchors, candidates=3)
    assert again == fingerprint
    assert len(large) == 5
    assert {name: large[name].read_bytes() for name in before} == before
    assert len(calls) == 3 * 2 * 2 * STEPS  # shards, batches in one, passes a step


def test_whatever_decides_the_pixels_makes_another_set(generator, anchors, tmp_path):
    pixel = anchors.copy()
    pixel[0, 0, 0, 0] ^= 1
    other = save(tmp_path, ddpm_params(seed=1))
    found = [
        fill(generator, anchors)[1],
        fill(generator, pixel)[1],
        fill(generator, anchors, np.arange(6))[1],
        fill(other, anchors)[1],
        *(fill(generator, anchors, **{k: v})[1] for k, v in (("weight", 0.5), ("steps", 5), ("eta", 0.0), ("seed", 1))),
        fill(generator, anchors, clip=True)[1],
    ]
    assert len(set(found)) == len(found)


def test_a_generator_of_another_size_sees_the_anchors_at_its_own_and_its_images_come_back(tmp_path, anchors):
    own = save(tmp_path, ddpm_params(channels=[4, 8]), size=2 * SIZE)
    made, _ = fill(own, anchors)
    assert read(made)["images"].shape == (12, SIZE, SIZE, 1)


def test_steps_that_do_not_divide_the_generators_timesteps_are_refused(generator, anchors):
    with pytest.raises(UserError, match=r"positives\.steps: 30 does not divide the 1000 timesteps"):
        fill(generator, anchors, steps=30)


# ---- reading the set


def seal(folder, made, n):
    files.assemble(folder, made, lambda f: store.seal(f, sorted(made), {"n": n, "fingerprint": "x"}))


def test_positives_are_read_candidate_by_candidate(generator, anchors, tmp_path):
    names = np.array([7, 3, 9, 1, 0, 2])
    made, _ = fill(generator, anchors, names)
    seal(tmp_path / "set", made, 12)
    parts = shards.map_positives(tmp_path / "set", names)
    assert np.array_equal(np.concatenate(parts), read(made)["images"])
    seal(tmp_path / "set", made, 6)  # a prefix: the first candidate of each
    assert sum(map(len, shards.map_positives(tmp_path / "set", names))) == 6
    seal(tmp_path / "none", {}, 0)
    assert shards.map_positives(tmp_path / "none", names) == []


def test_positives_of_other_images_or_not_as_many_of_each_are_refused(generator, anchors, tmp_path):
    names = np.arange(6)
    made, _ = fill(generator, anchors, names)
    seal(tmp_path / "set", made, 12)
    for wrong in (names[::-1], names[:4], np.arange(1, 7)):
        with pytest.raises(UserError, match="of other images than the train images") as caught:
            shards.map_positives(tmp_path / "set", wrong)
        assert "dvc repro -f -s positives" in str(caught.value)
    seal(tmp_path / "set", made, 9)
    with pytest.raises(UserError, match="9 images, not as many of each of 6 train images"):
        shards.map_positives(tmp_path / "set", names)
    seal(tmp_path / "set", made, 13)
    with pytest.raises(UserError, match="its manifest says 13"):
        shards.map_positives(tmp_path / "set", names)
