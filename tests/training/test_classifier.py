import copy
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.augment import recipes
from pipeline.core.errors import Stopped, UserError
from pipeline.engine import loop
from pipeline.evaluation.quality import plain
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.training import classifier
from tests.toys import COMPUTE

NONE = recipes.PLAIN


def bars(n, seed=0):
    """Noise with bars across (class 0) or down (class 1): uint8 (n, 12, 12, 1), labels int64 (n,)."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    wave = np.where(np.arange(12) % 4 < 2, 60, -60)
    patterns = np.stack([np.tile(wave[:, None], (1, 12)), np.tile(wave, (12, 1))])
    images = 128 + patterns[labels] + random.normal(0, 30, (n, 12, 12))
    return images.clip(0, 255).astype(np.uint8)[..., None], labels


def train(images, labels, steps=20, seed=0, recipe=NONE):
    return classifier.train("test", classifier.plan(steps, seed), images, labels, recipe, COMPUTE)


def test_it_learns_what_the_labels_say_and_comes_back_in_evaluation_mode():
    images, labels = bars(120)
    model = train(images, labels)
    unseen, answers = bars(60, seed=1)
    assert not model.training
    assert probes.accuracy(probes.features(model, unseen, COMPUTE).argmax(dim=1), answers) > 95
    turned = train(images, 1 - labels)
    assert probes.accuracy(probes.features(turned, unseen, COMPUTE).argmax(dim=1), answers) < 5


def test_the_same_work_is_found_done_and_another_is_not(store):
    images, labels = bars(40)
    first = train(images, labels, steps=3)
    entries = sorted(store.glob("classifier/*/manifest.json"))
    times = [path.stat().st_mtime_ns for path in entries]
    again = train(images, labels, steps=3)
    assert [path.stat().st_mtime_ns for path in sorted(store.glob("classifier/*/manifest.json"))] == times
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    weak = recipes.recipe(plain(1, 1.0), 0)
    others = [train(images, labels, steps=4), train(images, labels, steps=3, seed=1)]
    others += [train(images, 1 - labels, steps=3), train(images, labels, steps=3, recipe=weak)]
    weights = [m.head.weight for m in (first, *others)]
    assert len(list(store.glob("classifier/*/manifest.json"))) == 5
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def start(seed=0):
    return backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], seed)


def fit(encoder, labelled, steps=3, classes=2, head_lr=1.0):
    plan = classifier.plan(steps, 0).model_copy(update={"checkpoint_every": 2})
    return classifier.fit("test", encoder, plan, labelled, classes, NONE, COMPUTE, head_lr)


def test_fitting_goes_on_from_the_encoder_that_it_is_given_and_trains_all_of_it(store):
    labelled, zero = bars(40), start()
    with torch.no_grad():
        zero.backbone.conv1.weight.zero_()
    fitted = [fit(start(), labelled), fit(start(1), labelled), fit(zero, labelled), fit(start(), labelled, head_lr=9.0)]
    assert len(list(store.glob("classifier/*/manifest.json"))) == len(fitted)
    weights = [model.encoder.backbone.layer4[0].conv1.weight for model in fitted]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
    before = dict(start().named_parameters())
    assert not any(torch.equal(before[name], value) for name, value in fitted[0].encoder.named_parameters())
    again = fit(start(), labelled)
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), fitted[0].parameters(), strict=True))
    assert len(list(store.glob("classifier/*/manifest.json"))) == len(fitted)


@pytest.mark.slow
def test_a_standardised_layer_tells_features_apart_that_are_nearly_alike():
    nearly, labelled = start(), bars(40)
    with torch.no_grad():
        nearly.backbone.layer4[0].bn2.weight.mul_(1e-2)
        nearly.backbone.layer4[0].downsample[1].weight.mul_(1e-2)
        nearly.backbone.layer4[0].downsample[1].bias.fill_(1.0)
    plan = classifier.plan(100, 0).model_copy(update={"lr": 0.0003})
    models = [
        classifier.fit("test", copy.deepcopy(nearly), plan, labelled, 2, NONE, COMPUTE, 1.0, standardise)
        for standardise in (False, True)
    ]
    first, last = (F.cross_entropy(probes.features(m, labelled[0], COMPUTE), torch.tensor(labelled[1])) for m in models)
    assert last < first / 2
    features = probes.features(models[1].encoder, labelled[0], COMPUTE)
    norm, head = models[1].norm, models[1].head
    by_hand = (features - norm.running_mean) / (norm.running_var + 1e-5).sqrt() @ head.weight.T + head.bias
    assert torch.allclose(by_hand, probes.features(models[1], labelled[0], COMPUTE), atol=1e-4)


def test_the_layer_s_rate_is_its_own(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def seen(self, *words):
        rates.append({len(group["params"]): group["lr"] for group in self.param_groups})
        return step(self, *words)

    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    fit(start(), bars(40), steps=1, head_lr=5.0)
    ((*_, head),) = [list(found.values()) for found in rates]
    assert head == pytest.approx(5 * max(v for v in rates[0].values() if v != head))


def test_classes_that_no_image_has_are_in_the_layer_all_the_same():
    images, labels = bars(40)
    assert fit(start(), (images, labels), classes=5).head.out_features == 5


def test_interrupted_training_ends_with_the_bytes_of_an_uninterrupted_one(store, monkeypatch, tmp_path):
    images, labels = bars(40)
    straight = train(images, labels, steps=6)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    update, calls = loop._update, []

    def stopping(*words):
        calls.append(words)
        if len(calls) == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return update(*words)

    monkeypatch.setattr(loop, "_update", stopping)
    with pytest.raises(Stopped):
        train(images, labels, steps=6)
    resumed = train(images, labels, steps=6)
    assert len(calls) == 6
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_damaged_weights_in_the_store_are_refused(store):
    images, labels = bars(40)
    train(images, labels, steps=2)
    (path,) = store.glob("classifier/*/classifier.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"sha256.* - delete {path.parent}, then run the same command again"):
        train(images, labels, steps=2)
    shutil.rmtree(path.parent)
    train(images, labels, steps=2)
