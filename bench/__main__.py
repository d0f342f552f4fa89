"""All benches, each in a process of its own, one after the other: a table, and bench/results.json.

python -m bench            (or `make bench`: about half an hour on two cores, with nothing else running)
python -m bench NAME ...   these alone
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.core import files
from pipeline.engine import arithmetic
from pipeline.params import reader

BENCHES = ("views", "step", "pretrain", "sample", "ddpm_train", "probe", "startup")
RESULTS = Path(__file__).parent / "results.json"


def run(name: str) -> None:
    """Run one bench in this process, print its rows and put them in the place of those that are on record."""
    arithmetic.prepare(reader.load().compute)
    torch.empty(1)  # reads how torch is to allocate; peers, in processes of their own, run as their users have them
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)
    found = importlib.import_module(f"bench.{name}").rows()
    for row in found:
        print(row.line(), flush=True)
    kept = [row for row in json.loads(RESULTS.read_text()) if row["bench"] != name]
    rows = kept + [{"bench": name, **asdict(row)} for row in found]
    rows.sort(key=lambda row: BENCHES.index(row["bench"]))
    files.write_text(RESULTS, json.dumps(rows, indent=1) + "\n")


def main() -> None:
    """Run the benches that are named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Ours against its peers, in ratios (docs/performance.md)."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHES)}; default: all")
    names = parser.parse_args().names or BENCHES
    if unknown := set(names) - set(BENCHES):
        parser.error(f"no bench is called {' or '.join(sorted(unknown))}: there are {', '.join(BENCHES)}")
    if len(names) == 1:
        run(*names)
    else:
        for name in names:
            if subprocess.run([sys.executable, "-m", "bench", name], check=False).returncode:
                raise SystemExit(f"bench {name} failed")
    rows = json.loads(RESULTS.read_text())
    missed = [row["name"] for row in rows if not row["met"]]
    print(f"{len(rows)} rows in {RESULTS.name}; missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
