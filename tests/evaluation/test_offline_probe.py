import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.core.errors import Stopped, UserError
from pipeline.engine import loop
from pipeline.evaluation import offline_probe
from pipeline.measures import linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.schema import LinearEval
from tests.toys import COMPUTE, NO_BASELINE

PARAMS = LinearEval(
    l2=[0.1],
    clsp_lr=1.0,
    view_strength=2.0,
    baseline=NO_BASELINE,
    offline="sgd",
    offline_lr=1.0,
    offline_epochs=100,
    seed=0,
)


pytestmark = pytest.mark.usefixtures("store")


def asked(**changes):
    named = {"lr": "offline_lr", "epochs": "offline_epochs"}
    return PARAMS.model_copy(update={named.get(name, name): value for name, value in changes.items()})


def lars(**changes):
    return asked(offline="lars", lr=0.2, **changes)


def toy(n, seed=0):
    """Dark noise (class 0) and bright noise (class 1), which crops and flips leave apart: uint8 (n, 12, 12, 1)."""
    random, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = random.normal(np.where(labels, 190, 60)[:, None, None, None], 20, (n, 12, 12, 1))
    return images.clip(0, 255).astype(np.uint8), labels


def made(seed=0):
    return backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], seed)


def train(labelled, params, encoder=None, classes=2):
    return offline_probe.train(encoder or made(), labelled, classes, params, COMPUTE)


def rates(params, images):
    plan = offline_probe.schedule(params, images)
    return [offline_probe.rate(params, plan, step) for step in range(plan.steps)]


# ---- the schedule


@pytest.mark.parametrize("images", [512, 700])  # of 700 the last 188 make no batch: solo-learn drops them
def test_sgd_s_rate_falls_to_a_tenth_after_60_and_80_of_100_epochs(images):
    found = rates(asked(lr=0.3), images)
    assert found == pytest.approx([0.3] * 120 + [0.03] * 40 + [0.003] * 40)


@pytest.mark.parametrize("epochs", [1, 2, 5, 7, 100])
def test_sgd_s_rate_is_torch_s_multi_step(epochs):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimiser, [round(0.6 * epochs), round(0.8 * epochs)], gamma=0.1)
    expected = []
    for _ in range(epochs):
        expected += theirs.get_last_lr() * 3  # steps an epoch
        optimiser.step()
        theirs.step()
    assert rates(asked(epochs=epochs), 3 * 256) == pytest.approx(expected)


def test_lars_s_rate_warms_up_for_a_tenth_and_falls_along_half_a_cosine():
    found = rates(lars(), 512)
    assert len(found) == 200
    assert found[0] == pytest.approx(3e-5)
    assert found[10] == pytest.approx(3e-5 + 10 * (0.2 - 3e-5) / 19)
    assert found[19] == found[20] == pytest.approx(0.2)
    assert found[65] == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)))
    assert found[110] == pytest.approx(0.1)  # half way
    assert found[199] == pytest.approx(0.1 * (1 + math.cos(math.pi * 179 / 180)))


@pytest.mark.parametrize(("lr", "epochs", "images"), [(1e-6, 100, 256), (0.2, 1, 30), (0.2, 9, 256)])
def test_lars_has_a_rate_in_every_step_however_small_it_and_the_set_are(lr, epochs, images):
    found = rates(asked(offline="lars", lr=lr, epochs=epochs), images)
    assert len(found) == epochs
    assert all(0 < rate <= lr for rate in found)


def test_a_small_set_is_one_batch_an_epoch():
    plan = offline_probe.schedule(asked(epochs=7), 30)
    assert (plan.batch_size, plan.steps) == (30, 7)


def test_the_protocol_says_in_words_what_was_done():
    assert offline_probe.told(asked()) == (
        "features of random crops and flips, 100 epochs of SGD from rate 1, a tenth from epoch 60 and 80 on; last"
    )
    assert offline_probe.told(lars(epochs=50)) == (
        "features of random crops and flips, 50 epochs of LARS from rate 0.2, half a cosine after a tenth of the "
        "epochs; last"
    )


