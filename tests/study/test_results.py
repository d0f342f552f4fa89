"""docs/results.md: its tables are what the CSVs give, and its text says no number that they do not."""

import re

import pytest

from pipeline.core.errors import UserError
from pipeline.study import cells, tables
from tests.pipeline.clones import ROOT

TEXT = (ROOT / "docs/results.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- table (\w+) -->\n\n(.*?)\n<!-- end \1 -->", re.DOTALL)


def blocks() -> dict[str, str]:
    return dict(BLOCK.findall(TEXT))


def test_every_study_with_rows_is_there():
    assert set(blocks()) == {path.stem for path in (ROOT / "studies").glob("*.csv")}


@pytest.mark.parametrize("name", blocks())
def test_the_tables_are_made_again_from_the_memory_alone(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert tables.deeper(tables.table(cells.load(name))) == blocks()[name]


def test_every_difference_that_the_text_names_is_in_a_table():
    """Numbers with a sign and two digits: differences and the ends of their intervals."""
    known = set(re.findall(r"[+-]\d+\.\d\d", " ".join(blocks().values())))
    said = re.findall(r"(?<![\w.])[+-]\d+\.\d\d", BLOCK.sub("", TEXT))
    assert said
    assert [number for number in said if number not in known] == []


def test_a_table_is_put_between_its_marks_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    name = next(iter(blocks()))
    path = tmp_path / "text.md"
    path.write_text(f"before\n<!-- table {name} -->\nold\n<!-- end {name} -->\nafter\n")
    tables.write(path, cells.load(name))
    tables.write(path, cells.load(name))
    assert path.read_text() == f"before\n<!-- table {name} -->\n\n{blocks()[name]}\n<!-- end {name} -->\nafter\n"
    path.write_text("no marks")
    with pytest.raises(UserError, match="no place for the table"):
        tables.write(path, cells.load(name))
