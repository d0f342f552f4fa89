"""The check stage: everything that params.yaml can have wrong is told in a second, and nothing else is touched."""

import copy
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import pipeline
from pipeline.params import reader
from pipeline.run import machine, stage
from stages import check

REPOSITORY = Path(pipeline.__file__).parent.parent
COMMITTED = reader.parse((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))[0]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone of the repository with empty data folders, as the working directory."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("pipeline", "stages"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=ignored)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for key in ("dataset", "generator", "unclip", "start"):
        (tmp_path / COMMITTED[key]["path"]).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "argv", ["check"])
    monkeypatch.setattr(os, "cpu_count", lambda: max(COMMITTED["compute"]["threads"], 2))
    return tmp_path


def files(folder: Path) -> dict[str, int]:
    """Without the lock of the stage, which is no output."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".check.lock"]
    return {str(path): path.stat().st_mtime_ns for path in found}


def set_values(folder: Path, edits: dict) -> None:
    """params.yaml of the clone with dotted keys set to other values."""
    values = copy.deepcopy(COMMITTED)
    for dotted, value in edits.items():
        *path, name = dotted.split(".")
        section = values
        for part in path:
            section = section[part]
        section[name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def outcome(capsys) -> tuple[int, list[str]]:
    """Exit code and lines of the stage, run in this process."""
    with pytest.raises(SystemExit) as ended:
        stage.run("check", check.main, check.needs)
    return ended.value.code or 0, capsys.readouterr().err.splitlines()


def process(folder: Path, *options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    line = [sys.executable, *options, "-m", "stages.check"]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_committed_parameters_pass_in_a_moment_without_torch(clone):
    set_values(clone, {"compute.threads": 1, "compute.device": "cpu"})
    before = resources()
    done = process(clone, "-X", "importtime")
    assert done.returncode == 0, done.stderr
    assert (clone / "data/params.ok").read_bytes() == b"The parameters are valid.\n"
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "pipeline.params.reader" in loaded
    heavy = {"torch", "numpy", "h5py", "diffusers", "torchvision", "pandas", "PIL", "timm", "dvc"}
    assert not {name.partition(".")[0] for name in loaded} & heavy
    assert resources() - before < 4  # seconds of processor time: this machine may be busy


def resources() -> float:
    used = os.times()
    return used.children_user + used.children_system


def test_output_is_the_same_whatever_the_good_parameters(clone, capsys):
    contents = set()
    for ratio in (0.0, 1.0, 0.5):
        set_values(clone, {"inflation.ratio": ratio, "dataset.seed": int(10 * ratio)})
        assert outcome(capsys) == (0, [])
        contents.add((clone / "data/params.ok").read_bytes())
    assert contents == {b"The parameters are valid.\n"}


def test_code_that_a_copy_lacks_is_told_before_anything_runs(clone, capsys):
    set_values(clone, {})
    for lacking in ("methods/simclr.py", "generators/ddpm.py"):
        (clone / "pipeline" / lacking).unlink()
    code, said = outcome(capsys)
    assert code == 2
    for lacking in ("methods/simclr.py", "generators/ddpm.py"):
        assert [line for line in said if f"pipeline/{lacking}: not here" in line and "git add" in line]


DIGITS = {"name": "folder", "path": "data/nowhere", "train_size": 9, "validation_size": 9, "test_size": 9, "seed": 0}
# key, value, words of the one line
WRONG = [
    ("compute.device", "gpu", "must be 'cpu' or 'cuda'"),
    ("compute.precision", "fp16", "must be"),
    ("compute.threads", 0, "above 0"),
    ("compute.threads", True, "whole number"),
    ("compute.threads", 2.5, "whole number"),
    ("compute.compile", "no", "true or false"),
    ("dataset.name", "mnist", "must be"),
    ("dataset.path", None, "text"),
    ("dataset.path", "data/nowhere", "does not exist"),
    ("dataset.train_size", -5, "above 0"),
    ("dataset.train_size", 60_000, "60000 + validation_size"),
    ("dataset.seed", 2**63, "below"),
    ("dataset.raito", 1, "unknown key"),
    ("generator.kind", "vae", "must be 'ddpm' or 'gan'"),
    ("generator.source", "nothing", "must be"),
    ("generator.source", "none", None),
    ("generator.path", "data/nowhere", "does not exist"),
    ("unclip.path", "data/nowhere", "does not exist"),
    ("unclip.path", None, "text"),
    ("unclip.size", 7, "at least 8"),
    ("unclip.noise_level", 1000, "at most 999"),
    ("generator.hub", "google/ddpm-cifar10-32", None),
    ("generator.revision", "main", "of the form"),
    ("ddpm.channels", [], "at least 1"),
    ("ddpm.channels", [7], "does not divide 7"),
    ("ddpm.channels", 16, "a list"),
    ("ddpm.lr", "fast", "a number"),
    ("ddpm.lr", float("nan"), "finite"),
    ("ddpm.ema_decay", 1.0, "below 1"),
    ("ddpm.batch_size", 60_001, "train_size"),
    ("generate.sampler", "euler", "must be"),
    ("generate.eta", 1.5, "at most 1"),
    ("generate.shard_size", 7, "not a multiple"),
    ("generate.steps", 10**6, "timesteps"),
    ("inflation.ratio", -1.0, "at least 0"),
    ("inflation.ratio", float("inf"), "finite"),
    ("inflation.real_weight", 0, "above 0"),
    ("inflation.raito", 1, "did you mean inflation.ratio?"),
    ("augment.family", "strong", "must be"),
    ("augment.strength", 5, "at most 4"),
    ("augment.hue", 0.2, "form grey"),
    ("augment.flip", "often", "a number or null"),
    ("pretrain.method", "mocov9", "must be"),
    ("pretrain.momentum", 1.5, "below 1"),
    ("pretrain.warmup_steps", 10**6, ">= steps"),
    ("pretrain.backbone.blocks", [1, 1], "at least 4"),
    ("pretrain.backbone.blocks", 18, "a list or null"),
    ("pretrain.backbone.kind", "cnn", "must be 'resnet', 'vit' or 'timm'"),
    ("pretrain.backbone.depth", 18, "null with kind resnet"),
    ("pretrain.backbone.layers", 18, "unknown key"),
    ("pretrain.method", "mixed_ae", "must be vit with method mixed_ae"),
    ("pretrain.beta2", 1.0, "below 1"),
    ("mixed_ae.sources", 1, "at least 2"),
    ("pretrain.trust_coefficient", 0.02, "null with sgd"),
    ("simclr.temperature", 0, "above 0"),
    ("simclr", None, "section"),
    ("quality.inception", "data", "is no file"),
    ("quality.images", -1, "at least 0"),
    ("linear_eval.l2", [0.1, -0.1], "above 0"),
    ("transfer.digits", {"name": "folder"}, None),
    ("transfer.digits", DIGITS, "digits.path: data/nowhere does not exist"),
    ("transfer.digits", DIGITS | {"path": "data", "validation_size": 1}, "validation_size: must be 0 or at least 2"),
    ("transfer.Digits", DIGITS | {"path": "data"}, "of the form"),
    ("transfer", None, "named entries"),
    ("finetune.labels", [0.1, 0], "above 0"),
    ("finetune.labels", [1.5], "at most 1"),
    ("finetune.labels", [0.1, 0.1], "stands twice"),
    ("mocov3", {"queue": 5}, "unknown key - did you mean moco?"),
]


def test_wrong_values_are_refused_with_code_2_before_any_file_is_touched(clone, capsys):
    for key, value, words in WRONG:
        set_values(clone, {key: value})
        before = files(clone)
        code, lines = outcome(capsys)
        assert code == 2, (key, value)
        assert files(clone) == before, (key, value)
        assert all(line.startswith("check: params.yaml") for line in lines), lines
        assert any(key.split(".")[-1] in line.split(": ", 2)[2] for line in lines) or key == "generator.source", lines
        if words:
            assert len(lines) == 1, lines
            assert words in lines[0], lines


def test_refusal_as_a_process_is_lines_on_stderr_and_code_2(clone):
    set_values(clone, {"inflation.raito": 1, "compute.threads": "two", "dataset.path": "data/nowhere"})
    before = files(clone)
    done = process(clone)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 2  # the machine is looked at when the file is right
    assert "Traceback" not in done.stderr
    assert files(clone) == before


def test_everything_that_the_machine_lacks_is_named_at_once(clone, capsys, monkeypatch):
    values = {"dataset.path": "data/nowhere", "generator.path": "data/none", "compute.threads": 9}
    set_values(clone, values | {"inflation.ratio": 1.0})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    code, lines = outcome(capsys)
    assert code == 2
    assert [line.split(": ")[2] for line in lines[:3]] == ["dataset.path", "generator.path", "compute.threads"]
    assert "9 > 8 cores here" in lines[2]
    assert "0 MB free" in lines[3]
    assert len(lines) == 4
    assert not (clone / "data/params.ok").exists()


def test_too_little_disk_space_is_refused_before_anything_is_sampled(clone, capsys, monkeypatch):
    # 5000 images of 28 x 28 bytes: 3.92 MB here, three times as many with the store and DVC's cache
    set_values(clone, {"dataset.train_size": 5000, "inflation.ratio": 1.0})
    monkeypatch.setattr(machine, "_dvc_cache", lambda: clone / ".dvc/cache")
    for free, good in ((12_000_000, True), (11_000_000, True), (3_900_000, False)):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        code, lines = outcome(capsys)
        assert code == (0 if good else 3)
        assert bool(lines) == (free < 12_000_000)
        if lines:
            what = (
                "warning: {}: 11 MB free, up to 12 MB of images"
                if good
                else "disk of {}: 4 MB free, at least 4 MB needed"
            )
            assert what.format(clone) in lines[0]


def test_absurd_ratio_is_refused_and_no_traceback(clone, capsys):
    set_values(clone, {"inflation.ratio": 1e308})
    code, lines = outcome(capsys)
    assert code == 3
    assert len(lines) == 1
    assert "MB needed" in lines[0]


def test_cuda_is_refused_where_there_is_none(clone):
    set_values(clone, {"compute.device": "cuda", "compute.threads": 1})
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "stages.check"]
    done = subprocess.run(line, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "check: params.yaml: compute.device: torch finds no CUDA device - set it to cpu\n"


def test_check_takes_no_longer_than_a_blink_in_the_running_process(clone, capsys):
    started = time.process_time()
    assert outcome(capsys)[0] == 0
    assert time.process_time() - started < 1


def test_unclip_wants_transformers_installed(clone, capsys, monkeypatch):
    asked = {"kind": "unclip", "weight": None, "guidance": 10.0}
    set_values(clone, {f"positives.{name}": value for name, value in asked.items()})
    monkeypatch.setitem(sys.modules, "transformers", None)
    remedy = "pip install transformers, or choose another"
    line = f"check: params.yaml: positives.kind: unclip needs transformers, which is not installed - {remedy}"
    assert outcome(capsys) == (2, [line])


def test_a_folder_of_pictures_is_refused_once_with_sizes_that_pass(clone, capsys):
    """README's own words and 3,000 pictures; then the words that the refusal names. No picture is opened."""
    for name, n in {"cat": 2000, "dog": 1000}.items():
        (clone / "data/mine" / name).mkdir(parents=True)
        for i in range(n):
            (clone / f"data/mine/{name}/{i}.png").touch()
    own = {
        "name": "folder",
        "path": "data/mine",
        "image_size": 32,
        "channels": 3,
        "resize": "crop",
        "test_size": 2000,
        "spare_size": 0,
        "ceiling_size": 0,
    }
    values = {f"dataset.{key}": value for key, value in own.items()} | {"augment.form": "colour"}
    set_values(clone, values)
    code, lines = outcome(capsys)
    assert code == 2
    assert [line.split(": ", 2)[2] for line in lines[:2]] == [
        "train_size 5000 + validation_size 5000 > 1000 images",
        "labelled_size 10000 + validation_size 5000 > 1000 images",
    ]
    assert len(lines) == 3
    before, *words = lines[2].split(" -S ")
    assert before == "check: data/mine: 3,000 pictures; what would fit:"
    named = dict(word.split("=") for word in words)
    set_values(clone, values | {key: int(value) for key, value in named.items()})
    assert outcome(capsys) == (0, [])


