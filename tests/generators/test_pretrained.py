"""Pretrained generators: which folders and repositories are accepted, and what is refused before it is kept."""

import json
import multiprocessing
import os
import sys
import time

import huggingface_hub
import pytest
import torch

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.generators import ddpm, diffusers_folder, pretrained
from pipeline.params.schema import Generator
from tests.toys import ddpm_params, forked

REVISION = "0123456789abcdef0123456789abcdef01234567"


def source(**changes):
    given = {"kind": "ddpm", "source": "train", "path": "data/pretrained"}
    given |= {"channel_order": None, "hub": None, "revision": None, "sha256": None}
    return Generator(**given | changes)


def pretrained_folder(folder):
    ddpm.save(ddpm.unet(ddpm_params(), 8, 1), ddpm.scheduler(ddpm_params()), folder)
    return folder


def test_a_local_generator_gives_its_files_if_it_fits_the_data(tmp_path):
    folder = pretrained_folder(tmp_path / "given")
    params = source(source="pretrained", path=str(folder))
    assert pretrained.load(params, (8, 8), 1) == diffusers_folder.paths_of(folder)
    for size, channels in (((8, 8), 3), ((28, 28), 1)):
        with pytest.raises(UserError, match="makes images of") as caught:
            pretrained.load(params, size, channels)
        assert str(folder) in str(caught.value)


def test_a_repository_in_the_local_cache_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--someone--something" / "snapshots" / REVISION
    pretrained_folder(snapshot)

    def unreachable(*arguments, **named):
        raise AssertionError("asked the network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    params = source(source="pretrained", hub="someone/something", revision=REVISION)
    found = pretrained.load(params, (8, 8), 1)
    assert found["unet/config.json"] == snapshot / "unet" / "config.json"
    next(snapshot.rglob("*.safetensors")).unlink()  # as if another program had cached the configuration alone
    with pytest.raises(AssertionError, match="asked the network"):
        pretrained.load(params, (8, 8), 1)


@pytest.mark.parametrize("changes", [{"block_out_channels": 5}, {"in_channels": [1]}, {"sample_size": "a"}], ids=str)
def test_a_configuration_of_odd_values_is_refused_in_a_line(tmp_path, changes):
    folder = pretrained_folder(tmp_path / "given")
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as caught:
        pretrained.load(source(source="pretrained", path=str(folder)), (8, 8), 1)
    assert caught.value.code == 2
    assert len(str(caught.value).splitlines()) == 1


def test_weights_that_make_no_finite_image_are_refused_before_they_are_kept(tmp_path):
    """One flipped bit of an exponent; found by 1,500 edits of such a folder."""
    folder = pretrained_folder(tmp_path / "given")
    model, noise = ddpm.load(folder)
    with torch.no_grad():
        model.conv_in.weight[0, 0, 0, 0] = float("inf")
    ddpm.save(model, noise, folder)
    with pytest.raises(UserError, match=rf"{folder}: image 0 has values that are not finite - use another") as caught:
        pretrained.load(source(source="pretrained", path=str(folder)), (8, 8), 1)
    assert caught.value.code == 2


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("CUDA out of memory")], ids=str)
def test_a_lack_of_memory_is_no_fault_of_the_model(tmp_path, monkeypatch, fault):
    def sample(*_):
        raise fault

    monkeypatch.setattr(ddpm, "sample", sample)
    with pytest.raises(type(fault)):
        pretrained.try_out(None, None, "somewhere")


@pytest.mark.fault(23)
def test_weights_of_another_digest_than_the_stated_are_refused_unread(tmp_path, monkeypatch):
    folder = pretrained_folder(tmp_path / "given")
    digest = files.sha256(folder / diffusers_folder.WEIGHTS)
    given = {"source": "pretrained", "path": str(folder)}
    assert pretrained.load(source(**given, sha256=digest), (8, 8), 1) == diffusers_folder.paths_of(folder)
    monkeypatch.setattr(ddpm, "load", None)
    with pytest.raises(UserError, match=f"safetensors: its sha256 is {digest}, not generator.sha256") as caught:
        pretrained.load(source(**given, sha256="0" * 64), (8, 8), 1)
    assert caught.value.code == 2


@pytest.mark.fault(23)
def test_a_repositorys_name_that_is_none_is_refused():
    with pytest.raises(UserError, match="not a repository's name") as caught:
        pretrained.from_hub("a/b/c", REVISION)
    assert caught.value.code == 2


def ask_the_hub(settings, told):
    """What a process with these variables is told, and after how many seconds."""
    os.environ.update(settings)
    for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        del sys.modules[name]  # it reads them when it is imported
    start = time.monotonic()
    try:
        pretrained.from_hub("someone/something", REVISION)
    except UserError as fault:
        told.send((time.monotonic() - start, fault.code, str(fault)))


@pytest.mark.fault(23)
@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_refuses_clearly_within_ten_seconds(tmp_path, offline):
    """With retries it would be half a minute."""
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    settings |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    heard, told = multiprocessing.Pipe(duplex=False)
    forked(ask_the_hub, settings, told).join()
    seconds, code, line = heard.recv()
    assert seconds < 10
    assert code == 2
    assert f"someone/something@{REVISION}: not in the local cache, and the hub cannot be reached" in line
    assert "generator.path" in line
