"""Wrong parameters and missing inputs: one line, an exit code, and no output touched."""

import re
import shutil

import pytest

from tests.pipeline import clones

# What is written into params.yaml -> what the line must say. The text is taken as it stands: YAML is part of the test.
WRONG = {
    "word for a number": ({"inflation__ratio": "abc"}, r"inflation\.ratio: must be a number, not 'abc'"),
    "negative ratio": ({"inflation__ratio": "-1"}, r"inflation\.ratio: must be at least 0, not -1"),
    "infinite rate": ({"ddpm__lr": "1e999"}, r"ddpm\.lr: .*finite.*inf"),
    "half a step": ({"pretrain__steps": "1.5"}, r"pretrain\.steps: must be a whole number, not 1\.5"),
    "noise for a sampler without": ({"generate__eta": "0.5"}, r"generate\.eta: .*ddim.*must be 0.*0\.5"),
    "batches that do not tile": ({"generate__shard_size": "120"}, r"generate\.shard_size: 120 .*multiple.* 50"),
    "colour of grey images": ({"augment__form": "colour"}, r"augment\.form: must be grey"),
    "images of no generator": ({"generator__source": "none"}, r"inflation\.ratio: must be 0 .*none.*1\.0"),
    "lars without its number": (
        {"pretrain__optimizer": "lars", "pretrain__trust_clip": "true"},
        r"pretrain\.trust_coefficient: .*number with lars",
    ),
    "hub without a commit": (
        {
            "generator__source": "pretrained",
            "generator__hub": "google/ddpm-cifar10-32",
            "generator__sha256": '"' + "0" * 64 + '"',
        },
        r"generator\.revision: hub google/ddpm-cifar10-32 and revision null go together",
    ),
    "unknown method": ({"pretrain__method": "simclrr"}, r"pretrain\.method: must be 'simclr', .*, not 'simclrr'"),
    "unknown generator": ({"generator__kind": "vae"}, r"generator\.kind: must be 'ddpm' or 'gan', not 'vae'"),
    "yes": ({"ddpm__flip": "yes"}, r"ddpm\.flip: must be true or false, not 'yes'"),
    "data that are not there": ({"dataset__path": "data/nowhere"}, r"dataset\.path: data/nowhere does not exist"),
}
BY_DVC = ("word for a number", "unknown method", "data that are not there")
# DVC reads params.yaml before any stage does; what it cannot read, it refuses itself.
UNREADABLE = {
    "key twice": (lambda text: text.replace("inflation:\n", "inflation:\n  ratio: 4.0\n"), r"params\.yaml.*"),
    "tab": (lambda text: text.replace("  ratio:", "\tratio:"), r"params\.yaml.*"),
    "no kind of generator": (lambda text: re.sub(r"\n  kind:.*", "", text), r"generator\.kind"),
}
SETS = {
    "misspelt key": (["inflation.raito=2"], r"^ERROR: .*'inflation\.raito'"),
    "misspelt new section": (["+inflatoin.x=3"], r"^check: params\.yaml:\d+: inflatoin: unknown key.*inflation\?"),
    "unknown method": (["pretrain.method=simclrr"], r"^check: params\.yaml:\d+: pretrain\.method: .*'simclrr'"),
    "two blocks of four": (
        ["pretrain.backbone.blocks=[1,1]"],
        r"^check: .*pretrain\.backbone\.blocks: must have at least 4 entries, not 2",
    ),
    "no seed": (["~inflation.seed"], r"^check: params\.yaml:\d+: inflation\.seed: missing"),
}


@pytest.fixture(scope="module")
def clone_of(small, base, tmp_path_factory):
    """ "cold": nothing was run; "done": all is up to date."""
    folder = tmp_path_factory.mktemp("refusals")
    return {"cold": clones.copy(small, folder / "cold"), "done": clones.copy(base.clone, folder / "done")}


