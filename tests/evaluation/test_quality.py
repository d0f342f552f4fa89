"""Judges of generated images, against slow forms of their definitions and sets whose verdict is known beforehand."""

import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import quality
from pipeline.measures import memorisation, probes
from pipeline.params.schema import Quality
from tests.toys import COMPUTE

PARAMS = Quality(images=60, steps=25, inception=None, seed=0)
SIZE = 12


@pytest.fixture(autouse=True)
def store(tmp_path_factory, monkeypatch):
    """One store for the file: the feature network is trained once. One thread: the bits depend on their number."""
    before = torch.get_num_threads()
    arithmetic.prepare(COMPUTE)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path_factory.getbasetemp() / "quality-store"))
    yield
    torch.set_num_threads(before)


def images(n, seed, contrast=60.0):
    """Noise with bars across, bars down, or none: uint8 (n, 12, 12, 1) and their labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    wave = np.where(np.arange(SIZE) % 4 < 2, contrast, -contrast)
    patterns = np.stack([np.tile(wave[:, None], (1, SIZE)), np.tile(wave, (SIZE, 1)), np.zeros((SIZE, SIZE))])
    pixels = 128 + patterns[labels] + random.normal(0, 30, (n, SIZE, SIZE))
    return pixels.clip(0, 255).astype(np.uint8)[..., None], labels


@pytest.fixture(scope="module")
def real():
    """200 train images, 120 of validation, 240 spare ones, 20 of test; all of one distribution."""
    pixels, labels = images(580, 0)
    counts = {shards.TRAIN: 200, shards.VALIDATION: 120, shards.SPARE: 240, shards.TEST: 20}
    split = np.repeat(np.array(list(counts), np.uint8), list(counts.values()))
    return shards.RealSet(pixels, labels, split, np.arange(580), ("across", "down", "none"), "bars", 100)


def judge(generated, real, source="train", **changes):
    return quality.judge(generated, source, real, PARAMS.model_copy(update=changes), COMPUTE)


# --- the measures alone


def slow_density_and_coverage(real, generated, k):
    """The definition, image by image."""
    hits, covered = 0, 0
    for i, x in enumerate(real):
        radius = sorted(math.dist(x, y) for j, y in enumerate(real) if j != i)[k - 1]
        inside = sum(math.dist(x, y) < radius for y in generated)
        hits, covered = hits + inside, covered + (inside > 0)
    return hits / (k * len(generated)), covered / len(real)


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
def test_density_and_coverage_are_their_definitions(shift):
    random = np.random.default_rng(1)
    a, b = random.normal(size=(40, 3)), random.normal(size=(30, 3)) + shift
    found = quality.density_and_coverage(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(slow_density_and_coverage(a.tolist(), b.tolist(), 5))
    if shift == 30:
        assert found == (0, 0)


def test_density_and_coverage_of_real_images_are_what_theory_expects():
    """Of equal distributions: density 1, coverage 1 - 1 / 2^5 (Naeem et al., section 3.3)."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1500, 4, generator=draw) for _ in range(2))
    density, coverage = quality.density_and_coverage(a, b)
    assert density == pytest.approx(1, abs=0.06)
    assert coverage == pytest.approx(1 - 1 / 2**5, abs=0.02)


def test_fewer_images_than_neighbours_are_judged_too():
    a = torch.tensor([[0.0], [1.0]])
    assert quality.density_and_coverage(a, torch.tensor([[0.5], [9.0]])) == (1.0, 1.0)


@pytest.mark.parametrize("chunk", [10_000_000, 7 * 60, 1])
def test_nearest_is_a_search_through_all_images_and_their_mirror_images(chunk, monkeypatch):
    monkeypatch.setattr(memorisation, "_CHUNK", chunk)
    monkeypatch.setattr(memorisation, "CROWD", 4)
    random = np.random.default_rng(0)
    bank = random.integers(0, 256, (25, 5, 4, 3), dtype=np.uint8)
    queries = random.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    queries[0], queries[1] = bank[9], bank[17][:, ::-1]
    found = memorisation.nearest(queries, bank)
    for i, query in enumerate(queries / 255):
        distances = sorted(
            (np.sqrt(((query - way) ** 2).sum()), row) for row, x in enumerate(bank / 255) for way in (x, x[:, ::-1])
        )
        assert found.row[i] == distances[0][1]
        assert found.distance[i] == pytest.approx(distances[0][0], abs=1e-5)
        crowd = np.mean([d for d, _ in distances[:4]])
        assert found.relative[i] == pytest.approx(distances[0][0] / crowd, abs=5e-3)
    assert found.row[:2].tolist() == [9, 17]
    assert found.distance[:2].tolist() == [0, 0]


