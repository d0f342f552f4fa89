"""Presets: what they hold, what a shell and DVC make of their words, and what --write does to a file."""

import copy
import functools
import itertools
import json
import operator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

import pipeline
from pipeline.core.errors import UserError
from pipeline.params import presets, reader
from pipeline.params.schema import Params, Pretrain

REPOSITORY = Path(pipeline.__file__).parent.parent
COMMITTED = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
PLAIN = reader.parse(COMMITTED)[0]
ALL = presets.names()
WHOLE = {"smoke", "adainf-cifar10"}  # the others are parts, which go over the second
METHODS = get_args(Pretrain.model_fields["method"].annotation)
OTHERS = ("clsp_simclr", "clsp_moco", "mixed_ae", "joint_gan")  # which bring positives, one view or a game
SETS, TABLED = ("cifar10", "cifar100", "tiny-imagenet"), ("simclr", "moco", "byol", "barlow_twins")
CELLS = list(itertools.product(SETS, TABLED, ("none", "vanilla", "adainf")))  # of AdaInf's main table
ROWS = {(row["dataset"], row["method"], row["arm"]): row for row in presets.cells()}
NEIGHBOURS = [key for key in ROWS if key not in CELLS]
ALONE = [key for key in NEIGHBOURS if key[2] not in ("headline", "clsp", "clsp-r50")]
CLSP, DEEP = ("clsp_simclr", "clsp_moco"), "-r50"


def composed(name: str) -> dict:
    """A preset's values, over those that it is a part of."""
    return (presets.load("adainf-cifar10") if name not in WHOLE else {}) | presets.load(name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "params.yaml").write_text(COMMITTED)
    return tmp_path


def flat(path: Path) -> dict:
    return presets.leaves(reader.parse(path.read_text())[0])


def checked(flat: dict[tuple, object]) -> Params:
    """The committed parameters with these values, which the schema and all rules let pass."""
    values = copy.deepcopy(PLAIN)
    for (*where, key), value in flat.items():
        functools.reduce(operator.getitem, where, values)[key] = value
    params, faults = reader.validate(values)
    assert faults == []
    return params


