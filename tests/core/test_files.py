import errno
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipeline.core import files, store
from pipeline.core.errors import REFUSED, RESOURCE, UserError

REPOSITORY = Path(__file__).parents[2]


def start(script: str, *arguments: object, **options) -> subprocess.Popen:
    """A real Python process that can import the package."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        **options,
    )


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_write_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    files.write_text(path, "old, and longer")
    files.write_text(path, "new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a", "a/b", "a/b/file.txt"]


def test_write_text_keeps_line_ends_and_is_utf8(tmp_path):
    files.write_text(tmp_path / "t", "é\r\nx\n")
    assert (tmp_path / "t").read_bytes() == b"\xc3\xa9\r\nx\n"


def test_the_final_name_holds_the_old_bytes_until_the_writer_is_done(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def writer(temporary: Path) -> None:
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent))

    files.write(path, writer)
    assert seen == [("old", tmp_path)]  # the same folder, so that the rename is atomic
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", [None, "old"])
def test_a_writer_that_raises_leaves_the_old_file_and_no_temporary(tmp_path, old):
    path = tmp_path / "file"
    if old:
        path.write_text(old)

    def writer(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        files.write(path, writer)
    assert names(tmp_path) == (["file"] if old else [])
    assert not old or path.read_text() == old


def test_the_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    # A power cut cannot be had in a test, so the order of the system calls is looked at.
    calls, opened = [], {}
    for name in ("open", "fsync", "replace"):
        real = getattr(os, name)

        def spy(*arguments, real=real, name=name, **options):
            result = real(*arguments, **options)
            if name == "open":
                opened[result] = Path(arguments[0])
            else:
                calls.append((name, opened.get(arguments[0], arguments[0])))
            return result

        monkeypatch.setattr(os, name, spy)
    files.write(tmp_path / "file", lambda temporary: temporary.write_text("x"))
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1] == calls[1][1] != tmp_path / "file"
    assert calls[2][1] == tmp_path


@pytest.mark.parametrize("old", [None, "old"])
def test_a_process_killed_inside_a_writer_leaves_no_half_file_under_the_name(tmp_path, old):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    process = start(
        """
        import os, signal, sys
        from pipeline.core import files

        def writer(temporary):
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        files.write(sys.argv[1], writer)
        """,
        path,
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if not name.startswith(".")] == (["file"] if old else [])
    assert not old or path.read_text() == old
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_json_is_sorted_and_the_same_for_equal_values(tmp_path):
    files.write_json(tmp_path / "one", {"b": [1, 2.5, None], "a": {"d": "é", "c": True}})
    files.write_json(tmp_path / "two", {"a": {"c": True, "d": "é"}, "b": [1, 2.5, None]})
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    assert text.index('"a"') < text.index('"b"')
    assert text.index('"c"') < text.index('"d"')
    assert text.endswith("}\n")
    assert files.read_json(tmp_path / "one") == json.loads(text) == {"a": {"c": True, "d": "é"}, "b": [1, 2.5, None]}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_non_finite_numbers_and_keeps_the_old_file(tmp_path, number):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"deep": [{"loss": number}]})
    assert files.read_json(path) == {"loss": 1.0}
    assert names(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe\x00", b"[1, 2]", b"3", b"null"])
def test_read_json_names_a_file_that_is_not_a_json_object(tmp_path, content):
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"card\.json: not readable as JSON") as caught:
        files.read_json(path)
    assert caught.value.code == REFUSED
    assert "\n" not in str(caught.value)


def test_read_json_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"card\.json: not found"):
        files.read_json(tmp_path / "card.json")
    with pytest.raises(UserError, match="not readable"):  # a folder of that name
        files.read_json(tmp_path)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == digest


def test_assemble_replaces_the_whole_folder(tmp_path):
    (tmp_path / "a").write_text("a2")
    (tmp_path / "b").write_text("b2")
    folder = tmp_path / "out" / "set"
    files.assemble(folder, {"gone": tmp_path / "a", "kept": tmp_path / "a"})
    seen = []

    def finish(fresh: Path) -> None:
        seen.append((names(folder), names(fresh)))
        (fresh / "manifest").write_text("m")

    files.assemble(folder, {"kept": tmp_path / "b", "deep/er": tmp_path / "a"}, finish)
    assert seen == [(["gone", "kept"], ["deep", "deep/er", "kept"])]  # the old folder stands while the new one is made
    assert names(folder) == ["deep", "deep/er", "kept", "manifest"]
    assert (folder / "kept").read_text() == "b2"
    assert (tmp_path / "b").read_text() == "b2", "sources are copied, not moved"
    assert names(tmp_path / "out") == ["set", "set/deep", "set/deep/er", "set/kept", "set/manifest"]


def test_assemble_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("a")
    folder = tmp_path / "set"
    files.assemble(folder, {"old": tmp_path / "a"})

    def finish(fresh: Path) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        files.assemble(folder, {"new": tmp_path / "a"}, finish)
    with pytest.raises(FileNotFoundError):
        files.assemble(folder, {"new": tmp_path / "a", "other": tmp_path / "missing"})
    assert names(tmp_path) == ["a", "set", "set/old"]


def test_assemble_killed_leaves_the_old_folder_whole(tmp_path):
    (tmp_path / "a").write_text("a")
    files.assemble(tmp_path / "set", {"old": tmp_path / "a"})
    process = start(
        """
        import os, signal, sys
        from pathlib import Path
        from pipeline.core import files

        at = Path(sys.argv[1])
        files.assemble(at / "set", {"new": at / "a"}, lambda fresh: os.kill(os.getpid(), signal.SIGKILL))
        """,
        tmp_path,
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a", "set", "set/old"]


HOLD = """
    import sys
    from pathlib import Path
    from pipeline.core import files, store

    def hold(kind, path):
        return files.lock(Path(path), "shards") if kind == "lock" else store.work("shards", path)

    with hold(*sys.argv[1:]):
        print("held", flush=True)
        sys.stdin.readline()
    print("released", flush=True)
