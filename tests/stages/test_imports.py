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


def test_no_stage_imports_models_or_a_compiler_before_it_trains(tmp_path):
    alone(
        """
import sys
from stages import finetune, generate, generator, linear_eval, positives, pretrain, quality, transfer
from pipeline.core import weights
from pipeline.networks import backbones
weights.save(sys.argv[1], backbones.build(backbones.resnet(4, [1] * 4), [0.5], [0.5], 0).backbone)
weights.load(sys.argv[1], lambda: backbones.build(backbones.resnet(4, [1] * 4), [0.5], [0.5], 0).backbone)
found = {"torchvision", "timm", "diffusers", "transformers", "scipy", "sklearn", "pandas", "sympy", "torch._dynamo"}
assert not found & sys.modules.keys(), found & sys.modules.keys()
        """,
        tmp_path / "encoder.safetensors",
    )
