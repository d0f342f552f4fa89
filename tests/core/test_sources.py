import ast
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from pipeline.core import sources


@pytest.fixture(autouse=True)
def _fresh():
    sources.digest.cache_clear()
    yield
    sources.digest.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that the store reads its code from."""
    copy = tmp_path / "pipeline"
    shutil.copytree(sources.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", copy)
    return copy


def small_package(folder: Path, monkeypatch, modules: dict[str, str]) -> None:
    """A made-up package: name -> source."""
    for name, source in modules.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
    monkeypatch.setattr(sources, "PACKAGE", folder)
    sources.digest.cache_clear()


def digest(*modules: str) -> str:
    sources.digest.cache_clear()
    return sources.digest(*modules)


def test_imports_and_closure_of_a_small_package(tmp_path, monkeypatch):
    modules = {
        "a": "import json\nimport pipeline\nfrom pipeline import b\nfrom pipeline.run import files\n",
        "b": """
            '''from pipeline import alone'''
            # from pipeline import alone
            def lazy():
                from pipeline.sub import c, name
        """,
        "sub/__init__": "name = 1\n",
        "sub/c": "import os.path, pipeline.d as dee\nfrom elsewhere.pipeline import alone\n",
        "d": "from pipeline.sub.e import thing\nfrom pipeline import a\n",  # a circle
        "sub/e": "thing = 1\n",
        "run/files": "from pipeline import alone\n",  # plumbing, not followed
        "alone": "",
    }
    small_package(tmp_path / "small", monkeypatch, modules)
    assert set(sources.imports(sources.module_file("a"))) == {"b", "run/files"}
    assert set(sources.imports(sources.module_file("b"))) == {"sub", "sub/c"}
    assert set(sources.imports(sources.module_file("d"))) == {"a", "sub/e"}
    assert sources.closure("sub/e") == ["sub/e"]
    assert sources.closure("a") == ["a", "b", "d", "sub", "sub/c", "sub/e"]
    assert sources.closure("alone", "sub/e") == ["alone", "sub/e"]
    assert sources.module_file("sub") == tmp_path / "small" / "sub" / "__init__.py"


def test_closure_of_the_encoder_holds_what_its_bytes_depend_on_and_no_ddpm():
    found = sources.closure("training/encoder", "methods/simclr")
    wanted = {"augment/recipes", "networks/backbones", "data/mixture", "engine/loop", "methods/simclr", "core/seeds"}
    wanted.add("core/shares")  # beta
    assert wanted <= set(found)
    assert not [name for name in found if sources.is_plumbing(name) or name.startswith("generators/ddpm")]


def test_closure_sees_every_import_of_the_package():
    """The closure reads absolute imports; a relative one would slip through, and so would a misspelt exception."""
    for file in sources.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}:{node.lineno} is relative"
    for name in sources.PLUMBING:
        assert sources.module_file(name).exists(), name


def edit(file: Path, change) -> None:
    before = file.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    ast.parse(after)
    file.write_text(after, encoding="utf-8")


HARMLESS = {
    "a comment": lambda source: source + "\n# a comment\n",
    "no comments": lambda source: re.sub(r"(?m)^ *#.*\n|  # .*$", "", source),
    "blank lines": lambda source: source.replace("\n", "\n\n"),
    "another indentation": lambda source: re.sub(r"(?m)^( +)", lambda match: match[1][::2], source),
    "line breaks inside brackets": lambda source: source.replace("(seed, ", "(\n  seed,\n      "),
    "docstrings": lambda source: re.sub(r'(?s)""".*?"""', '"""Another."""', source),
    "a docstring taken away": lambda source: source.split('"""', 2)[2],
}
HARMFUL = {
    "a constant": lambda source: source.replace("maxsize=8", "maxsize=9"),
    "a text": lambda source: source.replace('"little"', '"big"'),
    "an operator": lambda source: source.replace("[:8]", "[:-8]"),
    "a name": lambda source: source.replace("philox", "generator"),
    "a default": lambda source: source.replace('device: str = "cpu"', 'device: str = "cuda"'),
    "a decorator": lambda source: source.replace("@contextlib.contextmanager\n", ""),
    "a string that is no docstring": lambda source: source + '\nTEXT = "one"\n',
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_code_stays_under_an_edit_that_means_nothing(package, change):
    before = digest("data/mixture")
    edit(package / "core/seeds.py", change)
    edit(package / "data/mixture.py", change)
    assert digest("data/mixture") == before


@pytest.mark.parametrize("change", HARMFUL.values(), ids=HARMFUL)
def test_code_changes_with_an_edit_of_a_dependency_that_means_something(package, change):
    before, apart = digest("data/mixture"), digest("networks/backbones")
    edit(package / "core/seeds.py", change)
    assert digest("data/mixture") != before
    assert digest("networks/backbones") != apart  # it draws its first weights through seeds


def test_code_ignores_plumbing_and_modules_that_are_not_imported(package):
    before = digest("data/mixture")
    for name in ("core/files.py", "core/errors.py", "augment/recipes.py"):
        edit(package / name, lambda source: source + "\nEXTRA = 1\n")
    assert digest("data/mixture") == before


def test_code_depends_on_where_a_definition_stands(tmp_path, monkeypatch):
    small_package(tmp_path / "one", monkeypatch, {"a": "from pipeline import b\nx = 1\n", "b": "y = 2\n"})
    one = digest("a")
    small_package(tmp_path / "two", monkeypatch, {"a": "from pipeline import b\ny = 2\n", "b": "x = 1\n"})
    assert digest("a") != one


ONE = """
def f(x, *, name: str = "a"):
    \"\"\"A docstring.\"\"\"
    if x:  # a comment
        return f"{name!r:>{x}} {{and}} {f'{x + 1}'}" f"more"
    return x + 1


class A:
    \"\"\"Another.\"\"\"

    value: int = 1
    \"\"\"Of the value.\"\"\"
"""
SAME = """
def f(
    x, *, name: str = 'a',
):
  if x: return (f'{name!r:>{x}} {{and}} '
                f'{f"{x + 1}"}more')
  return (x
          + 1)
class A:
  'A docstring of other words.'
  value: int = (1)
"""
APART = ["f(x)", "f(*x)", "f(x=x)", "f([])", "f([''])", "f([None])", "f('')", "f(f'{x}')", "f(f'{x!r}')", "f(f' {x}')"]
APART += ["f(None)", "f()", "f(f'{x:>}')", "f(lambda: x)", "f(lambda x: x)", "f(lambda x=None: x)", "f(1)", "f(True)"]


def test_meaning_has_no_layout_and_no_docstrings():
    assert sources.meaning(ONE) == sources.meaning(SAME)
    assert sources.meaning("x = y\n'text'\n") == (
        "Module(body=[Assign(targets=[Name(id='x' ctx=Store())] value=Name(id='y' ctx=Load()))])"
    )


def test_meaning_tells_apart_what_differs():
    assert len({sources.meaning(source) for source in APART}) == len(APART)


@pytest.mark.parametrize("number", ["3.11", "3.12", "3.13"])
def test_digests_are_the_same_in_every_python(number):
    """Of the encoder's code: another Python that is installed finds what this one has made."""
    other = another(number)
    if other is None:
        pytest.skip(f"no Python {number} here")
    line = "from pipeline.core import sources; print(sources.digest('training/encoder', 'methods/simclr'))"
    done = subprocess.run([other, "-B", "-c", line], cwd=sources.PACKAGE.parent, stdout=-1, text=True, check=True)
    assert done.stdout.strip() == sources.digest("training/encoder", "methods/simclr")


def another(number: str) -> str | None:
    """An interpreter of that version: on the path, or pyenv's."""
    found = shutil.which(f"python{number}")
    candidates = [*Path.home().glob(f".pyenv/versions/{number}.*/bin/python"), *([Path(found)] if found else [])]
    for candidate in map(str, candidates):
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == number:
            return candidate
    return None
