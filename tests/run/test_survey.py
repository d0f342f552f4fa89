"""A folder of pictures before it is anybody's parameters: what is said of it, and that what is proposed runs."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data import datasets
from pipeline.params import presets, reader
from pipeline.run import remarks, survey
from pipeline.run.survey import Wish

pytestmark = pytest.mark.usefixtures("store")


def draw(folder, n, size=(40, 30), grey=False, seed=0):
    """So many pictures of noise, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng([seed, *folder.name.encode()])
    for i in range(n):
        pixels = numbers.integers(0, 256, (size[1], size[0]) if grey else (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def looked(folder, **wish):
    return survey.survey(folder, Wish(**wish), reader.load())


def with_values(found):
    """The committed parameters with what was proposed."""
    values = reader.load().model_dump()
    for (section, *path), value in found.values.items():
        inner = values[section]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    params, faults = reader.validate(values)
    assert not faults
    return params


@pytest.mark.parametrize("own", [True, False])
def test_what_is_proposed_are_parameters_that_the_folder_fills(tmp_path, own):
    for name, n in (("cat", 60), ("dog", 45)):
        draw(tmp_path / "mine" / ("train" if own else "") / name, n)
        if own:
            draw(tmp_path / "mine/test" / name, 10, seed=1)
    found = looked(tmp_path / "mine")
    params = with_values(found)
    real = datasets.load(params.dataset)
    assert (params.dataset.test_size is None) == own
    assert real.images.shape[1:] == (28, 28, 3)  # the largest multiple of 4 within 30 pixels
    assert params.augment.form == "colour"
    d = params.dataset
    assert d.train_size + d.validation_size + (d.test_size or 0) == 105
    assert d.validation_size == 17
    assert params.quality.images <= d.validation_size // 2


def test_pictures_are_decoded_once(tmp_path, monkeypatch):
    draw(tmp_path / "mine/cat", 20)
    draw(tmp_path / "mine/dog", 20)
    found = looked(tmp_path / "mine")
    monkeypatch.setattr(datasets.pictures, "read_each", lambda *given: pytest.fail("read again"))
    params = with_values(found).dataset
    for changed in ({}, {"seed": 7}, {"train_size": params.train_size - 2}):
        datasets.load(params.model_copy(update=changed))
    rows = [
        f"{path.relative_to(tmp_path / 'mine')},x{i % 2}\n" for i, path in enumerate((tmp_path / "mine").rglob("*.png"))
    ]
    for table in (rows, rows[:-3]):
        (tmp_path / "mine/labels.csv").write_text("".join(["file,label\n", *table]))
        datasets.load(params.model_copy(update={"labels": "labels.csv", "labelled_size": 10}))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        datasets.load(params.model_copy(update={"resize": "pad"}))


def test_a_changed_picture_is_read_anew(tmp_path):
    draw(tmp_path / "mine/cat", 20)
    draw(tmp_path / "mine/dog", 20)
    params = with_values(looked(tmp_path / "mine")).dataset
    before = datasets.load(params).images
    Image.new("RGB", (40, 30), "red").save(tmp_path / "mine/cat/003.png")
    after = datasets.load(params).images
    assert (after == [[[255, 0, 0]]]).all(axis=(1, 2, 3)).sum() == 1
    assert not (before == [[[255, 0, 0]]]).all(axis=(1, 2, 3)).any()


def test_grey_pictures_are_read_as_grey_and_a_wish_wins(tmp_path):
    draw(tmp_path / "mine/cat", 20, size=(100, 90), grey=True)
    draw(tmp_path / "mine/dog", 20, size=(70, 80), grey=True)
    found = looked(tmp_path / "mine")
    assert (found.values["dataset", "channels"], found.values["augment", "form"]) == (1, "grey")
    assert found.values["dataset", "image_size"] == 64
    assert "files: 40 PNG; grey; 70 to 100 pixels wide, 80 to 90 high, the shorter side 80 at the median" in found.words
    wished = looked(tmp_path / "mine", size=32, channels=3, resize="stretch").values
    assert [wished["dataset", name] for name in ("image_size", "channels", "resize")] == [32, 3, "stretch"]
    assert wished["augment", "form"] == "colour"


def test_copies_unequal_classes_and_small_parts_are_told(tmp_path):
    draw(tmp_path / "mine/cat", 60)
    draw(tmp_path / "mine/dog", 20)
    (tmp_path / "mine/dog/again.png").write_bytes((tmp_path / "mine/cat/000.png").read_bytes())
    said = "\n".join(looked(tmp_path / "mine").words)
    assert "2 classes: cat 60, dog 21; 81 pictures" in said
    assert "copies: 2 pictures equal another at this size" in said
    assert "classes are unequal, 21 to 60 pictures" in said
    assert "warning: 13 test pictures: two encoders less than about 31 points apart look alike" in said
    assert "too few to trust the quality stage's numbers" in said


def test_how_pictures_are_shared_out_is_told_with_those_that_nobody_takes(tmp_path):
    draw(tmp_path / "mine/cat", 60)
    draw(tmp_path / "mine/dog", 60)
    before = reader.load()
    small = before.model_copy(update={"dataset": before.dataset.model_copy(update={"train_size": 30, "spare_size": 0})})
    small = small.model_copy(update={"dataset": small.dataset.model_copy(update={"labelled_size": 40})})
    said = survey.survey(tmp_path / "mine", Wish(), small).words
    shares = "20 to test, 20 to choose by, 30 to learn from, 10 with labels alone, 40 unused"
    assert f"shared out: {shares}: a larger dataset.train_size takes them" in said
    assert "shared out: 20 to test, 20 to choose by, 80 to learn from" in looked(tmp_path / "mine").words


def test_a_picture_of_train_that_is_one_of_test_is_refused_where_it_is_looked_at(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            draw(tmp_path / "mine" / part / name, 20, seed=len(part))
    twin = (tmp_path / "mine/train/cat/000.png").read_bytes()
    (tmp_path / "mine/test/cat/x.png").write_bytes(twin)
    with pytest.raises(
        UserError, match=r"1 images to learn from are test images too: 'train/cat/000\.png' = 'test/cat/x"
    ):
        looked(tmp_path / "mine")


def test_where_all_test_pictures_are_copies_that_is_the_reason_which_is_told(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            draw(tmp_path / "mine" / part / name, 20)
    with pytest.raises(UserError, match="40 images to learn from are test images too"):
        looked(tmp_path / "mine")


def test_tiny_pictures_coarse_levels_and_classes_that_are_none_are_warned_of(tmp_path):
    for name in ("cat", "dog", "Unlabelled"):
        draw(tmp_path / "mine" / name, 20, size=(100, 100))
    draw(tmp_path / "mine/cat/tiny", 1, size=(3, 50))
    said = looked(tmp_path / "mine", size=100).words
    assert "warning: under 50 pixels a side and enlarged to 100: 000.png (1 in all)" in said
    assert any(line.startswith("warning: 'Unlabelled' is taken for a class") for line in said)
    slow = "25 pixels a side in the UNet's coarsest level, as 100 halves no more often: slow"
    assert f"warning: {slow}; another --size, as 96, halves further" in said
    assert not any("coarsest" in line for line in looked(tmp_path / "mine", size=96).words)


def test_sizes_of_another_folder_are_kept_and_that_is_told(tmp_path):
    for name in ("cat", "dog"):
        draw(tmp_path / "mine" / name, 20)
    params = reader.load()
    assert not any("are kept" in line for line in survey.survey(tmp_path / "mine", Wish(), params).words)
    other = params.model_copy(
        update={"dataset": params.dataset.model_copy(update={"name": "folder", "path": "data/a"})}
    )
    words = survey.survey(tmp_path / "mine", Wish(), other).words
    assert any("of data/a stand in params.yaml and are kept where they fit" in line for line in words)


def test_classes_of_one_or_two_pictures_are_warned_of(tmp_path):
    for name, n in {"cat": 30, "dog": 30, "bird": 1, "fish": 2}.items():
        draw(tmp_path / "mine" / name, n)
    said = looked(tmp_path / "mine").words
    assert "warning: 2 of 4 classes have fewer than 3 pictures: too few to learn and to test" in said


def test_where_all_classes_are_rare_that_is_warned_of_too():
    said = "warning: 8 of 8 classes have fewer than 3 pictures: too few to learn and to test"
    assert remarks.unequal(np.repeat(np.arange(8), 2)) == [said]
    assert remarks.unequal(np.full(5, -1)) == []


def test_pictures_that_git_would_commit_are_warned_of(tmp_path, monkeypatch):
    draw(tmp_path / "mine/cat", 20)
    draw(tmp_path / "mine/dog", 20)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    params = reader.load()
    monkeypatch.chdir(tmp_path)
    warning = "git does not ignore mine, so a run would commit its pictures"
    assert any(warning in word for word in survey.survey(Path("mine"), Wish(), params).words)
    (tmp_path / ".gitignore").write_text("/mine\n")
    assert not any("git" in word for word in survey.survey(Path("mine"), Wish(), params).words)


def test_a_table_of_labels_is_named_from_the_folder_or_from_here(tmp_path, monkeypatch):
    draw(tmp_path / "my own", 30)
    lines = [f"{i:03}.png,{'cat' if i < 10 else 'dog' if i < 22 else ''}" for i in range(30)]
    hint = f"if labels.csv has the labels: leaven dataset '{tmp_path}/my own' --labels labels.csv"
    assert hint not in looked(tmp_path / "my own").words
    (tmp_path / "my own/labels.csv").write_text("\n".join(["file,label", *lines]))
    assert hint in looked(tmp_path / "my own").words
    for name in ("labels.csv", str(tmp_path / "my own/labels.csv")):
        found = looked(tmp_path / "my own", labels=name)
        assert hint not in found.words
        assert found.values["dataset", "labels"] == "labels.csv"
        d = with_values(found).dataset
        assert (d.test_size, d.validation_size) == (3, 3)  # sixths of the 22 with labels
        assert d.train_size == 24
        assert d.labelled_size == 16
        datasets.load(d)
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(UserError, match="lies outside the folder"):
        looked(tmp_path / "my own", labels=str(tmp_path / "labels.csv"))


def test_fewer_labels_than_there_are_can_be_asked_for(tmp_path):
    draw(tmp_path / "mine/cat", 60)
    draw(tmp_path / "mine/dog", 60)
    found = looked(tmp_path / "mine", few=30)
    d = with_values(found).dataset
    assert (d.test_size, d.validation_size, d.labelled_size, d.train_size) == (10, 10, 10, 100)
    assert (found.test, found.labelled) == (10, True)
    datasets.load(d)
    assert with_values(looked(tmp_path / "mine", few=120)).dataset.test_size == 20


def test_the_sheet_shows_some_of_every_class_under_its_name_and_their_number():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    shown = survey.some(images, np.array([0] * 30 + [1] * 3 + [-1] * 7), ["cat", "dog"])
    assert [name for name, _ in shown] == ["cat (30)", "dog (3)", "no label (7)"]
    cats, dogs, others = ([int(image[0, 0, 0]) for image in part] for _, part in shown)
    assert (cats[0], cats[-1], len(cats)) == (0, 29, 12)
    assert dogs == [30, 31, 32]
    assert others == list(range(33, 40))
    ((name, part),) = survey.some(images, np.full(40, -1), [""])
    assert (name, len(part)) == ("pictures (40)", 12)


@pytest.mark.parametrize(("size", "says"), [(7, "dataset.image_size"), (5000, "dataset.image_size")])
def test_a_wish_that_cannot_be_is_refused_and_nothing_is_written(tmp_path, monkeypatch, size, says):
    draw(tmp_path / "mine/cat", 20)
    draw(tmp_path / "mine/dog", 20)
    monkeypatch.setattr(presets, "write", lambda *given: pytest.fail("written"))
    monkeypatch.setattr(survey.outputs, "contact_sheet", lambda *given, **more: None)
    with pytest.raises(UserError, match=says) as caught:
        survey.propose(tmp_path / "mine", Wish(size=size), write=True)
    assert caught.value.code == 2


def test_a_published_set_is_its_own_size_in_its_own_place(monkeypatch):
    values = survey.named("fashion-mnist", reader.load())
    assert values["dataset", "path"] == "data/FashionMNIST"
    assert values["dataset", "image_size"] is None
    assert values["augment", "form"] == "grey"
    with pytest.raises(UserError, match="leaven fetch svhn"):
        survey.named("svhn", reader.load())
    with pytest.raises(UserError, match="leave the options out"):
        survey.propose(Path("cifar10"), Wish(size=32), write=False)


def test_a_set_that_is_unpacked_a_folder_deeper_is_found_there(tmp_path, monkeypatch):
    params = reader.load()
    monkeypatch.chdir(tmp_path)
    Path("data/tiny-imagenet/tiny-imagenet-200").mkdir(parents=True)
    assert survey.named("tiny-imagenet", params)["dataset", "path"] == "data/tiny-imagenet/tiny-imagenet-200"


def test_what_hinders_is_told_before_anything_is_proposed(tmp_path):
    draw(tmp_path / "mine/cat", 6)
    with pytest.raises(UserError, match="one class, 'cat'"):
        looked(tmp_path / "mine")
    draw(tmp_path / "mine/dog", 6)
    (tmp_path / "mine/dog/000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"dog/000\.png: not readable as a picture"):
        looked(tmp_path / "mine")
    with pytest.raises(UserError, match="no such folder - name a folder of pictures, or one of"):
        looked(tmp_path / "other")
    with pytest.raises(UserError, match=r"cifar-10: no such folder - did you mean cifar10"):
        looked(Path("cifar-10"))


def test_what_is_proposed_is_written_and_can_be_read_back(tmp_path):
    draw(tmp_path / "mine/cat", 20)
    draw(tmp_path / "mine/dog", 20)
    path = tmp_path / "params.yaml"
    path.write_bytes(reader.FILE.read_bytes())
    found = looked(tmp_path / "mine")
    presets.write(found.values, path)
    assert reader.load(path) == with_values(found)


@pytest.mark.parametrize(
    ("size", "channels", "stem", "levels", "strength"),
    [
        (28, 1, "3x3", [16, 32, 64], 2.0),  # 28, 14, 7 pixels: the default's
        (32, 3, "3x3", [16, 32, 64], 1.0),
        (30, 3, "3x3", [16, 32], 1.0),  # 15 cannot be halved
        (64, 3, "3x3-pool", [16, 32, 64], 1.0),  # 64, 32, 16
        (96, 1, "7x7", [16, 32, 64, 64], 2.0),  # 12
        (128, 3, "7x7", [16, 32, 64, 64], 1.0),  # 16
        (224, 3, "7x7", [16, 32, 64, 64, 64], 1.0),  # 14
    ],
)
def test_networks_and_augmentation_go_with_the_images_size_and_colour(tmp_path, size, channels, stem, levels, strength):
    for name in ("cat", "dog"):
        draw(tmp_path / "mine" / name, 20)
    params = with_values(looked(tmp_path / "mine", size=size, channels=channels))
    assert params.pretrain.backbone.stem == params.conditioned.encoder.backbone.stem == stem
    assert params.ddpm.channels == params.conditioned.channels == levels
    assert params.augment.strength == strength


def test_another_backbone_and_a_weaker_augmentation_are_left_as_they_are(tmp_path):
    for name in ("cat", "dog"):
        draw(tmp_path / "mine" / name, 20)
    params = reader.load()
    vit = {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 4, **dict.fromkeys(("stem", "block", "blocks"))}
    pretrain = params.pretrain.model_copy(update={"backbone": params.pretrain.backbone.model_copy(update=vit)})
    augment = params.augment.model_copy(update={"strength": 0.5})
    given = params.model_copy(update={"pretrain": pretrain, "augment": augment})
    found = survey.survey(tmp_path / "mine", Wish(size=64), given).values
    assert ("pretrain", "backbone", "stem") not in found
    assert found["augment", "strength"] == 0.5
