"""The GAN: losses and networks by hand, training that resumes, images that are functions of their number."""

import json
import math

import h5py
import numpy as np
import pytest
import torch

from pipeline.core import files, seeds
from pipeline.core.errors import UserError
from pipeline.engine import loop
from pipeline.generators import cards, gan, sampling
from pipeline.params.schema import Compute, Generate
from pipeline.training import generator
from tests import toys
from tests.toys import COMPUTE, contents, gan_params


@pytest.fixture(scope="module")
def images():
    made = torch.randint(0, 256, (20, 8, 8, 1), generator=torch.Generator().manual_seed(0))
    return made.to(torch.uint8).numpy()


pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GAN whose statistics are of some batches, as the generator stage leaves it."""
    made = tmp_path_factory.mktemp("gan")
    with seeds.scope(0, "toy"):
        network = gan.GAN(6, 4, 5, 8, 1)
        for _ in range(3):
            network.generator(torch.randn(8, 6))
    names = gan.save(network, made)
    digests = {name: files.sha256(made / name) for name in names}
    files.write_sealed(made / "card.json", {"kind": "gan", "source": "train", "files": digests})
    return made


def test_hinges_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert gan.discriminator_hinge(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1) / 2)
    assert gan.generator_hinge(fake).item() == pytest.approx(1.5)


def test_hinges_are_the_slow_ones():
    real, fake = torch.randn(2, 50, generator=seeds.generator(0, "scores")).double() * 2
    wanted = sum(max(0.0, 1 - x) for x in real.tolist()) / 50 + sum(max(0.0, 1 + x) for x in fake.tolist()) / 50
    assert gan.discriminator_hinge(real, fake).item() == pytest.approx(wanted, rel=1e-12)
    assert gan.generator_hinge(fake).item() == pytest.approx(-sum(fake.tolist()) / 50, rel=1e-12)


@pytest.mark.parametrize(("size", "count"), [(8, 1), (28, 2), (32, 3), (64, 4), (96, 4), (7, 0)])
def test_both_networks_fit_images_of_many_sizes(size, count):
    assert gan.halvings(size) == count
    made = gan.GAN(6, 4, 5, size, 3)
    x = made.generator(torch.randn(2, 6))
    scores, features = made.discriminator(x)
    assert (x.shape, scores.shape, features.shape) == ((2, 3, size, size), (2,), (2, 5))
    assert x.abs().max() <= 1
    assert {t.dtype for t in (x, scores, features)} == {torch.float32}


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(UserError, match="images of 15 pixels"):
        gan.halvings(60)


def test_the_discriminators_score_is_linear_in_the_sum_over_places_of_its_features():
    made = gan.GAN(6, 4, 5, 8, 1).eval()
    scores, features = made.discriminator(torch.rand(3, 1, 8, 8))
    wanted = features.double() * 4 @ made.discriminator.last.weight.double().T + made.discriminator.last.bias.double()
    assert (scores - wanted[:, 0]).abs().max() < 1e-5


def test_every_layer_of_the_discriminator_has_spectral_norm_one():
    with seeds.scope(0, "toy"):
        made = gan.GAN(6, 4, 5, 8, 1)
    for _ in range(300):  # a turn of power iteration each
        made.discriminator(torch.zeros(2, 1, 8, 8))
    made.eval()
    layers = [m for m in made.discriminator.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 11
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-2)


def test_what_is_held_does_not_change_and_is_let_go():
    made = gan.GAN(6, 4, 5, 8, 1)
    made.generator.first.weight.requires_grad_(False)
    made.generator.norm.eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    with gan.held(made):
        scores, _ = made.discriminator(x)
        made.generator(torch.randn(2, 6))
    scores.sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in made.parameters())
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not made.generator.first.weight.requires_grad
    assert made.generator.last.weight.requires_grad
    assert (made.training, made.generator.norm.training) == (True, False)


# --- training


@pytest.fixture
def steps(monkeypatch):
    """The steps whose discriminator's loss was computed; `crash` stops before one of them."""
    return toys.counted(monkeypatch, gan.Training, "discriminator_loss")


def test_trained_twice_it_has_the_same_bytes_and_trained_on_from_a_crash_too(images, steps, monkeypatch, tmp_path):
    own = gan_params(steps=7)
    made, rows = generator.train(gan.Training, own, images, COMPUTE)
    assert set(made) == {"gan.json", "gan.safetensors"}
    assert [row["step"] for row in rows] == [2, 4, 6, 7]
    assert ["generator_loss" in row for row in rows] == [True, True, True, False]
    straight = contents(made)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    for crash in (2, 4):
        steps.crash = crash
        with pytest.raises(KeyboardInterrupt):
            generator.train(gan.Training, own, images, COMPUTE)
    steps.seen, steps.crash = [], None
    made, again = generator.train(gan.Training, own, images, COMPUTE)
    assert steps.seen == [3, 4, 5, 6]
    assert contents(made) == straight
    assert again == rows


def test_each_player_moves_in_its_steps_and_nobody_elses_weights(images):
    training = gan.Training(gan_params(discriminator_steps=3), torch.from_numpy(images))
    discriminator, generator_ = training.task.phases
    assert [generator_.due(step) for step in range(6)] == [False, False, True] * 2
    assert all(discriminator.due(step) for step in range(6))
    for phase, own in ((discriminator, training.gan.discriminator), (generator_, training.gan.generator)):
        training.gan.zero_grad(set_to_none=True)
        phase.loss(training.batch(2), 2)["loss"].backward()
        moved = {id(p) for p in training.gan.parameters() if p.grad is not None}
        assert moved == {id(p) for p in own.parameters()} == {id(p) for g in phase.groups for p in g.parameters}


