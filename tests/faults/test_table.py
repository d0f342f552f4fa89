"""docs/reliability.md names, for each fault, the tests that do it; every mark is in it.

`python -m tests.faults.test_table` writes the table's last column from the marks.
"""

import ast
import re

from tests.pipeline.clones import ROOT

ROWS = range(1, 36)
PAGE = ROOT / "docs/reliability.md"
ROW = re.compile(r"(?m)^(\| (\d+) \|.*\|) ([^|]*) ?\|$")


def marked() -> dict[int, set[str]]:
    """Row -> tests that are marked with it."""
    found: dict[int, set[str]] = {row: set() for row in ROWS}
    for path in (ROOT / "tests").rglob("test_*.py"):
        file = path.relative_to(ROOT / "tests").with_suffix("").as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    assert node.name.startswith("test_"), f"{file}: pytest does not run {node.name}"
                    for row in mark.args:
                        found[row.value].add(f"{file}::{node.name.removeprefix('test_')}")
    return found


def test_the_table_names_the_tests_of_every_row():
    said = {
        int(row): set(re.findall(r"`([\w/]+::\w+)`", tests))
        for _, row, tests in ROW.findall(PAGE.read_text(encoding="utf-8"))
    }
    assert said == marked()
    assert [row for row, tests in said.items() if not tests] == []


def write() -> None:
    """Put the marked tests into the table's last column."""
    found = {row: ", ".join(f"`{name}`" for name in sorted(names)) for row, names in marked().items()}
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(ROW.sub(lambda row: f"{row[1]} {found[int(row[2])]} |", text), encoding="utf-8")


if __name__ == "__main__":
    write()
