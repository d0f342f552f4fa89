"""The theory's two terms: against slow forms, in the paper's check in the plane, and as the command that is run."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.evaluation import quality, theory
from pipeline.params import reader
from pipeline.params.schema import Params
from tests.evaluation.test_quality import images
from tests.pipeline import clones
from tests.toys import COMPUTE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]  # its table is made once, in a minute

RADII, COUNTS = (0.4, 0.6, 0.8, 1.2, 1.6), (25, 50, 100, 200, 400, 800)


# --- the check in the plane: two Gaussians, and as augmentation a uniform shift within a disc


def points(n):
    """n points around (-1, 0) and (1, 0) by turns, variance 0.7, trimmed at 1.5."""
    random, found = np.random.default_rng(0), []
    while len(found) < n:
        shift = random.normal(0, np.sqrt(0.7), 2)
        if np.hypot(*shift) < 1.5:
            found.append(shift + np.array([2 * (len(found) % 2) - 1, 0]))
    return np.array(found)


@pytest.fixture(scope="module")
def plane():
    """(radius, n) -> lambda_3: connectivity of two classes."""
    line = np.arange(-4.4, 4.4, 0.08)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    found = {}
    for n in COUNTS:
        x = points(n)
        distance = np.linalg.norm(grid[None] - x[:, None], axis=2)
        for radius in RADII:
            a = (distance <= radius).astype(float)
            a /= a.sum(axis=1, keepdims=True)
            found[radius, n] = theory.spectrum(torch.from_numpy(a), torch.ones(n)).values[2]
    return found


def test_connectivity_grows_with_the_strength_of_augmentation_at_every_number_of_points(plane):
    for n in COUNTS:
        assert (np.diff([plane[radius, n] for radius in RADII]) > 0.01).all()


def test_connectivity_grows_with_the_number_of_points_where_augmentation_is_weak_alone(plane):
    for radius in (0.4, 0.6, 0.8):
        few, many = (np.mean([plane[radius, n] for n in part]) for part in (COUNTS[:3], COUNTS[3:]))
        assert many > few + 0.05
    few, many = (np.mean([plane[1.6, n] for n in part]) for part in (COUNTS[:3], COUNTS[3:]))
    assert many < 1.15 * few


def test_connectivity_in_the_plane_is_what_others_found(plane):
    """An independent computation with other draws gave these for 200 to 800 points."""
    expected = {0.4: (0.068, 0.070, 0.079), 0.6: (0.160, 0.156, 0.169), 0.8: (0.265, 0.257, 0.272)}
    for radius, values in expected.items():
        assert [plane[radius, n] for n in COUNTS[3:]] == pytest.approx(values, abs=0.035)


def test_labelling_error_in_the_plane_grows_with_strength_and_not_with_the_number_of_points():
    """Shifts drawn in the disc, sides as classes, the middle as a perfect oracle."""
    draw, alpha = np.random.default_rng(1), {}
    for n in (200, 800):
        x = points(n)
        for radius in RADII:
            views = []
            for _ in range(16):
                angle, length = draw.uniform(0, 2 * np.pi, n), radius * np.sqrt(draw.uniform(size=n))
                views.append(x[:, 0] + length * np.cos(angle))
            sides = [torch.tensor(np.stack([-v, v], axis=1)) for v in (*views, x[:, 0])]
            alpha[radius, n], flips = theory.labelling_error(sides[:-1], sides[-1], sides[-1].argmax(dim=1))
            assert alpha[radius, n] == flips  # the oracle errs on no point
    for n in (200, 800):
        assert [alpha[radius, n] for radius in RADII] == pytest.approx([4, 6, 8, 13, 17], abs=1.5)
    for radius in RADII:
        assert alpha[radius, 200] == pytest.approx(alpha[radius, 800], abs=2)


# --- the pieces


def slow_laplacian(a, p):
    """All eigenvalues of the normalised Laplacian of the views' own graph, M x M."""
    w = sum(p[i] * np.outer(a[i], a[i]) for i in range(len(a)))
    degree = w.sum(axis=1)
    return np.sort(np.linalg.eigvalsh(np.eye(len(w)) - w / np.sqrt(np.outer(degree, degree))))


