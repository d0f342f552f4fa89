import dataclasses
import math

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from pipeline.augment import recipes
from pipeline.core import files, seeds
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.evaluation import confusion, label_free, linear_eval, offline_probe
from pipeline.measures import clsp_probe, geometry, linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.schema import LinearEval
from pipeline.study import rows
from tests.toys import COMPUTE, NO_BASELINE

OFFLINE = dict.fromkeys(("offline", "offline_lr", "offline_epochs"))
PARAMS = LinearEval(l2=[1e-3, 1e-1], clsp_lr=1.0, view_strength=2.0, baseline=NO_BASELINE, seed=0, **OFFLINE)
NO_AUGMENTATION = {
    "family": "symmetric",
    "form": "grey",
    "strength": 0.0,
    **dict.fromkeys(
        ("crop_min", "jitter_probability", "brightness", "contrast", "saturation", "hue", "grayscale", "blur")
    ),
    "solarize": None,
    "flip": None,
    "seed": 0,
}
TRAIN, LABELLED, VALIDATION, TEST = slice(0, 30), slice(30, 70), slice(70, 100), slice(100, 150)


@pytest.fixture(scope="module")
def real():
    """Noise, and in it stripes across, stripes down, or none: enough for better than chance, too few for perfection."""
    random = np.random.default_rng(2)
    labels = np.arange(150) % 3
    stripes = np.where(np.arange(12) % 2, 25, -25)
    patterns = np.stack([np.tile(stripes, (12, 1)), np.tile(stripes[:, None], (1, 12)), np.zeros((12, 12))])
    images = 128 + patterns[labels][..., None] + random.normal(0, 45, (150, 12, 12, 1))
    split = np.repeat(
        np.array([shards.TRAIN, shards.LABELLED, shards.VALIDATION, shards.TEST], np.uint8), [30, 40, 30, 50]
    )
    return shards.RealSet(
        images.clip(0, 255).astype(np.uint8), labels, split, np.arange(150), ("a", "b", "c"), "stripes", 60
    )


def make(folder, form=None, **augmented):
    built = backbones.build(form or backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0, 12)
    with torch.no_grad():
        next(built.backbone.parameters()).mul_(-1)  # not as it was before its first step
    backbones.save(built, folder, n_real=30, n_generated=45, augment=NO_AUGMENTATION | augmented)
    return backbones.load(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True, scope="module")
def store_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAVEN_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="module")
def judged(encoder, real):
    return linear_eval.judge(encoder, None, real, PARAMS, COMPUTE)


def judge_with(encoder, real, rows, change):
    labels = real.labels.copy()
    labels[rows] = change(labels[rows])
    return linear_eval.judge(encoder, None, dataclasses.replace(real, labels=labels), PARAMS, COMPUTE)


def turn(labels):
    return (labels + 1) % 3


def test_there_are_eleven_numbers_and_two_where_classes_are_unequal_and_all_are_finite(judged):
    assert {"balanced_accuracy", "macro_f1"} <= set(judged.metrics)  # the test has 16, 17 and 17 of its classes
    assert len(judged.metrics) == 13
    assert all(isinstance(v, float) and math.isfinite(v) for v in (judged.metrics | judged.label_free).values())
    assert judged.metrics["top1_low"] < judged.metrics["top1"] < judged.metrics["top1_high"]


def test_a_vit_is_judged_as_a_resnet_is_and_beside_its_own_self_untrained(real, judged, tmp_path):
    vit = make(tmp_path, backbones.vit(16, 1, 2, 4))
    found = linear_eval.judge(vit, None, real, PARAMS, COMPUTE)
    assert set(found.metrics) == set(judged.metrics)
    assert all(math.isfinite(value) for value in (found.metrics | found.label_free).values())
    assert found.metrics["pixels"] == judged.metrics["pixels"]
    x, y = probes.features(backbones.untrained(vit), real.images, COMPUTE), torch.from_numpy(real.labels)
    fit = (x[TRAIN], y[TRAIN]), (x[VALIDATION], y[VALIDATION])
    before, _ = linear_probe.linear_probe(*fit, x[TEST], 3, PARAMS.l2)
    assert found.metrics["untrained"] == pytest.approx(100 * float((before == y[TEST]).float().mean()))


