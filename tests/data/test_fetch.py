"""Published sets; the network stays out of the tests."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import pipeline
from pipeline.core.errors import UserError
from pipeline.data import fetch
from pipeline.params import presets

REPOSITORY = Path(pipeline.__file__).parent.parent


def test_every_set_of_the_presets_can_be_fetched():
    named = {presets.load(name).get(("dataset", "name")) for name in presets.names()}
    assert {"cifar10", "tiny-imagenet"} < named
    assert named - {None, "folder", "fashion-mnist"} <= set(fetch.SETS)  # which is committed


def test_a_set_goes_to_its_folder_and_the_path_for_the_parameters_comes_back(tmp_path, monkeypatch):
    monkeypatch.setitem(fetch.SETS, "cifar10", lambda folder: folder / "inside")
    assert fetch.fetch("cifar10", tmp_path) == tmp_path / "cifar10" / "inside"
    assert (tmp_path / "cifar10").is_dir()


def test_presets_look_where_a_fetched_set_lies(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", lambda *_, **__: None)
    fetched = []
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *words: fetched.append(words))
    for kind in ("CIFAR10", "CIFAR100", "STL10"):
        monkeypatch.setattr(f"torchvision.datasets.{kind}", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    from pipeline.params import presets

    for name in fetch.SETS.keys() - {"digits"}:
        composed = presets.compose(["adainf-cifar10", *([] if name == "cifar10" else [name])])
        assert fetch.fetch(name) == Path(composed["dataset", "path"])
    assert [words[2] for words in fetched] == ["train_32x32.mat", "test_32x32.mat"]
    assert all(len(words[3]) == 32 for words in fetched)  # an MD5, which download_url checks


def test_digits_are_scikit_learn_s_as_pictures_by_class(tmp_path):
    folder = fetch.fetch("digits", tmp_path)
    digits = load_digits()
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    assert [path.parent.name for path in paths] == [str(label) for label in digits.target]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert np.abs(pixels / 255 * 16 - digits.images).max() < 0.05
    assert len(np.unique(pixels)) == 17
    before = [path.stat().st_mtime_ns for path in paths]
    paths[5].unlink()
    fetch.fetch("digits", tmp_path)
    after = [path.stat().st_mtime_ns for path in paths]
    assert [i for i, (one, two) in enumerate(zip(before, after, strict=True)) if one != two] == [5]


def test_digits_without_scikit_learn_are_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        fetch.fetch("digits", tmp_path)


FAULTS = [URLError("no route"), TimeoutError("too slow"), RuntimeError("File not found or corrupted.")]


@pytest.mark.fault(29)
@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_of_the_network_or_a_checksum_is_one_line(tmp_path, monkeypatch, fault):
    def broken(folder):
        raise fault

    monkeypatch.setitem(fetch.SETS, "cifar10", broken)
    with pytest.raises(UserError) as caught:
        fetch.fetch("cifar10", tmp_path)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)


def test_an_unknown_set_is_refused_with_those_there_are(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    line = [sys.executable, "-m", "pipeline", "fetch", "imagenet"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "no set 'imagenet' to fetch - there are cifar10, cifar100, stl10, svhn, tiny-imagenet, digits\n"
    )
    assert not (tmp_path / "data").exists()