def test_there_is_a_smoke_preset_and_adainf():
    assert {"smoke", "adainf-cifar10"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_preset_over_the_committed_file_passes_schema_and_rules(name):
    checked(composed(name))


@pytest.mark.parametrize("name", ALL)
def test_words_mean_to_dvc_what_the_preset_holds(name, folder):
    values = composed(name)
    words = " ".join(presets.words(values)).split()  # as a shell's $(...) takes them apart
    assert words[::2] == ["-S"] * len(values)
    apply_overrides(str(folder / "params.yaml"), words[1::2])
    by_dvc = reader.load(folder / "params.yaml")
    assert by_dvc == checked(values)
    for where, value in values.items():
        found = by_dvc
        for part in where:
            found = getattr(found, part)
        assert repr(found) == repr(value)


@pytest.mark.parametrize("name", ALL)
def test_write_changes_the_preset_s_values_only_and_keeps_every_comment(name, folder):
    path = folder / "params.yaml"
    before, values = flat(path), presets.load(name)
    presets.write(values, path)
    assert flat(path) == before | values
    assert list(flat(path)) == list(before)

    def comments(text):
        return [" ".join(line.split("#")[1].split()) for line in text.splitlines() if "#" in line]

    assert comments(path.read_text()) == comments(COMMITTED)
    rows, kept = COMMITTED.splitlines(), path.read_text().splitlines()
    _, lines, _ = reader.parse(COMMITTED)
    for where in before:
        if where not in values and not isinstance(before[where], list):
            assert rows[lines[where] - 1] in kept  # to the letter, null and 0.00001 included
    assert {file.name for file in folder.iterdir()} == {"params.yaml"}


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", sorted(WHOLE))
def test_presets_compose_and_the_later_one_wins(first, second):
    values = presets.compose([first, second])
    assert values == presets.load(first) | presets.load(second)
    if first == "adainf-cifar10" or second in WHOLE:
        checked(values)


def test_names_are_the_files_of_the_package():
    assert presets.names() == sorted(path.stem for path in (REPOSITORY / "pipeline/presets").glob("*.yaml"))


def test_unknown_preset_is_refused_with_the_one_that_was_meant_or_all_that_there_are():
    with pytest.raises(UserError, match=r"^no preset smoek - did you mean smoke\?$"):
        presets.compose(["smoke", "smoek"])
    with pytest.raises(UserError, match=r"^no preset zzz - there are ") as caught:
        presets.compose(["smoke", "zzz"])
    assert all(name in str(caught.value) for name in ALL)


def test_write_without_or_into_a_faulty_file_is_refused(folder):
    path = folder / "params.yaml"
    path.write_text(COMMITTED.replace("threads: 2", "threads: two"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"compute\.threads: must be a whole number, not 'two'"):
        presets.write(presets.load("smoke"), path)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(UserError, match=r"params\.yaml: not readable"):
        presets.write(presets.load("smoke"), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inflation:\n  raito: 2\n", "inflation.raito: unknown key"),
        ("inflatoin:\n  ratio: 2\n", "inflatoin.ratio: unknown key"),
        ("inflation: 2\n", "inflation: a section needs keys"),
        ("pretrain:\n  backbone:\n", "pretrain.backbone: a section needs keys"),
        ("inflation:\n  ratio: &one 1\n", "anchors and aliases"),
        ("inflation: [\n", "not YAML"),
        ("inflation:\n  ratio: {a: 1}\n", "inflation.ratio.a: unknown key"),
        ("inflation: {}\n", "inflation: a section needs keys"),
        ("transfer: {}\n", "transfer: a section needs keys"),
        ("transfer:\n  digits: 3\n", "transfer.digits: an entry has the keys name, path, train_size"),
        ("transfer:\n  digits: {name: folder}\n", "transfer.digits: an entry has the keys name, path, train_size"),
    ],
)
def test_faulty_preset_is_refused_in_one_line(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        presets.load("mine")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.code == 2


@pytest.mark.parametrize("value", ["my images", "a,b", "null", "1e3", "007", "$HOME", ""])
def test_text_that_a_shell_or_hydra_would_change_is_written_and_not_printed(value, folder):
    flat_values = {("dataset", "path"): value}
    with pytest.raises(UserError, match=r"dataset\.path: .* --write"):
        presets.words(flat_values)
    presets.write(flat_values, folder / "params.yaml")
    assert reader.load(folder / "params.yaml").dataset.path == value


DIGITS = {
    "name": "folder",
    "path": "data/digits",
    "train_size": 900,
    "validation_size": 200,
    "test_size": 500,
    "seed": 0,
}
SVHN = DIGITS | {"name": "svhn", "path": "data/svhn", "test_size": None}


def test_a_preset_holds_entries_of_a_mapping_whole(folder, tmp_path, monkeypatch):
    """Its words add the entry, or replace one that is there; what --write writes reads the same, a line a key."""
    place, path = tmp_path / "presets", folder / "params.yaml"
    place.mkdir()
    monkeypatch.setattr(presets, "FOLDER", place)
    (place / "one.yaml").write_text(yaml.safe_dump({"transfer": {"digits": DIGITS}}))
    (place / "two.yaml").write_text(yaml.safe_dump({"transfer": {"digits": DIGITS | {"seed": 7}, "svhn": SVHN}}))
    assert presets.load("one") == {("transfer", "digits"): DIGITS}
    for name in ("one", "two"):
        words = presets.words(presets.load(name))
        assert not any(" " in word for word in words)
        assert words == " ".join(words).split()
        apply_overrides(str(path), words[1::2])
    by_dvc = reader.load(path)
    assert {key: found.model_dump() for key, found in by_dvc.transfer.items()} == {
        "digits": DIGITS | {"seed": 7},
        "svhn": SVHN,
    }
    path.write_text(COMMITTED)
    for name in ("one", "two"):
        presets.write(presets.load(name), path)
        assert "\n  digits:\n    name: folder\n" in path.read_text()
    assert reader.load(path) == by_dvc
    assert "# Other data sets for the frozen encoder" in path.read_text()


def test_one_dash_s_is_a_one_line_diff(folder):
    """What DVC itself does with -S writes nothing else anew, whichever plain value it is."""
    path, values = folder / "params.yaml", flat(folder / "params.yaml")
    plain = [key for key, value in values.items() if not isinstance(value, list | dict)]
    for keys in ([("inflation", "ratio")], [("generator", "hub")], plain):
        path.write_text(COMMITTED)
        apply_overrides(str(path), [f"{'.'.join(key)}={'3' if values[key] != 3 else '4'}" for key in keys])
        before, after = COMMITTED.split("\n"), path.read_text().split("\n")
        assert len(before) == len(after)
        assert len([i for i in range(len(before)) if before[i] != after[i]]) == len(keys)


def test_a_preset_written_is_a_line_for_each_value_that_it_changes(folder):
    path = folder / "params.yaml"
    flipped = {("inflation", "ratio"): 2.0, ("pretrain", "lr"): 1e-5, ("generator", "hub"): "a/b"}
    flipped |= {("augment", "blur"): 0.5, ("dataset", "path"): "data/other"}
    presets.write(flipped | {("unclip", "size"): None}, path)
    before, after = COMMITTED.split("\n"), path.read_text().split("\n")
    assert len(before) == len(after)
    assert len([i for i in range(len(before)) if before[i] != after[i]]) == len(flipped)
    by_us = path.read_text()
    apply_overrides(str(path), [])
    assert path.read_text() == by_us  # DVC has nothing to change in its form


def test_entries_and_shares_come_and_go_by_words_of_exp_run(folder):
    """ruamel.yaml, by which DVC writes, breaks a file in which a list or mapping with a comment behind its key is
    emptied: theirs stand above."""
    path, before = folder / "params.yaml", reader.load(folder / "params.yaml")
    word = ",".join(f"{key}:{json.dumps(value).strip(chr(34))}" for key, value in DIGITS.items())
    apply_overrides(str(path), [f"+transfer.digits={{{word}}}", "finetune.labels=[0.01,1]"])
    found = reader.load(path)
    assert (found.transfer["digits"].model_dump(), found.finetune.labels) == (DIGITS, [0.01, 1])
    apply_overrides(str(path), ["transfer.digits.seed=4"])
    assert reader.load(path).transfer["digits"].seed == 4
    apply_overrides(str(path), ["~transfer.digits"])
    apply_overrides(str(path), ["finetune.labels=[]"])
    assert reader.load(path) == before
    assert "# Other data sets for" in path.read_text()
    assert "# Shares of the fixed" in path.read_text()


def test_adainf_preset_is_the_paper_s_setting():
    """Wang, Zhang and Wang (ICLR 2024) and their code: 100,000 steps of 512, N = 10, effective lr 0.4, LARS 0.02."""
    of = {".".join(where): value for where, value in presets.load("adainf-cifar10").items()}
    assert of["pretrain.steps"] == 100_000
    assert of["pretrain.batch_size"] == 2 * 256
    assert of["pretrain.warmup_steps"] == 1000
    assert of["pretrain.optimizer"] == "lars"
    assert of["pretrain.lr"] == 0.4
    assert of["pretrain.trust_coefficient"] == 0.02
    assert of["inflation.real_weight"] == 10
    # beta = N n / (N n + m) = 1/3 with 1M generated to all 50,000 real images, of which none is for validation
    assert (of["dataset.train_size"], of["dataset.validation_size"]) == (50_000, 0)
    assert of["inflation.ratio"] == 1_000_000 / 50_000
    real = of["inflation.real_weight"] * of["dataset.train_size"]
    assert real / (real + of["inflation.ratio"] * of["dataset.train_size"]) == pytest.approx(1 / 3)
    assert of["pretrain.backbone.stem"] == "3x3-pad2"  # solo/methods/base.py
    assert of["pretrain.online_head"] == 0.05 / 0.2  # classifier_lr over lr
    assert of["augment.strength"] == 1  # AdaInf's weak
    assert (of["pretrain.backbone.width"], of["pretrain.backbone.blocks"]) == (64, [2, 2, 2, 2])  # ResNet-18
    assert (of["simclr.hidden_dim"], of["simclr.output_dim"]) == (2048, 256)


def test_adainf_preset_leaves_to_the_committed_file_what_the_paper_shares_with_it():
    params = checked(presets.load("adainf-cifar10"))
    assert params.pretrain.weight_decay == 1e-4
    assert params.pretrain.momentum == 0.9
    assert params.simclr.temperature == 0.2
    assert params.augment.family == "symmetric"
    assert params.augment.replace == 0
    assert params.augment.interpolation == "bicubic"
    others = {"family", "form", "strength", "interpolation", "replace", "replaced", "seed"}
    set_alone = params.augment.model_dump(exclude=others)
    assert all(value is None for value in set_alone.values())


@pytest.mark.parametrize("key", CELLS, ids="-".join)
def test_every_cell_of_the_main_table_passes_schema_and_rules_and_is_what_it_says(key):
    dataset, method, arm = key
    found = checked(presets.compose(ROWS[key]["presets"].split()))
    assert (found.dataset.name, found.pretrain.method) == (dataset, method)
    weak, ratio, weight = {"none": (2, 0, 1), "vanilla": (2, None, 1), "adainf": (1, None, 10)}[arm]
    assert (found.augment.strength, found.inflation.real_weight) == (weak, weight)
    assert found.inflation.ratio == ratio if ratio is not None else found.inflation.ratio >= 10
    family = {"simclr": "symmetric", "moco": "symmetric-weak"}.get(method, "asymmetric")
    assert found.augment.family == family
    assert (found.pretrain.steps, found.pretrain.batch_size) == (100_000, 512)


def test_the_table_names_each_cell_with_its_number_or_says_that_there_is_none():
    lines = presets.table().splitlines()
    assert len([line for line in lines if " differs: " not in line]) == 2 * (36 + len(NEIGHBOURS))
    assert sum("github.com/PKU-ML/adainf@233a6bd" in line for line in lines) == 12
    assert sum("not published in what we could read" in line for line in lines) == 20
    at = next(i for i, line in enumerate(lines) if line.split()[:3] == ["cifar10", "moco", "adainf"])
    assert "94.19" in lines[at]
    assert lines[at + 1].strip() == "leaven run adainf-cifar10 moco"
    at = next(i for i, line in enumerate(lines) if line.split()[:3] == ["cifar10", "clsp_moco", "augmented"])
    assert "93.16" in lines[at]
    assert lines[at + 1].strip() == "leaven run adainf-cifar10 clsp_moco augmented"
    assert list(ROWS)[:36] == CELLS
    read = [row for row in ROWS.values() if row["top1"] or row["source"]]
    assert all(row["source"] and row["protocol"] and 0 < float(row["top1"]) < 100 for row in read)
    assert {row["protocol"] for row in read if "adainf@" in row["source"]} == {"linear, online"}


def test_the_table_says_in_what_the_presets_of_a_cell_differ():
    lines = presets.table().splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:3] == ["cifar10", "clsp_simclr", "candidates"])
    assert "94.45 (linear, offline; github.com/dewenzeng/clsp@91c8f9e README.md)" in lines[at]
    assert lines[at + 2] == "    adainf-cifar10 differs: what is generated is of another model"
    assert lines[at + 3].startswith("    clsp_simclr differs: batch statistics of all three")
    assert lines[at + 3].endswith("positives rounded to uint8 and not truncated")
    at = next(i for i, line in enumerate(lines) if line.split()[:3] == ["cifar10", "simclr", "headline"])
    assert "94.70" in lines[at]