def test_a_network_from_elsewhere_gets_the_probes_of_the_encoder(real, judged, encoder, tmp_path):
    """By hand: its own normalisation, grey in three channels, enlarged; and what was there keeps its numbers."""
    network, path = timm.create_model("resnet18", num_classes=5), tmp_path / "resnet18.safetensors"
    save_file(network.state_dict(), path)
    asked = NO_BASELINE.model_copy(update={"source": "file", "path": str(path), "name": "resnet18", "size": 40})
    found = linear_eval.judge(encoder, None, real, PARAMS.model_copy(update={"baseline": asked}), COMPUTE)
    new = {"baseline", "baseline_labelled", "baseline_10pct", "baseline_1pct"}
    assert set(found.metrics) - set(judged.metrics) == new
    assert {name: found.metrics[name] for name in judged.metrics} == judged.metrics
    assert found.protocol["baseline"] == {"name": "resnet18", "sha256": files.sha256(path), "pixels": 40}
    assert set(found.protocol["over_baseline"]) == {"points", "low", "high"}

    network.reset_classifier(0)
    x = torch.from_numpy(real.images).permute(0, 3, 1, 2).float() / 255
    x = torch.nn.functional.interpolate(x, (40, 40), mode="bicubic", antialias=True).clamp(0, 1).repeat(1, 3, 1, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))  # ImageNet's
    with torch.no_grad():
        seen = network.eval()((x - mean) / std)
    y = torch.from_numpy(real.labels)
    for name, fit in (("baseline", TRAIN), ("baseline_labelled", slice(0, 60)), ("baseline_10pct", slice(0, 6))):
        guessed, _ = linear_probe.linear_probe(
            (seen[fit], y[fit]), (seen[VALIDATION], y[VALIDATION]), seen[TEST], 3, PARAMS.l2
        )
        assert found.metrics[name] == pytest.approx(100 * float((guessed == y[TEST]).float().mean())), name


def label_free_of(encoder, images, features):
    """Features of images as they are (n, D), and of ten views of each, weak and strong recipe in turn (n, 10, D)."""
    augment = label_free.at_strength(encoder, PARAMS.view_strength)
    chosen = [recipes.recipe(augment, view % 2) for view in range(10)]
    views = recipes.views(torch.from_numpy(images), chosen, seeds.generator(PARAMS.seed, "label-free views", 0))
    return features(images), torch.stack([probes.embed(encoder, view, COMPUTE) for view in views], dim=1)


