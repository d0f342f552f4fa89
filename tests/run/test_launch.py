"""Stages in several processes, started by a launcher of a few lines that is as noisy as torchrun is.

tests/pipeline/test_processes.py has the real one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipeline
from pipeline.core import processes
from pipeline.run import launch

REPOSITORY = Path(pipeline.__file__).parent.parent
NOISE = "E1122 elastic/multiprocessing/api.py: failed (exitcode: 1)\n" * 20
LAUNCHER = f"""
import os, signal, subprocess, sys, time
if "--nosuch" in sys.argv:
    sys.exit("usage: fake\\nfake: error: unrecognized arguments: --nosuch\\n")
here = [
    subprocess.Popen([sys.executable, *sys.argv[1:]], env=os.environ | {{"RANK": str(k), "WORLD_SIZE": "2"}})
    for k in range(2)
]
def end(*_):
    for process in here:
        process.send_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, end)
while None in [process.poll() for process in here]:
    if any(process.poll() for process in here):
        end()
    time.sleep(0.01)
if any(process.returncode for process in here):
    sys.exit({NOISE!r})
"""
STAGE = """
import os, signal, sys, time
from pathlib import Path
from pipeline.core import processes, progress
from pipeline.core.errors import UserError
from pipeline.run import machine, stage
def alive_no_more(name):
    return Path(name).exists() and not Path("/proc", Path(name).read_text()).exists()
def needs(params):
    return machine.Needs(("made",))
def main(params):
    rank = processes.rank()
    Path(f"pid{{rank}}").write_text(str(os.getpid()))
    {body}
if __name__ == "__main__":
    stage.run("{name}", main, needs, parallel={parallel})
"""
GRAPH = "stages: {{{name}: {{params: [inflation], outs: [made]}}}}"


@pytest.fixture
def clone(package):
    """A place for stages, and the launcher beside them."""
    (package / "launcher.py").write_text(LAUNCHER)
    return package


def start(
    clone: Path, body: str, launcher: str = f"{sys.executable} launcher.py", name: str = "pretrain", parallel=True
):
    """The stage as a process; its outputs go to the files out and err."""
    body = body.replace("\n", "\n    ")
    (clone / f"stages/{name}.py").write_text(STAGE.format(body=body, name=name, parallel=parallel))
    (clone / "dvc.yaml").write_text(GRAPH.format(name=name))
    variables = os.environ | {"LEAVEN_STORE": str(clone / "store"), "PIPELINE_LAUNCH": launcher}
    variables.pop("PYTHONPATH", None)
    with open(clone / "out", "w") as out, open(clone / "err", "w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", f"stages.{name}"], cwd=clone, env=variables, stdout=out, stderr=err
        )


def ended(clone: Path, process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and standard error."""
    process.wait(60)
    assert (clone / "out").read_text() == ""
    return process.returncode, (clone / "err").read_text()


def run(clone: Path, body: str, *words: str) -> tuple[int, str]:
    return ended(clone, start(clone, body, *words))


def pids(clone: Path) -> list[int]:
    """The two processes', once they are in the middle of main."""
    for _ in range(1000):
        found = [clone / f"pid{rank}" for rank in range(2)]
        if all(path.exists() and path.read_text() for path in found):
            return [int(path.read_text()) for path in found]
        time.sleep(0.02)
    raise AssertionError((clone / "err").read_text())


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until_gone(*there: int) -> None:
    for _ in range(500):
        if not any(map(alive, there)):
            return
        time.sleep(0.02)
    raise AssertionError("still there")


def test_stage_runs_in_every_process_and_the_first_alone_speaks_and_is_recorded(clone):
    assert run(clone, "progress.log(f'here {rank} of {processes.size()}')") == (0, "here 0 of 2\n")
    assert (clone / "pid0").exists()
    assert (clone / "pid1").exists()
    assert json.loads((clone / "store/records/pretrain.json").read_text())["stage"] == "pretrain"


@pytest.mark.parametrize("who", ["True", "rank == 0", "rank == 1"])
def test_error_is_told_once_whoever_meets_it(clone, who):
    body = f"if {who}:\n    raise UserError('no such images', 'data/x')\ntime.sleep(60)"
    assert run(clone, body) == (2, "pretrain: data/x: no such images\n")
    assert not (clone / "store/records").exists()


def test_error_comes_before_what_it_does_to_the_others(clone):
    body = "if rank == 1:\n    raise UserError('diverged', code=4)\ntry:\n    time.sleep(60)\nfinally:\n"
    body += "    raise RuntimeError('[gloo] Connection closed by peer')"
    assert run(clone, body) == (4, "pretrain: diverged\n")


@pytest.mark.parametrize("who", ["True", "rank == 1"])
def test_fault_of_the_code_keeps_its_traceback_and_is_told_once(clone, who):
    code, said = run(clone, f"if {who}:\n    raise KeyError('x')\ntime.sleep(60)")
    assert code == 1
    assert said.count("Traceback") == 1
    assert said.endswith("KeyError: 'x'\n")
    assert "elastic" not in said


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise UserError('changed', code=1)", 1, "pretrain: changed\n"),
        ("raise KeyError('x')", 1, "KeyError: 'x'\n"),
        ("os.kill(os.getpid(), 9)", 3, "pretrain: process 1 of 2 was killed - run the same command to go on\n"),
    ],
)
def test_process_that_is_done_is_not_counted_among_the_killed(clone, body, code, said):
    found, words = run(
        clone, f"if rank == 1:\n    return\nwhile not alive_no_more('pid1'):\n    time.sleep(0.01)\n{body}"
    )
    assert found == code
    assert words.endswith(said)
    assert "2 of 2" not in words