@pytest.mark.parametrize(
    ("dataset", "arm", "top1"),
    [
        ("cifar10", "clsp", ("91.45", "92.29")),
        ("cifar100", "clsp", ("68.10", "68.91")),
        ("cifar10", "clsp-r50", ("93.03", "94.62")),
        ("cifar100", "clsp-r50", ("70.16", "72.68")),
    ],
)
def test_clsps_own_baselines_are_its_runs_without_the_third_view(dataset, arm, top1):
    for method, number in zip(("simclr", "moco"), top1, strict=True):
        row = ROWS[dataset, method, arm]
        found = checked(presets.compose(row["presets"].split()))
        further = ([] if dataset == "cifar10" else [dataset]) + ["resnet50"] * arm.endswith(DEEP)
        with_third = checked(presets.compose(["adainf-cifar10", f"clsp_{method}", *further]))
        assert (row["top1"], found.dataset.name, found.positives.kind) == (number, dataset, "none")
        assert found.augment == with_third.augment
        assert found.pretrain == with_third.pretrain.model_copy(update={"method": method})
        own, theirs = getattr(found, method).model_dump(), getattr(with_third, f"clsp_{method}").model_dump()
        both = own.keys() & theirs.keys()
        assert {name: own[name] for name in both} == {name: theirs[name] for name in both}


