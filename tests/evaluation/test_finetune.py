import dataclasses
import os
import signal

import numpy as np
import pytest
import torch

from pipeline.core.errors import Stopped, UserError
from pipeline.data import shards
from pipeline.engine import loop
from pipeline.evaluation import finetune
from pipeline.networks import backbones
from pipeline.params.schema import FineTune
from tests.evaluation.test_linear_eval import NO_AUGMENTATION
from tests.toys import COMPUTE
from tests.training.test_classifier import bars

PARAMS = FineTune(
    labels=[0.1, 1.0],
    head_lr=2.0,
    strength=0.0,
    steps=12,
    batch_size=32,
    lr=0.003,
    min_lr=0.0,
    warmup_steps=1,
    warmup_lr=None,
    weight_decay=0.01,
    log_every=5,
    checkpoint_every=4,
    seed=0,
)


pytestmark = pytest.mark.usefixtures("store")


def split(labels=None):
    images, found = bars(200)
    codes = np.array([shards.TRAIN, shards.LABELLED, shards.VALIDATION, shards.TEST], np.uint8)
    parts = np.repeat(codes, [40, 40, 60, 60])
    labels = found if labels is None else labels
    return shards.RealSet(images, labels, parts, np.arange(200), ("across", "down"), "bars", 80)


@pytest.fixture
def encoder(tmp_path):
    return made(tmp_path / "encoder")


def made(folder, form=None):
    built = backbones.build(form or backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0, 12)
    with torch.no_grad():
        next(built.backbone.parameters()).mul_(-1)
    backbones.save(built, folder, augment=NO_AUGMENTATION)
    return backbones.load(folder)


def judge(encoder, share=1.0, real=None, **changes):
    return finetune.judge(encoder, real or split(), share, PARAMS.model_copy(update=changes), COMPUTE)


def test_both_learn_what_the_labels_say_and_the_numbers_are_of_held_out_images(encoder):
    metrics, protocol = judge(encoder)
    assert min(metrics["top1"], metrics["from_scratch"], metrics["validation_top1"]) > 85  # of two classes
    assert metrics["top1_low"] < metrics["top1"] <= metrics["top1_high"]
    assert metrics["labels"] == 80
    assert protocol["encoder_sha256"] == encoder.card["sha256"]
    assert (protocol["test_images"], protocol["validation_images"]) == (60, 60)


def test_the_first_number_is_of_the_encoder_and_from_scratch_of_fresh_weights(tmp_path):
    """An encoder of zeros learns nothing: no gradient comes through it."""
    dead = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0, 12)
    with torch.no_grad():
        for parameter in dead.backbone.parameters():
            parameter.zero_()
    backbones.save(dead, tmp_path, augment=NO_AUGMENTATION)
    metrics, _ = judge(backbones.load(tmp_path))
    assert max(metrics["top1"], metrics["validation_top1"]) < 70 < 85 < metrics["from_scratch"]
    assert metrics["validation_from_scratch"] > 85


def test_a_vit_learns_them_too(tmp_path):
    vit = made(tmp_path, backbones.vit(16, 2, 2, 4))
    metrics, _ = judge(vit, steps=40, lr=0.01)
    assert min(metrics["top1"], metrics["from_scratch"], metrics["validation_top1"]) > 85  # of two classes


def test_test_labels_change_no_weight_and_few_labels_are_the_first_ones(encoder, store, tmp_path):
    first, _ = judge(encoder, 0.1)
    assert first["labels"] == 8
    made_then = sorted(store.glob("classifier/*/manifest.json"))
    assert len(made_then) == 2  # the encoder's and the untrained one's
    labels = bars(200)[1].copy()
    labels[140:] = 1 - labels[140:]  # test
    labels[8:80] = 1 - labels[8:80]  # labelled, beyond the share
    turned, _ = judge(made(tmp_path / "again"), 0.1, split(labels))
    assert sorted(store.glob("classifier/*/manifest.json")) == made_then
    assert turned["top1"] == pytest.approx(100 - first["top1"])
    assert turned["validation_top1"] == first["validation_top1"]


def test_other_shares_are_no_other_training_and_other_numbers_are(encoder, store, tmp_path):
    judge(encoder, 0.1)
    judge(made(tmp_path / "b"), 0.1, labels=[0.1], checkpoint_every=4)
    assert len(list(store.glob("classifier/*/manifest.json"))) == 2
    for i, change in enumerate(({"head_lr": 1.0}, {"strength": 1.0}, {"seed": 1}, {"steps": 13})):
        judge(made(tmp_path / f"c{i}"), 0.1, **change)
        assert len(list(store.glob("classifier/*/manifest.json"))) == 4 + 2 * i


def test_stopped_in_either_training_it_ends_with_the_numbers_of_an_uninterrupted_run(encoder, monkeypatch, tmp_path):
    straight = judge(encoder)
    update, calls = loop._update, []

    def stopping(*words):
        calls.append(words)
        if len(calls) in (7, 18):  # in the encoder's training, and after its resumption in the untrained one's
            os.kill(os.getpid(), signal.SIGTERM)
        return update(*words)

    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    monkeypatch.setattr(loop, "_update", stopping)
    for i in range(2):
        with pytest.raises(Stopped):
            judge(made(tmp_path / f"stopped-{i}"))
    assert judge(made(tmp_path / "resumed")) == straight
    assert len(calls) == 24
    one, two = (
        {path.read_bytes() for path in (tmp_path / name).glob("classifier/*/classifier.safetensors")}
        for name in ("store", "other")
    )
    assert one == two
    assert len(one) == 2


@pytest.mark.parametrize(("rows", "name"), [(slice(0, 80), "labelled"), (slice(80, 140), "validation")])
def test_without_labels_it_is_refused_by_what_lacks_them(encoder, rows, name):
    labels = bars(200)[1].copy()
    labels[rows] = -1
    with pytest.raises(UserError, match=f"0 {name} images have a label"):
        judge(encoder, 0.1, split(labels))


def test_without_validation_images_there_are_no_numbers_of_them_and_the_others_are_the_same(encoder, tmp_path):
    real = split()
    kept = np.setdiff1d(np.arange(200), real.rows(shards.VALIDATION))
    columns = {name: getattr(real, name)[kept] for name in ("images", "labels", "split", "orig_index")}
    whole, _ = judge(encoder, steps=2)
    metrics, protocol = judge(made(tmp_path / "again"), real=dataclasses.replace(real, **columns), steps=2)
    assert metrics == {name: value for name, value in whole.items() if not name.startswith("validation")}
    assert len(metrics) == len(whole) - 2
    assert protocol["validation_images"] == 0
