"""Measures of a frozen encoder: its features, weighted kNN, intervals, the distance of two sets of features.

The trained probe is in linear_probe.py; pretraining uses only this file.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.optimization import fuse

from pipeline.core.devices import sent
from pipeline.engine import arithmetic
from pipeline.networks.resnet import ResNet
from pipeline.params.schema import Compute

KNN_K, KNN_TEMPERATURE = 20, 0.07  # solo-learn's defaults, fixed beforehand
_BATCH = 500
_PIXELS = 2_000_000  # of a batch in which large images are embedded


def at_once(side: int) -> int:
    """Images of so many pixels a side that are embedded together: 500, and fewer of those above 63."""
    return max(8, min(_BATCH, _PIXELS // side**2))


@torch.inference_mode()
def features(encoder: nn.Module, images: np.ndarray, compute: Compute) -> torch.Tensor:
    """Features of uint8 images (N, H, W, C): float32 (N, D) on the CPU. The encoder's mode is restored."""
    was_training = encoder.training
    folded = encoder.eval()
    if any(isinstance(module, ResNet) for module in encoder.modules()):  # others may not be traced
        folded = fuse(folded)  # a copy with batch normalisation folded into the convolutions: a tenth faster
    encoder.train(was_training)
    chunks = torch.from_numpy(_stored(images)).split(at_once(max(images.shape[1:3])))
    there = (sent(chunk, compute.device) for chunk in chunks)  # a byte a number on the way
    return torch.cat([embed(folded, chunk.permute(0, 3, 1, 2).float() / 255, compute) for chunk in there])


@torch.inference_mode()
def embed(encoder: nn.Module, x: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Features of one chunk of float images (N, C, H, W) in [0, 1]: float32 (N, D) on the CPU."""
    was_training = encoder.training
    encoder.eval()
    with arithmetic.autocast(compute):
        found = encoder(x.to(compute.device)).float().cpu()
    encoder.train(was_training)
    return found


def pixels(images: np.ndarray) -> torch.Tensor:
    """Raw pixels as features: uint8 (N, H, W, C) -> float32 (N, H W C) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(_stored(images))).flatten(1).float() / 255


def _stored(images: np.ndarray) -> np.ndarray:
    """The images, if they are as they are stored."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise TypeError(f"takes images as uint8 (N, H, W, C), not {images.dtype} {images.shape}")
    return images


def knn(
    bank: torch.Tensor,
    labels: torch.Tensor,
    queries: torch.Tensor,
    k: int = KNN_K,
    temperature: float = KNN_TEMPERATURE,
):
    """The class with most votes among the k nearest by cosine, weighted by exp(cosine / temperature) (Wu et al. 2018).

    bank: float (N, D) with labels int64 (N,); queries: (M, D). Returns int64 (M,).
    """
    bank, found = F.normalize(bank, dim=1), []
    k, classes = min(k, len(bank)), int(labels.max()) + 1
    for chunk in F.normalize(queries, dim=1).split(_BATCH):
        cosine, nearest = (chunk @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(chunk), classes).scatter_add_(1, labels[nearest], (cosine / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found)


def accuracy(predicted: torch.Tensor, labels: np.ndarray) -> float:
    """Top-1 in percent."""
    return 100 * float((predicted.numpy() == labels).mean())


def balanced(predicted: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """Measures in which every class counts alike, in percent; of the classes that have an image, int64 (n,) each.

    balanced_accuracy: the mean of the classes' recalls; macro_f1: that of their F1, 2 TP / (2 TP + FP + FN).
    """
    guessed = predicted.numpy()
    n = max(int(labels.max()), int(guessed.max())) + 1
    hits, actual, said = (np.bincount(of, minlength=n) for of in (labels[guessed == labels], labels, guessed))
    there = actual > 0
    return {
        "balanced_accuracy": 100 * float((hits[there] / actual[there]).mean()),
        "macro_f1": 100 * float((2 * hits[there] / (actual + said)[there]).mean()),
    }


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval (Wilson 1927) of a proportion, in percent."""
    z = 1.959964
    p = correct / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (centre - half) / (1 + z * z / n), 100 * (centre + half) / (1 + z * z / n)


def paired_difference(right_a: np.ndarray, right_b: np.ndarray) -> tuple[float, float, float]:
    """Difference of two accuracies on the same n images and its 95 % interval, in percent points (paired normal).

    right_a, right_b: bool (n,), whether each model is right on each image.
    """
    d = right_a.astype(np.float64) - right_b.astype(np.float64)
    half = 1.959964 * d.std(ddof=1) / math.sqrt(len(d))
    return 100 * d.mean(), 100 * (d.mean() - half), 100 * (d.mean() + half)


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance of two sets of features, float (N, D) and (M, D), taken as normal (Heusel et al. 2017)."""
    one, two = (torch.atleast_2d(torch.cov(x.double().T)) for x in (a, b))
    # Eigenvalues of a product of two covariances are real and not negative, up to rounding.
    overlap = torch.linalg.eigvals(one @ two).sqrt().real.sum()
    between = (a.double().mean(dim=0) - b.double().mean(dim=0)).square().sum()
    return float(between + one.trace() + two.trace() - 2 * overlap)