def test_the_numbers_are_those_of_the_measures_on_the_right_images(judged, encoder, real):
    def percent(found, of=TEST):
        return 100 * float((found.numpy() == real.labels[of]).mean())

    def top1(features, fit, of=TEST):
        x = features(real.images)
        y = torch.from_numpy(real.labels)
        found, _ = linear_probe.linear_probe((x[fit], y[fit]), (x[VALIDATION], y[VALIDATION]), x[of], 3, PARAMS.l2)
        return percent(found, of)

    def made_by(network):
        return lambda images: probes.features(network, images, COMPUTE)

    def by_clsp(features):
        plain, mirror = features(real.images[TRAIN]), features(real.images[TRAIN][:, :, ::-1].copy())
        layer = clsp_probe.train((plain, torch.from_numpy(real.labels[TRAIN])), mirror, 3, PARAMS.clsp_lr, PARAMS.seed)
        return percent(torch.nn.functional.linear(features(real.images[TEST]), *layer).argmax(dim=1))

    trained, before = made_by(encoder), made_by(backbones.untrained(encoder))
    expected = {
        "top1": top1(trained, TRAIN),
        "top1_labelled": top1(trained, slice(0, 60)),  # labelled_size
        "validation": top1(trained, slice(0, 60), VALIDATION),
        "top1_10pct": top1(trained, slice(0, 6)),
        "top1_1pct": top1(trained, slice(0, 3)),  # one image is 1 %, and there are three classes
        "clsp": by_clsp(trained),
        "untrained": top1(before, TRAIN),
        "pixels": top1(probes.pixels, TRAIN),
        "knn": percent(
            probes.knn(trained(real.images[TRAIN]), torch.from_numpy(real.labels[TRAIN]), trained(real.images[TEST]))
        ),
        "rankme": geometry.rankme(trained(real.images[VALIDATION])),
        "uniformity": geometry.uniformity(trained(real.images[VALIDATION])),
    }
    unseen, (clean, views) = real.images[VALIDATION], label_free_of(encoder, real.images[VALIDATION], trained)
    expected |= {
        "lidar": geometry.lidar(views),
        "alignment": geometry.alignment(views[:, 0], views[:, 1]),
        "connectivity": geometry.connectivity(views[:, 0], views[:, 1]),
        "rotation": label_free.rotation(encoder, unseen, COMPUTE),
        "cluster_learnability": geometry.cluster_learnability(clean, seeds.generator(PARAMS.seed, "clusters")),
        "intrinsic_dimension": geometry.intrinsic_dimension(clean),
    }
    assert set(expected) >= set(judged.label_free)
    assert set(judged.label_free) == set(rows.LABEL_FREE)  # or a study would not keep it
    for name, value in expected.items():
        assert (judged.metrics | judged.label_free)[name] == pytest.approx(value, rel=1e-5), name
    differing = ("top1", "top1_labelled", "untrained", "pixels")
    assert len({expected[name] for name in differing}) == 4  # or a mix-up would pass


def test_the_fixed_budget_alone_uses_the_further_labels(judged, encoder, real):
    found = judge_with(encoder, real, slice(30, 60), turn)
    changed = {name for name in found.metrics if found.metrics[name] != judged.metrics[name]}
    assert changed == {"top1_labelled", "validation"}  # the few labels are the first of them
    beyond = judge_with(encoder, real, slice(60, 70), turn)  # labelled, but more than labelled_size
    assert beyond.metrics == judged.metrics


def test_test_labels_choose_nothing(judged, encoder, real):
    found = judge_with(encoder, real, TEST, turn)
    assert found.protocol["l2"] == judged.protocol["l2"]

    def predicted(tables):
        rows = tables["confusion"][1]
        return {name: sum(row["count"] for row in rows if row["predicted"] == name) for name in real.classes}

    assert predicted(found.tables) == predicted(judged.tables)
    assert found.metrics["top1"] != judged.metrics["top1"]


def test_the_protocol_says_how_many_labels_and_images_there_were(judged, real):
    expected = {"train_labels": 30, "fixed_labels": 60, "validation_images": 30, "test_images": 50}
    assert {name: judged.protocol[name] for name in expected} == expected
    assert judged.protocol["few_labels"] == {"1pct": 3, "10pct": 6}
    assert "clsp_top5" not in judged.protocol  # of three classes it is always 100
    assert judged.protocol["per_class"] == "the 3 of 3 classes that have test images"
    assert set(judged.protocol["l2"].values()) <= set(PARAMS.l2)
    points = judged.metrics["top1"] - judged.metrics["pixels"]
    assert judged.protocol["over_pixels"]["points"] == pytest.approx(points, abs=1e-3)
    assert judged.protocol["over_pixels"]["low"] < points < judged.protocol["over_pixels"]["high"]


