"""One rung of the ladder onto a GPU.

python -m bench.gpu works            does all of it compute on cuda what it computes on a CPU, and resume to the bit?
python -m bench.gpu fast             the step beside the bare network, views, sampling, the UNet's step, a profile
python -m bench.gpu RUNG --toy       the same at toy sizes, with --device cpu a dry run
python -m bench.gpu RUNG --out DIR   where RUNG.json goes (bench/gpu), written anew after every check
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or deterministic matrix products are refused

from bench.gpu import fast, works
from bench.gpu.rung import Setting, climb
from pipeline.engine import arithmetic

RUNGS = {"works": (works.CHECKS, 240), "fast": (fast.CHECKS, 240)}  # the checks, and seconds


def main() -> None:
    """Climb the rung that is named; exit code 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("rung", choices=RUNGS)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--toy", action="store_true", help="sizes that take no time")
    parser.add_argument("--seconds", type=float, help="after which no check starts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of RUNG.json")
    asked = parser.parse_args()
    (checks, seconds), setting = RUNGS[asked.rung], Setting(asked.device, asked.toy)
    arithmetic.prepare(setting.compute())  # threads and determinism, as a stage has them
    found = climb(checks, setting, asked.seconds or seconds, asked.out / f"{asked.rung}.json")
    raise SystemExit(any(row["fault"] for row in found))


if __name__ == "__main__":
    main()
