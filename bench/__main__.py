"""All benches, each in a process of its own, one after the other: a table, and bench/results.json.

python -m bench            (or `make bench`: about half an hour on two cores, with nothing else running)
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.core import files

BENCHES = ("views", "step", "pretrain", "sample", "ddpm_train", "probe", "store", "startup", "changes")
ORDER = (*BENCHES, "sample_quality")  # the last takes an hour and is asked for by name
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run them and write what they found; rows of other benches in the file stay."""
    names = sys.argv[1:] or BENCHES
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            words = [sys.executable, "-m", f"bench.{name}"]
            done = subprocess.run(words, env=os.environ | {"LEAVEN_BENCH": str(path)}, check=False)
            if done.returncode:
                raise SystemExit(f"bench.{name} ended with {done.returncode}")
            found = [{"bench": name, **row} for row in files.read_json(path)["rows"]]
            rows = sorted(
                [row for row in rows if row["bench"] != name] + found, key=lambda row: ORDER.index(row["bench"])
            )
            files.write_text(RESULTS, json.dumps(rows, indent=1) + "\n")
    missed = [row["name"] for row in rows if not row["met"]]
    print(f"{len(rows)} rows in {RESULTS.name}; missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