def test_the_tables_agree_with_the_numbers(judged):
    columns, confusion = judged.tables["confusion"]
    assert columns == ["actual", "predicted", "count"]
    assert sum(row["count"] for row in confusion) == 50
    right = {row["actual"]: row["count"] for row in confusion if row["actual"] == row["predicted"]}
    assert 2 * sum(right.values()) == pytest.approx(judged.metrics["top1"])
    actual = {name: sum(row["count"] for row in confusion if row["actual"] == name) for name in "abc"}
    assert actual == {"a": 16, "b": 17, "c": 17}  # test rows 100 to 149, labelled i mod 3: 100 mod 3 = 1
    for row in judged.tables["per_class"][1]:
        assert row["top1"] == pytest.approx(100 * right[row["class"]] / actual[row["class"]])
    recalls = [row["top1"] for row in judged.tables["per_class"][1]]
    assert judged.metrics["balanced_accuracy"] == pytest.approx(sum(recalls) / 3)
    said = {name: sum(row["count"] for row in confusion if row["predicted"] == name) for name in "abc"}
    each = [2 * right[name] / (actual[name] + said[name]) for name in "abc"]
    assert judged.metrics["macro_f1"] == pytest.approx(100 * sum(each) / 3)
    assert judged.tables["grid"][1] == [{"ratio": 1.5, "strength": 0.0, "top1": judged.metrics["top1"]}]


def test_measures_of_views_see_every_encoder_in_the_same_ones(judged, encoder, real, tmp_path):
    """Whatever it was trained with: its own strength, and numbers set alone, do not count."""
    assert judged.label_free["alignment"] > 1e-3
    assert linear_eval.judge(make(tmp_path, strength=2.0), None, real, PARAMS, COMPUTE).label_free == judged.label_free
    alone = make(tmp_path, crop_min=0.01, blur=1.0)
    assert linear_eval.judge(alone, None, real, PARAMS, COMPUTE).label_free == judged.label_free
    still = linear_eval.judge(encoder, None, real, PARAMS.model_copy(update={"view_strength": 0.0}), COMPUTE).label_free
    assert still["alignment"] == pytest.approx(0, abs=1e-6)
    assert still["connectivity"] == 0
    assert still["rankme"] == judged.label_free["rankme"]  # of the clean images


def test_what_does_not_depend_on_the_training_is_computed_once(judged, encoder, real, monkeypatch):
    asked = []
    probe = linear_probe.linear_probe

    def counted(train, *rest):
        asked.append(train[0].shape[1])
        return probe(train, *rest)

    monkeypatch.setattr(linear_probe, "linear_probe", counted)
    assert linear_eval.judge(encoder, None, real, PARAMS, COMPUTE).metrics == judged.metrics
    assert asked == [encoder.width] * 5  # all budgets of the encoder, and turns; not the untrained one, not the pixels
    asked.clear()
    judge_with(encoder, real, TRAIN, turn)
    assert sorted(asked) == [encoder.width] * 6 + [144]  # other labels, other baselines
    asked.clear()
    linear_eval.judge(encoder, None, real, PARAMS.model_copy(update={"l2": [1e-2]}), COMPUTE)
    assert sorted(asked) == [encoder.width] * 6 + [144]


def test_train_images_without_a_label_are_passed_over(judged, encoder, real):
    found = judge_with(encoder, real, slice(0, 30, 3), lambda labels: -1)
    kept = np.setdiff1d(np.arange(150), np.arange(0, 30, 3))
    fewer = {name: getattr(real, name)[kept] for name in ("images", "labels", "split", "orig_index")}
    expected = linear_eval.judge(encoder, None, dataclasses.replace(real, **fewer), PARAMS, COMPUTE)
    assert found.protocol["train_labels"] == 20
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5, abs=1e-6)
    assert found.metrics["top1"] != judged.metrics["top1"]


@pytest.mark.parametrize("rows", [slice(None), TRAIN, VALIDATION, TEST], ids=["all", "train", "validation", "test"])
def test_a_set_without_labels_to_learn_or_to_judge_from_is_judged_without_labels(judged, encoder, real, rows):
    found = judge_with(encoder, real, rows, lambda labels: -1)
    assert found.metrics == {}
    assert set(found.label_free) == set(judged.label_free)
    for name, value in found.label_free.items():  # other images share a batch, which moves the last bits
        assert value == pytest.approx(judged.label_free[name], rel=1e-4, abs=1e-6)
    assert "label" in found.protocol["note"]
    for name, (columns, table) in found.tables.items():
        assert columns == judged.tables[name][0]
        assert table == []


