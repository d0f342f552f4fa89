import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.evaluation import linear_eval, transfer
from pipeline.measures import linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.schema import LinearEval, TransferSet
from tests.toys import COMPUTE, NO_BASELINE

SIZE, CLASSES, EACH = 16, ("across", "down", "none"), 40
OFFLINE = dict.fromkeys(("offline", "offline_lr", "offline_epochs"))
PARAMS = LinearEval(l2=[1e-3, 1e-1], clsp_lr=1.0, view_strength=2.0, baseline=NO_BASELINE, seed=0, **OFFLINE)
ASKED = {"name": "folder", "train_size": 60, "validation_size": 20, "test_size": 30, "seed": 0}


pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """RGB pictures of 24 x 24 in class folders."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    wave = np.where(np.arange(24) % 6 < 3, 40, -40)
    patterns = np.stack([np.tile(wave[:, None], (1, 24)), np.tile(wave, (24, 1)), np.zeros((24, 24))])
    for i in range(EACH * 3):
        image = 128 + patterns[i % 3][..., None] * [1.0, 0.5, 0.2] + random.normal(0, 40, (24, 24, 3))
        path = folder / CLASSES[i % 3] / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def encoder(folder, channels):
    built = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5] * channels, [0.25] * channels, 0)
    with torch.no_grad():
        built.backbone.conv1.weight.mul_(-1)
    backbones.save(built, folder)
    return backbones.load(folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_comes_in_the_encoder_s_size_and_channels_and_is_judged(mine, tmp_path, channels):
    real = transfer.load(TransferSet(path=str(mine), **ASKED), SIZE, channels)
    assert real.images.shape[1:] == (SIZE, SIZE, channels)
    parts = [len(real.rows(code)) for code in (shards.TRAIN, shards.VALIDATION, shards.TEST)]
    assert parts == [60, 20, 30]
    trained = encoder(tmp_path, channels)
    metrics, protocol = transfer.judge("mine", trained, real, PARAMS, COMPUTE)
    assert set(metrics) == {"top1", "top1_low", "top1_high", "knn", "clsp", "pixels", "untrained"}
    x, y = probes.features(trained, real.images, COMPUTE), torch.from_numpy(real.labels)
    train, validation, test = (real.rows(code) for code in (shards.TRAIN, shards.VALIDATION, shards.TEST))
    fit = (x[train], y[train]), (x[validation], y[validation])
    found, l2 = linear_probe.linear_probe(*fit, x[test], 3, PARAMS.l2)
    assert metrics["top1"] == pytest.approx(100 * float((found == y[test]).float().mean()))
    assert metrics["top1_low"] < metrics["top1"] < metrics["top1_high"]
    assert metrics["top1"] > 60  # of three classes
    assert protocol["l2"]["encoder, train"] == l2
    assert (protocol["train_labels"], protocol["test_images"], protocol["classes"]) == (60, 30, 3)


def test_labels_to_learn_from_are_the_first_labelled_ones_where_few_images_have_one(monkeypatch, tmp_path):
    """As in STL-10: with 20 images to learn from, 20 labels and not the few among 20 images."""
    labels = np.where(np.arange(200) % 4 == 0, np.arange(200) // 4 % 2, -1)
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    source = transfer.datasets.Source(
        (images, labels), (images[:10] // 2, np.arange(10) % 2), ["a", "b"], (np.arange(200), np.arange(10))
    )
    monkeypatch.setitem(transfer.datasets._READERS, "stl10", lambda params: source)
    asked = ASKED | {"name": "stl10", "path": str(tmp_path), "train_size": 20, "validation_size": 10, "test_size": None}
    real = transfer.load(TransferSet(**asked), SIZE, 1)
    rows = real.labelled_rows()
    assert len(rows) == 20
    assert (real.labels[rows] >= 0).all()
    _, protocol = transfer.judge("few", encoder(tmp_path, 1), real, PARAMS, COMPUTE)
    assert protocol["train_labels"] == 20


def test_a_set_without_labels_and_an_encoder_of_other_channels_are_refused(mine, tmp_path):
    real = transfer.load(TransferSet(path=str(mine), **ASKED), SIZE, 1)
    with pytest.raises(UserError, match="takes 3 channels, the parameters' data have 1"):
        transfer.judge("mine", encoder(tmp_path / "three", 3), real, PARAMS, COMPUTE)
    (tmp_path / "flat").mkdir()
    for i, path in enumerate(sorted(mine.rglob("*.png"))):
        (tmp_path / "flat" / f"{i}.png").write_bytes(path.read_bytes())
    real = transfer.load(TransferSet(path=str(tmp_path / "flat"), **ASKED), SIZE, 1)
    with pytest.raises(UserError, match="fewer than two images of train, validation, test have") as refused:
        transfer.judge("mine", encoder(tmp_path / "one", 1), real, PARAMS, COMPUTE)
    assert refused.value.where == "params.yaml: transfer.mine"
    assert "folders of two classes" in refused.value.remedy


def test_a_set_of_one_class_is_refused(mine, tmp_path):
    real = transfer.load(TransferSet(path=str(mine), **ASKED), SIZE, 1)
    real = dataclasses.replace(real, labels=np.zeros_like(real.labels))
    with pytest.raises(UserError, match="all images are of one class, across"):
        transfer.judge("mine", encoder(tmp_path, 1), real, PARAMS, COMPUTE)


def test_a_set_that_is_too_small_or_not_there_is_refused_by_its_path(mine):
    with pytest.raises(UserError, match=r"train_size 90 .* > 90 images") as refused:
        transfer.load(TransferSet(path=str(mine), **ASKED | {"train_size": 90}), SIZE, 1)
    assert [fault.where for fault in refused.value.faults] == [str(mine)] * 2
    with pytest.raises(UserError, match="data/nowhere: not found"):
        transfer.load(TransferSet(path="data/nowhere", **ASKED), SIZE, 1)


def test_yardsticks_are_computed_once_for_all_encoders_of_one_origin(mine, tmp_path, monkeypatch):
    real = transfer.load(TransferSet(path=str(mine), **ASKED), SIZE, 1)
    trained = encoder(tmp_path, 1)
    first, _ = transfer.judge("mine", trained, real, PARAMS, COMPUTE)
    asked, probe = [], linear_probe.linear_probe

    def counted(*words):
        asked.append(words)
        return probe(*words)

    monkeypatch.setattr(linear_eval.linear_probe, "linear_probe", counted)
    assert transfer.judge("mine", trained, real, PARAMS, COMPUTE)[0] == first
    assert len(asked) == 1


def test_a_set_without_validation_is_judged_with_an_l2_of_cross_validation(mine, tmp_path):
    """With the parameters that the stage is given, which has none of the offline protocol's."""
    real = transfer.load(TransferSet(path=str(mine), **ASKED | {"validation_size": 0}), SIZE, 1)
    assert len(real.rows(shards.VALIDATION)) == 0
    trained = encoder(tmp_path, 1)
    given = SimpleNamespace(l2=PARAMS.l2, clsp_lr=PARAMS.clsp_lr, seed=PARAMS.seed)
    metrics, protocol = transfer.judge("mine", trained, real, given, COMPUTE)
    x, y = probes.features(trained, real.images, COMPUTE), torch.from_numpy(real.labels)
    train, test = real.rows(shards.TRAIN), real.rows(shards.TEST)
    nothing = torch.zeros(0, trained.width), torch.zeros(0, dtype=torch.int64)
    found, l2 = linear_probe.linear_probe((x[train], y[train]), nothing, x[test], 3, PARAMS.l2)
    assert metrics["top1"] == pytest.approx(100 * float((found == y[test]).float().mean()))
    assert protocol["l2"]["encoder, train"] == l2
    assert "5-fold cross-validation" in protocol["probe"]
    assert (protocol["train_labels"], protocol["validation_images"]) == (60, 0)


@pytest.mark.parametrize("validation", [0, 20])
def test_validation_images_without_labels_are_refused_and_none_at_all_are_not_missed(mine, tmp_path, validation):
    real = transfer.load(TransferSet(path=str(mine), **ASKED | {"validation_size": validation}), SIZE, 1)
    real.labels[real.rows(shards.TRAIN, shards.VALIDATION)] = -1
    named = "train, validation" if validation else "train"
    with pytest.raises(UserError, match=f"fewer than two images of {named} have"):
        transfer.judge("mine", encoder(tmp_path, 1), real, PARAMS, COMPUTE)