def test_a_batch_is_real_images_between_minus_one_and_one_and_a_pass_has_each_once(images):
    training = gan.Training(gan_params(batch_size=5), torch.from_numpy(images))
    seen = torch.cat([training.batch(step) for step in range(4)])
    found = sorted(gan.to_uint8(seen).tobytes()[k * 64 : k * 64 + 64] for k in range(20))
    assert found == sorted(image.tobytes() for image in images)
    assert (seen.min() >= -1, seen.max() <= 1) == (True, True)


def test_what_is_saved_is_the_average_of_the_generator(images, tmp_path):
    """After its steps 1, 3, 5: the first copied, then halves of what was and what is, statistics and all."""
    training, seen = gan.Training(gan_params(steps=6), torch.from_numpy(images)), []
    after = training.task.after_step

    def spying(step, progress):
        after(step, progress)
        if training.due(step):
            state = training.gan.generator.state_dict()
            seen.append({name: value.double().clone() for name, value in state.items() if value.is_floating_point()})

    training.task.after_step = spying
    loop.train("toy", training.task, training.plan, COMPUTE, tmp_path, "work")
    assert len(seen) == 3
    training.save(tmp_path)
    found = gan.load(tmp_path)
    assert not found.training
    for name, value in found.generator.state_dict().items():
        if name in seen[0]:
            wanted = (seen[0][name] + seen[1][name]) / 4 + seen[2][name] / 2
            assert (value - wanted).abs().max() < 1e-5, name
    discriminator = training.gan.discriminator.state_dict()
    assert all(torch.equal(value, discriminator[name]) for name, value in found.discriminator.state_dict().items())


def test_it_learns_how_bright_the_images_are(tmp_path):
    """Bright images with a dark stripe, which is more than colours: after some steps so are the generated ones."""
    images = np.full((32, 8, 8, 1), 220, np.uint8)
    images[:, 3:5] = 30
    own = gan_params(steps=80, batch_size=8, lr=0.01, log_every=40, latent=4)
    made, _ = generator.train(gan.Training, own, images, COMPUTE)
    found = gan.load(made["gan.json"].parent).generator(torch.randn(64, 4, generator=seeds.generator(0, "z")))
    rows = found.mean(dim=(0, 1, 3))
    assert rows[[0, 1, 6, 7]].mean() - rows[3:5].mean() > 0.5


# --- sampling


def params(**changes):
    given = {"sampler": "direct", "steps": 1, "eta": 0.0, "clip": True, "batch_size": 4, "shard_size": 8, "seed": 0}
    return Generate(**given | changes)


def test_an_image_is_a_function_of_the_weights_and_its_number(folder):
    batch = gan.batches(folder, params(), 8, COMPUTE)
    made = batch(range(4, 8))
    assert (made.shape, made.dtype) == ((4, 8, 8, 1), np.uint8)
    assert np.array_equal(batch(range(4, 8)), made)
    beside = np.concatenate([batch(range(k, k + 2)) for k in (4, 6)])  # another grid: by rounding alone
    assert np.abs(beside.astype(int) - made).max() <= 1
    assert len({image.tobytes() for image in np.concatenate([batch(range(4)), made])}) == 8
    assert not np.array_equal(gan.batches(folder, params(seed=1), 8, COMPUTE)(range(4, 8)), made)
    model = gan.load(folder).generator
    with torch.no_grad():
        x = model(seeds.noise((6,), 0, "image", 5)[None]).double()
    wanted = np.array([round((v + 1) * 127.5) for v in x.flatten().tolist()]).reshape(8, 8, 1)
    assert np.abs(wanted - made[1].astype(int)).max() <= 1


def test_shards_of_a_gan_grow_and_are_the_same(folder):
    card = cards.of_generator(folder)
    few, _ = sampling.sample(params(), card, folder, 8, 8, COMPUTE)
    first = contents(few)
    more, _ = sampling.sample(params(), card, folder, 16, 8, COMPUTE)
    assert len(more) == 2
    assert contents(more)["shard-00000.h5"] == first["shard-00000.h5"]
    with h5py.File(more["shard-00001.h5"]) as file:
        assert np.array_equal(file["images"][:4], gan.batches(folder, params(), 8, COMPUTE)(range(8, 12)))


def test_bf16_samples_are_near(folder):
    half = Compute(device="cpu", precision="bf16", threads=1, compile=False)
    one, two = (gan.batches(folder, params(), 8, c)(range(4)).astype(int) for c in (COMPUTE, half))
    assert 0 < np.abs(one - two).max() < 12


def test_values_that_are_not_finite_are_refused(folder):
    made = gan.load(folder)
    made.generator.last.bias.data.fill_(math.nan)
    with pytest.raises(UserError, match="image 7 has values that are not finite") as caught:
        gan.sample(made.generator, 6, range(7, 9), 0)
    assert caught.value.code == 4


def test_another_shape_or_form_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"makes images of \(8, 8, 1\), the data has \(10, 10, 1\)"):
        gan.batches(folder, params(), 10, COMPUTE)
    form = json.loads((folder / "gan.json").read_text())
    for wrong in ({"latent": 6}, form | {"size": "8"}, form | {"size": 10**9}, form | {"more": 1}):
        (tmp_path / "gan.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="does not say latent"):
            gan.load(tmp_path)
    (tmp_path / "gan.json").write_text(json.dumps(form | {"latent": 7}))
    (tmp_path / "gan.safetensors").write_bytes((folder / "gan.safetensors").read_bytes())
    with pytest.raises(UserError, match="weights do not fit"):
        gan.load(tmp_path)
