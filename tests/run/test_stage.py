"""What a stage's process says and returns, whatever its main does; tiny stages beside a copy of the package."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline
from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.run import graph, stage

REPOSITORY = Path(pipeline.__file__).parent.parent
HEAD = """
from pathlib import Path
from pipeline.core.errors import UserError, UserErrors, Stopped
from pipeline.run import machine, stage
def needs(params):
    return machine.Needs({needs})
def main(params):
"""
TAIL = '\nif __name__ == "__main__":\n    stage.run("tiny", main, needs)\n'


@pytest.fixture
def clone(package):
    """A place for stages."""
    return package


def described(clone: Path, reads=("inflation",), outs=("made",), foreach: str = "") -> None:
    """The stage in dvc.yaml, written as JSON, which YAML is."""
    tiny = {"cmd": "python -m stages.tiny", "params": list(reads), "outs": list(outs)}
    stage = {"foreach": f"${{{foreach}}}", "do": tiny} if foreach else tiny
    (clone / "dvc.yaml").write_text(json.dumps({"stages": {"tiny": stage}}))


def write(clone: Path, body: str, reads=("inflation",), needs='("made",)', foreach: str = "") -> None:
    """A stage with this body of main."""
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    (clone / "stages/tiny.py").write_text(HEAD.replace("{needs}", needs) + lines + "\n" + TAIL)
    described(clone, reads, foreach=foreach)


def start(clone: Path, *options: str, **environment: str) -> subprocess.Popen:
    """The stage as a process."""
    variables = os.environ | {"LEAVEN_STORE": str(clone / "store"), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    variables.pop("PYTHONPATH", None)
    line = [sys.executable, "-m", "stages.tiny", *options]
    return subprocess.Popen(line, cwd=clone, env=variables, stdout=-1, stderr=-1, text=True)


def run(clone: Path, body: str, reads=("inflation",), options=(), needs='("made",)', **environment: str):
    """A stage with this body of main, run to its end: a CompletedProcess."""
    write(clone, body, reads, needs)
    process = start(clone, *options, **environment)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def until(true, seconds=60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def recorded(clone: Path) -> bool:
    return (clone / "store/records/tiny.json").exists()


def test_good_stage_ends_with_0_without_a_word_and_is_recorded_outside_the_workspace(clone):
    done = run(clone, "Path('made').write_text(str(params.inflation.ratio))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    params = reader.load(clone / "params.yaml")
    assert (clone / "made").read_text() == str(params.inflation.ratio)
    record = json.loads((clone / "store/records/tiny.json").read_text())
    assert record["stage"] == "tiny"
    assert record["params"] == params.model_dump()
    assert 0 < record["seconds"] < 600
    assert {path.name for path in clone.iterdir()} == {
        "pipeline",
        "params.yaml",
        "dvc.yaml",
        "stages",
        "made",
        "store",
        "data",
    }
    assert [path.name for path in (clone / "data").iterdir()] == [".tiny.lock"]


@pytest.mark.fault(6, 28)
@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (
            "raise UserError('no such images', 'data/x', 'put them there')",
            2,
            "tiny: data/x: no such images - put them there\n",
        ),
        ("raise UserError('disk full', code=3)", 3, "tiny: disk full\n"),
        ("raise UserError('loss not finite', code=4)", 4, "tiny: loss not finite\n"),
        ("raise UserErrors([UserError('one'), UserError('two', code=3)])", 2, "tiny: one\ntiny: two\n"),
        ("raise UserError('a stranger\\x1b[2J\\nsays\\u2028this')", 2, "tiny: a stranger\\x1b[2J\\nsays\\u2028this\n"),
        ("raise Stopped('stopped at step 7', 15)", 143, "\ntiny: stopped at step 7\n"),
        ("raise Stopped('stopped at step 7', 2)", 130, "\ntiny: stopped at step 7\n"),
        ("raise KeyboardInterrupt", 130, "\ntiny: interrupted; run the same command to go on\n"),
        (
            "raise MemoryError",
            3,
            "tiny: out of memory - take fewer images; finished parts are kept\n",
        ),
        (
            "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
            3,
            "tiny: out of memory - take fewer images; finished parts are kept\n",
        ),
        (
            "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')",
            3,
            "tiny: out of memory - take fewer images; finished parts are kept\n",
        ),
    ],
)
def test_fault_is_its_lines_and_its_code_without_a_traceback(body, code, said, clone):
    done = run(clone, body)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
    assert not recorded(clone)


@pytest.mark.parametrize("body", ["raise RuntimeError('shapes differ')", "raise KeyError('x')", "params.compute"])
def test_bug_is_a_traceback_and_code_1(body, clone):
    done = run(clone, body)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "stages/tiny.py" in done.stderr
    assert not recorded(clone)


def test_memory_fault_has_its_traceback_on_demand(clone):
    assert "Traceback" in run(clone, "raise MemoryError", LEAVEN_DEBUG="1").stderr


def test_faulty_params_are_refused_line_by_line_before_main_runs(clone):
    text = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(text.replace("  threads:", "  thread:").replace("  seed: 0", "  seed: -1", 1))
    done = run(clone, "Path('ran').touch()")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3
    assert all(line.startswith("tiny: params.yaml:") for line in done.stderr.splitlines())
    assert not (clone / "ran").exists()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("p = Path('params.yaml'); p.write_text(p.read_text().replace('ratio: ', 'ratio: 1'))", "params.yaml"),
        ("p = Path('pipeline/core/files.py'); p.write_text(p.read_text() + '#')", "pipeline/core/files.py"),
        ("p = Path('stages/tiny.py'); p.write_text(p.read_text() + '#')", "stages/tiny.py"),
        ("Path('pipeline/core/store.py').unlink()", "pipeline/core/store.py"),
        (
            "import pipeline.params.judge\np = Path('pipeline/params/judge.py'); p.write_text(p.read_text() + '#')",
            "pipeline/params/judge.py",
        ),
    ],
)
def test_edit_of_what_a_stage_uses_while_it_runs_is_noticed(body, named, clone):
    done = run(clone, body)
    assert done.returncode == 1
    assert done.stderr.startswith("tiny: ")
    assert f"{named}: changed while the stage ran - run the same command again" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not recorded(clone)


@pytest.mark.parametrize(
    "body",
    [
        "p = Path('params.yaml'); p.write_text(p.read_text().replace('threads: ', 'threads: 1'))",  # another section
        "p = Path('params.yaml'); p.write_text('# a comment\\n' + p.read_text())",
        "p = Path('pipeline/measures/probes.py'); p.write_text(p.read_text() + '#')",  # not loaded
        "Path('stages/other.py').write_text('')",
    ],
)
def test_edit_of_what_a_stage_does_not_use_is_none_of_its_business(body, clone):
    done = run(clone, body)
    assert (done.returncode, done.stderr) == (0, "")


def test_edit_behind_a_symbolic_link_is_noticed(clone):
    (clone / "pipeline").rename(clone / "elsewhere")
    (clone / "pipeline").symlink_to(clone / "elsewhere")
    done = run(clone, "p = Path('elsewhere/core/files.py'); p.write_text(p.read_text() + '#')")
    assert done.returncode == 1
    assert "elsewhere/core/files.py: changed while the stage ran" in done.stderr


def test_edit_of_a_single_value_is_noticed_only_if_that_value_is_read(clone):
    body = "p = Path('params.yaml'); p.write_text(p.read_text().replace('real_weight: 1', 'real_weight: 2'))"
    assert run(clone, body, reads=("inflation.ratio",)).returncode == 0
    shutil.copy(REPOSITORY / "params.yaml", clone)
    assert run(clone, body, reads=("inflation.real_weight",)).returncode == 1


def select(folder: Path, params, reads=(), key: str | None = None, foreach: str = "", outs=()) -> SimpleNamespace:
    """What a stage that dvc.yaml describes so is given."""
    described(folder, reads, outs, foreach)
    return graph.load("tiny").select(params, key)


def test_select_gives_what_is_named_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = reader.load(REPOSITORY / "params.yaml")
    reads = ("compute", "inflation.ratio", "dataset.seed", "dataset.path", "${pretrain.method}")
    assert select(tmp_path, params, reads, outs=("a", "b/c")) == SimpleNamespace(
        outs=("a", "b/c"),
        compute=params.compute,
        inflation=SimpleNamespace(ratio=params.inflation.ratio),
        dataset=SimpleNamespace(seed=params.dataset.seed, path=params.dataset.path),
        method_params=params.simclr,
    )
    assert select(tmp_path, params, ("${generator.kind}",)) == SimpleNamespace(outs=(), kind_params=params.ddpm)
    assert select(tmp_path, params) == SimpleNamespace(outs=())


def test_select_gives_the_entry_that_dvc_s_foreach_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = reader.parse((REPOSITORY / "params.yaml").read_text())[0]
    one = {"name": "svhn", "path": "data/svhn", "train_size": 9, "validation_size": 9, "test_size": None, "seed": 0}
    values["transfer"], values["finetune"]["labels"] = {"a": one, "b": one | {"seed": 1}}, [0.01, 1, 1e-5]
    params, _ = reader.validate(values)
    found = select(tmp_path, params, ("compute", "transfer.${key}"), "b", "transfer", outs=("m/${key}.json",))
    assert found == SimpleNamespace(outs=("m/b.json",), compute=params.compute, key="b", item=params.transfer["b"])
    for text, value in (("0.01", 0.01), ("1", 1), ("1e-05", 1e-5)):  # as DVC writes them into the command
        found = select(tmp_path, params, ("finetune",), text, "finetune.labels", outs=("m/${item}.x", "n"))
        assert found == SimpleNamespace(outs=(f"m/{text}.x", "n"), finetune=params.finetune, key=text, item=value)
    for foreach, text in (("transfer", "c"), ("transfer", "../a"), ("finetune.labels", "0.010")):
        with pytest.raises(UserError, match="has no") as refused:
            select(tmp_path, params, (), text, foreach)
        assert refused.value.remedy.startswith("there are ")


def test_the_check_is_given_every_section(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    params = reader.load()
    assert graph.load("check").select(params) == SimpleNamespace(outs=("data/params.ok",), **dict(params))


@pytest.mark.parametrize("text", [None, "stages: [", "stages: {}", "a", "stages: {tiny: 1}"])
def test_a_dvc_yaml_that_does_not_describe_the_stage_is_refused_in_a_line(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=r"does not describe the stage tiny|not readable: .*No such file"):
        graph.load("tiny")


def test_entries_of_a_foreach_run_at_once_and_each_has_its_record(clone):
    """Their locks are their own; an entry that is not there is refused before anything is written."""
    path = clone / "params.yaml"
    path.write_text(path.read_text().replace("labels: []", "labels: [0.1, 0.2]"))
    body = """import time
