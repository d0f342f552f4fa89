"""Judging a frozen encoder: features once, then a linear probe, weighted kNN, and measures that need no labels."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline import loop
from pipeline.params.schema import Compute

KNN_K, KNN_TEMPERATURE = 20, 0.07  # fixed beforehand: solo-learn's defaults
_BATCH = 500


@torch.inference_mode()
def features(encoder: nn.Module, images: np.ndarray, compute: Compute) -> torch.Tensor:
    """Features of uint8 images (N, H, W, C): float32 (N, D) on the CPU. The encoder's mode is put back after."""
    chunks = torch.from_numpy(images).split(_BATCH)
    return torch.cat([embed(encoder, chunk.permute(0, 3, 1, 2).float() / 255, compute) for chunk in chunks])


@torch.inference_mode()
def embed(encoder: nn.Module, x: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Features of one chunk of float images (N, C, H, W) in [0, 1]: float32 (N, D) on the CPU."""
    was_training = encoder.training
    encoder.eval()
    with loop.autocast(compute):
        found = encoder(x.to(compute.device)).float().cpu()
    encoder.train(was_training)
    return found


def pixels(images: np.ndarray) -> torch.Tensor:
    """Raw pixels as features: uint8 (N, H, W, C) -> float32 (N, H W C) in [0, 1]."""
    return torch.from_numpy(images).flatten(1).float() / 255


class Standardise:
    """Shift and scale features by the mean and standard deviation of the probe's training features."""

    def __init__(self, x: torch.Tensor):
        self.mean = x.mean(dim=0)
        # One scale for all: a dimension that hardly varies carries little, and stays small.
        self.scale = (x - self.mean).pow(2).mean().sqrt().clamp(min=1e-12)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


def logistic(x: torch.Tensor, y: torch.Tensor, classes: int, l2: float, start: torch.Tensor | None = None):
    """Multinomial logistic regression: the minimum of mean cross-entropy + l2/2 |W|^2 (bias free), by L-BFGS.

    x: float (N, D); y: int64 (N,). start: an earlier solution. Returns weights (D + 1, classes), bias last.
    """
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype) if start is None else start.clone()
    weights.requires_grad_()
    lbfgs = torch.optim.LBFGS(
        [weights],
        max_iter=500,
        tolerance_grad=1e-4,  # scikit-learn's; test top-1 moves by less than 0.2 points from here to 1e-6
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        lbfgs.zero_grad()
        loss = F.cross_entropy(predict(weights, x), y) + 0.5 * l2 * weights[:-1].pow(2).sum()
        loss.backward()
        return loss

    lbfgs.step(closure)
    return weights.detach()


def predict(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Logits (N, classes) of a linear probe's weights (D + 1, classes)."""
    return torch.addmm(weights[-1], x, weights[:-1])


def linear_probe(
    train: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    test: torch.Tensor,
    classes: int,
    grid: list[float],
) -> tuple[torch.Tensor, float]:
    """Test predictions (int64) of the probe whose l2 does best on validation, and that l2; the stronger one of equals.

    Features (N, D) are standardised by the training ones. The test features are used once, after the choice.
    """
    standard = Standardise(train[0])
    x, seen = standard(train[0]), standard(validation[0])
    best, weights = (-1.0, math.inf, None), None
    for l2 in sorted(grid, reverse=True):  # from the strongest on, each from the one before
        weights = logistic(x, train[1], classes, l2, weights)
        correct = (predict(weights, seen).argmax(dim=1) == validation[1]).float().mean().item()
        if correct > best[0]:
            best = (correct, l2, weights)
    return predict(best[2], standard(test)).argmax(dim=1), best[1]


def knn(
    bank: torch.Tensor,
    labels: torch.Tensor,
    queries: torch.Tensor,
    k: int = KNN_K,
    temperature: float = KNN_TEMPERATURE,
):
    """Class with the most votes among the k nearest by cosine, weighing exp(cosine / temperature) (Wu et al. 2018).

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


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval (Wilson 1927) of a proportion, in percent."""
    z = 1.959964
    p = correct / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (centre - half) / (1 + z * z / n), 100 * (centre + half) / (1 + z * z / n)


def paired_difference(right_a: np.ndarray, right_b: np.ndarray) -> tuple[float, float, float]:
    """Difference of two accuracies on the same n images and its 95 % interval, in percent points (paired normal).

    right_a, right_b: bool (n,), whether each is right on each image.
    """
    d = right_a.astype(np.float64) - right_b.astype(np.float64)
    half = 1.959964 * d.std(ddof=1) / math.sqrt(len(d))
    return 100 * d.mean(), 100 * (d.mean() - half), 100 * (d.mean() + half)


def rankme(x: torch.Tensor) -> float:
    """RankMe (Garrido et al., ICML 2023): exp of the entropy of the normalised singular values of features (N, D)."""
    s = torch.linalg.svdvals(x.double())
    p = s / s.sum().clamp(min=1e-12) + 1e-7  # features that are all zero have rank 1, not nan
    return float(torch.exp(-(p * p.log()).sum()))


def alignment(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared distance of two views' unit features (Wang and Isola, ICML 2020, with alpha = 2): 0 is best."""
    return float((F.normalize(a, dim=1) - F.normalize(b, dim=1)).pow(2).sum(dim=1).mean())


def uniformity(x: torch.Tensor) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of unit features (Wang and Isola, with t = 2): lower is better."""
    distances = torch.pdist(F.normalize(x, dim=1).double())
    return float(torch.exp(-2 * distances**2).mean().log())
