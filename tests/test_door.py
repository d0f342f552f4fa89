"""The one door: help without waiting, faults in a line before anything runs, and DVC's own output and exit code."""

import os
import subprocess
import sys

import pytest
import yaml

from pipeline.__main__ import COMMANDS
from tests.pipeline import clones

DOOR = ("python", "-m", "pipeline")


def test_the_door_lists_its_commands_and_takes_no_other(tree):
    listed = clones.run(tree, *DOOR)
    assert listed == clones.run(tree, *DOOR, "--help")
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert clones.run(tree, *DOOR, "rum", code=2) == "no command 'rum' - did you mean run?\n"
    assert "there are run, preset" in clones.run(tree, *DOOR, "x", code=2)


def test_a_command_that_is_installed_from_another_clone_is_this_clones(tree, tmp_path):
    """Or the keys of a study's rows would be of code that did not run."""
    clone = clones.copy(tree, tmp_path / "clone")
    path = clone / "pipeline/commands/runs.py"
    path.write_text(path.read_text().replace("List the work that the store keeps", "Say what is in store"))
    leaven = "import sys; sys.argv[0] = '/bin/leaven'; from pipeline.__main__ import main; main()"
    words = ("env", f"PYTHONPATH={clones.ROOT}", "python", "-P", "-c", leaven, "store", "--help")
    assert "Say what is in store" in clones.run(clone, *words)
    (clone / "dvc.yaml").unlink()  # another program's folder of that name
    assert "List the work that the store keeps" in clones.run(clone, *words)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_needs_none_of_what_the_command_does(name, tree):
    look = (
        "import sys; sys.argv = ['/bin/leaven', *sys.argv[1:]]; from pipeline.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'numpy', 'pydantic', 'pandas', 'dvc', 'psutil', 'pipeline.core'} & set(sys.modules)"
    )
    text = clones.run(tree, "python", "-c", look, name, "--help")
    assert text.startswith(f"usage: leaven {name} ")
    assert COMMANDS[name].__doc__.splitlines()[0] in " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("smoek", "no preset smoek - did you mean smoke?"),
        ("smoke pretrain.steps=3", "no preset pretrain.steps=3 - did you mean -S pretrain.steps=3?"),
        ("smoke -S pretrain.stepz=3", "pretrain.stepz: unknown key - did you mean pretrain.steps?"),
        ("-S pretrian.steps=3 smoke", "pretrian: unknown key - did you mean pretrain?"),
        ("smoke -S augment.strength=9", "augment.strength: must be at most 4, not 9"),
        ("smoke -S pretrain.steps=1", "pretrain.warmup_steps: 2 >= "),
        ("smoke -S pretrain.seed=0,1", "-S: several values are a sweep - add --queue, then run `dvc queue start`"),
        ("smoke --queue -S pretrain.seed=0,-1", "pretrain.seed: must be at least 0, not -1"),
        ("-S pretrain.steps", "-S pretrain.steps: must be KEY=VALUE"),
        ("-S +pretrain.steps=3", "-S: Could not append to config. An item is already at 'pretrain.steps'."),
        ("-S pretrain.steps=[3", "-S: no viable alternative at input '[3'"),
    ],
)
def test_a_fault_of_presets_or_changes_is_one_line_and_nothing_runs(words, line, tree):
    output = clones.run(tree, *DOOR, "run", *words.split(), code=2)
    assert output.startswith(line)
    assert output.count("\n") == 1
    assert clones.counts(tree) == {}
    assert clones.run(tree, "git", "status", "--porcelain") == ""
    assert clones.run(tree, "git", "for-each-ref", "refs/exps") == ""


@pytest.mark.slow
def test_an_experiment_has_the_values_of_presets_and_then_of_changes(small, tmp_path):
    clone = clones.copy(small, tmp_path / "clone")
    (clone / "not-tracked").write_text("x")
    changes = ("-S", "pretrain.steps=13", "-C", "not-tracked")
    output = clones.run(clone, *DOOR, "run", "byol", "vanilla", *changes, "--temp", "-n", "here", "--", "check")
    assert "Running stage 'check'" in output
    asked = yaml.safe_load(clones.experiment(clone, "here", "params.yaml"))
    assert (asked["pretrain"]["method"], asked["pretrain"]["steps"]) == ("byol", 13)
    assert (asked["augment"]["strength"], asked["inflation"]["real_weight"]) == (2, 1)
    assert clones.starts(clones.counts(clone)) == ["check"]
    queued = clones.run(clone, *DOOR, "run", "-S", "pretrain.seed=1,2", "-n", "sweep", "--queue", "smoke")
    assert "sweep-1" in queued
    assert "sweep-2" in queued
    assert "pretrain.seed=2" in queued
    # DVC's own fault, with its exit code
    assert "nothing" in clones.run(clone, *DOOR, "run", "--temp", "--", "nothing", code=255)


def test_presets_are_listed_printed_and_written(tmp_path, tree):
    clone = clones.copy(tree, tmp_path / "clone")
    listed = clones.run(clone, *DOOR, "preset", "--list").splitlines()
    assert "none               The baseline: no generated images, the methods' own augmentation" in listed
    assert len(listed) == len(list((clone / "pipeline/presets").glob("*.yaml")))
    words = clones.run(clone, *DOOR, "preset", "none").split()
    assert words[::2] == ["-S"] * (len(words) // 2)
    assert {"inflation.ratio=0.0", "augment.strength=2.0"} <= set(words)
    assert clones.run(clone, *DOOR, "preset", "noen", "--write", code=2) == "no preset noen - did you mean none?\n"
    assert clones.run(clone, "git", "status", "--porcelain") == ""
    clones.run(clone, *DOOR, "preset", "none", "--write")
    assert yaml.safe_load((clone / "params.yaml").read_text())["inflation"]["ratio"] == 0


@pytest.mark.parametrize("mistyped", ["preset smoek", "presett smoke", "preset --smoke"])
def test_a_mistyped_preset_in_a_command_of_dvcs_runs_nothing(mistyped, tree):
    """With no word in its place DVC would run the default."""
    command = f"dvc exp run --queue $(python -m pipeline {mistyped})"
    output = clones.run(tree, "sh", "-c", command, code=255)
    assert f"refused-{mistyped.replace(' --', '-').replace(' ', '-')}'" in output
    assert clones.run(tree, "git", "status", "--porcelain") == ""
    assert clones.run(tree, "git", "for-each-ref", "refs/exps") == ""


@pytest.mark.parametrize("words", ["", "preset --cells", "preset none", "table", "study table pilot", "store"])
def test_what_nobody_reads_any_more_ends_in_silence(words, tree):
    process = subprocess.Popen(
        [sys.executable, *DOOR[1:], *words.split()], cwd=tree, stdout=-1, stderr=-1, env=clones.environment(tree)
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 128 + 13)


def test_the_store_is_listed_and_pruned(tmp_path, monkeypatch):
    folder = tmp_path / "store/encoder/0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(bytes(1000))
    (folder / "last-used").touch()
    line = [sys.executable, *DOOR[1:], "store"]
    environment = os.environ | {"LEAVEN_STORE": str(tmp_path / "store")}
    for words, fate, there in (([], "kept", True), (["--prune", "0"], "deleted", False)):
        said = subprocess.run([*line, *words], cwd=clones.ROOT, env=environment, capture_output=True, check=True)
        assert said.stdout.decode().splitlines()[0].endswith(fate)
        assert folder.exists() == there
