"""What is missing, what it may cost, what another row answers already; tests/pipeline/test_study.py runs real cells."""

import pytest

from pipeline.study import experiments, rows
from tests.study.toy import STUDY

MEASURED = dict.fromkeys(rows.COLUMNS, 1.0)


def row(one, **values):
    """A row of a cell, as `run` would write it."""
    facts = {"seconds": 60.0, "commit": "c", "key": one.key}
    return MEASURED | rows.setting(one.cell, one.params) | facts | values


def test_a_cell_is_missing_until_a_row_has_its_key(write):
    study = write()
    asked = experiments.wanted(study)
    assert experiments.missing(asked) == asked
    rows.add(study.memory, row(asked[1]))
    assert experiments.missing(asked) == [asked[0], *asked[2:]]
    rows.add(study.memory, row(asked[2], key="of other code"))
    assert experiments.missing(asked) == [asked[0], *asked[2:]]


def test_cells_that_ask_for_the_same_are_run_once_and_have_a_row_each(write):
    """A part may say what params.yaml says already: another name, the same key."""
    same = STUDY + "  again:\n    asks: the same\n    seeds: 1\n    base:\n      quality:\n        steps: 3\n"
    study = write(same)
    asked = experiments.wanted(study)
    one, twin = asked[1], asked[-1]
    assert one.cell.name != twin.cell.name
    assert one.key == twin.key
    assert twin not in experiments.missing(asked)
    rows.add(study.memory, row(one, top1=81.5))
    experiments.adopt(study, asked)
    experiments.adopt(study, asked)
    found = rows.read(study.memory)
    assert [(r["label"], r["cell"], r["top1"]) for r in found] == [
        (one.cell.label, one.cell.name, "81.5"),
        (twin.cell.label, twin.cell.name, "81.5"),
    ]


def test_rows_of_another_study_are_taken_over(write):
    study = write()
    asked = experiments.wanted(study)
    rows.add(study.memory.with_name("other.csv"), row(asked[0], label="elsewhere", cell="another"))
    assert asked[0] not in experiments.missing(asked)
    experiments.adopt(study, asked)
    assert [(r["label"], r["cell"]) for r in rows.read(study.memory)] == [(asked[0].cell.label, asked[0].cell.name)]


def test_what_a_cell_may_cost(write):
    """Per image drawn, of the same method and width, or else of any: 256 images here, 384 in the grid's 12 steps."""
    asked = experiments.wanted(write())
    assert experiments.seconds(asked[0], []) is None
    known = [{"method": "simclr", "width": "8", "images": "256", "seconds": s} for s in ("32", "64", "640")]
    assert experiments.seconds(asked[0], known) == pytest.approx(64)
    assert experiments.seconds(asked[-1], known) == pytest.approx(96)
    assert experiments.seconds(asked[0], [{"method": "byol", "width": "8", "images": "128", "seconds": "16"}]) == 32
