"""Processes that depend on another one."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

CHILD = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from pipeline.core import processes
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), processes.end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_ends_with_the_one_that_started_it(tmp_path, number):
    (tmp_path / "program.py").write_text(CHILD)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    try:
        child = psutil.Process(int(parent.stdout.readline()))
        assert not ended(child)
        parent.send_signal(number)
        parent.wait()
    finally:
        parent.kill()
        parent.stdout.close()
    end = time.monotonic() + 20
    while not ended(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert ended(child)