Path('began-' + params.key).touch()
while not Path('go').exists(): time.sleep(0.05)
Path('made-' + params.key).write_text(str(2 * params.item))"""
    write(clone, body, reads=(), foreach="finetune.labels")
    both = [start(clone, share) for share in ("0.1", "0.2")]
    try:
        until(lambda: all((clone / f"began-{share}").exists() for share in ("0.1", "0.2")))
        wrong = start(clone, "0.3")
        _, said = wrong.communicate(timeout=60)
        assert (wrong.returncode, said) == (
            2,
            "tiny@0.3: params.yaml: finetune.labels: has no '0.3' - there are 0.1, 0.2; add it\n",
        )
        twice = start(clone, "0.1", "--no-wait")
        assert "works on tiny@0.1 in this folder" in twice.communicate(timeout=60)[1]
    finally:
        (clone / "go").touch()
        codes = [process.wait(60) for process in both]
    assert codes == [0, 0]
    assert [(clone / f"made-{share}").read_text() for share in ("0.1", "0.2")] == ["0.2", "0.4"]
    records = sorted(path.name for path in (clone / "store/records").iterdir())
    assert records == ["tiny@0.1.json", "tiny@0.2.json"]
    nothing = start(clone)
    assert "required: KEY" in nothing.communicate(timeout=60)[1]


def test_sections_cannot_be_changed_by_a_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = select(tmp_path, reader.load(REPOSITORY / "params.yaml"), ("inflation",))
    with pytest.raises(ValueError, match="frozen"):
        chosen.inflation.ratio = 2.0


@pytest.mark.parametrize("name", ["EACCES", "EIO", "ESTALE", "EMFILE"])
def test_a_file_that_nobody_told_of_is_told_in_a_line(capsys, name):
    """Where a file is read that has no reader of its own; what may be the code's own fault stays a traceback."""

    def main(number: int) -> None:
        raise OSError(number, os.strerror(number), "somewhere.csv")

    with pytest.raises(SystemExit):
        stage.command(lambda: main(getattr(errno, name)))
    said = capsys.readouterr().err
    assert said.startswith(f"somewhere.csv: cannot open: {os.strerror(getattr(errno, name))} - ")
    assert said.count("\n") == 1
    with pytest.raises(SystemExit):
        stage.command(lambda: main(errno.ENOENT))
    assert "Traceback" in capsys.readouterr().err


