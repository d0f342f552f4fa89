"""A job where SLURM would have to fail at the right moment; tests/pipeline/test_cluster.py has a real SLURM."""

import subprocess
from types import SimpleNamespace

import pytest

from pipeline.study import cluster, job


def test_a_look_that_slurm_does_not_answer_takes_no_running_job_away(tmp_path, monkeypatch):
    """The first look after a start: nothing is known of the queue yet."""
    timed_out = subprocess.CompletedProcess([], 1, "", "slurm_load_jobs error: Socket timed out on send/recv operation")
    monkeypatch.setattr(cluster, "_slurm", lambda *words: timed_out)
    monkeypatch.setattr(cluster, "QUEUE", cluster.Queue())
    monkeypatch.setattr(cluster.rows, "alike", lambda one, other: True)
    paths = SimpleNamespace(
        stderr=tmp_path / "err", stdout=tmp_path / "out", result_pickle=tmp_path / "result.pkl", folder=tmp_path
    )
    there = object.__new__(cluster.Job)
    there._submitit = SimpleNamespace(SlurmJob=lambda folder, job: SimpleNamespace(paths=paths, job_id=job))
    there._folder, there._commit, there.one = tmp_path, "c", SimpleNamespace(cell=SimpleNamespace(label="a cell"))
    monkeypatch.setattr(cluster.Job, "_clear", lambda self: pytest.fail("the job's files were deleted"))
    assert there._taken_over({"job": "7", "commit": "b"})
    assert there._commit == "b"


def test_a_job_that_was_told_to_leave_and_came_back_tells_of_a_fault(tmp_path, monkeypatch):
    """It would wait for a day, as one that SLURM is about to end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(job.signal, "signal", lambda *given: None)
    monkeypatch.setattr(job.time, "sleep", lambda seconds: pytest.fail("it waits"))
    work = job.Work("toy", "c", [], tmp_path, "", str(tmp_path / "cache"), "0" * 16)
    monkeypatch.setattr(work, "_cloned", lambda: tmp_path)  # where DVC finds no repository
    work._told = True
    assert "dvc" in work().fault.lower()
