"""A folder of pictures by its names alone: what was understood is said, and all that is wrong at once."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data import datasets, folders, shards
from pipeline.data import pictures as reading
from pipeline.params.schema import Dataset

SIZES = {"image_size": 8, "channels": 3, "test_size": 4, "train_size": 4, "validation_size": 2, "labelled_size": 4}
SIZES |= {"resize": "crop", "labels": None, "label_column": None}


def asked(root, **changes):
    return Dataset(name="folder", path=str(root), **SIZES | {"spare_size": 0, "ceiling_size": 0, "seed": 0} | changes)


def pictures(root, **count):
    """So many files in each folder, which are opened by nobody here."""
    for folder, n in count.items():
        put(root / folder.replace("__", "/"), n)


def put(folder, n=5):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"{i}.png").write_bytes(b"no picture")


def faults(root, **changes):
    with pytest.raises(UserError) as caught:
        folders.read(asked(root, **changes))
    assert caught.value.code == 2
    return [str(fault) for fault in caught.value.faults]


def test_what_was_understood_is_said_with_classes_counts_and_what_is_passed_over(tmp_path):
    pictures(tmp_path, train__hat=5, train__dress=6, test__hat=2, test__dress=2, validation__hat=3)
    put(tmp_path / "test/.hidden")
    listing = folders.read(asked(tmp_path, test_size=None))
    said = "2 classes: dress 8, hat 7; 15 pictures (11 in train/, 4 in test/), 3 in validation/ passed over"
    assert listing.told() == said


def test_of_many_classes_the_first_are_named_and_the_extremes(tmp_path):
    for k in range(12):
        put(tmp_path / f"c{k:02}", 2 + k)
    told = folders.read(asked(tmp_path)).told()
    assert told.startswith("12 classes: c00 2, c01 3, ")
    assert told.endswith("c09 11, ... (2 to 13 a class); 90 pictures")


def test_a_folder_without_class_folders_says_why_there_are_no_labels(tmp_path):
    put(tmp_path, 12)
    (tmp_path / "labels.csv").write_text("0.png,cat\n")
    said = "no classes, since no picture lies in a class folder; 12 pictures"
    assert folders.read(asked(tmp_path)).told() == said


def test_links_from_one_part_of_a_set_to_pictures_beside_it_are_read(tmp_path):
    """As some sets make their splits: all pictures in one folder, train/ and test/ of links; the folder is counted."""
    put(tmp_path / "all", 12)
    for i in range(10):
        link = tmp_path / ("train" if i < 6 else "test") / ("cat" if i % 2 else "dog") / f"{i}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / f"all/{i}.png")
    told = folders.read(asked(tmp_path, test_size=None)).told()
    assert told == "2 classes: cat 5, dog 5; 10 pictures (6 in train/, 4 in test/), 12 in all/ passed over"


@pytest.mark.parametrize("parts", [False, True])
def test_one_class_is_refused_with_the_folder_that_may_be_meant(tmp_path, parts):
    """A detection set: all in JPEGImages. The sizes that do not fit are named with it."""
    how = {"test_size": None} if parts else {}
    for part in ("train", "test") if parts else (".",):
        put(tmp_path / part / "JPEGImages", 120)
    first, *sizes = faults(tmp_path, train_size=500, **how)
    assert "all 120 pictures are of one class, 'JPEGImages'" in first
    assert f"{tmp_path}/{'*/' if parts else ''}JPEGImages" in first
    assert [size.partition(": ")[2] for size in sizes] == [
        f"train_size 500 + validation_size 2 > {120 if parts else 116} images"
    ]


def test_a_folder_one_level_too_high_is_refused(tmp_path):
    for outer in ("Dataset", "Examples"):
        for inner in ("dress", "hat", "shoe"):
            put(tmp_path / outer / inner)
    (found,) = faults(tmp_path)
    assert "Dataset, Examples: the same folders lie in each, so those may be the classes" in found
    assert f"let dataset.path lead to {tmp_path / 'Dataset'}" in found


@pytest.mark.parametrize("names", [("train", "val"), ("Images", "masks")])
def test_parts_of_a_set_are_no_classes(tmp_path, names):
    for name in names:
        put(tmp_path / name / "cat")
        put(tmp_path / name / "dog")
    (found,) = faults(tmp_path)
    assert f"{names[0]}, {names[1]}: parts of a set, taken for classes" in found


def test_a_flat_test_folder_beside_class_folders_says_what_to_do(tmp_path):
    pictures(tmp_path, train__cat=5, train__dog=5, test=4)
    (said,) = faults(tmp_path, test_size=None)
    assert "test: has no class folders, and train/ has" in said
    assert f"let dataset.path lead to {tmp_path / 'train'} and set dataset.test_size" in said


def test_pictures_in_one_folder_beside_a_table_are_sent_to_the_table(tmp_path):
    put(tmp_path / "images", 12)
    (tmp_path / "labels.csv").write_text("file,label\nimages/0.png,cat\n")
    (said,) = faults(tmp_path)
    assert f"leaven dataset {tmp_path} --labels labels.csv" in said


def test_a_class_for_each_picture_is_no_class(tmp_path):
    for k in range(9):
        put(tmp_path / f"patient{k}", 1 if k else 2)
    (said,) = faults(tmp_path)
    what = "8 of 9 classes have one picture - nothing is learned of such a class: "
    assert f"{what}put them into the folders of real classes" in said
    put(tmp_path / "patient1", 2)  # seven of nine still
    assert "7 of 9 classes have one picture" in faults(tmp_path)[0]
    for k in range(2, 5):
        put(tmp_path / f"patient{k}", 2)  # four of nine: rare ones, and a survey warns of them
    assert len(folders.read(asked(tmp_path)).classes) == 9


def test_a_class_whose_pictures_are_of_a_phone_is_not_passed_over(tmp_path):
    pictures(tmp_path, cat=8, dog=8)
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird/IMG_1.HEIC").write_bytes(b"heic")
    (said,) = faults(tmp_path)
    assert "class folders without a picture that can be read: bird - save them as one of .png, " in said
    (tmp_path / "bird/IMG_1.HEIC").rename(tmp_path / "bird/notes.txt")  # of which a line is said, and no more
    assert folders.read(asked(tmp_path)).classes == ["cat", "dog"]


def test_a_name_that_is_no_text_is_refused_before_dvc_ends_in_a_traceback(tmp_path):
    pictures(tmp_path, cat=8, dog=8)
    (tmp_path / "cat/0.png").rename(Path(os.fsdecode(os.fsencode(tmp_path / "cat/Bild_") + b"\x84.png")))
    (said,) = faults(tmp_path)
    assert "1 pictures have names that are no UTF-8, as DVC wants: 'Bild_\\udc84.png'" in said


def test_folders_within_class_folders_are_of_the_class(tmp_path):
    """A folder a patient; a class named as a part is; folders of equal names in some classes."""
    for name in ("cat", "train"):
        for patient in range(3):
            put(tmp_path / name / f"{name}-{patient}", 2)
        put(tmp_path / name / "more", 2)
    assert folders.read(asked(tmp_path)).told() == "2 classes: cat 8, train 8; 16 pictures"


def test_class_folders_that_look_equal_on_a_screen_are_one_class(tmp_path):
    """One in each of Unicode's forms, as a Mac and a Linux machine write it; one with a blank at its end."""
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for part, names in {"train": (composed, "tea"), "test": (decomposed, "tea ")}.items():
        for name in names:
            put(tmp_path / part / name)
    listing = folders.read(asked(tmp_path, test_size=None))
    assert listing.classes == [composed, "tea"]
    assert list(listing.test.values()) == [composed] * 5 + ["tea"] * 5


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    pictures(tmp_path, train__cat=9, train__dog=9, test__fox=1, test__wolf=1)
    put(tmp_path / "train", 2)
    put(tmp_path / "train/a\nb", 1)
    found = faults(tmp_path, test_size=None, train_size=30, labelled_size=40, spare_size=3)
    for words in (
        r"class folders 'a\nb' have characters that do not print",
        "2 pictures lie beside class folders: 0.png, 1.png - put every picture",
        "fox, wolf: no class of train/ - put pictures of it into train/ too",
        "train_size 30 + validation_size 2 > 21 images",
        "labelled_size 40 + validation_size 2 > 21 images",
    ):
        assert sum(words.replace("\\n", "\\\\n") in line or words in line for line in found) == 1, (words, found)
    assert len(found) == 5


