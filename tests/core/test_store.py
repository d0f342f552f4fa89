import contextlib
import math
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.core import files, store
from pipeline.core.errors import UserError
from tests.closed import another_user, by_root, open_folder

REPOSITORY = Path(__file__).parents[2]
DAY = 86400


@pytest.fixture(autouse=True)
def _own_store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DVC_ROOT", raising=False)


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


@pytest.mark.parametrize("copy", [False, True])
def test_a_relative_store_is_that_of_the_clone_in_every_mode(monkeypatch, tmp_path, copy):
    """In a temporary copy of `dvc exp run --temp`, whose DVC_ROOT is the clone."""
    (tmp_path / "copy").mkdir()
    monkeypatch.setenv("LEAVEN_STORE", "./mine/s")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    if copy:
        monkeypatch.chdir(tmp_path / "copy")
    assert store.root() == tmp_path / "mine/s"
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert store.root().resolve() == tmp_path / "mine/s"


def test_a_store_in_the_home_folder_is_there_without_a_shell(monkeypatch, tmp_path):
    monkeypatch.setenv("LEAVEN_STORE", "~/s")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DVC_ROOT", "/somewhere")
    with store.work("toy", "a" * 64) as folder:
        assert folder.is_relative_to(tmp_path / "home/s")
    assert not Path("~").exists()


@by_root
def test_a_piece_of_work_that_may_not_be_deleted_is_named():
    with open_folder() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAVEN_STORE", str(place))
        folder = kept("encoder", "a" * 64, 30)
        folder.with_suffix(".lock").chmod(0o666)
        with another_user(), pytest.raises(UserError, match=f"{folder}: cannot write: Permission denied"):
            prune(7)
    assert prune(7)


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
        from pipeline.core import store

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
        "from pipeline.core import store; print(store.fingerprint(b=[1.5, 'é'], a={'x': 1}))",
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


def kept(kind: str, name: str, days: float, size: int = 0) -> Path:
    """A piece of work that was last used `days` days ago."""
    with store.work(kind, name) as folder:
        (folder / "part").write_bytes(bytes(size))
    then = time.time() - days * DAY
    os.utime(folder / "last-used", (then, then))
    return folder


def prune(days: float | None = None) -> list[str]:
    return list(store.listing(days))


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
    lines = prune()
    assert new.exists()
    assert old.exists()
    assert older.exists()
    assert [line.split()[-1] for line in lines] == ["kept"] * 3 + ["deleted"]  # the last says how much, here nothing
    *lines, last = prune(7)
    assert new.exists()
    assert not old.exists()
    assert not older.exists()
    assert last.split() == f"{store.root()} 3.5 MB in all, 3.0 MB deleted".split()
    lines = {line.split()[0]: line.split()[-1] for line in lines}
    assert lines == {str(new): "kept", str(old): "deleted", str(older): "deleted"}
    assert (store.root() / "records" / "check.json").exists()
    prune(0.5)
    assert not new.exists()


def test_using_work_makes_it_young_at_its_start_and_at_its_end():
    folder = kept("shards", "a" * 64, 30)
    with store.work("shards", "a" * 64):
        assert store.entries()[0][2] < 60
        os.utime(folder / "last-used", (0, 0))  # it ran for years
    assert store.entries()[0][2] < 60
    prune(7)
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
    assert prune(7)[0].split()[-1] == "kept"
    assert (folder / "part").exists()


# --- once and grow


def test_once_makes_a_piece_of_work_once_and_resumes_what_was_cut_short():
    calls = []

    def make(folder: Path, name: str) -> list[str]:
        calls.append((folder / "half").exists())
        (folder / "half").write_text("half")
        if len(calls) == 1:
            raise KeyboardInterrupt
        (folder / "result").write_text(name)
        return ["result"]

    with pytest.raises(KeyboardInterrupt):
        store.once("toy", {"seed": 1}, make)
    found = store.once("toy", {"seed": 1}, make)
    assert calls == [False, True]
    assert (found / "result").read_text() == store.fingerprint(seed=1)
    assert sorted(path.name for path in found.iterdir()) == ["last-used", "manifest.json", "result"]
    assert store.once("toy", {"seed": 1}, make) == found
    assert len(calls) == 2
    assert store.once("toy", {"seed": 2}, make) != found
    assert len(calls) == 3


def test_finished_work_that_was_damaged_is_refused_with_the_folder_to_delete():
    def make(folder: Path, name: str) -> list[str]:
        (folder / "result").write_text("right")
        return ["result"]

    found = store.once("toy", {}, make)
    (found / "result").write_text("wrong")
    with pytest.raises(UserError, match="sha256") as refused:
        store.once("toy", {}, make)
    assert refused.value.remedy == f"delete {found}, then run the same command again"


