"""docs/extending.md: its code blocks, applied to a copy of the repository, add a method and a kind of positives."""

import re

import pytest

from tests import extending
from tests.pipeline import clones

# The repository's own tests that find the toys by themselves, and those of docs/parameters.md and dvc.yaml.
FOUND = (
    "tests/methods/test_contract.py",
    "tests/methods/test_toy.py",
    "tests/positives/test_kinds.py",
    "tests/positives/test_noisy.py",
    "tests/params/test_presets.py::test_preset_over_the_committed_file_passes_schema_and_rules",
    "tests/params/test_presets.py::test_the_small_vit_composes_with_every_method",
    "tests/params/test_documentation.py::test_committed_files_are_those_of_the_schema",
    "tests/test_layout.py::test_stage_uses_every_section_that_it_is_given_and_no_other",
    "tests/test_layout.py::test_every_parameter_is_read_by_a_stage_that_computes_and_has_one_owner",
)
NAMED = "toy or noisy or small_vit or committed_files or test_layout"


@pytest.fixture(scope="module")
def copy(tree, tmp_path_factory):
    """The repository with both toys."""
    copy = clones.copy(tree, tmp_path_factory.mktemp("extended") / "copy")
    for part in (extending.METHOD, extending.KIND):
        for block in extending.blocks(part):
            extending.apply(block, copy)
    clones.run(copy, "python", "-m", "pipeline", "params")
    return copy


@pytest.mark.parametrize(("part", "most"), [(extending.METHOD, 4), (extending.KIND, 5)])
def test_an_addition_touches_few_files_of_code_and_configuration_and_has_a_test(part, most):
    paths = {block.path for block in extending.blocks(part)}
    tests = {path for path in paths if path.startswith("tests/")}
    assert len(tests) == 1
    assert len(paths - tests) <= most


def test_the_page_is_short_and_says_of_every_file_that_changes_how(copy):
    assert len(extending.PAGE.read_text(encoding="utf-8").splitlines()) <= 280
    named = {block.path for part in (extending.METHOD, extending.KIND) for block in extending.blocks(part)}
    changed = re.findall(r"(?m)^...(.+)$", clones.run(copy, "git", "status", "--porcelain", "--untracked-files=all"))
    assert set(changed) == named | {"docs/parameters.md", "docs/params.schema.json"}


@pytest.mark.slow
def test_the_repositorys_own_tests_hold_the_toys_to_the_contracts(copy):
    """The reader accepts values and presets, `load` finds each by its name, and the method passes its contract."""
    said = clones.run(copy, "python", "-m", "pytest", *FOUND, "-k", NAMED, "-m", "not slow", "--color=no", "-vv")
    passed = re.findall(r"(?m)^(tests/\S+) PASSED", said)
    assert [name for name in FOUND if not any(test.startswith(name) for test in passed)] == []
    of_contract = {test.partition("::")[2].partition("[")[0] for test in passed if "test_contract" in test}
    assert len(of_contract) >= 10


def test_what_was_added_is_as_clean_as_the_rest(copy):
    named = {block.path for part in (extending.METHOD, extending.KIND) for block in extending.blocks(part)}
    sources = sorted(path for path in named if path.endswith(".py"))
    clones.run(copy, "ruff", "check", *sources)
    clones.run(copy, "ruff", "format", "--check", *sources)


def test_a_block_that_does_not_say_where_it_goes_and_one_without_its_line_are_refused(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    monkeypatch.setattr(extending, "PAGE", page)
    for first in ("x = 1", "# file: a.py, after: x", "# add to: a.py"):
        page.write_text(f"## A method\n```python\n{first}\n```\n")
        with pytest.raises(ValueError, match="where it goes"):
            extending.blocks(extending.METHOD)
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(LookupError, match="has no y = 2"):
        extending.apply(extending.Block("python", "a.py", "after", "y = 2", "z = 3\n"), tmp_path)
