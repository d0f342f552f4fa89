import os
from pathlib import Path

import pytest

import pipeline
from pipeline.core import sources
from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.study import cells, rows
from tests.study.toy import STUDY

REPOSITORY = Path(pipeline.__file__).parent.parent


def test_cells_by_hand(write):
    study = write()
    assert [(cell.part, cell.arm, cell.seed) for cell in study.cells] == [
        ("arms", "none", 0),
        ("arms", "some", 0),
        ("arms", "none", 1),
        ("arms", "some", 1),
        ("grid", "ratio 1, strength 1", 0),
        ("grid", "ratio 1, strength 3", 0),
        ("grid", "ratio 2.5, strength 1", 0),
        ("grid", "ratio 2.5, strength 3", 0),
    ]
    last = cells.resolve(study.cells[-1], reader.load())
    assert (last.inflation.ratio, last.augment.strength, last.pretrain.steps) == (2.5, 3.0, 12)
    assert study.cells[-1].point == {"inflation.ratio": 2.5, "augment.strength": 3.0}
    none, some = (cells.resolve(study.cells[i], reader.load()) for i in (2, 3))
    assert (none.inflation.real_weight, some.inflation.real_weight) == (1.0, 10.0)  # an arm is over the base
    assert (none.pretrain.seed, none.augment.seed, none.inflation.seed) == (1, 1, 0)
    assert (none.dataset.train_size, none.compute.threads) == (400, 1)  # of the preset, of the base over it


def test_arms_of_a_seed_share_all_that_is_drawn(write):
    """Pairs: seeds of weights, order and views are the same in all arms, and what differs is the arm."""
    one, other = (cells.resolve(cell, reader.load()).model_dump() for cell in write().cells[:2])
    differing = {(section, key) for section in one for key in one[section] if one[section][key] != other[section][key]}
    assert differing == {("inflation", "ratio"), ("inflation", "real_weight")}


def test_a_cells_name_does_not_depend_on_how_its_numbers_are_written(write):
    names = [cell.name for cell in write().cells]
    assert len(set(names)) == 8
    assert [cell.name for cell in write(old="ratio: 0\n", new="ratio: 0.0\n").cells] == names
    assert [cell.name for cell in write(old="ratio: 0\n", new="ratio: 0.5\n").cells] != names


def test_a_grid_may_be_over_words(write):
    study = write(
        STUDY, "      inflation.ratio:\n        - 1\n        - 2.5\n", "      pretrain.method:\n        - byol\n"
    )
    assert [cell.arm for cell in study.cells[4:]] == ["method byol, strength 1", "method byol, strength 3"]
    assert cells.resolve(study.cells[4], reader.load()).pretrain.method == "byol"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: a toy", "titel: a toy", "titel"),
        ("    against: none\n", "    against: nothing\n", "against nothing, which is no arm"),
        ("threads: 1", "treads: 1", "no parameter compute.treads"),
        ("    against: none\n", "    contrasts:\n      x:\n        none: 1\n", "weights of arms that add up to 0"),
        ("    against: none\n", "    contrasts:\n      x:\n        none: 1\n        any: -1\n", "x: needs weights"),
        ("    against: none\n", "    outcomes:\n      - cosine\n", "cosine is no percentage; the first must be one"),
        ("    against: none\n", "    outcomes:\n      - top1\n      - cosin\n", r"parts\.arms\.outcomes\.1"),
        ("    against: none\n", "    outcomes:\n      - knn\n      - knn\n", "outcomes: one is there twice"),
        ("pretrain.seed", "pretrain.sed", "no parameter pretrain.sed"),
        ("seeds: 1", "seeds: 0", "parts.grid.seeds"),
        ("  - smoke", "  - smok", "presets: no smok"),
        ("        - 2.5", "        - &x 2.5", "anchors"),
        ("        - 2.5", "        - 1", "ratio 1, strength 1 is there twice"),
        ("  compute:\n    threads: 1\n", "  compute: 5\n", "no parameter compute"),
    ],
)
def test_what_is_wrong_in_a_study_is_told_in_a_line(write, old, new, said):
    with pytest.raises(UserError, match=said) as caught:
        write(STUDY, old, new)
    assert "\n" not in str(caught.value)


def test_a_cell_that_does_not_fit_together_is_told_by_its_label(write):
    study = write(STUDY, "ratio: 0\n", "ratio: -1.0\n")
    with pytest.raises(UserError, match=r"arms: none, seed 0: inflation\.ratio: must be at least 0"):
        cells.resolve(study.cells[0], reader.load())


def test_a_study_that_is_not_there_names_those_that_are(write):
    write()
    with pytest.raises(UserError, match="no study other - there are toy"):
        cells.load("other")


# --- keys


