"""What git sees of data/: what the repository has there, and nothing that a user puts beside it."""

import subprocess
from pathlib import Path

import pipeline

REPOSITORY = Path(pipeline.__file__).parent.parent
# Where README and the guide say, as diffusers and torchvision write it.
PUT = [
    "data/pretrained/config.json",
    "data/pretrained/README.txt",
    "data/pretrained/unet/diffusion_pytorch_model.safetensors",
    "data/pretrained/unet/README.md",
    "data/weights/resnet18.safetensors",
    "data/unclip/model_index.json",
    "data/unclip/vae/diffusion_pytorch_model.safetensors",
    "data/FashionMNIST/raw/train-images-idx3-ubyte",
    "data/FashionMNIST/labels.csv",
    "data/mine/a.png",
    "data/mine/README.md",
]


def test_what_a_user_puts_into_data_is_not_committed_and_what_the_repository_has_there_is(tmp_path):
    """By `git add --all`, as `dvc exp run` does with untracked files."""

    def git(folder: Path, *words: str) -> list[str]:
        return subprocess.run(["git", *words], cwd=folder, stdout=-1, text=True, check=True).stdout.splitlines()

    shipped = git(REPOSITORY, "ls-files", "data")
    assert len(shipped) >= 8
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_bytes((REPOSITORY / ".gitignore").read_bytes())
    for name in [*shipped, *PUT]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    git(tmp_path, "add", "--all")
    assert git(tmp_path, "ls-files", "data") == shipped
