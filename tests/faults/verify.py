"""The smoke pipeline twice from nothing, under circumstances that must not matter; every output byte is compared.

    make verify                                         which is python -m tests.faults.verify
    python -m tests.faults.verify --kills 10 --seed 3   more kills, at other moments

The first run is left alone. The second has another folder, umask, locale, time zone and PYTHONHASHSEED, a store whose
files are dated in the future, and SIGKILL to dvc and its stage again and again, at moments that the seed decides.
"""

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline import clones

ODD = {"LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "12345"}


@dataclass
class Compared:
    """What two runs were compared by."""

    files: int
    bytes: int
    kills: int
    runs: int
    different: list[str]


def verify(plain: Path, seconds: float, kills: int, seed: int, place: Path, log=print) -> Compared:
    """Run the last commit of `plain` again, in a new folder of `place`, and compare every file that either made.

    plain: a clone whose `dvc repro` took so many seconds, left alone. What is killed takes about as long in all.
    """
    odd = clones.fresh(plain, place / "ödd folder's name")
    (odd / "dvc.lock").unlink(missing_ok=True)  # or what is in git would pass for made
    for name in ("metrics", "plots"):
        shutil.rmtree(odd / name, ignore_errors=True)
    moments, runs, done = random.Random(seed), 0, False
    for killed in range(kills + 1):
        moment = None if killed == kills else moments.uniform(0.3, 1) * seconds / (kills + 1)
        log(f"the second, run {runs + 1}: {'to its end' if moment is None else f'killed after {moment:.1f} s'}")
        runs += 1
        done = oddly(odd, moment)
        future(odd)
        if done:
            kills = killed
            break
    assert done
    different = compare(plain, odd)
    sizes = [(plain / name).stat().st_size for name in digests(plain)]
    return Compared(len(sizes), sum(sizes), kills, runs, different)


def compare(one: Path, two: Path) -> list[str]:
    """Outputs that are not in both clones, or have other bytes."""
    first, second = digests(one), digests(two)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def oddly(clone: Path, moment: float | None) -> bool:
    """`dvc repro` under the odd circumstances, killed with all its processes at that moment; whether it finished."""
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone,
        env=clones.environment(clone) | ODD,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o077,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        clones.kill(process)
        return False
    assert process.returncode == 0, output
    return True


def future(clone: Path) -> None:
    """Date what the store holds a day ahead, as a clock does that is put back."""
    ahead = time.time() + 86400
    for path in (clone / ".cache").rglob("*"):
        if path.is_file():
            os.utime(path, (ahead, ahead))


def digests(clone: Path) -> dict[str, str]:
    """Of all outputs, and of dvc.lock."""
    return clones.digests(clone) | {"dvc.lock": clones.sha256(clone / "dvc.lock")}


def main() -> None:
    """Run both and say what was compared; exit code 1 where a byte differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.verify", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = clones.smoke(Path(folder) / "plain")
        print("the first run, left alone")
        began = time.monotonic()
        clones.run(plain, "dvc", "repro")
        found = verify(plain, time.monotonic() - began, asked.kills, asked.seed, Path(folder))
    print(f"{found.files} files, {found.bytes:,} bytes; {found.kills} kills; different: {len(found.different)}")
    if found.different:
        raise SystemExit("\n".join(found.different))


if __name__ == "__main__":
    main()
