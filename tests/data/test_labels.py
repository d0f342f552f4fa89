"""A table of labels beside pictures: who gets which label, what is told, and what is refused with its line."""

import unicodedata

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data import datasets, folders
from pipeline.data.shards import LABELLED, TEST, TRAIN, VALIDATION
from tests.data.test_folders import asked, faults, put


def table(root, text, encoding="utf-8"):
    (root / "labels.csv").write_bytes(text.encode(encoding))


def listed(root, **changes):
    listing = folders.look(asked(root, labels="labels.csv", **changes))
    assert not listing.faults
    return {path.relative_to(root).as_posix(): label for path, label in listing.train.items()}, listing


def of_ten(root, header="file,label"):
    """Ten pictures in two folders that are no classes, and a table of all of them: even ones cats, odd ones dogs."""
    put(root / "a", 5)
    put(root / "b", 5)
    lines = [f"{folder}/{i}.png,{('cat', 'dog')[i % 2]}" for folder in "ab" for i in range(5)]
    table(root, "\n".join([header, *lines]) + "\n")
    return lines


@pytest.mark.parametrize("header", ["file,label", "Image,kind", "anything,else"])
def test_every_picture_has_the_label_of_its_line_whatever_its_folder(tmp_path, header):
    lines = of_ten(tmp_path, header)
    found, listing = listed(tmp_path)
    assert found == dict(line.split(",") for line in lines)
    assert listing.told() == "2 classes: cat 6, dog 4; 10 pictures"


def test_the_files_column_may_come_later_and_labels_may_hold_commas_quotes_and_letters_of_any_kind(tmp_path):
    put(tmp_path, 6)
    rows = ['"cat, striped",0.png', '"a ""big"" dog",1.png', "größe,2.png", "größe,3.png", "猫,4.png", "猫,5.png"]
    table(tmp_path, "\r\n".join(["label,file", *rows]), encoding="utf-8-sig")
    found, _ = listed(tmp_path)
    assert found["0.png"] == "cat, striped"
    assert found["1.png"] == 'a "big" dog'
    assert found["4.png"] == found["5.png"] == "猫"


def test_a_column_is_chosen_by_its_name_and_must_be_where_there_are_several(tmp_path):
    put(tmp_path, 6)
    table(tmp_path, "file,size,kind\n" + "".join(f"{i}.png,{i % 3},{'xy'[i % 2]}\n" for i in range(6)))
    assert set(listed(tmp_path, label_column="kind")[0].values()) == {"x", "y"}
    assert set(listed(tmp_path, label_column="size")[0].values()) == {"0", "1", "2"}
    (said,) = faults(tmp_path, labels="labels.csv")
    assert "has columns size, kind, and dataset.label_column names none - name one: dataset.label_column=size" in said
    (said,) = faults(tmp_path, labels="labels.csv", label_column="colour")
    assert "no column of labels 'colour', but size, kind" in said
    (said,) = faults(tmp_path, labels="labels.csv", label_column="file")
    assert "no column of labels 'file'" in said


def test_names_may_lack_folder_and_ending_where_that_is_clear(tmp_path):
    put(tmp_path / "deep/er", 4)
    put(tmp_path / "other", 2)
    table(tmp_path, "id,label\n2,cat\n3.png,dog\ndeep\\er\\0.png,cat\n./other/1,dog\n")
    found, _ = listed(tmp_path)
    assert {name: label for name, label in found.items() if label} == {
        "deep/er/2.png": "cat",
        "deep/er/3.png": "dog",
        "deep/er/0.png": "cat",
        "other/1.png": "dog",
    }


@pytest.mark.parametrize("between", [";", "\t"])
def test_columns_may_be_parted_by_semicolons_or_tabs_as_spreadsheets_do(tmp_path, between):
    put(tmp_path, 4)
    rows = (("file", "label"), ("0.png", "cat, grey"), ("1.png", "dog"), ("2.png", "dog"), ("3.png", "cat, grey"))
    table(tmp_path, "\n".join(map(between.join, rows)) + "\n")
    assert list(listed(tmp_path)[0].values()) == ["cat, grey", "dog", "dog", "cat, grey"]