@pytest.mark.parametrize("key", ALONE, ids="-".join)
def test_every_neighbours_cell_passes_schema_and_rules_and_is_what_it_says(key):
    dataset, method, arm = key
    found = checked(presets.compose(ROWS[key]["presets"].split()))
    assert (found.dataset.name, found.pretrain.method) == (dataset, method)
    assert (found.inflation.ratio, found.augment.strength) == (0, 2)
    assert found.pretrain.backbone.width == 64
    third = getattr(getattr(found, method), "third_view", None)
    assert third == {"candidates": "candidate", "augmented": "augmented", "none": None}[arm.removesuffix(DEEP)]
    assert (found.positives.kind == "anchored") == (arm.removesuffix(DEEP) == "candidates")
    assert (found.pretrain.backbone.block == "bottleneck") == arm.endswith(DEEP)
    assert found.pretrain.backbone.stem == ("3x3" if method in CLSP else "3x3-pad2")
    assert (found.pretrain.online_head is None) == (method in CLSP)


def test_mixed_aes_preset_and_its_arms():
    """Each arm has one thing more than the one before it; 400 passes over the train images; MAE's optimiser."""
    of = presets.compose(["adainf-cifar10", "mixed_ae"])
    assert of["pretrain", "steps"] == 400 * -(-of["dataset", "train_size"] // of["pretrain", "batch_size"])
    assert [of["pretrain", name] for name in ("optimizer", "momentum", "beta2", "weight_decay")] == [
        "adamw",
        0.9,
        0.95,
        0.05,
    ]
    assert (32 // of["pretrain", "backbone", "patch"]) ** 2 // of["mixed_ae", "sources"] == 16
    names = ("mixing", "attention", "contrast", "segments")
    arms = [["mae"], ["naive_mix"], ["homo_attention"], ["homo_contrast"], []]
    for on, arm in enumerate(arms):
        own = presets.compose(["mixed_ae", *arm])
        assert [bool(own["mixed_ae", name]) for name in names] == [i < on for i in range(4)], arm
        assert set(presets.compose(arm)) <= {("mixed_ae", name) for name in names}


@pytest.mark.parametrize("first", [[], ["smoke"]])
def test_the_small_vit_composes_with_every_method(first):
    for method in METHODS:
        values = checked(presets.compose([*first, "vit"])).model_dump()
        values["pretrain"]["method"] = method
        game = method == "joint_gan"  # which plays on with a GAN, and without positives
        values["positives"]["kind"] = "none" if game else "anchored"
        values["generator"]["kind"] = "gan" if game else "ddpm"
        if game:
            values["generate"] |= {"sampler": "direct", "steps": 1, "eta": 0.0, "clip": True}
            values["inflation"] |= {"ratio": 0.0, "real_weight": 1.0}
        params, faults = reader.validate(values)
        assert faults == [], method
        assert params.pretrain.backbone.kind == "vit"


@pytest.mark.parametrize(
    "names",
    [("none", method) for method in METHODS if method != "joint_gan"]
    + [(kind, method) for kind in ("conditioned", "unclip") for method in METHODS if method not in OTHERS]
    + [("gan", "joint_gan", arm) for arm in ("both", "static", "static_pair", "hard", "pair")],
    ids=" ".join,
)
def test_what_documents_compose_passes_schema_and_rules(names):
    named = [name for name in names if name in ALL]  # simclr and both are what the others leave
    params = checked(presets.compose(["adainf-cifar10", *named]))
    assert params.pretrain.method == names[1]
    assert params.augment.replace == (1.0 if names[0] in ("conditioned", "unclip") else 0.0)
    assert params.inflation.ratio == 0
    assert params.joint_gan.mode in names or params.pretrain.method != "joint_gan"


def test_clsps_presets_are_the_papers_settings():
    """Zeng et al. (ECCV 2024) and their code: 48 steps of 1,024 an epoch, 97 of 512, a thousand epochs."""
    of = {".".join(where): value for where, value in presets.compose(["clsp_simclr", "clsp_moco"]).items()}
    simclr = {".".join(where): value for where, value in presets.load("clsp_simclr").items()}
    drawn = {"weight": 0.1, "candidates": 8, "steps": 100, "eta": 0.1, "clip": False}
    assert {name: of[f"positives.{name}"] for name in drawn} == drawn
    assert simclr["pretrain.steps"] == 1000 * (50_000 // 1024)
    assert of["pretrain.steps"] == 1000 * (50_000 // 512)
    assert (simclr["pretrain.lr"], of["pretrain.lr"]) == (0.5, 0.3)
    assert (of["clsp_simclr.alignment"], of["clsp_moco.alignment"]) == (1.0, 0.5)
    assert {of[f"{method}.hidden_dim"] for method in ("clsp_simclr", "clsp_moco")} == {4096}
