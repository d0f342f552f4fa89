"""One rung of the ladder onto a GPU.

python -m bench.gpu works            does all of it compute on cuda what it computes on a CPU, and resume to the bit?
python -m bench.gpu fast             the step beside the bare network, views, sampling, the UNet's step, a profile
python -m bench.gpu ceiling          what a perfect generator could give: CIFAR-10, 5,000 images and the other 45,000
python -m bench.gpu paper            SimCLR on all of CIFAR-10 for as long as there is time, beside published numbers
python -m bench.gpu diffusion        a DDPM of 15 M parameters on CIFAR-10: distance by steps, 20,000 images, weights
python -m bench.gpu RUNG --toy       the same at toy sizes, with --device cpu a dry run
python -m bench.gpu RUNG --out DIR   where RUNG.json and files go (bench/gpu); written anew after every check
python -m bench.gpu RUNG --data DIR  CIFAR-10 for the last three: cifar10-jpeg.tar.xz, of train/ and test/

Trainings of `ceiling` and `paper` lie in the store (LEAVEN_STORE): if a rung was stopped, the same command goes on.
`diffusion` goes on from the weights of an earlier one if they are in the folder of --data. A rung starts no check
after its seconds, and plans its trainings from measured times to end within them; reading the images is included.
"""

import argparse
from pathlib import Path

from bench.gpu import ceiling, diffusion, fast, images, paper, works
from bench.gpu.rung import Setting, climb
from pipeline.engine import arithmetic
from pipeline.run import stage

RUNGS = {  # the checks, and seconds
    "works": (works.CHECKS, 240),
    "fast": (fast.CHECKS, 240),
    "ceiling": (ceiling.CHECKS, 540),
    "paper": (paper.CHECKS, 540),
    "diffusion": (diffusion.CHECKS, 540),
}
OF_IMAGES = ("ceiling", "paper", "diffusion")  # they want --data


def main() -> None:
    """Climb the rung that is named; exit code 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("rung", choices=RUNGS)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--toy", action="store_true", help="sizes that take no time")
    parser.add_argument("--seconds", type=float, help="after which no check starts")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of RUNG.json")
    asked = parser.parse_args()
    (checks, seconds), setting = RUNGS[asked.rung], Setting(asked.device, asked.toy, asked.data)
    if asked.rung in OF_IMAGES and not asked.toy:
        images.refuse_absent(asked.data)
    arithmetic.prepare(setting.compute())  # threads and determinism, as a stage has them
    found = climb(checks, setting, asked.seconds or seconds, asked.out / f"{asked.rung}.json")
    raise SystemExit(any(row["fault"] for row in found))


if __name__ == "__main__":
    stage.command(main)