def test_a_whole_name_wins_over_a_shortened_one(tmp_path):
    put(tmp_path, 3)
    put(tmp_path / "a", 3)
    table(tmp_path, "file,label\n1.png,cat\na/1.png,dog\n0.png,cat\n")
    found, _ = listed(tmp_path)
    assert (found["1.png"], found["a/1.png"], found["a/0.png"]) == ("cat", "dog", "")


def test_a_name_that_may_be_several_pictures_is_refused(tmp_path):
    put(tmp_path / "a", 3)
    put(tmp_path / "b", 3)
    table(tmp_path, "file,label\n1,cat\na/0.png,dog\nb/0.png,cat\n")
    said, *_ = faults(tmp_path, labels="labels.csv")
    assert "'1' may be a/1.png, b/1.png - name files relative to" in said


def test_names_of_macs_and_of_others_are_the_same(tmp_path):
    (tmp_path / (unicodedata.normalize("NFD", "grün") + ".png")).write_bytes(b"")
    put(tmp_path, 5)
    table(tmp_path, "file,label\ngrün.png,cat\n" + "".join(f"{i}.png,dog\n" for i in range(5)))
    assert "cat" in listed(tmp_path)[0].values()


def test_what_has_no_label_and_what_is_not_there_is_told_with_counts(tmp_path):
    put(tmp_path, 12)
    rows = [f"{i}.png,{'cat' if i < 5 else 'dog'}" for i in range(8)] + ["8.png,", "77.png,cat", "78.png,dog"]
    table(tmp_path, "\n".join(["file,label", *rows]))
    told = listed(tmp_path, train_size=6, labelled_size=2)[1].told()
    ends = "12 pictures, 4 without a label, 2 of the table's files missing (77.png, 78.png)"
    assert told == f"2 classes: cat 5, dog 3; {ends}"