def test_a_set_grows_by_what_is_missing_and_a_torn_file_is_made_again():
    asked = []

    def start(missing: list[str]):
        asked.append(missing)
        return lambda path: path.write_text(f"{path.name} {len(asked)}")

    few = store.grow("set", {"seed": 1}, ["a.h5", "b.h5"], start)
    assert {name: path.read_text() for name, path in few.items()} == {"a.h5": "a.h5 1", "b.h5": "b.h5 1"}
    few["a.h5"].write_text("torn")
    more = store.grow("set", {"seed": 1}, ["a.h5", "b.h5", "c.h5"], start)
    assert asked == [["a.h5", "b.h5"], ["a.h5", "c.h5"]]
    assert [path.read_text() for path in more.values()] == ["a.h5 2", "b.h5 1", "c.h5 2"]
    assert store.grow("set", {"seed": 1}, ["b.h5"], start) == {"b.h5": more["b.h5"]}
    assert len(asked) == 2


def test_the_first_process_alone_makes_all_of_a_set(monkeypatch):
    """As where images are imported: the other processes of the job take no part in it."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = store.grow("set", {}, ["a.h5", "b.h5"], lambda missing: lambda path: path.write_text(path.name))
    assert [path.read_text() for path in made.values()] == ["a.h5", "b.h5"]


# --- several programs fill a set

WORKER = """
    import sys, time
    from pathlib import Path
    from pipeline.core import store

    name, holds = sys.argv[1:]

    def write(path):
        with open("made", "a") as file:
            file.write(f"{name} {path.name}\\n")
        if path.name == holds:
            path.with_name(f".{path.name}.0.tmp").write_text("half")
            Path(f"holds-{holds}").touch()
            end = time.monotonic() + 100
            while not Path("go").exists():
                assert time.monotonic() < end
                time.sleep(0.05)
        path.write_text(path.name)

    store.grow("set", {}, ["a.h5", "b.h5", "c.h5"], lambda missing: write)
"""


def worker(name: str, holds: str = "") -> subprocess.Popen:
    """A program that makes a, b and c, and stands still in one of them until there is a file `go`."""
    command = [sys.executable, "-B", "-c", textwrap.dedent(WORKER), name, holds]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stderr=-1, text=True)


def made() -> list[str]:
    return Path("made").read_text().split("\n")[:-1]


def wait_for(true) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_programs_fill_one_set_together_and_each_file_is_made_once():
    first = worker("first", holds="a.h5")
    wait_for(Path("holds-a.h5").exists)
    second = worker("second")
    wait_for(lambda: len(made()) == 3)
    assert second.poll() is None  # it waits for a
    Path("go").touch()
    said = second.communicate(timeout=60)[1]
    assert (first.wait(60), second.returncode) == (0, 0)
    assert said.startswith("waiting: another process works on a.h5 (")
    assert made() == ["first a.h5", "second b.h5", "second c.h5"]


def test_what_a_killed_program_had_in_hand_another_makes():
    first = worker("first", holds="a.h5")
    wait_for(Path("holds-a.h5").exists)
    second = worker("second")
    wait_for(lambda: len(made()) == 3)
    assert list(store.root().rglob(".*.tmp"))
    first.kill()
    assert second.wait(60) == 0
    assert made() == ["first a.h5", "second b.h5", "second c.h5", "second a.h5"]
    assert not list(store.root().rglob(".*.tmp"))
    found = store.grow("set", {}, ["a.h5", "b.h5", "c.h5"], lambda missing: pytest.fail(str(missing)))
    assert [path.read_text() for path in found.values()] == list(found)


def test_prune_spares_a_set_in_which_a_file_is_being_made():
    first = worker("first", holds="b.h5")
    wait_for(Path("holds-b.h5").exists)
    assert prune(0)[0].split()[-1] == "kept"
    Path("go").touch()
    assert first.wait(60) == 0
    assert prune(0)[0].split()[-1] == "deleted"
    assert not list(store.root().rglob("*.h5"))


def test_a_prune_that_is_broken_off_leaves_nothing_that_passes_for_finished(monkeypatch):
    def kill(folder):
        raise KeyboardInterrupt

    def make(folder, fingerprint):
        again.append(folder)
        (folder / "parts").mkdir(exist_ok=True)
        (folder / "parts/a.bin").write_bytes(b"1")
        return ["parts/a.bin"]

    again = []
    made = store.once("encoder", {"seed": 1}, make)
    long_ago = time.time() - 30 * DAY
    os.utime(made / store._USED, (long_ago, long_ago))
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            prune(7)
    assert made in [folder for folder, _, _ in store.entries()]
    assert store.once("encoder", {"seed": 1}, make) == made
    assert again == [made, made]


def test_what_a_killed_process_left_beside_finished_work_is_deleted_by_the_next():
    def make(folder, fingerprint):
        (folder / "a.bin").write_bytes(b"1")
        return ["a.bin"]

    made = store.once("encoder", {"seed": 1}, make)
    (made / "checkpoint.pt").write_bytes(b"of the training")  # killed between the seal and this file's end
    assert store.once("encoder", {"seed": 1}, make) == made
    assert not (made / "checkpoint.pt").exists()
    assert (made / "a.bin").exists()
