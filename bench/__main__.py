"""All benches, each in a process of its own, one after the other: a table, and bench/results.json.

python -m bench            (or `make bench`: about half an hour on two cores, with nothing else running)
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline import files

BENCHES = ("views", "step", "pretrain", "sample", "ddpm_train", "probe", "store", "startup")
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run them and write what they found; rows of other benches in the file stay."""
    names = sys.argv[1:] or BENCHES
    kept = {row["name"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            words = [sys.executable, "-m", f"bench.{name}"]
            done = subprocess.run(words, env=os.environ | {"LEAVEN_BENCH": str(path)}, check=False)
            if done.returncode:
                raise SystemExit(f"bench.{name} ended with {done.returncode}")
            kept |= {row["name"]: row for row in files.read_json(path)["rows"]}
            files.write_text(RESULTS, json.dumps(list(kept.values()), indent=1) + "\n")
    missed = [row["name"] for row in kept.values() if not row["met"]]
    print(f"{len(kept)} rows in {RESULTS}; missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
