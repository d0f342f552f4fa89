"""A small judge of generated Fashion-MNIST images, trained on real ones; it shares no code with the pipeline."""

import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

RAW = Path(__file__).parents[2] / "data/FashionMNIST/raw"


def real(part: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first n images of "train" or "t10k": float (n, 1, 28, 28) in [0, 1], and labels int64 (n,)."""
    pixels = np.frombuffer(gzip.decompress((RAW / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((RAW / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return as_input(pixels.reshape(-1, 28, 28, 1)[:n]), torch.from_numpy(labels[:n].astype(np.int64))


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, 28, 28, 1) -> float (n, 1, 28, 28) in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2)


def trained(n: int = 60_000, epochs: int = 2, seed: int = 0) -> nn.Module:
    """Three convolutions and two linear layers, trained on the first n train images: above 90 % on the test images.

    A weaker judge doubts good images as well; confidence tells of the images only if it knows real ones.
    """
    torch.manual_seed(seed)
    x, y = real("train", n)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(3)),
        *(nn.Flatten(), nn.Linear(1152, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    steps, batch = epochs * (n // 128), 128
    adam = torch.optim.AdamW(model.parameters(), lr=0.003)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=0.003, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(n, (batch,))
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x[rows]).float(), y[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
    return model.eval()


@torch.inference_mode()
def judged(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and confidence (the largest softmax value) of each image."""
    confidence, classes = model(x).softmax(dim=1).max(dim=1)
    return classes, confidence


def good_clothes(model: nn.Module, x: torch.Tensor) -> list[str]:
    """What is wrong with a set of images: a class that is rare or absent, a judge who cannot tell what they show."""
    classes, confidence = judged(model, x)
    share = torch.bincount(classes, minlength=10) / len(x)
    faults = [f"class {label}: {100 * part:.1f} % < 3 %" for label, part in enumerate(share.tolist()) if part < 0.03]
    if confidence.median() < 0.8:
        faults.append(f"median confidence {confidence.median():.2f} < 0.8")
    return faults
