import ast
import contextlib
import math
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.core import files, store

REPOSITORY = Path(__file__).parents[2]
DAY = 86400


@pytest.fixture(autouse=True)
def _own_store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    store.code.cache_clear()
    yield
    store.code.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that the store reads its code from."""
    copy = tmp_path / "pipeline"
    shutil.copytree(store.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "PACKAGE", copy)
    return copy


def small_package(folder: Path, monkeypatch, modules: dict[str, str]) -> None:
    """A made-up package: name -> source."""
    for name, source in modules.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
    monkeypatch.setattr(store, "PACKAGE", folder)
    store.code.cache_clear()


def digest(*modules: str) -> str:
    store.code.cache_clear()
    return store.code(*modules)


def test_root_is_leaven_store_then_dvc_root_then_here(monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "/somewhere")
    monkeypatch.setenv("LEAVEN_STORE", "/shared/store")
    assert store.root() == Path("/shared/store")
    for value in ("off", ""):
        monkeypatch.setenv("LEAVEN_STORE", value)
        assert store.root() == Path("/somewhere/.cache")
    monkeypatch.delenv("LEAVEN_STORE")
    assert store.root() == Path("/somewhere/.cache")
    monkeypatch.delenv("DVC_ROOT")
    assert store.root().resolve() == Path.cwd() / ".cache"


def test_work_of_one_fingerprint_is_found_again_and_others_do_not_see_it():
    one, other = store.fingerprint(seed=1), store.fingerprint(seed=2)
    with store.work("shards", one) as folder:
        (folder / "part").write_text("done")
    with store.work("shards", one) as folder:
        assert (folder / "part").read_text() == "done"
        assert store.root() in folder.parents
    with store.work("shards", other) as folder:
        assert not (folder / "part").exists()
    with store.work("encoder", one) as folder:
        assert not (folder / "part").exists()


def test_work_that_is_cut_short_keeps_its_parts():
    def cut_short() -> None:
        with store.work("shards", "f" * 64) as folder:
            (folder / "part").write_text("done")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    with store.work("shards", "f" * 64) as folder:
        assert (folder / "part").read_text() == "done"


def test_off_keeps_nothing_but_lasts_until_the_process_ends(tmp_path):
    # The stage copies the results out after the block, as pipeline.sampling and pipeline.training hand out paths.
    script = """
        from pipeline import store

        with store.work("shards", "f" * 64) as one:
            (one / "part").write_text("done")
        with store.work("shards", "f" * 64) as two:
            assert not (two / "part").exists(), "work is not shared"
        assert (one / "part").read_text() == "done"
    """
    temporary, here = tmp_path / "temporary", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    environment = {"PYTHONPATH": str(REPOSITORY), "LEAVEN_STORE": "off", "TMPDIR": str(temporary)}
    command = [sys.executable, "-B", "-c", textwrap.dedent(script)]
    run = subprocess.run(command, cwd=here, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert list(temporary.iterdir()) == list(here.iterdir()) == []


def test_fingerprint_changes_with_every_part_and_with_nothing_else():
    parts = {"params": {"lr": 0.1, "sizes": [1, 2]}, "code": "abc", "threads": 2, "flag": True, "none": None}
    same = dict(reversed(parts.items()))
    same["params"] = {"sizes": (1, 2), "lr": 0.1}
    assert store.fingerprint(**parts) == store.fingerprint(**same)
    others = [
        {**parts, "params": {"lr": 0.1, "sizes": [2, 1]}},
        {**parts, "params": {"lr": math.nextafter(0.1, 1), "sizes": [1, 2]}},
        {**parts, "params": {"lr": 0.1, "sizes": [1, 2], "more": None}},
        {**parts, "code": "abd"},
        {**parts, "threads": 3},
        {**parts, "threads": "2"},
        {**parts, "flag": False},
        {**parts, "none": 0},
        {key: value for key, value in parts.items() if key != "none"},
        {("kode" if key == "code" else key): value for key, value in parts.items()},
    ]
    found = [store.fingerprint(**p) for p in [parts, *others]]
    assert len(set(found)) == len(found)


def test_fingerprint_refuses_what_has_no_stable_text():
    with pytest.raises(ValueError, match="JSON"):
        store.fingerprint(lr=float("nan"))
    with pytest.raises(TypeError):
        store.fingerprint(value=object())


def test_fingerprint_is_the_same_in_every_process():
    command = [
        sys.executable,
        "-B",
        "-c",
        "from pipeline import store; print(store.fingerprint(b=[1.5, 'é'], a={'x': 1}))",
    ]
    runs = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert runs == {store.fingerprint(a={"x": 1}, b=[1.5, "é"])}


def test_imports_and_closure_of_a_small_package(tmp_path, monkeypatch):
    modules = {
        "a": "import json\nimport pipeline\nfrom pipeline import b, files\n",
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
        "files": "from pipeline import alone\n",  # plumbing, not followed
        "alone": "",
    }
    small_package(tmp_path / "small", monkeypatch, modules)
    assert set(store.imports(store.module_file("a"))) == {"b", "files"}
    assert set(store.imports(store.module_file("b"))) == {"sub", "sub/c"}
    assert set(store.imports(store.module_file("d"))) == {"a", "sub/e"}
    assert store.closure("sub/e") == ["sub/e"]
    assert store.closure("a") == ["a", "b", "d", "sub", "sub/c", "sub/e"]
    assert store.closure("alone", "sub/e") == ["alone", "sub/e"]
    assert store.module_file("sub") == tmp_path / "small" / "sub" / "__init__.py"


def test_closure_of_the_encoder_holds_what_its_bytes_depend_on_and_no_generator():
    found = store.closure("training/encoder", "methods/simclr")
    assert {"augment", "backbones", "inflation", "loop", "methods/simclr", "seeds", "shards"} <= set(found)
    assert not store.PLUMBING & set(found)
    assert not [name for name in found if name.startswith("generators")]


def test_closure_sees_every_import_of_the_package():
    """The closure reads absolute imports; a relative one would slip through, and so would a misspelt exception."""
    for file in store.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}:{node.lineno} is relative"
    for name in store.PLUMBING:
        assert store.module_file(name).exists(), name


def edit(file: Path, change) -> None:
    before = file.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    ast.parse(after)
    file.write_text(after, encoding="utf-8")


def redocumented(source: str) -> str:
    """Every docstring of a module, its classes and its functions replaced."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0].value.value = "Another."
    return ast.unparse(tree)