def test_of_a_folder_for_transfer_all_is_refused_before_the_encoder_is_trained(clone, capsys):
    for i in range(20):
        path = clone / "data/other/JPEGImages" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    set_values(clone, {"transfer": {"other": DIGITS | {"path": "data/other"}}})
    code, lines = outcome(capsys)
    assert code == 2
    assert "all 20 pictures are of one class, 'JPEGImages'" in lines[0]
    assert "train_size 9 + validation_size 9 > 11 images" in lines[1]


def test_what_wants_labels_is_refused_before_hours_of_work_where_a_folder_has_none(clone, capsys):
    (clone / "bare").mkdir()
    for i in range(60):
        (clone / f"bare/{i}.png").write_bytes(b"no picture")
    sizes = {"train_size": 30, "validation_size": 10, "test_size": 10, "labelled_size": 30, "spare_size": 0}
    folder = {"name": "folder", "path": "bare", "image_size": 28, "channels": 1, "resize": "crop", **sizes}
    edits = {f"dataset.{name}": value for name, value in folder.items()} | {"pretrain.batch_size": 16}
    edits |= {"quality.images": 5, "generator.source": "none", "inflation.ratio": 0.0}
    set_values(clone, edits | {"pretrain.online_head": 0.5, "finetune.labels": [0.5]})
    code, lines = outcome(capsys)
    assert code == 2
    told = "\n".join(lines)
    assert "params.yaml: pretrain.online_head: wants labels, and bare has none - leave it empty" in told
    assert "params.yaml: finetune.labels: wants labels, and bare has none" in told
    set_values(clone, edits)
    assert outcome(capsys)[0] == 0
