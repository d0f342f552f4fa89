"""docs/results/: the tables are what the CSVs give, and the text says no difference that they do not."""

import re

import pytest

from pipeline.core.errors import UserError
from pipeline.study import cells, tables
from tests.pipeline.clones import ROOT

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/results").glob("*.md"))}
BLOCK = re.compile(r"<!-- table (\w+) -->\n\n(.*?)\n<!-- end \1 -->", re.DOTALL)
TABLES = {name: (page, table) for page, text in PAGES.items() for name, table in BLOCK.findall(text)}


def test_every_study_with_rows_has_a_page_of_its_name():
    assert {name: page for name, (page, _) in TABLES.items()} == {
        path.stem: path.stem for path in (ROOT / "studies").glob("*.csv")
    }


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_made_again_from_the_memory_alone(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert tables.deeper(tables.table(cells.load(name))) == TABLES[name][1]


@pytest.mark.parametrize("page", PAGES)
def test_every_difference_that_the_text_names_is_in_a_table(page):
    """Numbers with a sign and two digits: differences and the ends of their intervals; on a study's page, its own."""
    own = [table for name, (_, table) in TABLES.items() if page in (name, "index")]
    known = set(re.findall(r"[+-]\d+\.\d\d", " ".join(own)))
    said = re.findall(r"(?<![\w.])[+-]\d+\.\d\d", BLOCK.sub("", PAGES[page]))
    assert said or page == "pilot"
    assert [number for number in said if number not in known] == []


def test_the_summary_links_to_every_page():
    assert PAGES.keys() - {"index"} == set(re.findall(r"\]\((\w+)\.md\) \|", PAGES["index"]))


def test_a_table_is_put_between_its_marks_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, path = next(iter(TABLES)), tmp_path / "text.md"
    study = cells.load(name)
    table = tables.deeper(tables.table(study))
    path.write_text(f"before\n<!-- table {name} -->\nold\n<!-- end {name} -->\nafter\n")
    tables.write(path, study)
    tables.write(path, study)
    assert path.read_text() == f"before\n<!-- table {name} -->\n\n{table}\n<!-- end {name} -->\nafter\n"
    path.write_text("no marks")
    with pytest.raises(UserError, match="no place for the table"):
        tables.write(path, study)