@pytest.mark.parametrize(
    ("rows", "classes", "said"),
    [
        (slice(None), lambda labels: 1, "no linear probe: all images are of one class, b"),
        (slice(101, 150), lambda labels: -1, "no linear probe: fewer than two images of test have a label"),
    ],
)
def test_where_nothing_can_be_told_apart_there_is_no_accuracy(encoder, real, rows, classes, said):
    """One class alone would be told in 100 % of images, and one test image in 0 % or 100 %."""
    found = judge_with(encoder, real, rows, classes)
    assert (found.metrics, found.protocol["note"]) == ({}, said)
    assert found.protocol["encoder_sha256"] == encoder.card["sha256"]


def test_a_class_without_test_images_has_no_top1(judged, encoder, real):
    found = judge_with(encoder, real, slice(100, 150), lambda labels: np.where(labels == 1, 0, labels))
    assert [row["class"] for row in found.tables["per_class"][1]] == ["a", "c"]
    assert found.protocol["per_class"] == "the 2 of 3 classes that have test images"
    assert len(found.tables["confusion"][1]) == 9


def test_of_a_thousand_classes_the_most_frequent_confusions_are_listed_and_not_a_million_pairs():
    names = tuple(f"c{i}" for i in range(1000))
    actual = np.repeat(np.arange(1000), 10)
    predicted = actual.copy()
    predicted[50:57], predicted[9000:9003] = 800, 3  # seven of c5's as c800, three of c900's as c3
    predicted[100:10_000:100] = 999  # of each tenth class from c10 on one: 99 pairs, c900's among them
    tables, told = confusion.tables(names, actual, predicted)
    rows = [tuple(row.values()) for row in tables["confusion"][1]]
    assert rows[:4] == [("c5", "c800", 7), ("c900", "c3", 2), ("c10", "c999", 1), ("c20", "c999", 1)]
    assert len(rows) == confusion.LISTED
    assert told["confusion"] == "the 30 most frequent of 101 confusions, as there are more than 20 classes"
    fifth = tables["per_class"][1][5]
    by_scipy = binomtest(3, 10).proportion_ci(method="wilson")
    assert (fifth["class"], fifth["top1"]) == ("c5", 30.0)
    assert (fifth["low"], fifth["high"]) == pytest.approx((100 * by_scipy.low, 100 * by_scipy.high), rel=1e-5)