def refused(clone, message, *words):
    """The command fails, one line says why, and of all outputs only check's own may have gone."""
    before, states = clones.digests(clone), clones.stats(clone)
    clones.counts(clone)
    output = clones.run(clone, *words, code=None)
    try:
        lines = [line for line in output.splitlines() if re.search(message, line)]
        assert len(lines) == 1, output
        assert "Traceback" not in output
        assert set(clones.starts(clones.counts(clone))) <= {"check"}
        after, now = clones.digests(clone), clones.stats(clone)
        for found in (before, states, after, now):
            found.pop("data/params.ok", None)
        assert after == before
        assert now == states
    finally:
        clones.run(clone, "git", "checkout", "--quiet", "--", "params.yaml")
    return output


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parameter_is_refused_before_an_output_is_touched(case, clone_of):
    """By the check; `dvc repro` only starts it, so it is asked for some of them."""
    values, message = WRONG[case]
    clone = clone_of["done"]
    clones.edit(clone, **values)
    words = ("dvc", "repro") if case in BY_DVC else ("python", "-m", "stages.check")
    output = refused(clone, rf"^check: params\.yaml(:\d+)?: {message}", *words)
    assert len(re.findall(r"(?m)^check: ", output)) == 1, output  # nothing else is wrong


def test_wrong_parameter_is_refused_where_nothing_was_run_yet(clone_of):
    values, message = WRONG["images of no generator"]
    clones.edit(clone_of["cold"], **values)
    refused(clone_of["cold"], message, "dvc", "repro")


@pytest.mark.parametrize("case", UNREADABLE)
def test_params_yaml_that_dvc_cannot_read_is_refused_with_its_name(case, clone_of):
    change, message = UNREADABLE[case]
    path = clone_of["done"] / "params.yaml"
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    refused(clone_of["done"], message, "dvc", "repro")


@pytest.mark.parametrize(
    "case", [c if c.startswith("misspelt") else pytest.param(c, marks=pytest.mark.slow) for c in SETS]
)
def test_wrong_word_of_exp_run_is_refused_before_an_output_is_touched(case, clone_of):
    words, message = SETS[case]
    sets = [part for word in words for part in ("-S", word)]
    refused(clone_of["done"], message, "dvc", "exp", "run", *sets)
    assert clones.run(clone_of["done"], "dvc", "exp", "list", "--name-only").strip() == ""


def test_all_faults_of_a_file_are_told_at_once(clone_of):
    clones.edit(clone_of["done"], inflation__ratio="-1", augment__form="colour", pretrain__steps="1.5")
    output = refused(clone_of["done"], r"^check: params\.yaml:\d+: inflation\.ratio", "dvc", "repro")
    assert len(re.findall(r"(?m)^check: params\.yaml:\d+: ", output)) == 3


def test_after_all_refusals_only_the_check_runs_again(clone_of, base):
    clone = clone_of["done"]
    clones.edit(clone, inflation__ratio="abc")
    refused(clone, "inflation", "dvc", "repro")
    clones.counts(clone)
    clones.run(clone, "dvc", "repro")
    assert set(clones.starts(clones.counts(clone))) <= {"check"}
    assert clones.digests(clone) == clones.digests(base.clone)


@pytest.mark.slow
def test_stage_alone_says_in_one_line_what_is_missing(small, base, tmp_path):
    clone = clones.copy(small, tmp_path / "clone")
    run = "run `dvc repro {0}`, or `python -m stages.{0}`".format
    assert complaint(clone, "generator") == f"generator: data/real: not made yet - {run('prepare')}"
    shutil.copytree(base.clone / "data/real", clone / "data/real")
    card = "data/generator/card.json: not found - run `dvc repro`, which makes it"
    assert complaint(clone, "generate") == f"generate: {card}"
    assert complaint(clone, "pretrain") == f"pretrain: data/generated/inflation: not made yet - {run('generate')}"
    assert complaint(clone, "linear_eval") == f"linear_eval: data/encoder: no encoder yet - {run('pretrain')}"
    shutil.copytree(base.clone / "data/generated/inflation", clone / "data/generated/inflation")
    assert complaint(clone, "pretrain") == f"pretrain: data/generated/positives: not made yet - {run('positives')}"
    shutil.copytree(base.clone / "data/generated/positives", clone / "data/generated/positives")
    clones.edit(clone, inflation__ratio="0.5")
    held = "pretrain: data/generated/inflation: holds 400 images, inflation.ratio 0.5 asks for 200"
    assert complaint(clone, "pretrain") == f"{held} - {run('generate')}"
    assert not (clone / "data/encoder").exists()


def complaint(clone, name):
    return clones.fault(clones.stage(clone, name, code=2))
