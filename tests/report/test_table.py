import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.core import files, outputs
from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.report import table


def test_twenty_metrics_are_the_most_and_one_more_leaves_no_file(tmp_path):
    outputs.metrics(tmp_path / "twenty.json", {f"m{i}": i for i in range(20)})
    with pytest.raises(ValueError, match="at most twenty"):
        outputs.metrics(tmp_path / "more.json", {f"m{i}": i for i in range(21)})
    assert [path.name for path in tmp_path.iterdir()] == ["twenty.json"]


def test_metrics_are_sorted_and_have_four_decimals_and_counts_stay_whole(tmp_path):
    outputs.metrics(tmp_path / "m.json", {"b": 1 / 3, "a": 7, "c": np.float64(2 / 3)})
    text = (tmp_path / "m.json").read_text()
    assert json.loads(text) == {"a": 7, "b": 0.3333, "c": 0.6667}
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


def test_what_could_not_be_measured_is_no_metric(tmp_path):
    outputs.metrics(tmp_path / "m.json", {"nearest": None, "judged": 0})
    assert json.loads((tmp_path / "m.json").read_text()) == {"judged": 0}


def test_a_metric_that_is_not_finite_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        outputs.metrics(tmp_path / "m.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_table_has_its_columns_in_order_six_digits_and_empty_cells(tmp_path):
    rows = [{"step": 10, "loss": 1 / 3}, {"loss": 1234567.0, "step": 2_000_000, "knn": 1e-7, "unseen": 1}]
    outputs.table(tmp_path / "t.csv", ["step", "loss", "knn"], rows)
    assert (tmp_path / "t.csv").read_bytes() == b"step,loss,knn\n10,0.333333,\n2000000,1.23457e+06,1e-07\n"
    with open(tmp_path / "t.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "2000000"]


def test_a_name_with_a_comma_is_one_cell(tmp_path):
    outputs.table(tmp_path / "t.csv", ["class", "top1"], [{"class": "cat, tabby", "top1": 50.0}])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"class": "cat, tabby", "top1": "50"}]


def test_a_table_without_rows_keeps_its_header(tmp_path):
    outputs.table(tmp_path / "t.csv", ["a", "b"], [])
    assert (tmp_path / "t.csv").read_text() == "a,b\n"


def images(n, channels, size=5):
    return np.random.default_rng(n).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_stands_enlarged_at_its_place(tmp_path, channels):
    many = images(7, channels)
    outputs.contact_sheet(tmp_path / "p.png", [("first", many[:2]), ("second", many[2:])], columns=3, rows=2)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (2 * (2 * 12 + 26), 3 * 12 + 2, 3)
    for i, part in enumerate((many[:2], many[2:])):
        for j, image in enumerate(part):
            top, left = i * 50 + 26 + j // 3 * 12, 2 + j % 3 * 12
            tile = sheet[top : top + 10, left : left + 10]
            assert np.array_equal(tile[::2, ::2], np.broadcast_to(image, (5, 5, 3)))
            assert np.array_equal(tile[1::2, 1::2], np.broadcast_to(image, (5, 5, 3)))


def test_no_more_images_are_drawn_than_there_is_room_for(tmp_path):
    for name, n in (("full", 6), ("more", 9)):
        outputs.contact_sheet(
            tmp_path / f"{name}.png", [("a set", np.concatenate([images(6, 1), images(3, 1)])[:n])], 3, 2
        )
    assert (tmp_path / "full.png").read_bytes() == (tmp_path / "more.png").read_bytes()


def test_a_set_without_images_is_a_title_over_blank_paper(tmp_path):
    empty = np.zeros((0, 0, 0, 0), np.uint8)
    outputs.contact_sheet(tmp_path / "p.png", [("generated (0)", empty), ("real", images(3, 1))], columns=16, rows=2)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    band = len(sheet) // 2
    assert (sheet[:26] < 128).any()  # the title
    assert (sheet[26:band] == 255).all()
    assert (sheet[band + 26 :] < 255).any()


def test_the_same_images_make_the_same_png_bytes(tmp_path):
    for name in ("a", "b"):
        outputs.contact_sheet(tmp_path / f"{name}.png", [("generated", images(4, 3)), ("real", images(5, 3))])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


ROOT = Path(pipeline.__file__).parent.parent
PARAMS = (ROOT / "params.yaml").read_text(encoding="utf-8")