"""


def line(process: subprocess.Popen, stream, seconds: float) -> str | None:
    """The next line of a process's stream, or None when none comes in time."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline().strip() if ready else None


@pytest.mark.fault(26)
@pytest.mark.parametrize("kind", ["lock", "work"])
@pytest.mark.parametrize("end", ["release", "kill"])
def test_a_second_process_waits_until_the_first_lets_go_or_dies(tmp_path, monkeypatch, kind, end):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path))
    path = tmp_path / "x.lock" if kind == "lock" else store.fingerprint(a=1)
    first = start(HOLD, kind, path)
    second = None
    try:
        assert line(first, first.stdout, 30) == "held"
        second = start(HOLD, kind, path)
        assert line(second, second.stderr, 30).startswith("waiting: another process works on shards (")
        assert line(second, second.stdout, 0.3) is None, "both hold the lock"
        if end == "kill":
            first.kill()
        else:
            first.stdin.write("\n")
        assert line(second, second.stdout, 10) == "held"
        out, _ = second.communicate("\n", timeout=10)
        assert out.strip() == "released"
        assert second.returncode == 0
    finally:
        for process in (first, second):
            if process:
                process.kill()
                process.communicate()


def test_lock_is_let_go_when_its_block_raises(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), files.lock(tmp_path / "deep" / "x.lock", "work"):
            raise ValueError("inside")


def test_who_looks_for_a_lock_learns_of_it_and_leaves_nothing(tmp_path):
    path = tmp_path / "x.lock"
    assert not files.locked(path)
    assert names(tmp_path) == []
    with files.lock(path, "work"):
        assert files.locked(path)
        with pytest.raises(UserError, match="another process works on work - wait for it, or stop it"):
            files.lock(path, "work", patient=False).__enter__()
    assert not files.locked(path)
    with files.lock(path, "work", patient=False):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, number):
    def none(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"x\.lock: cannot lock: .* - use another disk"):
        files.lock(tmp_path / "x.lock", "work").__enter__()
    assert not files.locked(tmp_path / "x.lock")


