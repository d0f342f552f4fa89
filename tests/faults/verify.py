"""The smoke pipeline twice from nothing, under circumstances that must not matter; every output byte is compared.

    make verify                                         which is python -m tests.faults.verify
    python -m tests.faults.verify --kills 10 --seed 3   more kills, at other moments

The first run is left alone. The second has another folder, umask, locale, time zone and PYTHONHASHSEED, a store whose
files are dated in the future, and SIGKILL to dvc and its stage again and again, at moments that the seed decides.
"""

import argparse
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

from tests.pipeline import clones

ODD = {"LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "12345"}
ODD_NAME = "ödd folder's name"


def again(odd: Path, seconds: float, kills: int, seed: int, say=print) -> int:
    """Run a clone of which nothing was made to its end, under odd circumstances; how often it was killed.

    seconds: about what a run takes that is left alone. All that are killed take about as long together.
    """
    moments, killed = random.Random(seed), 0
    while True:
        moment = moments.uniform(0.3, 1) * seconds / (kills + 1) if killed < kills else None
        say(f"the second, run {killed + 1}: {f'killed after {moment:.1f} s' if moment else 'to its end'}")
        done = oddly(odd, moment)
        future(odd)
        if done:
            return killed
        killed += 1


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
        plain, odd = clones.smoke(Path(folder) / "plain"), clones.smoke(Path(folder) / ODD_NAME)
        print("the first run, left alone")
        began = time.monotonic()
        clones.run(plain, "dvc", "repro")
        killed = again(odd, time.monotonic() - began, asked.kills, asked.seed)
        different, sizes = compare(plain, odd), [(plain / name).stat().st_size for name in digests(plain)]
    print(f"{len(sizes)} files, {sum(sizes):,} bytes; {killed} kills; different: {len(different)}")
    if different:
        raise SystemExit("\n".join(different))


if __name__ == "__main__":
    main()