def test_spectrum_is_that_of_the_views_graph():
    random = np.random.default_rng(0)
    a = random.random((6, 15)) * (random.random((6, 15)) < 0.7)
    a /= a.sum(axis=1, keepdims=True)
    p = random.random(6)
    found = theory.spectrum(torch.from_numpy(a), torch.from_numpy(p))
    assert found.values == pytest.approx(slow_laplacian(a, p / p.sum())[:6], abs=1e-9)
    assert (found.components, len(found.largest)) == (1, 6)


def test_components_are_counted_and_the_largest_is_judged_alone():
    blocks = [np.full((n, m), 1 / m) for n, m in ((3, 4), (1, 1), (2, 2))]
    a = np.zeros((6, 7))
    row = column = 0
    for block in blocks:
        a[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    order = np.random.default_rng(0).permutation(6)
    found = theory.spectrum(torch.from_numpy(a[order]), torch.ones(6))
    assert found.components == 3
    assert found.values == pytest.approx([0, 0, 0, 1, 1, 1], abs=1e-9)
    assert found.largest == pytest.approx([0, 1, 1], abs=1e-9)


def test_views_that_no_image_reaches_do_not_count():
    a = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    assert np.isfinite(theory.spectrum(a, torch.ones(2)).values).all()


def test_affinity_is_a_kernel_around_an_images_own_views():
    features = torch.randn(5 * 3, 4, generator=torch.Generator().manual_seed(0))
    found = theory.affinity(features, images=5, bandwidth=0.7)
    x = features.numpy()
    for i in range(5):
        row = []
        for view in x:
            distances = np.linalg.norm(x[3 * i : 3 * i + 3] - view, axis=1) / 0.7
            row.append(np.exp(-0.5 * distances**2)[distances < 3].sum())
        assert found[i].numpy() == pytest.approx(np.array(row) / np.sum(row), abs=1e-4)
    assert theory.bandwidth_of(torch.tensor([[0.0], [3.0], [9.0]])) == pytest.approx(1.0)  # 3, 3, 6; the median / 3


def test_images_that_are_copies_of_one_another_have_no_bandwidth():
    with pytest.raises(UserError, match="copies of one another"):
        theory.bandwidth_of(torch.tensor([[1.0], [1.0], [1.0], [5.0]]))


def test_labelling_error_is_what_views_get_wrong_beyond_the_images():
    def logits(*classes):
        return torch.nn.functional.one_hot(torch.tensor(classes), 3).float()

    labels, clean = torch.tensor([0, 1, 2, 0]), logits(0, 1, 2, 1)  # the oracle errs on the last
    views = [logits(0, 1, 2, 1), logits(1, 1, 0, 0)]
    alpha, flips = theory.labelling_error(views, clean, labels)
    assert alpha == pytest.approx(100 * ((1 / 4 + 2 / 4) / 2 - 1 / 4))
    assert flips == pytest.approx(100 * (0 + 3 / 4) / 2)


def test_arms_weigh_images_as_the_mixture_draws_them():
    found = theory.arms((4, 8, 8), ratio=2.0, weight=10.0)
    assert list(found) == ["real only", "N = 1", "N = 10", "N = 1, perfect"]
    for name, beta, others in (("real only", 1, None), ("N = 1", 1 / 3, 1), ("N = 10", 10 / 12, 1)):
        parts = found[name].split([4, 8, 8])
        assert found[name].sum() == pytest.approx(1)
        assert parts[0].tolist() == pytest.approx([beta / 4] * 4)
        if others:
            assert parts[1].tolist() == pytest.approx([(1 - beta) / 8] * 8)
        assert parts[2].sum() == 0
    perfect = found["N = 1, perfect"].split([4, 8, 8])
    assert (perfect[1].sum(), perfect[2].sum()) == (0, pytest.approx(2 / 3))
    assert list(theory.arms((4, 0, 0), 0.0, 10.0)) == ["real only"]
    assert list(theory.arms((4, 4, 0), 1.0, 1.0)) == ["real only", "N = 1"]


# --- all of it


@pytest.fixture
def params():
    committed = reader.load().model_dump()
    committed["compute"] = COMPUTE.model_dump()
    committed["quality"] |= {"steps": 25}
    return Params.model_validate(committed)


@pytest.fixture
def real():
    pixels, labels = images(400, 0)
    split = np.repeat(np.array([shards.TRAIN, shards.VALIDATION, shards.SPARE], np.uint8), [60, 40, 300])
    return shards.RealSet(pixels, labels, split, np.arange(400), ("across", "down", "none"), "bars", 40)


FITTING = {"dataset": {"train_size": 60}, "inflation": {"ratio": 0.0}}  # the data of `real`
STRENGTHS, ASKED = [0.0, 1.0, 4.0], (30, 4, 30)  # images, views, steps


def test_both_terms_of_real_images_grow_with_strength(params, real):
    generated, _ = images(60, 5)
    rows = theory.measure(params, real, generated, STRENGTHS, *ASKED)
    assert [row["arm"] for row in rows[:3]] == ["real only", "N = 1", "N = 1, perfect"]
    assert [row["beta"] for row in rows[:3]] == pytest.approx([1, 0.5, 0.5])
    alone = rows[::3]
    assert alone[0]["alpha"] == alone[0]["flips"] == 0
    assert alone[0]["lambda"] < alone[1]["lambda"]
    assert alone[2]["alpha"] > 5
    assert alone[0]["components"] > alone[2]["components"]
    assert all(1 <= row["largest"] <= 60 for row in rows)
    assert all(("lambda_largest" in row) == (row["largest"] > 3) for row in rows)  # three classes: the fourth value
    again = theory.measure(params, real, generated, STRENGTHS, *ASKED)
    assert again == rows


def test_without_spare_labels_connectivity_alone_is_measured(params, real, capsys):
    unlabelled = dataclasses.replace(real, labels=np.full(400, -1), classes=tuple(map(str, range(25))))
    rows = theory.measure(params, unlabelled, images(0, 5)[0], STRENGTHS, *ASKED)
    assert [row["arm"] for row in rows] == ["real only"] * 3
    assert not any("alpha" in row for row in rows)
    assert [("lambda_largest" in row) == (row["largest"] > 25) for row in rows] == [True] * 3
    assert "lambda_largest" not in rows[0]  # hardly any image touches another
    assert "alpha is not measured" in capsys.readouterr().err


def test_the_oracle_sees_spare_images_alone(params, real, monkeypatch):
    seen = []
    train = quality.classifier.train
    monkeypatch.setattr(quality.classifier, "train", lambda *words: seen.append((words[0], words[2])) or train(*words))
    theory.measure(params, real, images(0, 5)[0], [1.0], *ASKED)
    spare = real.part(shards.SPARE)[0]
    assert [what for what, _ in seen] == ["training the feature network", "training the labelling oracle"]
    assert all(np.array_equal(given, spare) for _, given in seen)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (([1.0], 3, 2, 2), "3 is not from 11 to"),
        (([1.0], None, 0, 2), "at least 1"),
        (([1.0, 5.0], None, 2, 2), "from 0 to 4"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked, says, base, monkeypatch):
    monkeypatch.chdir(base.clone)
    with pytest.raises(UserError, match=says):
        theory.of_the_run(*asked)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": {"train_size": 61}}, "data/real: holds 60 images, params.yaml asks for 61"),
        ({"inflation": {"ratio": 1.0}}, "data/generated/inflation: holds 0 images, params.yaml asks for 60"),
    ],
)
def test_data_of_other_parameters_are_refused(params, real, monkeypatch, changes, says):
    asked = {name: getattr(params, name).model_copy(update=of) for name, of in FITTING.items()}
    asked |= {name: asked[name].model_copy(update=of) for name, of in changes.items()}
    monkeypatch.setattr(theory.reader, "load", lambda: params.model_copy(update=asked))
    monkeypatch.setattr(theory.shards, "read_real", lambda folder: real)
    monkeypatch.setattr(theory.shards, "read_generated", lambda folder: images(0, 5)[0])
    with pytest.raises(UserError, match=says):
        theory.of_the_run([1.0], None, 1, 1)


def test_the_command_prints_a_table_and_writes_it(base, tmp_path):
    asked = ["--strengths", "1", "--images", "20", "--views", "2", "--steps", "2", "--out", str(tmp_path / "t.csv")]
    output = clones.run(base.clone, "python", "-m", "pipeline", "theory", *asked)
    assert "lambda_largest" in output
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == ",".join(theory.COLUMNS)
    assert len(lines) == 1 + 3  # real only, N = 1, perfect
    assert clones.run(base.clone, "git", "status", "--porcelain") == ""
