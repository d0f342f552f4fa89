"""CLSP's linear protocol: a linear layer trained by plain SGD on frozen features, with flips as only augmentation.

The features of all images and of all mirror images are computed once, and an epoch draws one of the two for each image:
the same numbers as flipping images before the frozen encoder.
"""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.core import seeds
from pipeline.measures.linear_probe import Labelled, Weights

# utils/eval_utils.py of github.com/dewenzeng/clsp@28d0fe7
EPOCHS, BATCH, FLIP = 100, 256, 0.5
DROPS, DROP = (60, 80), 0.1  # epochs that lower the rate, by this factor


def mirrored(images: np.ndarray) -> np.ndarray:
    """Images, uint8 (N, H, W, C), flipped horizontally."""
    return np.ascontiguousarray(images[:, :, ::-1])


def train(plain: Labelled, mirror: torch.Tensor, classes: int, lr: float, seed: int) -> Weights:
    """The linear layer after the last epoch, from torch's initial weights; the last batch of an epoch may be smaller.

    plain: features float (N, D) of the images as they are, and labels int64 (N,); mirror: (N, D) of the mirror images.
    """
    both, n = torch.stack([plain[0], mirror]), len(mirror)
    with seeds.scope(seed, "clsp probe"):
        start = torch.nn.Linear(both.shape[2], classes)
    weight, bias = start.weight.detach().to(both.dtype), start.bias.detach().to(both.dtype)
    target = F.one_hot(plain[1], classes).to(both.dtype)
    for epoch in range(EPOCHS):
        rate = lr * DROP ** sum(epoch >= drop for drop in DROPS)
        draw = seeds.generator(seed, "clsp probe", epoch)
        flipped = (torch.rand(n, generator=draw) < FLIP).long()
        order = torch.randperm(n, generator=draw)
        for x, y in zip(both[flipped[order], order].split(BATCH), target[order].split(BATCH), strict=True):
            error = (F.linear(x, weight, bias).softmax(dim=1) - y) / len(x)  # d loss / d logits
            weight.addmm_(error.T, x, alpha=-rate)
            bias.sub_(error.sum(dim=0), alpha=rate)
    return weight, bias


def top(logits: torch.Tensor, labels: torch.Tensor, k: int) -> float:
    """How often the label is among the k largest of its row, in percent; logits (N, classes), labels int64 (N,)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return 100 * float((best == labels[:, None]).any(dim=1).float().mean())