HARMLESS = {
    "a comment": lambda source: source + "\n# a comment\n",
    "the layout, and no comments": lambda source: ast.unparse(ast.parse(source)),
    "docstrings": redocumented,
    "a docstring taken away": lambda source: source.split('"""', 2)[2],
}
HARMFUL = {
    "a constant": lambda source: source.replace("_ROUNDS = 6", "_ROUNDS = 8"),
    "a text": lambda source: source.replace('"little"', '"big"'),
    "an operator": lambda source: source.replace("x >= n", "x > n").replace(">= n]", "> n]"),
    "a name": lambda source: source.replace("_mix", "_stir"),
    "a default": lambda source: source.replace('device: str = "cpu"', 'device: str = "cuda"'),
    "a decorator": lambda source: source.replace("@contextlib.contextmanager\n", ""),
    "a string that is no docstring": lambda source: source + '\nTEXT = "one"\n',
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_code_stays_under_an_edit_that_means_nothing(package, change):
    before = digest("inflation")
    edit(package / "seeds.py", change)
    edit(package / "inflation.py", change)
    assert digest("inflation") == before


@pytest.mark.parametrize("change", HARMFUL.values(), ids=HARMFUL)
def test_code_changes_with_an_edit_of_a_dependency_that_means_something(package, change):
    before, apart = digest("inflation"), digest("backbones")
    edit(package / "seeds.py", change)
    assert digest("inflation") != before
    assert digest("backbones") != apart  # it draws its first weights through seeds


def test_code_ignores_plumbing_and_modules_that_are_not_imported(package):
    before = digest("inflation")
    for name in ("files.py", "errors.py", "augment.py"):
        edit(package / name, lambda source: source + "\nEXTRA = 1\n")
    assert digest("inflation") == before


def test_code_depends_on_where_a_definition_stands(tmp_path, monkeypatch):
    small_package(tmp_path / "one", monkeypatch, {"a": "from pipeline import b\nx = 1\n", "b": "y = 2\n"})
    one = digest("a")
    small_package(tmp_path / "two", monkeypatch, {"a": "from pipeline import b\ny = 2\n", "b": "x = 1\n"})
    assert digest("a") != one


def kept(kind: str, name: str, days: float, size: int = 0) -> Path:
    """A piece of work that was last used `days` days ago."""
    with store.work(kind, name) as folder:
        (folder / "part").write_bytes(bytes(size))
    then = time.time() - days * DAY
    os.utime(folder / "last-used", (then, then))
    return folder


def test_entries_have_their_size_and_age():
    new, old = kept("encoder", "a" * 64, 0.5, size=1000), kept("shards", "b" * 64, 9, size=3_000_000)
    (old / "deep").mkdir()
    (old / "deep" / "more").write_bytes(bytes(500))
    found = {folder: (size, age) for folder, size, age in store.entries()}
    assert set(found) == {new, old}
    assert found[new] == (1000, pytest.approx(0.5 * DAY, abs=60))
    assert found[old] == (3_000_500, pytest.approx(9 * DAY, abs=60))


def test_prune_deletes_what_was_not_used_for_so_many_days():
    new, old, older = (
        kept("encoder", "a" * 64, 6.9, 500_000),
        kept("shards", "b" * 64, 7.1, 3_000_000),
        kept("shards", "c" * 64, 300),
    )
    (store.root() / "records").mkdir()
    (store.root() / "records" / "check.json").write_text("{}")
    assert [line.split()[-1] for line in store.prune(None)][:3] == ["kept"] * 3
    assert new.exists()
    assert old.exists()
    assert older.exists()
    *lines, last = store.prune(7)
    assert new.exists()
    assert not old.exists()
    assert not older.exists()
    assert last.split() == f"{store.root()} 3.5 MB in all, 3.0 MB deleted".split()
    lines = {line.split()[0]: line.split()[-1] for line in lines}
    assert lines == {str(new): "kept", str(old): "deleted", str(older): "deleted"}
    assert (store.root() / "records" / "check.json").exists()
    list(store.prune(0.5))
    assert not new.exists()


def test_using_work_makes_it_young_at_its_start_and_at_its_end():
    folder = kept("shards", "a" * 64, 30)
    with store.work("shards", "a" * 64):
        assert store.entries()[0][2] < 60
        os.utime(folder / "last-used", (0, 0))  # it ran for years
    assert store.entries()[0][2] < 60
    list(store.prune(7))
    assert folder.exists()


def test_prune_spares_what_was_used_while_it_waited_for_the_lock(monkeypatch):
    folder = kept("shards", "a" * 64, 30)
    real = files.lock

    @contextlib.contextmanager
    def late(path, what):
        (folder / "last-used").touch()  # as the process does that held the lock until now
        with real(path, what):
            yield

    monkeypatch.setattr(files, "lock", late)
    assert next(store.prune(7)).split()[-1] == "kept"
    assert (folder / "part").exists()