def test_the_summary_names_the_numbers_of_the_metrics_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = "{name: svhn, path: data/svhn, train_size: 9, validation_size: 9, test_size: null, seed: 0}"
    text = PARAMS.replace("transfer: {}\n", f"transfer: {{svhn: {one}}}\n").replace("labels: []", "labels: [0.01, 1]")
    (tmp_path / "params.yaml").write_text(text)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    files.write_json(tmp_path / "metrics/transfer/svhn.json", {"top1": 61.5, "pixels": 25.75})
    files.write_json(tmp_path / "metrics/transfer/other.json", {"top1": 11.5, "pixels": 25.75})  # of earlier parameters
    files.write_json(tmp_path / "metrics/finetune/1.json", {"top1": 88.25, "from_scratch": 87.5})
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    params = reader.load().model_dump()
    before = params | {"dataset": params["dataset"] | {"seed": 5}}  # which the encoder's stage is not given
    for stage, seconds, record in (
        ("prepare", 1.25, before),
        ("pretrain", 98.5, before),
        ("transfer@svhn", 2.0, params | {"transfer": {}}),
        ("linear_eval", 3.0, {"of": "older code"}),
    ):
        files.write_json(tmp_path / f"store/records/{stage}.json", {"seconds": seconds, "params": record})
    judged = {"top1": 81.234, "top1_labelled": 83.5, "knn": 78.1, "untrained": 70.2, "pixels": 79.9}
    judged |= {"top1_10pct": 77.5, "top1_1pct": 66.25, "clsp": 80.75, "online": 79.5, "offline": 82.5}
    for name, content in {
        "pretrain": {"beta": 0.5, "real_passes": 12.34},
        "linear_eval": judged | {"top1_low": 80.1, "top1_high": 82.2},
        "linear_eval.protocol": {
            "train_labels": 5000,
            "fixed_labels": 10_000,
            "few_labels": {"10pct": 1000, "1pct": 100},
            "online": "last",
            "offline": "100 epochs",
        },
    }.items():
        (tmp_path / "metrics" / f"{name}.json").write_text(json.dumps(content))
    lines = [" ".join(line.split()) for line in table.summary().splitlines()]
    for expected in (
        "prepare 1.2 s (with other parameters)",
        "pretrain 98.5 s",
        "transfer@svhn 2.0 s (with other parameters)",
        "linear_eval 3.0 s (with other parameters)",
        "all stages 104.8 s",
        "real share beta 0.500, 12.3 passes over the real images",
        "encoder, labels of 5,000 images 81.23",
        "encoder, labels of 10,000 images 83.50",
        "encoder, labels of 1,000 images 77.50",
        "encoder, labels of 100 images 66.25",
        "encoder, CLSP's protocol 80.75",
        "encoder, layer trained beside it 79.50",
        "encoder, solo-learn's offline protocol 82.50",
        "encoder, weighted kNN 78.10",
        "untrained encoder 70.20",
        "raw pixels 79.90",
        "95 % interval of the first: 80.10 to 82.20",
    ):
        assert expected in lines
    assert lines[-2:] == [
        "transfer to svhn 61.50 (pixels: 25.75)",
        "fine-tuned, share 1 of labels 88.25 (from scratch: 87.50)",
    ]

    files.write_json(tmp_path / "data/encoder/card.json", {"sha256": "b"})
    files.write_json(tmp_path / "metrics/finetune/1.protocol.json", {"encoder_sha256": "a"})
    last = table.summary().splitlines()[-1]
    assert last.startswith("  not of one run: metrics/finetune/1.protocol.json: of another data/encoder than the one")
    files.write_json(tmp_path / "metrics/linear_eval.json", {"top1": 81.234, "top1_10k": 83.5})
    with pytest.raises(UserError, match=r"linear_eval\.json: made by older code - run `dvc repro`"):
        table.summary()


def test_the_summary_of_a_set_without_labels_has_the_measures_that_want_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    files.write_json(tmp_path / "metrics/pretrain.json", {"beta": 1.0, "real_passes": 2.0})
    files.write_json(tmp_path / "metrics/linear_eval.json", {})
    files.write_json(tmp_path / "metrics/label_free.json", {"rankme": 12.5, "lidar": 30.25})
    lines = [" ".join(line.split()) for line in table.summary().splitlines()]
    assert lines[-2:] == ["lidar 30.250", "rankme 12.500"]


def test_the_command_tells_a_fault_of_params_yaml_in_a_line(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.replace("threads: 2", "threads: two"))
    line = [sys.executable, "-m", "pipeline", "table"]
    environment = os.environ | {"PYTHONPATH": str(Path(pipeline.__file__).parent.parent)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "compute.threads: must be a whole number" in done.stderr


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_stand_above_one_another_with_their_words_below(tmp_path, channels):
    """Images of 5 pixels are enlarged to 65; a group is a title of 26, two images and a gap of 4, and words of 20."""
    upper, lower = images(3, channels), 255 - images(3, channels)
    groups = [("first", upper, lower, ["0.10", "0.20", "0.30"]), ("second", lower, upper, ["1", "2", "3"])]
    outputs.pairs(tmp_path / "p.png", groups)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert len(sheet) == 2 * 180
    for i, (_, one, other, _) in enumerate(groups):
        for j in range(3):
            left, top = 2 + 71 * j, 180 * i + 26
            for image, down in ((one[j], top), (other[j], top + 65)):
                tile = np.broadcast_to(image, (5, 5, 3)).repeat(13, axis=0).repeat(13, axis=1)
                assert np.array_equal(sheet[down : down + 65, left : left + 65], tile)
            assert (sheet[top + 134 : top + 154, left : left + 65] < 128).any()  # words
    outputs.pairs(tmp_path / "none.png", [])
    assert Image.open(tmp_path / "none.png").size[0] > 0
