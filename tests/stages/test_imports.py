"""What a stage does not import: most of the seconds of a small run were imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def alone(code: str, *words: object) -> None:
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=ROOT, stderr=-1, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_preparing_does_without_torch(tmp_path):
    alone(
        """
import sys
from pathlib import Path
sys.modules |= dict.fromkeys(["torch", "torchvision"])  # an import is a fault
from pipeline.params import reader
from stages import prepare
prepare.shards.write_real(Path(sys.argv[1]) / "real", prepare.datasets.load(reader.load().dataset))
        """,
        tmp_path,
    )
    assert (tmp_path / "real/images.h5").exists()


def test_no_stage_imports_what_another_kind_of_run_wants():
    alone(
        """
import sys
from stages import finetune, generate, generator, linear_eval, positives, pretrain, quality, score, transfer
found = {"timm", "diffusers", "transformers", "scipy", "sklearn", "pandas"} & sys.modules.keys()
assert not found, found
        """
    )