def test_who_waits_for_a_lock_says_so_again_and_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "_AGAIN", 0.1)
    with open(tmp_path / "x.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        with files.lock(tmp_path / "x.lock", "work"):
            said = capsys.readouterr().err.splitlines()
    assert len(said) > 1
    assert set(said) == {f"waiting: another process works on work ({tmp_path}/x.lock)"}


def test_a_file_system_that_does_not_answer_to_a_lock_is_told(tmp_path, monkeypatch, capsys):
    """As a server of a network that is away: the system call does not come back, and cannot be ended."""
    monkeypatch.setattr(files, "_SILENT", 0.05)
    real = fcntl.flock

    def slow(*words):
        time.sleep(0.4)
        return real(*words)

    monkeypatch.setattr(fcntl, "flock", slow)
    with files.lock(tmp_path / "x.lock", "work"):
        pass
    assert capsys.readouterr().err == f"waiting: its file system does not answer ({tmp_path}/x.lock)\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_lock_that_fails_is_told_in_a_line(tmp_path, monkeypatch, number):
    def none(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"x\.lock: cannot lock: .* - keep the file: .* run the same command again"):
        files.lock(tmp_path / "x.lock", "work").__enter__()


@pytest.mark.fault(12)
@pytest.mark.parametrize("what", ["write", "assemble"])
def test_a_full_disk_is_a_resource_error_and_keeps_what_was_there(tmp_path, what):
    """RLIMIT_FSIZE: the kernel refuses to let a file grow, as it does on a full disk (EFBIG for ENOSPC)."""
    (tmp_path / "big").write_bytes(bytes(200_000))
    (tmp_path / "small").write_text("old")
    files.assemble(tmp_path / "set", {"old": tmp_path / "small"})
    files.write_text(tmp_path / "file", "old")
    before = names(tmp_path)
    script = """
        import sys
        from pathlib import Path
        from pipeline.core import files
        from pipeline.core.errors import UserError

        at = Path(sys.argv[1])
        try:
            if sys.argv[2] == "write":
                files.write(at / "file", lambda temporary: temporary.write_bytes(bytes(200_000)))
            else:
                files.assemble(at / "set", {"big": at / "big"})
        except UserError as error:
            print(error)
            sys.exit(error.code)
    """
    limit = (50_000, resource.RLIM_INFINITY)
    process = start(script, tmp_path, what, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    out, err = process.communicate()
    assert process.returncode == RESOURCE == 3, err
    assert "disk full" in out
    assert str(tmp_path / ("file" if what == "write" else "set")) in out
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("below", ["file/x", "file/deeper/x"])
def test_a_file_where_a_folder_must_be_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("here")
    (tmp_path / "source").write_text("s")
    target = tmp_path / below
    attempts = {
        "write": lambda: files.write_text(target, "x"),
        "assemble": lambda: files.assemble(target, {"a": tmp_path / "source"}),
        "lock": lambda: files.lock(target, "work").__enter__(),
    }
    for name, attempt in attempts.items():
        with pytest.raises(UserError, match="cannot write") as caught:
            attempt()
        assert caught.value.code == REFUSED == 2, name
        assert str(target) in str(caught.value)
    assert (tmp_path / "file").read_text() == "here"
    assert names(tmp_path) == ["file", "source"]


def test_a_folder_where_a_file_must_be_and_the_reverse_are_refused(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot write"):
        files.write_text(tmp_path / "folder", "x")
    with pytest.raises(UserError, match="cannot write"):
        files.assemble(tmp_path / "file", {})
    assert names(tmp_path) == ["file", "folder", "folder/inside"]
    assert (tmp_path / "file").read_text() == "here"


def test_faults_that_are_no_matter_of_the_disk_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), files.disk_faults(tmp_path):
        (tmp_path / "nothing").read_text()


@pytest.mark.fault(33)
def test_a_sealed_object_comes_back_and_whatever_else_there_is_is_refused(tmp_path):
    path = tmp_path / "card.json"
    value = {"n": 3, "mean": [0.1, 1 / 3], "files": {10: "a", 9: "b"}, "note": None}
    files.write_sealed(path, value)
    read = {**value, "files": {"10": "a", "9": "b"}}
    assert files.read_sealed(path, "generate", {"n": int, "files": dict}) == read
    text = path.read_text()
    for harmed, says in (
        (text.replace('"n": 3', '"n": 4'), "damaged: its seal is not that of its values"),
        (text.replace('"note": null', '"note": 0'), "damaged"),
        (text.replace('"schema": 2', '"schema": 3'), "written by format 3; this reads 2"),
        (json.dumps(value), "written by format 1; this reads 2"),  # as before there were seals
        ("[" * 100_000, "not readable as JSON"),
        ("[1]", "not an object"),
    ):
        path.write_text(harmed)
        with pytest.raises(UserError, match=says) as caught:
            files.read_sealed(path, "generate", {})
        assert str(caught.value).startswith(str(path))
    files.write_sealed(path, value)
    with pytest.raises(
        UserError, match=r"lacks n as str, more as list - delete .*, then run `dvc repro -f -s generate`"
    ):
        files.read_sealed(path, "generate", {"n": str, "more": list})


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="not readable as JSON: no file"):
        files.read_json(tmp_path / "pipe.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="missing or not readable"):
        files.check_digests(tmp_path, {"folder": "0" * 64}, "card.json", "generate")


@pytest.mark.parametrize("words", ["two\nlines", "one\rtwo", "\x1b[2J", "a\u2028b", "\ud800", "x" * 10_000])
def test_a_refusal_is_one_line_whatever_a_strangers_file_says(words):
    line = str(UserError(words, where=words[:100], remedy="run it again"))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert len(line) < 3000
    assert line.endswith("run it again")