@pytest.mark.fault(28)
def test_killed_process_is_named_in_one_line_and_the_other_is_stopped(clone):
    process = start(clone, "time.sleep(60)")
    first, second = pids(clone)
    os.kill(second, signal.SIGKILL)
    assert ended(clone, process) == (3, "pretrain: process 2 of 2 was killed - run the same command to go on\n")
    assert not alive(first)


def test_killed_process_is_named_although_the_other_loses_its_connection(clone):
    process = start(clone, "try:\n    time.sleep(60)\nfinally:\n    raise RuntimeError('Connection closed by peer')")
    os.kill(pids(clone)[0], signal.SIGKILL)
    assert ended(clone, process) == (3, "pretrain: process 1 of 2 was killed - run the same command to go on\n")


def test_killed_process_is_named_although_the_other_is_told_to_stop_while_it_words_its_own_fault(clone):
    body = "class Lost(RuntimeError):\n    def __str__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n"
    body += "        return 'Connection closed by peer'\nif rank:\n    os.kill(os.getpid(), signal.SIGKILL)\nraise Lost"
    assert run(clone, body) == (3, "pretrain: process 2 of 2 was killed - run the same command to go on\n")


def test_connection_that_is_lost_is_told_where_nobody_here_was_killed(clone):
    """The killed one is on another machine."""
    said = "pretrain: another process of the job is gone; run the same command to go on\n"
    assert run(clone, "raise RuntimeError('[gloo/pair.cc:534] Connection closed by peer [10.0.0.2]')") == (3, said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_all_processes(clone, number, code):
    process = start(clone, "time.sleep(60)")
    there = pids(clone)
    process.send_signal(number)
    assert ended(clone, process) == (code, "\npretrain: stopped; run the same command to go on\n")
    assert not any(map(alive, there))


def test_killed_stage_leaves_no_process_behind(clone):
    process = start(clone, "time.sleep(60)")
    there = pids(clone)
    process.kill()
    process.wait()
    until_gone(*there)


@pytest.mark.parametrize("end", ["close", "kill"])
def test_guard_ends_a_process_with_the_one_that_began_both(tmp_path, end):
    program = (
        "import subprocess, sys\nfrom pipeline.run import launch\n"
        "process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "guard = launch.guard(process, 9)\nprint(process.pid, flush=True)\nsys.stdin.read()"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, cwd=REPOSITORY, stdin=-1, stdout=-1, text=True) as owner:
        pid = int(owner.stdout.readline())
        time.sleep(0.5)
        assert alive(pid)
        if end == "close":
            owner.stdin.close()
        else:
            owner.kill()
        until_gone(pid)


def test_guard_leaves_alone_what_has_ended_or_been_let_go():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        with launch.guard(process, signal.SIGKILL) as guard:
            process.communicate(b"\n")
        assert process.returncode == 0
        assert guard.returncode is not None


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("nosuch -n 2", "PIPELINE_LAUNCH: nosuch: No such file or directory - name a launcher"),
        ("torchrun 'x", "PIPELINE_LAUNCH: torchrun 'x: No closing quotation"),
        (
            f"{sys.executable} launcher.py --nosuch",
            "PIPELINE_LAUNCH: no process was started: fake: error: unrecognized arguments: --nosuch",
        ),
    ],
)
def test_launcher_that_starts_nothing_is_told(clone, launcher, said):
    assert run(clone, "pass", launcher) == (2, f"pretrain: {said}\n")


def test_other_stages_take_no_notice(clone):
    process = start(clone, "assert (rank, processes.size()) == (0, 1)", "nosuch", "quality", parallel=False)
    assert ended(clone, process) == (0, "")


def test_launcher_that_makes_one_process_and_tells_it_no_number_starts_it_once(clone):
    (clone / "one.py").write_text("import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))")
    body = "with open('starts', 'a') as file:\n    file.write('.')\nprogress.log(f'one of {processes.size()}')"
    assert run(clone, body, f"{sys.executable} one.py") == (0, "one of 1\n")
    assert (clone / "starts").read_text() == "."


def test_what_is_written_after_the_job_follows_what_its_processes_wrote(clone):
    """Standard error is a file here, in which they append and this one writes on."""
    process = start(clone, "if rank:\n    time.sleep(60)\nprogress.log('x' * 999)\nraise UserError('y')")
    assert ended(clone, process) == (2, "x" * 999 + "\npretrain: y\n")


def test_parallel_stages_are_those_whose_code_knows_of_other_processes():
    for path in (REPOSITORY / "stages").glob("*.py"):
        assert ("distributed.first()" in path.read_text()) == ("parallel=True" in path.read_text()), path


def test_who_a_process_is_comes_from_its_environment(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("PIPELINE_LAUNCH", "torchrun")
    assert (processes.rank(), processes.size(), launch.wanted()) == (0, 1, "torchrun")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (processes.rank(), processes.size(), launch.wanted()) == (3, 4, None)
