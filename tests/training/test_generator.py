import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.generators import ddpm
from pipeline.params.schema import Generator
from pipeline.training import generator
from tests import toys
from tests.toys import COMPUTE, contents, ddpm_params

REVISION = "0123456789abcdef0123456789abcdef01234567"


def own(**changes):
    given = {"dropout": 0.2, "timesteps": 100, "prediction": "v_prediction", "flip": True, "steps": 5, "batch_size": 4}
    given |= {"lr": 0.01, "warmup_steps": 2, "weight_decay": 0.01, "log_every": 3, "checkpoint_every": 2}
    return ddpm_params(**given | changes)


def source(**changes):
    given = {"kind": "ddpm", "source": "train", "path": "data/pretrained"}
    given |= {"channel_order": None, "hub": None, "revision": None, "sha256": None}
    return Generator(**given | changes)


@pytest.fixture(scope="module")
def images():
    made = torch.randint(0, 256, (10, 8, 8, 1), generator=torch.Generator().manual_seed(0))
    return made.to(torch.uint8).numpy()


@pytest.fixture
def steps(monkeypatch):
    """The steps whose loss was computed; `crash` stops before one of them."""
    return toys.counted(monkeypatch, ddpm.Training, "loss")


def test_trained_twice_it_has_the_same_bytes_and_trained_on_from_a_crash_too(images, steps, monkeypatch, tmp_path):
    made, rows = generator.train(ddpm, own(), images, COMPUTE)
    assert [row["step"] for row in rows] == [3, 5]
    straight = contents(made)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    steps.crash = 3
    with pytest.raises(KeyboardInterrupt):
        generator.train(ddpm, own(), images, COMPUTE)
    steps.seen, steps.crash = [], None
    made, rows_again = generator.train(ddpm, own(), images, COMPUTE)
    assert steps.seen == [2, 3, 4]
    assert contents(made) == straight
    assert rows_again == rows


def test_finished_work_is_found_and_no_step_is_taken(images, steps):
    made, rows = generator.train(ddpm, own(), images, COMPUTE)
    assert steps.seen == list(range(5))
    assert not list(Path(made["unet/config.json"]).parent.parent.glob("checkpoint*"))
    again, rows_again = generator.train(ddpm, own(), images, COMPUTE)
    assert (again, rows_again) == (made, rows)
    assert steps.seen == list(range(5))


@pytest.mark.fault(7)
def test_other_images_or_parameters_are_other_work(images, steps):
    first, _ = generator.train(ddpm, own(steps=3), images, COMPUTE)
    changed = images.copy()
    changed[3, 3, 3, 0] ^= 1
    for other in ((own(steps=3, seed=1), images), (own(steps=3, lr=0.02), images), (own(steps=3), changed)):
        made, _ = generator.train(ddpm, *other, COMPUTE)
        assert contents(made) != contents(first)
    assert len(steps.seen) == 4 * 3


def test_what_is_trained_is_the_average_and_can_be_loaded(images):
    made, _ = generator.train(ddpm, own(ema_decay=0.0), images, COMPUTE)
    folder = made["model_index.json"].parent
    assert set(made) == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {
        "manifest.json",
        "rows.json",
        "last-used",
    }
    slow, _ = generator.train(ddpm, own(ema_decay=0.9), images, COMPUTE)
    weights = [ddpm.load(m["model_index.json"].parent)[0].conv_in.weight for m in (made, slow)]
    assert not torch.equal(*weights)


def test_a_damaged_result_in_the_store_is_refused(images):
    made, _ = generator.train(ddpm, own(steps=3), images, COMPUTE)
    path = made[f"unet/{ddpm.UNET_WEIGHTS}"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="sha256") as caught:
        generator.train(ddpm, own(steps=3), images, COMPUTE)
    assert str(path) in str(caught.value)


def pretrained_folder(folder):
    ddpm.save(ddpm.unet(own(), 8, 1), ddpm.scheduler(own()), folder)
    return folder


def test_a_local_generator_gives_its_files_if_it_fits_the_data(tmp_path):
    folder = pretrained_folder(tmp_path / "given")
    params = source(source="pretrained", path=str(folder))
    assert generator.pretrained(params, (8, 8), 1) == ddpm.pretrained_files(folder)
    for size, channels in (((8, 8), 3), ((28, 28), 1)):
        with pytest.raises(UserError, match="makes images of") as caught:
            generator.pretrained(params, size, channels)
        assert str(folder) in str(caught.value)


def test_a_repository_in_the_local_cache_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--someone--something" / "snapshots" / REVISION
    pretrained_folder(snapshot)

    def unreachable(*arguments, **named):
        raise AssertionError("asked the network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    params = source(source="pretrained", hub="someone/something", revision=REVISION)
    found = generator.pretrained(params, (8, 8), 1)
    assert found["unet/config.json"] == snapshot / "unet" / "config.json"


@pytest.mark.parametrize("changes", [{"block_out_channels": 5}, {"in_channels": [1]}, {"sample_size": "a"}], ids=str)
def test_a_configuration_of_odd_values_is_refused_in_a_line(tmp_path, changes):
    folder = pretrained_folder(tmp_path / "given")
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as caught:
        generator.pretrained(source(source="pretrained", path=str(folder)), (8, 8), 1)
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
        generator.pretrained(source(source="pretrained", path=str(folder)), (8, 8), 1)
    assert caught.value.code == 2


@pytest.mark.fault(23)
def test_weights_of_another_digest_than_the_stated_are_refused_unread(tmp_path, monkeypatch):
    folder = pretrained_folder(tmp_path / "given")
    digest = files.sha256(folder / "unet" / ddpm.UNET_WEIGHTS)
    given = {"source": "pretrained", "path": str(folder)}
    assert generator.pretrained(source(**given, sha256=digest), (8, 8), 1) == ddpm.pretrained_files(folder)
    monkeypatch.setattr(ddpm, "load", None)
    with pytest.raises(UserError, match=f"safetensors: its sha256 is {digest}, not generator.sha256") as caught:
        generator.pretrained(source(**given, sha256="0" * 64), (8, 8), 1)
    assert caught.value.code == 2


@pytest.mark.fault(23)
def test_a_repositorys_name_that_is_none_is_refused():
    with pytest.raises(UserError, match="not a repository's name") as caught:
        generator.from_hub("a/b/c", REVISION)
    assert caught.value.code == 2


OFFLINE = """
import sys, time
from pipeline.errors import UserError
from pipeline.training import generator
import huggingface_hub
start = time.monotonic()
try:
    generator.from_hub("someone/something", sys.argv[1])
except UserError as fault:
    print(time.monotonic() - start, fault.code, fault, sep="\\n")
"""


@pytest.mark.fault(23)
@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_refuses_clearly_within_ten_seconds(tmp_path, offline):
    """With retries it would be half a minute."""
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    settings |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, REVISION],
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, code, line = done.stdout.splitlines()
    assert float(seconds) < 10
    assert code == "2"
    assert f"someone/something@{REVISION}: not in the local cache, and the hub cannot be reached" in line
    assert "generator.path" in line