def test_no_picture_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
    pictures(tmp_path, cat=9, dog=9)
    assert len(folders.read(asked(tmp_path)).train) == 18


def photographs(folder, n=6):
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(folder / f"{i}.png")


def test_links_to_folders_that_another_walk_entered_are_read(tmp_path, monkeypatch):
    """One walk of all enters what links lead to once; of train/ alone it is the link that leads there."""
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    root = tmp_path / "set"
    photographs(root / "all/cat")
    (root / "train").mkdir()
    (root / "train/cat").symlink_to(root / "all/cat")
    paths = sorted((root / "train/cat").iterdir())
    images = datasets.decoded(asked(root), paths)
    assert images[:, 0, 0].tolist() == [[i, 2 * i, 3 * i] for i in range(6)]


def test_a_stopped_reading_goes_on_where_it_was_and_damage_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(shards, "PART", 2)
    root = tmp_path / "set"
    photographs(root)
    paths, read, seen = sorted(root.iterdir()), reading.read_each, []

    def of(some, *given):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.extend(some)
        return read(some, *given)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_each", of)
        with pytest.raises(KeyboardInterrupt):
            datasets.decoded(asked(root), paths)
        assert seen == paths[:4]
        seen[:] = []
        found = datasets.decoded(asked(root), paths)
        assert seen == paths[4:]
    assert found[:, 0, 0].tolist() == [[i, 2 * i, 3 * i] for i in range(6)]
    for damaged in (paths[0], paths[5]):
        damaged.write_bytes(damaged.read_bytes()[:40])
    for _ in range(2):  # nothing that was not read is kept
        with pytest.raises(UserError) as told:
            datasets.decoded(asked(root), paths)
        assert [fault.where for fault in told.value.faults] == [str(paths[0]), str(paths[5])]


def test_a_picture_that_changes_while_the_set_is_read_leaves_no_finished_work(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    root = tmp_path / "set"
    photographs(root)
    paths, read = sorted(root.iterdir()), reading.read_each

    def meanwhile(*given):
        Image.new("RGB", (8, 8), (200, 0, 0)).save(root / "2.png")
        return read(*given)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_each", meanwhile)
        with pytest.raises(UserError, match="changed while it was read - run the same command again"):
            datasets.decoded(asked(root), paths)
    assert datasets.decoded(asked(root), paths)[2, 0, 0].tolist() == [200, 0, 0]
    Image.new("RGB", (8, 8), (2, 4, 6)).save(root / "2.png")  # as it was at first
    assert datasets.decoded(asked(root), paths)[2, 0, 0].tolist() == [2, 4, 6]