# ---- the views


def test_views_are_crops_of_8_to_100_percent_and_flips_of_every_other_image_and_nothing_else():
    n, size = 4000, 224  # of a large image, so that rounding sides to pixels is little
    drawn = recipes.draw([offline_probe.recipe()], n, (size, size), torch.Generator().manual_seed(0))
    areas = drawn.box[:, 2:].prod(dim=1) / size**2
    assert 0.078 < areas.min() < 0.09
    assert 0.9 < areas.max() <= 1
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(torch.zeros(1, size, size), [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    theirs = torch.tensor([height * width for _, _, height, width in theirs]) / size**2
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    assert torch.allclose(areas.quantile(shares), theirs.quantile(shares), atol=0.03)
    assert 0.46 < drawn.flip.float().mean() < 0.54
    assert (drawn.factors == torch.tensor([1.0, 1.0, 1.0, 0.0])).all()
    assert not torch.stack([drawn.grey, drawn.sigma > 0, drawn.solarize]).any()


def test_pixels_are_those_of_torchvision_s_crop_and_flip():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8))
    drawn = recipes.draw([offline_probe.recipe()], 20, (16, 16), torch.Generator().manual_seed(1))
    (views,) = recipes.views(images, [offline_probe.recipe()], torch.Generator().manual_seed(1))
    for view, image, box, flip in zip(views, images, drawn.box.tolist(), drawn.flip, strict=True):
        plane = image.permute(2, 0, 1).float() / 255
        theirs = tv.resized_crop(plane, *box, [16, 16], InterpolationMode.BILINEAR, antialias=True)
        theirs = tv.horizontal_flip(theirs) if flip else theirs
        assert (view - theirs).abs().max() < 0.01


# ---- the training


@pytest.fixture
def seen(monkeypatch):
    """The views that training draws, each with the images that they are of."""
    found, views = [], recipes.views

    def recording(images, *words):
        made = views(images, *words)
        found.append((images.numpy(), made[0]))
        return made

    monkeypatch.setattr(offline_probe.recipes, "views", recording)
    return found


def by_hand(seen, labelled, params, encoder):
    """solo-learn's optimizers in float64 on these very views: weight (2, D) and bias (2,) after the last."""
    with seeds.scope(params.seed, "offline probe"):
        start = nn.Linear(encoder.width, 2)
    weight, bias = start.weight.detach().double().numpy(), start.bias.detach().double().numpy()
    label_of = {image.tobytes(): label for image, label in zip(*labelled, strict=True)}
    speed, bias_speed = 0, 0
    for (images, views), rate in zip(seen, rates(params, len(labelled[0])), strict=True):
        with torch.no_grad():
            x = encoder.eval()(views).double().numpy()
        logits = x @ weight.T + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        error = (p - np.eye(2)[[label_of[image.tobytes()] for image in images]]) / len(x)
        gradient, bias_gradient = error.T @ x, error.sum(axis=0)
        if params.offline == "lars":  # with clip_lr and exclude_bias_n_norm
            norm, decay = np.linalg.norm(weight), 1e-4
            trust = 0.02 * norm / (np.linalg.norm(gradient) + decay * norm + 1e-8)
            gradient = min(trust / rate, 1) * (gradient + decay * weight)
        speed, bias_speed = 0.9 * speed + gradient, 0.9 * bias_speed + bias_gradient
        weight, bias = weight - rate * speed, bias - rate * bias_speed
    return weight, bias


@pytest.mark.parametrize("params", [asked(epochs=1), asked(lr=0.3, epochs=5), lars(epochs=1), lars(epochs=12)], ids=str)
def test_every_step_is_the_one_derived_by_hand(seen, params):
    labelled, encoder = toy(30), made()
    found = train(labelled, params, encoder)
    assert len(seen) == params.offline_epochs
    for ours, theirs in zip(found, by_hand(seen, labelled, params, made()), strict=True):
        assert ours.numpy() == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_every_epoch_draws_other_views_of_all_images(seen):
    images, labels = toy(30)
    train((images, labels), asked(epochs=3))
    for of, _ in seen:
        assert {image.tobytes() for image in of} == {image.tobytes() for image in images}
    drawn = [view.numpy().tobytes() for _, views in seen for view in views]
    assert len(set(drawn)) == len(drawn) == 90


