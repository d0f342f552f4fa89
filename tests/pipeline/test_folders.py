"""A folder as a phone, a microscope and a dataset's site give it: one refusal that names everything, then a run."""

import json
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.pipeline import clones

EACH = 40


def stripes(i, white):
    """24 x 32 grey levels up to `white`: across for even i, down for odd."""
    level = np.where(np.arange(24 if i % 2 else 32) % 6 < 3, 0.2, 0.7)
    field = np.tile(level[:, None], (1, 32)) if i % 2 else np.tile(level, (24, 1))
    return (white * (field + np.random.default_rng(i).uniform(0, 0.3, (24, 32)))).round()


def phone(root):
    """Photographs of two frames, turned by EXIF, with broken EXIF, under an old name; films and files of a Mac."""
    folder = root / "Camera"
    folder.mkdir(parents=True)
    for i in range(3 * EACH):
        photo = Image.fromarray(stripes(i, 255).astype(np.uint8)).convert("RGB")
        path = folder / f"IMG_{i:04}.jpg"
        if i % 4 == 0:
            photo.save(path, "MPO", save_all=True, append_images=[photo.resize((8, 6))])
        elif i % 4 == 1:
            exif = Image.Exif()
            exif[0x0112] = 6
            photo.save(path, exif=exif)
        elif i % 4 == 2:
            photo.save(path.with_suffix(".png"), exif=b"abcdefgh")
        else:
            photo.save(path.with_suffix(".jfif"), "JPEG")
    (folder / "VID_0001.mp4").write_bytes(b"film")
    (folder / "._IMG_0001.jpg").write_bytes(b"of a Mac")
    return {
        "dataset__channels": "3",
        "augment__form": "colour",
        "dataset__test_size": "50",
    }


def microscope(root):
    """Twelve bits in sixteen, each with an overview; classes in folders, a table beside them."""
    for i in range(3 * EACH):
        path = root / ("treated" if i % 2 else "contrôle") / f"well {i:04}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        plane = Image.fromarray(stripes(i, 4095).astype(np.uint16))
        overview = plane.resize((8, 6))
        overview.encoderinfo = {"tiffinfo": {254: 1}}
        plane.save(path, save_all=True, append_images=[overview])
    (root / "plate.csv").write_text("well,drug\n")
    return {"dataset__channels": "1", "dataset__test_size": "50"}


def site(root):
    """train/, test/ and a part that is not asked for, packed on another system; sheets of labels."""
    for part, n, form in (("train", 3 * EACH, "NFC"), ("test", EACH, "NFD"), ("validation", 10, "NFC")):
        for i in range(n):
            path = root / part / unicodedata.normalize(form, "café" if i % 2 else "thé") / f"{part}-{i}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stripes(i + 1000 * len(part), 255).astype(np.uint8)).save(path, quality=90)
        (root / part / "labels.csv").write_text("file,class\n")
    (root / "__MACOSX/train").mkdir(parents=True)
    (root / "__MACOSX/train/._labels.csv").write_bytes(b"of a Mac")
    return {"dataset__channels": "1", "dataset__test_size": "null"}


@pytest.mark.slow
@pytest.mark.parametrize("given", [phone, microscope, site])
def test_a_folder_as_it_comes_is_refused_at_most_once_and_then_runs(small, tmp_path, given):
    clone = clones.copy(small, tmp_path / "clone")
    values = given(clone / "data/mine")
    mine = {"dataset__name": "folder", "dataset__path": "data/mine", "dataset__resize": "crop"}
    clones.edit(clone, **mine, dataset__image_size="16", **values)
    clones.edit(clone, generator__source="none", inflation__ratio="0.0", quality__images="20")
    refused = clones.run(clone, "dvc", "repro", code=None)
    lines = [line for line in refused.splitlines() if line.startswith("check: ")]
    assert len(re.findall(r"what would fit: ", refused)) == 1, refused
    named = dict(re.findall(r"-S (\S+)=(\d+)", lines[-1]))
    if given is phone:
        assert "all 120 pictures are of one class, 'Camera'" in lines[0]
        clones.edit(clone, dataset__path="data/mine/Camera")
    clones.edit(clone, **{name.replace(".", "__"): value for name, value in named.items()})
    output = clones.run(clone, "dvc", "repro")
    prepared, judged = (json.loads((clone / f"metrics/{name}.json").read_text()) for name in ("prepare", "linear_eval"))
    if given is phone:
        assert "no classes, since no picture lies in a class folder; 120 pictures" in output
        assert prepared["classes"] == 0
        return
    if given is microscope:
        assert "2 classes: contrôle 60, treated 60; 120 pictures" in output
        assert "4,095" in output  # what the sixteen bits hold
    if given is site:
        told = "2 classes: café 80, thé 80; 160 pictures (120 in train/, 40 in test/), 10 in validation/ passed over"
        assert told in output
    assert prepared["classes"] == 2
    assert prepared["passed_over"] == (10 if given is site else 0)
    assert judged["pixels"] > 80  # stripes are told from pixels


@pytest.mark.slow
def test_two_commands_take_a_folder_with_a_table_to_a_verdict(small, tmp_path):
    """Odd names, unequal classes, some pictures without a label, some lines without a picture."""
    clone, mine = clones.copy(small, tmp_path / "clone"), tmp_path / "clone/data/my own, größe"
    lines = ["name,file,kind"]
    for i in range(90):
        path = mine / f"reel {i % 3}" / f"bild, {i:03} ü.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes(i if i < 50 else 2 * i, 255).astype(np.uint8)).save(path, quality=95)
        if i % 9:
            lines.append(f'x{i},"{path.relative_to(mine).as_posix()}",{"down" if i < 50 and i % 2 else "across"}')
    lines.append("lost,nowhere.jpg,down")
    (mine / "sheet.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    clones.edit(clone, generator__source="none", inflation__ratio="0.0", quality__images="0")
    said = clones.run(clone, "python", "-m", "pipeline", "dataset", mine, "--labels", "sheet.csv", code=2)
    assert "has columns name, kind, and dataset.label_column names none" in said
    words = ["dataset", mine, "--labels", "sheet.csv", "--label-column", "kind", "--size", "16", "--resize", "pad"]
    before = (clone / "params.yaml").read_text()
    dry = clones.run(clone, "python", "-m", "pipeline", *words, "--dry-run")
    assert (clone / "params.yaml").read_text() == before
    said = clones.run(clone, "python", "-m", "pipeline", *words)
    proposed = [line for line in said.splitlines() if line.startswith("  ")]
    assert proposed == [line for line in dry.splitlines() if line.startswith("  ")]
    assert "  dataset.resize: pad" in proposed
    assert "90 pictures, 10 without a label, 1 of the table's files missing (nowhere.jpg)" in said
    assert "classes are unequal" in said
    assert Image.open(clone / "dataset.png").size[1] > 0
    output = clones.run(clone, "dvc", "repro")
    assert "reading pictures" not in output  # they are in the store
    prepared, judged = (json.loads((clone / f"metrics/{name}.json").read_text()) for name in ("prepare", "linear_eval"))
    assert prepared["classes"] == 2
    assert {"balanced_accuracy", "macro_f1"} <= set(judged)