def test_the_key_is_of_the_pictures_and_not_of_their_folders_name_alone(write, tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    params = cells.resolve(write().cells[0], reader.load())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_bytes(b"one")
    (tmp_path / "made.npz").write_bytes(b"images")
    own = params.dataset.model_copy(update={"name": "folder", "path": str(tmp_path / "mine")})
    imported = params.generator.model_copy(update={"source": "import", "path": str(tmp_path / "made.npz")})
    params = params.model_copy(update={"dataset": own, "generator": imported})
    found = [cells.key(params), cells.key(params)]
    assert found[0] == found[1]
    (tmp_path / "mine/a.png").write_bytes(b"another")
    found.append(cells.key(params))
    (tmp_path / "made.npz").write_bytes(b"other images")
    found.append(cells.key(params))
    (tmp_path / "mine/a.png").write_bytes(b"one")
    (tmp_path / "made.npz").write_bytes(b"images")
    os.utime(tmp_path / "made.npz", ns=(1, 1))  # another time, and the same content
    assert cells.key(params) == found[0]
    assert len(set(found)) == 3
    (tmp_path / "mine/.DS_Store").write_bytes(b"of a browser of files")
    (tmp_path / "mine/.#lock").symlink_to("nowhere")
    assert cells.key(params) == found[0]
    (tmp_path / "mine/a.png").write_bytes(b"two")  # behind a link that leads nowhere
    assert cells.key(params) not in found
    (tmp_path / "mine/a.png").write_bytes(b"one")
    elsewhere = params.model_copy(update={"dataset": own.model_copy(update={"path": str(tmp_path / "not here")})})
    assert cells.key(elsewhere) != found[0]  # and no fault: studies/ has rows of sets that a clone lacks


def test_the_key_is_of_what_decides_the_numbers(write):
    study = write()
    keys = [cells.key(cells.resolve(cell, reader.load())) for cell in study.cells]
    assert len(set(keys)) == len(keys)
    params = cells.resolve(study.cells[0], reader.load())
    judged = params.model_copy(update={"quality": params.quality.model_copy(update={"steps": 77})})
    other = params.model_copy(update={"moco": params.moco.model_copy(update={"queue_size": 64})})
    assert cells.key(judged) == cells.key(other) == keys[0]  # a stage that only looks; a method that is not used
    unused = params.model_copy(update={"positives": params.positives.model_copy(update={"steps": 5})})
    assert cells.key(unused) == keys[0]
    started = params.start.model_copy(update={"source": "file", "path": "weights.safetensors"})
    first = [params.model_copy(update={"start": started.model_copy(update={"sha256": digest})}) for digest in "ab"]
    assert len({keys[0], *map(cells.key, first)}) == 3
    method = params.pretrain.model_copy(update={"method": "clsp_simclr"})
    clsp = [params.model_copy(update={"pretrain": method})]
    for changes in ({"kind": "anchored"}, {"kind": "anchored", "candidates": 1}):
        clsp.append(clsp[0].model_copy(update={"positives": params.positives.model_copy(update=changes)}))
    assert len({keys[0], *map(cells.key, clsp)}) == 4
    sampled = params.positives.model_copy(update={"kind": "conditioned", "weight": None, "guidance": 1.0})
    beside = params.model_copy(update={"positives": sampled})
    assert cells.key(beside) == keys[0]  # which nothing looks at
    replacing = params.augment.model_copy(update={"replace": 0.5})
    replaced = beside.model_copy(update={"augment": replacing})
    told = params.conditioned.model_copy(update={"seed": 1})
    found = [replaced, replaced.model_copy(update={"conditioned": told})]
    assert len({keys[0], *map(cells.key, found)}) == 3
    outside = sampled.model_copy(update={"kind": "unclip"})
    found.append(replaced.model_copy(update={"positives": outside}))
    found.append(found[-1].model_copy(update={"unclip": params.unclip.model_copy(update={"noise_level": 1})}))
    assert len({keys[0], *map(cells.key, found)}) == 5
    simclr = params.model_copy(update={"simclr": params.simclr.model_copy(update={"temperature": 0.3})})
    assert cells.key(simclr) != keys[0]


def test_the_key_is_of_fine_tuning_where_labels_are_asked_for_alone(write, monkeypatch):
    params = cells.resolve(write().cells[0], reader.load())

    def key(**values):
        return cells.key(params.model_copy(update={"finetune": params.finetune.model_copy(update=values)}))

    assert key(steps=77) == cells.key(params)
    assert len({cells.key(params), *(key(labels=[0.1], steps=steps) for steps in (300, 77))}) == 3
    asked = []
    monkeypatch.setattr(sources, "digest", lambda *modules: asked.append(modules) or "other")
    key(labels=[0.1])
    assert set(sources.closure(*sources.imports(REPOSITORY / "stages/finetune.py"))) <= set(sources.closure(*asked[0]))


def test_the_key_changes_with_the_code_that_computes(write, monkeypatch):
    params = cells.resolve(write().cells[0], reader.load())
    before, asked = cells.key(params), []
    monkeypatch.setattr(sources, "digest", lambda *modules: asked.append(modules) or "other")
    assert cells.key(params) != before
    computing = set(sources.closure(*asked[0]))
    computing |= {"engine/footprint", "training/generator_memory", "training/encoder_memory"}  # they only ask for room
    for stage in ("prepare", "generator", "generate", "pretrain", "linear_eval"):
        imported = sources.closure(*sources.imports(REPOSITORY / f"stages/{stage}.py"))
        assert {module for module in imported if "/" in module} <= computing, stage  # a room's __init__ has no code
    assert {"methods/simclr", "generators/ddpm"} <= computing


@pytest.mark.parametrize("name", [path.stem for path in sorted((REPOSITORY / "studies").glob("*.yaml"))])
def test_studies_of_this_repository_fit_their_parameters_and_their_memory(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    study, committed = cells.load(name), reader.load()
    for cell in study.cells:
        cells.resolve(cell, committed)
    known = {cell.name for cell in study.cells}
    there = rows.read(study.memory)
    assert {row["cell"] for row in there} <= known, "a row of a cell that the study no longer has"
    assert len({(row["cell"], row["key"]) for row in there}) == len(there), "a cell was run twice"
