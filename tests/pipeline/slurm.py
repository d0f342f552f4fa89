"""A real SLURM of two nodes on this machine, for as long as a test needs it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun")
CONF = """
ClusterName=tiny
SlurmctldHost={host}
AuthType=auth/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=15
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d-%n.log
NodeName=n[1-2] NodeHostname={host} Port=[{port}-{next}] CPUs=1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """SLURM, found by its commands through $SLURM_CONF; the test is skipped where it cannot be started."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking or os.geteuid() != 0:
        pytest.skip(f"SLURM is not installed: {', '.join(lacking)}" if lacking else "only root can start SLURM")
    (folder / "state").mkdir(parents=True)
    host, port = socket.gethostname().partition(".")[0], 17_001 + os.getpid() % 1000 * 2
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, port=port, next=port + 1))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    started = []
    try:
        _munge()
        daemons = ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]
        started += [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for words in daemons]
        _until(lambda: said("sinfo", "-h", "-o", "%T").split() == ["idle"], folder)
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False, capture_output=True)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        del os.environ["SLURM_CONF"]


def said(*words: str) -> str:
    """What a command prints; nothing if it fails."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def _munge() -> None:
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    for place in ("/run/munge", "/var/log/munge"):
        Path(place).mkdir(exist_ok=True)
        shutil.chown(place, "munge", "munge")
    if not Path("/etc/munge/munge.key").exists():
        pytest.skip("munge has no key")
    if subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=False).returncode:
        pytest.skip("munged does not start here")
    _until(lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0, None)


def _until(true, folder: Path | None) -> None:
    end = time.monotonic() + 60
    while not true():
        if time.monotonic() > end:
            log = folder / "ctld.log" if folder else None
            last = log.read_text().strip().splitlines()[-1:] if log and log.exists() else []
            pytest.skip(f"SLURM does not start here: {last}")
        time.sleep(0.5)