def test_copies_are_nearer_than_one_unseen_image_in_a_hundred():
    unseen = memorisation.Near(np.zeros(101, int), np.ones(101), np.arange(101) / 100)
    made = memorisation.Near(np.zeros(4, int), np.ones(4), np.array([0.0, 0.009, 0.011, 1.0]))
    copied, limit = memorisation.copies(made, unseen)
    assert limit == pytest.approx(0.01)
    assert copied.tolist() == [True, True, False, False]


def test_where_real_images_have_copies_of_their_own_a_copy_is_still_one():
    unseen = memorisation.Near(np.zeros(100, int), np.ones(100), np.r_[np.zeros(5), np.ones(95)])
    made = memorisation.Near(np.zeros(3, int), np.ones(3), np.array([0.0, 0.001, 0.5]))
    copied, limit = memorisation.copies(made, unseen)
    assert limit == memorisation.SURELY
    assert copied.tolist() == [True, True, False]


def test_turned_images_are_turned_by_their_label():
    pixels, _ = images(9, 0)
    turned, quarters = quality.turned(pixels)
    assert quarters.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    for image, made, k in zip(pixels, turned, quarters, strict=True):
        assert np.array_equal(made, np.rot90(image, k))


def test_sets_of_one_kind_cannot_be_told_apart_and_others_can():
    same, _ = images(200, 3)
    other, _ = images(200, 4)
    right, of = quality.told_apart(same, other, PARAMS, COMPUTE)
    assert of == 200
    assert 0.35 < right / of < 0.65
    right, of = quality.told_apart(255 - images(200, 5, contrast=20)[0] // 2, other, PARAMS, COMPUTE)
    assert right / of > 0.95


# --- the verdict


@pytest.fixture(scope="module")
def sets(real):
    train, _ = real.part(shards.TRAIN)
    random = np.random.default_rng(9)
    noisy = (train + random.normal(0, 3, train.shape)).clip(0, 255).astype(np.uint8)
    return {
        "good": images(80, 7)[0],
        "poor": images(80, 7, contrast=15)[0],
        "a copy": train,
        "a mirrored copy": train[:, :, ::-1].copy(),
        "a noisy copy": noisy,
    }


def test_numbers_are_at_most_ten_and_finite(sets, real):
    found = judge(sets["good"], real)
    assert len(found.metrics) <= 10
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert found.metrics["judged"] == 60
    assert 0 <= found.metrics["tv_bound"] <= 1


def test_poor_images_are_told_from_good_ones(sets, real):
    good, poor = (judge(sets[name], real).metrics for name in ("good", "poor"))
    assert good["frechet"] < 3 * good["frechet_floor"]
    assert poor["frechet"] > 5 * good["frechet"]
    assert poor["coverage"] < good["coverage"] - 0.2
    assert poor["tv_bound"] > good["tv_bound"] + 0.3
    assert (good["frechet_floor"], good["memorised"], poor["memorised"]) == (poor["frechet_floor"], 0, 0)


@pytest.mark.parametrize("name", ["a copy", "a mirrored copy", "a noisy copy"])
def test_a_copy_of_the_train_images_is_called_memorised(name, sets, real):
    found = judge(sets[name], real).metrics
    assert (found["memorised"], found["copied"]) == (1, 100)
    assert found["nearest"] < 0.2


def test_a_set_that_is_a_fifth_copies_is_called_memorised_and_its_copies_are_shown(sets, real):
    train, _ = real.part(shards.TRAIN)
    mixed = sets["good"].copy()
    mixed[10:22] = train[100:112]
    found = judge(mixed, real)
    assert found.metrics["memorised"] == 1
    assert 20 <= found.metrics["copied"] < 30
    _, nearest, matches, distances = found.pairs[0]
    assert distances[:12] == ["0.00"] * 12
    for made, match in zip(nearest[:12], matches[:12], strict=True):
        assert np.array_equal(made, match)


def test_no_train_image_serves_as_unseen_and_the_network_is_of_spare_ones(sets, real):
    found = judge(sets["good"], real)
    assert found.protocol["network"]["on"] == "240 spare images, which no generator trained here has seen"
    assert found.protocol["network"]["validation_top1"] > 90
    other = real.images.copy()
    other[real.split == shards.TRAIN] = 255 - other[real.split == shards.TRAIN]
    changed = judge(sets["good"], dataclasses.replace(real, images=other))
    differ = {name for name, value in found.metrics.items() if changed.metrics[name] != value}
    assert differ - {"copied"} == {"nearest"}


def test_without_spare_images_the_network_learns_from_train_and_that_is_said(sets, real, capsys):
    split = np.where(real.split == shards.SPARE, shards.TEST, real.split)
    found = judge(sets["good"], dataclasses.replace(real, split=split))
    assert "WHICH THE GENERATOR SAW" in found.protocol["network"]["on"]
    assert "no spare images" in capsys.readouterr().err


def test_without_labels_the_network_tells_quarter_turns(sets, real):
    unlabelled = dataclasses.replace(real, labels=np.full(len(real.labels), -1))
    found = judge(sets["good"], unlabelled)
    assert found.protocol["network"]["of"].startswith("quarter turns")
    assert found.metrics["frechet"] < judge(sets["poor"], unlabelled).metrics["frechet"]


def test_positives_are_taken_for_their_images_class_or_not(real):
    """Copies of the images as they are; and all of them turned by a quarter, so that bars lie the other way."""
    train, labels = real.part(shards.TRAIN)
    model, _ = quality.feature_network(real, PARAMS, COMPUTE)
    guessed = [model(torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255).argmax().item() for x in train]
    own = 100 * np.mean(np.array(guessed) == labels)
    assert own > 90
    found = quality.same_class([train[:150], train[150:], train[:50]], real, PARAMS, COMPUTE)
    assert found["same_class_real"] == pytest.approx(own)
    right = [*(np.array(guessed) == labels), *(np.array(guessed) == labels)[:50]]
    assert found["same_class"] == pytest.approx(100 * np.mean(right))
    other = np.rot90(train, axes=(1, 2)).copy()
    turned = quality.same_class([other], real, PARAMS, COMPUTE)["same_class"]
    assert turned < 50  # a third has no bars and stays what it is
    assert quality.same_class([train], dataclasses.replace(real, labels=np.full(580, -1)), PARAMS, COMPUTE) == {}


def test_positives_of_a_set_without_validation_are_judged_by_the_same_network(real):
    """Of validation it tells nothing but its own accuracy."""
    train, _ = real.part(shards.TRAIN)
    kept = real.split != shards.VALIDATION
    columns = ("images", "labels", "split", "orig_index")
    without = dataclasses.replace(real, **{name: getattr(real, name)[kept] for name in columns})
    assert not len(without.rows(shards.VALIDATION))
    _, facts = quality.feature_network(without, PARAMS, COMPUTE)
    assert facts["of"] == quality.CLASSES
    assert "validation_top1" not in facts
    found = quality.same_class([train], without, PARAMS, COMPUTE)
    assert found == quality.same_class([train], real, PARAMS, COMPUTE)


@pytest.mark.parametrize("most", [1, 60, 199])
def test_the_first_positives_are_asked_alone(real, monkeypatch, most):
    monkeypatch.setattr(quality, "MOST", most)
    train, _ = real.part(shards.TRAIN)
    spoilt = [train[:most], np.zeros_like(train)]
    found = quality.same_class(spoilt, real, PARAMS, COMPUTE)
    assert found["same_class"] == found["same_class_real"]


@pytest.mark.parametrize(("generated", "asked"), [(0, 60), (80, 0), (1, 60)])
def test_nothing_to_judge_is_said(generated, asked, sets, real):
    found = judge(sets["good"][:generated], real, images=asked)
    assert found.metrics == {"judged": 0}
    assert "nothing to judge" in found.protocol["note"]
    assert found.pairs == []


def test_a_generator_trained_elsewhere_is_not_said_to_be_judged_by_unseen_images(sets, real, capsys):
    assert "did not see them" in judge(sets["good"], real).protocol["real_images"]
    for source in ("pretrained", "import"):
        assert "MAY HAVE SEEN THEM" in judge(sets["good"], real, source=source).protocol["real_images"]
        assert "may have seen the validation images" in capsys.readouterr().err


def test_the_bound_is_the_lower_end_of_what_the_classifier_shows(sets, real):
    found = judge(sets["poor"], real)
    low = found.protocol["told_apart"]["low"]
    assert found.metrics["tv_bound"] == pytest.approx(max(0, 2 * low / 100 - 1), abs=1e-4)
    assert found.metrics["tv_bound"] < 2 * found.metrics["told_apart"] / 100 - 1


def test_colour_images_of_one_class_with_a_part_unlabelled_are_judged_too(real):
    pixels = np.concatenate([real.images, 255 - real.images, real.images // 2], axis=3)
    labels = np.where(real.split == shards.VALIDATION, 0, np.where(np.arange(len(pixels)) % 3, -1, 0))
    colour = dataclasses.replace(real, images=pixels, labels=labels, classes=("one",))
    found = judge(pixels[real.split == shards.TRAIN], colour)
    assert found.metrics["memorised"] == 1
    assert found.protocol["network"]["of"].startswith("quarter turns")
    assert "may be of another kind" in found.protocol["real_images"]
    assert "another kind" not in judge(real.images[:60], real).protocol["real_images"]


def test_inception_as_the_feature_network(sets, real, monkeypatch, tmp_path):
    """The real judge around a stand-in for the network: its features decide the Frechet distance."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"w")
    monkeypatch.setattr(
        quality, "inception", lambda path, compute: lambda x: torch.from_numpy(x).flatten(1)[:, :5].float()
    )
    found = judge(sets["poor"], real, inception=str(weights))
    assert found.protocol["network"]["weights_sha256"] == hashlib.sha256(b"w").hexdigest()
    unseen, _ = real.part(shards.VALIDATION)
    a, x = (torch.from_numpy(images[:60].reshape(60, -1)[:, :5]).float() for images in (unseen, sets["poor"]))
    assert found.metrics["frechet"] == pytest.approx(probes.frechet(a, x))


# --- Inception


def test_inception_reads_a_local_file_and_runs_no_code_of_it(tmp_path, real, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as library

    def random_weights(url, **_):
        raise AssertionError("no network")

    monkeypatch.setattr(library, "load_state_dict_from_url", random_weights)
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    monkeypatch.setattr(torch, "load", lambda *words, **named: {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = library.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path="x")
    state = network.state_dict()
    monkeypatch.undo()
    torch.save(state, tmp_path / "weights.pth")
    embed = quality.inception(str(tmp_path / "weights.pth"), COMPUTE)
    grey = real.images[:3]
    with torch.inference_mode():
        expected = network(torch.from_numpy(grey).permute(0, 3, 1, 2).repeat(1, 3, 1, 1))[0]
    assert embed(grey).shape == (3, 2048)
    assert torch.allclose(embed(grey), expected, atol=1e-5)


class Trap:
    def __reduce__(self):
        import os

        return os.mkdir, ("marker",)


@pytest.mark.parametrize("content", ["a pickle that runs code", "no file", "another network"])
def test_what_is_not_inceptions_weights_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if content == "another network":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif content != "no file":
        torch.save({"fc.weight": Trap()}, path)
    with pytest.raises(UserError, match=r"weights\.pth: not Inception's weights") as caught:
        quality.inception(str(path), COMPUTE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_without_torch_fidelity_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        quality.inception("weights.pth", COMPUTE)


def test_distance_is_nothing_for_copies_and_one_for_strangers():
    anchors = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    assert quality.distance([anchors[:4], anchors[4:]], anchors) == 0
    assert quality.distance([np.roll(anchors, 1, axis=0)], anchors) == pytest.approx(1)
    assert quality.distance([anchors], np.zeros_like(anchors)) is None  # which do not differ
    half = [anchors, np.roll(anchors, 1, axis=0)]  # two candidates of each: a copy and a stranger
    assert quality.distance(half, anchors) == pytest.approx(0.5**0.5)
