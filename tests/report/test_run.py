"""The run's part of the page, of whatever a run may have left: any kind of set, half of the files, or none."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core import files, outputs, store
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.networks import backbones
from pipeline.params import presets, reader
from pipeline.report import agreement, run, table
from tests.evaluation.test_linear_eval import NO_AUGMENTATION
from tests.pipeline.clones import ROOT


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes data/ of a run in a folder of its own, and goes there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arithmetic, "prepare", lambda compute: None)  # threads are this process's
    shutil.copy(ROOT / "params.yaml", tmp_path)

    def make(generated: int, channels: int = 1, validation: int = 20, labelled: bool = True) -> None:
        random, n = np.random.default_rng(0), 30 + validation
        images = random.integers(0, 256, (n + generated, 12, 12, channels), dtype=np.uint8)
        labels = np.arange(n) % 3 if labelled else np.full(n, -1)
        split = np.repeat(np.array([shards.TRAIN, shards.VALIDATION], np.uint8), [30, validation])
        real = shards.RealSet(images[:n], labels, split, np.arange(n), ("a", "b", "c"), "toy", 30)
        (tmp_path / "data/real").mkdir(parents=True)
        shards.write_real(tmp_path / "data/real", real)
        folder = tmp_path / "data/generated/inflation"
        folder.mkdir(parents=True)
        names = ["shard-00000.h5"] if generated else []
        for name in names:
            shards.write_arrays(folder / name, {"images": images[n:]}, {})
        store.seal(folder, names, {"n": generated, "shard_size": 50})
        mean = [0.5] * channels
        encoder = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), mean, mean, 0)
        backbones.save(encoder, tmp_path / "data/encoder", augment=NO_AUGMENTATION)
        files.write_json(tmp_path / "metrics/label_free.json", {"rankme": 12.5})
        files.write_json(tmp_path / "metrics/linear_eval.json", {"top1": 81.25} if labelled else {})

    return make


ONE = "{name: svhn, path: data/svhn, train_size: 9, validation_size: 9, test_size: null, seed: 0}"


def asked(transfer: str = "{}", labels: str = "[]") -> None:
    """Have params.yaml ask for further evaluations."""
    text = Path("params.yaml").read_text()
    assert "transfer: {}\n" in text
    assert "labels: []" in text
    Path("params.yaml").write_text(
        text.replace("transfer: {}\n", f"transfer: {transfer}\n").replace("labels: []", f"labels: {labels}")
    )


def neighbours(html: str) -> Image.Image:
    """The picture of nearest images, the last on the page."""
    return Image.open(io.BytesIO(base64.b64decode(re.findall(r"data:image/png;base64,([^\"]+)", html)[-1])))


def framed(html: str) -> bool:
    """Whether some neighbour is a generated image."""
    return (np.asarray(neighbours(html)) == run._FRAME).all(axis=2).any()


def test_a_run_with_generated_images_marks_them(made):
    made(generated=40)
    html = run.section()
    assert "rings: 40 generated ones" in html
    assert framed(html)
    assert "81.25" in html
    assert neighbours(html).height == 3 * (2 * 12 + 6)  # a row a class


def test_other_evaluations_are_among_all_numbers(made):
    made(generated=0)
    asked(transfer="{digits: " + ONE + "}", labels="[0.01]")
    files.write_json(Path("metrics/transfer/digits.json"), {"top1": 93.5})
    files.write_json(Path("metrics/finetune/0.01.json"), {"from_scratch": 61.25})
    html = run.section()
    for words in ("transfer/digits", "93.5", "finetune/0.01", "61.25"):
        assert words in html


def test_a_run_without_generated_images_has_a_map_and_neighbours_too(made):
    made(generated=0)
    html = run.section()
    assert "t-SNE" in html
    assert "rings" not in html
    assert not framed(html)


def test_a_set_without_labels_has_points_without_colours_and_measures_that_want_none(made):
    made(generated=10, labelled=False)
    html = run.section()
    assert ">no label<" in html
    assert "<b>12.50<small></small></b><span>rankme</span>" in html
    assert neighbours(html).height == run.QUERIES * (2 * 12 + 6)


def test_colour_images_are_shown_in_colour(made):
    made(generated=10, channels=3)
    shown = np.asarray(neighbours(run.section())).reshape(-1, 3)
    inner = shown[(shown != run._FRAME).any(axis=1)]
    assert (inner[:, 0] != inner[:, 1]).any()


def test_too_few_images_for_a_map_have_neighbours_all_the_same(made):
    made(generated=0, validation=1)
    html = run.section()
    assert "t-SNE" not in html
    assert neighbours(html).height == 2 * 12 + 6


def test_without_validation_images_the_page_says_why_no_features_are_drawn(made):
    made(generated=10, validation=0)
    html = run.section()
    assert "t-SNE" not in html
    assert "Not drawn here, data/real: has no validation images" in html
    assert "81.25" in html


def test_features_of_another_encoder_or_data_than_the_numbers_are_not_drawn(made):
    made(generated=10)
    seals = {name: files.read_json(Path(f"data/{name}.json")) for name in ("encoder/card", "real/manifest")}
    told = {
        "encoder_sha256": seals["encoder/card"]["sha256"],
        "real_sha256": seals["real/manifest"]["files"]["images.h5"],
    }
    protocol = Path("metrics/linear_eval.protocol.json")
    files.write_json(protocol, told)
    assert "t-SNE" in run.section()
    for name, folder in (("encoder_sha256", "data/encoder"), ("real_sha256", "data/real")):
        files.write_json(protocol, told | {name: "another"})
        html = run.section()
        assert f"not of one run: metrics/linear_eval.protocol.json: of another {folder} than the one here" in html
        assert "t-SNE" not in html
        assert "81.25" not in html
        assert "one run's numbers over another's images" in html.unescape()


def test_each_number_has_its_unit_its_interval_and_what_to_compare_it_with(made):
    made(generated=0)
    numbers = {"top1": 80.0, "top1_labelled": 85.0, "top1_10pct": 70.0, "top1_1pct": 60.0, "clsp": 79.0, "knn": 75.0}
    files.write_json(Path("metrics/linear_eval.json"), numbers | {"untrained": 50.0, "pixels": 78.0})
    told = {"train_labels": 30, "fixed_labels": 60, "few_labels": {"10pct": 6, "1pct": 3}, "test_images": 100}
    over = {"points": 2.0, "low": -1.5, "high": 5.5}
    files.write_json(Path("metrics/linear_eval.protocol.json"), told | {"over_pixels": over, "over_untrained": over})
    html = run.section()
    first = html[html.index("<b>80.00") :].partition("</div>")[0]
    assert "<b>80.00<small>%</small></b><span>encoder, labels of 30 images</span>" in first
    assert "<i>71.1 to 86.7</i>" in first  # Wilson: (80 + z^2/2 -+ z sqrt(80 * 20 / 100 + z^2/4)) / (100 + z^2)
    assert "<i>raw pixels 78.0, untrained encoder 50.0</i>" in first
    pixels = html[html.index("<b>78.00") :].partition("</div>")[0]
    assert "encoder: +2.0 points (-1.5 to +5.5)" in pixels
    assert "raw pixels 78.0" not in html[html.index("<b>85.00") :].partition("</div>")[0]  # of other labels


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics/quality.protocol.json", {"generated_fingerprint": "x"}, "of another data/generated/inflation"),
        ("metrics/finetune/0.1.protocol.json", {"encoder_sha256": "x"}, "of another data/encoder"),
        ("metrics/prepare.json", {"train": 30, "validation": 21}, "counts other images than data/real"),
        ("metrics/generate.json", {"images": 9}, "counts other images than data/generated/inflation"),
        ("plots/grid.csv", "ratio,strength,top1\n1,2,81.3\n", "another top1 than metrics/linear_eval.json"),
        ("plots/pretrain.csv", "step,loss\n1,3.7002\n", "another loss than metrics/pretrain.json"),
        ("plots/generator.csv", "step,loss\n", "another loss than metrics/generator.json"),
        ("plots/validation.csv", "step,rankme\n1,6\n", "another rankme than metrics/pretrain.json"),
    ],
)
def test_what_does_not_belong_together_is_told_a_file_each(made, name, content, said):
    made(generated=10)
    asked(labels="[0.1]")
    files.write_json(Path("metrics/pretrain.json"), {"loss": 3.7, "rankme": 5.0})
    files.write_json(Path("metrics/generator.json"), {"loss": 0.5})
    files.write_json(Path("metrics/prepare.json"), {"train": 30, "validation": 20})
    for curve, last in (("grid", "top1\n1,81.25"), ("pretrain", "loss\n1,3.70004"), ("validation", "rankme\n1,5")):
        files.write_text(Path(f"plots/{curve}.csv"), f"step,{last}\n")
    assert agreement.faults(reader.load()) == []
    (files.write_text if name.endswith("csv") else files.write_json)(Path(name), content)
    (fault,) = agreement.faults(reader.load())
    assert fault.where == name
    assert said in str(fault)
    assert f"not of one run: {fault}" in run.section()


def test_many_classes_have_their_most_frequent_confusions_on_the_page(made):
    made(generated=0)
    rows = [f"c{i},c{i + 1},{i}" for i in range(40, 0, -1)]
    files.write_text(Path("plots/confusion.csv"), "\n".join(["actual,predicted,count", *rows, ""]))
    html = run.section()
    assert "Test images: the 30 most frequent confusions of the probe" in html
    assert ">c40 as c41<" in html
    assert ">c10 as c11<" not in html
    pairs = [f"c{i},c{j},{7 * (i == j)}" for i in range(3) for j in range(3)]
    files.write_text(Path("plots/confusion.csv"), "\n".join(["actual,predicted,count", *pairs, ""]))
    assert "actual classes and those that the probe predicts" in run.section()


def test_pictures_of_no_generated_images_are_not_shown_as_such(made):
    made(generated=10)
    for name in ("generated", "closest"):
        outputs.contact_sheet(Path(f"plots/{name}.png"), [])
    files.write_json(Path("metrics/generate.json"), {"images": 10})
    files.write_json(Path("metrics/quality.json"), {"judged": 0})
    html = run.section()
    assert "Generated images above real ones" in html
    assert "nearest to a train image" not in html


def test_numbers_by_older_code_are_said_to_be(made):
    made(generated=0)
    few = {"few_labels": {"1pct": 1, "10pct": 2}, "train_labels": 30, "fixed_labels": 77, "test_images": 100}
    files.write_json(Path("metrics/linear_eval.protocol.json"), few)
    files.write_json(Path("metrics/linear_eval.json"), dict.fromkeys(table.words_for(few), 50.0))
    html = run.section()
    assert "<span>encoder, labels of 77 images</span>" in html
    assert "older code" not in html
    files.write_json(Path("metrics/linear_eval.json"), {"top1": 81.25, "top1_10k": 83.5})
    assert "metrics/linear_eval.json: made by older code - run `dvc repro`" in run.section()


def test_what_is_not_there_is_said_or_left_out(made):
    made(generated=10)
    shutil.rmtree("data/generated")
    html = run.section()
    assert "Not drawn here, data/generated/inflation: not made yet" in html
    assert "81.25" in html
    shutil.rmtree("metrics")
    assert run.section() == ""


def test_files_of_a_transfer_that_is_asked_for_no_longer_are_nobodys_fault(made):
    """DVC leaves them when a stage of a list is gone, and no `dvc repro` would take them away."""
    made(generated=10)
    files.write_json(Path("metrics/transfer/digits.protocol.json"), {"encoder_sha256": "of before"})
    files.write_json(Path("metrics/transfer/digits.json"), {"top1": 12.375})
    html = run.section()
    assert "81.25" in html
    assert "12.375" not in html
    asked(transfer="{digits: " + ONE + "}")
    assert "metrics/transfer/digits.protocol.json: of another data/encoder" in run.section()


def test_counts_are_shown_whole(made):
    made(generated=0)
    files.write_json(Path("metrics/pretrain.json"), {"views": 1_281_167, "beta": 0.123456789})
    html = run.section()
    assert ">1,281,167<" in html
    assert ">0.123457<" in html


def test_a_run_of_a_gpu_is_shown_where_there_is_none(made):
    made(generated=0)
    presets.write({("compute", "device"): "cuda"})
    assert "t-SNE" in run.section()


def test_parameters_that_cannot_be_read_leave_the_numbers(made):
    made(generated=0)
    Path("params.yaml").write_text("pretrain: [")
    html = run.section()
    assert "81.25" in html
    assert "Not drawn here, params.yaml" in html