def test_all_pairs_of_few_classes_are_there_also_those_that_never_come():
    tables, told = confusion.tables(("a", "b"), np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert [tuple(row.values()) for row in tables["confusion"][1]] == [
        ("a", "a", 1),
        ("a", "b", 1),
        ("b", "a", 0),
        ("b", "b", 1),
    ]
    assert told["confusion"] == "all pairs of classes"


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_averaged_for_the_pixel_probe_and_small_ones_left_alone(channels):
    large = np.random.default_rng(0).integers(0, 256, (3, 64, 96, channels), dtype=np.uint8)
    expected = large.reshape(3, 32, 2, 32, 3, channels).mean(axis=(2, 4))
    assert np.abs(linear_eval.small(large) - expected).max() <= 0.5
    assert linear_eval.small(large).dtype == np.uint8
    kept = large[:, :32, :20]
    assert linear_eval.small(kept) is kept


def test_judging_twice_gives_the_same(judged, encoder, real):
    again = linear_eval.judge(encoder, None, real, PARAMS, COMPUTE)
    assert (again.metrics, again.protocol, again.tables) == (judged.metrics, judged.protocol, judged.tables)


@pytest.mark.fault(15)
def test_an_encoder_that_has_collapsed_is_judged_and_no_number_is_lost(judged, real, tmp_path):
    """Its features are all the same; the probe is as good as chance, of a third."""
    encoder = make(tmp_path)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    found = linear_eval.judge(encoder, None, real, PARAMS, COMPUTE)
    assert set(found.metrics) == set(judged.metrics)
    assert all(math.isfinite(value) for value in (found.metrics | found.label_free).values())
    assert found.metrics["top1"] == pytest.approx(100 / 3, abs=2)
    assert found.label_free["alignment"] == 0


def test_the_protocol_counts_the_images_that_there_were(judged):
    assert judged.protocol["label_free"].startswith("30 validation images as they are (rankme, uniformity, ")


@pytest.mark.parametrize(("share", "expected"), [(1.0, 100), (0.5, 50), (0.1, 10), (0.02, 2), (0.01, 2), (0.001, 2)])
def test_a_share_of_the_labels_is_a_prefix_with_an_image_of_every_class(share, expected):
    """The third image of the split is no labelled one; class 1 is first met among the labelled at place 1."""
    labels = np.array([0, -1, 1] + [0, 1] * 49 + [0, 1, 1, 1])
    split = np.repeat(np.array([shards.TRAIN, shards.LABELLED, shards.TEST], np.uint8), [50, 53, 2])
    real = shards.RealSet(np.zeros((105, 2, 2, 1), np.uint8), labels, split, np.arange(105), ("a", "b"), "toy", 100)
    found = linear_eval.share_of(real, share)
    assert np.array_equal(found, real.labelled_rows()[:expected])
    assert set(labels[found]) == {0, 1}


def test_a_rare_class_lengthens_the_prefix_until_it_is_met_and_that_is_said(capsys):
    labels = np.array([0] * 30 + [1] + [0] * 69)
    split = np.full(100, shards.TRAIN, np.uint8)
    real = shards.RealSet(np.zeros((100, 2, 2, 1), np.uint8), labels, split, np.arange(100), ("a", "b"), "toy", 100)
    assert [len(linear_eval.share_of(real, share)) for share in (0.01, 0.1, 0.31, 0.5)] == [31, 31, 31, 50]
    lines = capsys.readouterr().err.strip().splitlines()
    said = "of the labels are 31 of 100 here, as the rarest class must have one"
    assert [line.partition(" ")[0] for line in lines if line.endswith(said)] == ["1", "10"]


# ---- without validation images


@pytest.fixture(scope="module")
def unvalidated(real):
    kept = np.setdiff1d(np.arange(150), real.rows(shards.VALIDATION))
    return dataclasses.replace(
        real, **{name: getattr(real, name)[kept] for name in ("images", "labels", "split", "orig_index")}
    )


def test_without_validation_all_numbers_of_the_test_are_there_and_l2_is_of_the_labels_learned_from(
    judged, encoder, unvalidated
):
    found = linear_eval.judge(encoder, None, unvalidated, PARAMS, COMPUTE)
    assert set(found.metrics) == set(judged.metrics) - {"validation"}
    assert set(found.label_free) == set(judged.label_free)
    assert all(math.isfinite(value) for value in (found.metrics | found.label_free).values())
    assert found.metrics["knn"] == judged.metrics["knn"]  # which chooses nothing
    x, y = probes.features(encoder, unvalidated.images, COMPUTE), torch.from_numpy(unvalidated.labels)
    nothing, test = (torch.zeros(0, encoder.width), torch.zeros(0, dtype=torch.int64)), slice(70, 120)
    of = {"train": ("top1", 30), "labelled": ("top1_labelled", 60), "10pct": ("top1_10pct", 6)}
    for budget, (name, n) in of.items():
        expected, l2 = linear_probe.linear_probe((x[:n], y[:n]), nothing, x[test], 3, PARAMS.l2)
        assert found.metrics[name] == pytest.approx(100 * float((expected == y[test]).float().mean()))
        assert found.protocol["l2"][f"encoder, {budget}"] == l2
    assert found.protocol["probe"].endswith(
        "l2 by top-1 in 5-fold cross-validation on the images learned from; no validation"
    )
    assert (found.protocol["validation_images"], found.protocol["test_images"]) == (0, 50)


def test_without_validation_what_wants_no_labels_is_measured_on_train_images(encoder, unvalidated):
    found = linear_eval.judge(encoder, None, unvalidated, PARAMS, COMPUTE)
    x = probes.features(encoder, unvalidated.images[TRAIN], COMPUTE)
    assert found.label_free["rankme"] == pytest.approx(geometry.rankme(x), rel=1e-5)
    assert found.label_free["uniformity"] == pytest.approx(geometry.uniformity(x), rel=1e-5)
    assert found.protocol["label_free"].startswith("30 train images as they are (rankme, uniformity, ")
    unlabelled = dataclasses.replace(unvalidated, labels=np.full(120, -1))
    alone = linear_eval.judge(encoder, None, unlabelled, PARAMS, COMPUTE)
    assert alone.metrics == {}
    assert "train, labelled, test have a label" in alone.protocol["note"]  # of validation there is nothing to say
    for name, value in alone.label_free.items():  # other images share a batch, which moves the last bits
        assert value == pytest.approx(found.label_free[name], rel=1e-4, abs=1e-6)


def test_the_protocol_says_how_l2_came_about(judged, encoder, real, unvalidated):
    assert judged.protocol["probe"].endswith("l2 by validation top-1")
    for of in (real, unvalidated):
        found = linear_eval.judge(encoder, None, of, PARAMS.model_copy(update={"l2": [1e-2]}), COMPUTE)
        assert found.protocol["probe"].endswith("l2 as given")
        assert set(found.protocol["l2"].values()) == {1e-2}


# ---- published protocols


def by_hand(layer, encoder, real):
    """Test top-1 of a linear layer, by a matrix product."""
    weight, bias = (part.numpy() for part in layer)
    logits = probes.features(encoder, real.images[TEST], COMPUTE).numpy() @ weight.T + bias
    return 100 * float((logits.argmax(axis=1) == real.labels[TEST]).mean())


def test_the_layer_that_learned_beside_the_encoder_is_a_number_more(judged, encoder, real):
    random = np.random.default_rng(0)
    layers = [
        tuple(torch.from_numpy(random.normal(size=shape)).float() for shape in ((3, encoder.width), (3,)))
        for _ in range(3)
    ]
    for layer in layers:
        found = linear_eval.judge(encoder, layer, real, PARAMS, COMPUTE)
        assert found.metrics == judged.metrics | {"online": pytest.approx(by_hand(layer, encoder, real))}
        assert found.protocol == judged.protocol | {"online": found.protocol["online"]}
    assert "a linear layer trained beside the encoder" in found.protocol["online"]
    assert len({by_hand(layer, encoder, real) for layer in layers}) > 1


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_solo_learn_s_offline_protocol_is_a_number_more_where_it_is_asked_for(judged, encoder, real, optimizer):
    numbers = {"offline": optimizer, "offline_lr": 0.3, "offline_epochs": 2}
    params = PARAMS.model_copy(update=numbers)
    found = linear_eval.judge(encoder, None, real, params, COMPUTE)
    layer = offline_probe.train(encoder, (real.images[TRAIN], real.labels[TRAIN]), 3, params, COMPUTE)
    assert found.metrics == judged.metrics | {"offline": pytest.approx(by_hand(layer, encoder, real))}
    assert found.protocol == judged.protocol | {"offline": offline_probe.told(params)}
    assert f"2 epochs of {optimizer.upper()} from rate 0.3" in found.protocol["offline"]


def test_published_protocols_leave_no_trace_where_nobody_asked(judged):
    assert not {"online", "offline"} & {*judged.metrics, *judged.protocol}


def test_an_encoder_of_other_channels_is_refused_in_a_line(real, tmp_path):
    colour = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5] * 3, [0.2] * 3, 0, real.images.shape[1])
    backbones.save(colour, tmp_path, augment=NO_AUGMENTATION)
    with pytest.raises(UserError, match="takes 3 channels, the parameters' data have 1"):
        linear_eval.judge(backbones.load(tmp_path), None, real, PARAMS, COMPUTE)