# --- before the work


def test_check_says_what_is_needed_and_does_no_work(clone):
    done = run(clone, "Path('made').touch()", options=["--check"])
    assert done.returncode == 0
    assert re.fullmatch(
        r"tiny: needs up to 0 MB of disk for images \([\d,]+ MB free\), "
        r"at least 0 MB of memory \([\d,]+ MB free\), cpu; writes made\n",
        done.stderr,
    )
    assert {path.name for path in clone.iterdir()} == {"pipeline", "params.yaml", "dvc.yaml", "stages"}


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_what_the_machine_lacks_is_told_before_the_work(clone, options):
    done = run(clone, "Path('ran').touch()", options=options, needs='("made",), memory=1e15, made=1e17')
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 2 + len(options)  # --check says all that is needed, too
    assert re.fullmatch(r"tiny: disk of \S+: [\d,]+ MB free, at least 100,000,000,000 MB needed - .*", lines[-2])
    assert re.fullmatch(r"tiny: memory: [\d,]+ MB free, at least 1,000,000,000 MB needed - .*", lines[-1])
    assert not (clone / "ran").exists()


@pytest.mark.fault(26)
def test_the_same_stage_twice_in_a_folder_waits_or_refuses(clone):
    """As `python -m stages.NAME` by hand beside `dvc repro`: DVC's own locks know nothing of it."""
    body = "import time\nPath('began').touch()\nwhile not Path('go').exists(): time.sleep(0.05)"
    write(clone, body)
    first = start(clone)
    try:
        until(lambda: (clone / "began").exists())
        refused, looked = start(clone, "--no-wait"), start(clone, "--check")
        _, said = refused.communicate(timeout=60)
        assert refused.returncode == 2
        told = r"tiny: data/\.tiny\.lock: another process works on tiny in this folder - wait for it, or stop it\n"
        assert re.fullmatch(told, said)
        _, said = looked.communicate(timeout=60)
        assert looked.returncode == 0
        assert re.fullmatch(r"tiny: needs .*; another process runs it here\n", said)
        second = start(clone)
        said = second.stderr.readline()
        assert said.startswith("waiting: another process works on tiny in this folder (")
        first.kill()  # its lock dies with it
        (clone / "go").touch()
        assert second.wait(60) == 0
    finally:
        (clone / "go").touch()
        first.kill()