def test_sizes_of_what_needs_labels_are_held_against_the_labelled_pictures(tmp_path):
    put(tmp_path, 40)
    table(tmp_path, "file,label\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(10)))
    (said,) = faults(tmp_path, labels="labels.csv", train_size=20, labelled_size=5)  # 4 of 10 are for the test
    assert "labelled_size 5 + validation_size 2 > 6 images with labels" in said
    folders.read(asked(tmp_path, labels="labels.csv", train_size=34, labelled_size=4))


def test_test_and_validation_images_all_have_labels_and_train_images_are_of_both_kinds(tmp_path):
    for i in range(60):
        Image.new("L", (8, 8), 4 * i).save(tmp_path / f"{i}.png")
    table(tmp_path, "file,label\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(30)))
    sizes = {"test_size": 10, "validation_size": 8, "train_size": 30, "labelled_size": 10}
    real = datasets.load(asked(tmp_path, labels="labels.csv", channels=1, **sizes))
    named = {part: real.part(part)[1] for part in (TEST, VALIDATION, LABELLED, TRAIN)}
    assert len(named[TEST]) == 10
    assert len(named[VALIDATION]) == 8
    assert all((named[part] >= 0).all() for part in (TEST, VALIDATION, LABELLED))
    assert set(named[TRAIN]) == {-1, 0, 1}
    for part in (TEST, VALIDATION, TRAIN):
        images, labels = real.part(part)
        picture = images[:, 0, 0, 0] // 4
        assert labels.tolist() == [-1 if i >= 30 else i % 2 for i in picture]


def test_a_test_folder_whose_pictures_have_no_label_is_refused(tmp_path):
    put(tmp_path / "train", 8)
    put(tmp_path / "test", 4)
    table(tmp_path, "file,label\n" + "".join(f"train/{i}.png,{'xy'[i % 2]}\n" for i in range(8)) + "test/0.png,x\n")
    said, *_ = faults(tmp_path, labels="labels.csv", test_size=None)
    assert "3 pictures of test/ have no label - give them one, or take them out of test/" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no labels"),
        ("file,label\n", "holds no labels"),
        ("file\n0.png\n", "has one column, 'file'"),
        ("file label\n0.png cat\n", "has one column, 'file label'"),
        ("file,label,label\n0.png,cat,dog\n", "two columns named 'label'"),
        ("file,label\n0.png,cat\n1.png,dog,7\n2.png\n", "line 3 has 3 columns and the header 2, line 4 has 1"),
        ("file,label\n0.png,cat\n1.png,dog\n0.png,dog\n", "lines 2 and 4 give '0.png' two labels"),
        ("file,label\n0.png,cat\n0,dog\n1.png,dog\n", "gives 0.png two labels, 'cat' and 'dog'"),
        ("file,label\nx/0.png,cat\nx/1.png,dog\n", "in its column 'file' the first file is 'x/0.png'"),
        ("id,label,kind\n7,cat,a\n8,dog,b\n", "has columns label, kind, and dataset.label_column names none"),
        ("0.png,cat\n1.png,dog\n2.png,dog\n", "has no header: its first line is of the picture 0.png"),
        ('file,label\n0.png,"cat\n', "not readable as a CSV"),
        ("file,label\n" + "".join(f"{i}.png,cat\n" for i in range(8)), "all 8 pictures are of one class, 'cat'"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, text, says):
    put(tmp_path, 8)
    table(tmp_path, text)
    assert any(says in said for said in faults(tmp_path, labels="labels.csv"))


def test_another_encoding_and_a_missing_table_are_refused(tmp_path):
    put(tmp_path, 8)
    (said,) = faults(tmp_path, labels="labels.csv")
    assert "labels.csv" in said
    assert "not found - a table of labels lies in the folder" in said
    table(tmp_path, "file,label\n0.png,größe\n", encoding="latin-1")
    (said,) = faults(tmp_path, labels="labels.csv")
    assert "not readable as a CSV" in said
    assert "UTF-8" in said


def test_the_numbers_that_pandas_puts_first_are_no_labels(tmp_path):
    lines = [f"{k},{line}" for k, line in enumerate(of_ten(tmp_path))]
    table(tmp_path, "\n".join([",file,label", *lines]) + "\n")
    named, _ = listed(tmp_path)
    assert named["a/0.png"] == "cat"
    assert named["b/1.png"] == "dog"


def test_an_index_of_pandas_is_not_taken_for_files_whose_names_are_numbers(tmp_path):
    put(tmp_path, 6)
    rows = [f"{k},{5 - k}.png,{'xy'[k % 2]}" for k in range(6)]
    table(tmp_path, "\n".join([",picture,kind", *rows]) + "\n")
    named, _ = listed(tmp_path)
    assert (named["5.png"], named["4.png"]) == ("x", "y")
    table(tmp_path, "\n".join([",kind", *(f"{k}.png,{'xy'[k % 2]}" for k in range(6))]) + "\n")  # an index of files
    assert listed(tmp_path)[0]["1.png"] == "y"


def test_a_line_that_is_there_twice_with_the_same_label_is_no_harm(tmp_path):
    of_ten(tmp_path)
    text = (tmp_path / "labels.csv").read_text()
    table(tmp_path, text + text.partition("\n")[2])
    assert len(set(listed(tmp_path)[0].values())) == 2


def test_errors_are_the_users(tmp_path):
    put(tmp_path, 8)
    table(tmp_path, "file\n")
    with pytest.raises(UserError) as caught:
        folders.look(asked(tmp_path, labels="labels.csv"))
    assert caught.value.code == 2


def test_a_label_of_two_lines_is_refused_with_its_line(tmp_path):
    put(tmp_path, 3)
    table(tmp_path, 'file,label\n0.png,cat\n1.png,"cat\nbig"\n2.png,dog\n')
    with pytest.raises(UserError, match=r"line 4 has a label with a line break or a control character, 'cat\\nbig'"):
        folders.read(asked(tmp_path, labels="labels.csv"))