def test_the_encoder_is_left_as_it_was_and_runs_in_evaluation_mode():
    encoder = made().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = []
    encoder.register_forward_hook(lambda module, given, found: modes.append((module.training, found.requires_grad)))
    train(toy(30), asked(epochs=2), encoder)
    assert modes == [(False, False)] * 2
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("params", [asked(lr=0.3, epochs=40), lars(epochs=40)], ids=["sgd", "lars"])
def test_classes_that_a_line_parts_are_all_told_right(params):
    labelled, (unseen, answers), encoder = toy(60), toy(40, seed=1), made().eval()
    features = probes.features(encoder, unseen, COMPUTE)
    for turned in (False, True):
        images, labels = labelled
        layer = train((images, 1 - labels if turned else labels), params, encoder, classes=3)
        assert [part.shape for part in layer] == [(3, encoder.width), (3,)]
        assert not any(part.requires_grad for part in layer)
        found = linear_probe.predict(layer, features).numpy()
        assert (found == (1 - answers if turned else answers)).all()


# ---- the store


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_work_is_found_done_and_another_is_not(store, monkeypatch):
    labelled, first = toy(20), train(toy(20), asked(epochs=2))
    assert [path.name for path in store.glob("offline/*/*.safetensors")] == ["offline.safetensors"]
    turned = labelled[0], 1 - labelled[1]
    short = asked(epochs=2)
    others = [
        train(labelled, asked(epochs=2, seed=1)),
        train(labelled, asked(epochs=2, lr=0.5)),
        train(labelled, asked(epochs=3)),
        train(labelled, asked(epochs=2, offline="lars")),
        train(labelled, short, made(seed=1)),
        train(turned, short),
        train(toy(20, seed=1), short),
        train(labelled, short, classes=3),
    ]
    assert len(list(store.glob("offline/*/manifest.json"))) == 1 + len(others)
    assert not any(torch.equal(first[0], weight) for weight, _ in others)

    def refused(*words):
        raise AssertionError("is there already")

    monkeypatch.setattr(loop, "_update", refused)
    assert same(train(labelled, asked(epochs=2)), first)
    assert same(train(labelled, asked(epochs=2, clsp_lr=10.0, view_strength=1.0, l2=[1.0])), first)


def interrupted(monkeypatch, at, how):
    """Counts updates; before number `at` of them `how` happens."""
    update, calls = loop._update, []

    def counting(*words):
        calls.append(words)
        if len(calls) == at:
            how()
        return update(*words)

    monkeypatch.setattr(loop, "_update", counting)
    return calls


def crash():
    raise KeyboardInterrupt


@pytest.mark.parametrize("params", [asked(epochs=14), lars(epochs=14)], ids=["sgd", "lars"])
@pytest.mark.parametrize(
    ("how", "raised", "updates"),
    [(crash, KeyboardInterrupt, 16), (lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped, 14)],
    ids=["crashed", "stopped"],
)
def test_broken_off_in_the_middle_it_ends_with_the_bits_of_an_uninterrupted_training(
    monkeypatch, tmp_path, params, how, raised, updates
):
    """After a crash it goes on from epoch 10's checkpoint, after a signal from the step that it came in."""
    labelled, straight = toy(20), train(toy(20), params)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    calls = interrupted(monkeypatch, 12, how)
    with pytest.raises(raised):
        train(labelled, params)
    assert same(train(labelled, params), straight)
    assert len(calls) == updates


def test_a_damaged_layer_in_the_store_is_refused(store):
    train(toy(20), asked(epochs=1))
    (path,) = store.glob("offline/*/offline.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="sha256"):
        train(toy(20), asked(epochs=1))