def test_a_run_where_there_is_no_git_is_recorded_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PATH", str(tmp_path))
    stage._record("tiny", reader.load())
    assert files.read_json(tmp_path / "store/records/tiny.json")["commit"] == "unknown"


def test_an_option_that_there_is_not_is_refused(clone):
    done = run(clone, "pass", options=["--chekc"])
    assert done.returncode == 2
    assert "unrecognized arguments: --chekc" in done.stderr


def test_data_that_change_while_a_stage_runs_are_told_and_what_stays_is_not(tmp_path):
    """DVC would take them for what was read."""
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/1.png").write_bytes(b"1")
    (tmp_path / "weights").write_bytes(b"1")
    data = [tmp_path / "set", tmp_path / "weights", tmp_path / "not there"]
    before = stage._stats(data)
    assert len(before) == 2
    stage._as_before(before, stage._stats(data))
    (tmp_path / "set/a/2.png").write_bytes(b"2")
    with pytest.raises(UserError, match=r"a/2\.png: changed while the stage ran - run the same command again") as told:
        stage._as_before(before, stage._stats(data))
    assert told.value.code == 1
    (tmp_path / "weights").write_bytes(b"other")
    with pytest.raises(UserError, match="changed while the stage ran and 1 more"):
        stage._as_before(before, stage._stats(data))


def test_what_a_stage_reads_outside_the_pipeline_is_what_dvc_yaml_says(monkeypatch):
    monkeypatch.chdir(Path(pipeline.__file__).parent.parent)
    params = reader.load()
    assert graph.load("prepare").read(params) == [Path(params.dataset.path)]
    assert graph.load("pretrain").read(params) == [Path(params.start.path)]
    assert graph.load("score").read(params) == []
    item = SimpleNamespace(path="data/digits")
    assert graph.load("transfer").read(SimpleNamespace(transfer={"digits": item}), "digits") == [Path("data/digits")]
