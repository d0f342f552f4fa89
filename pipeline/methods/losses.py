"""Losses that several methods share; each other loss is in its method's file."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from pipeline.engine.distributed import gather


def unit_rows(parts: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Each part (b, D) as unit vectors of all processes: float32 (B, D)."""
    return gather([F.normalize(part.float(), dim=1) for part in parts])


def symmetric(direction: Callable[[int, int], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of what direction(i, j) gives for views (0, 1) and (1, 0), name by name."""
    one, two = direction(0, 1), direction(1, 0)
    return {name: (one[name] + two[name]) / 2 for name in one}


def classification(logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cross-entropy of logits (B, K) and int64 (B,), and how often the target has the largest logit ("agreement")."""
    agreement = (logits.detach().argmax(dim=1) == target).float().mean()
    return {"loss": F.cross_entropy(logits, target), "agreement": agreement}


def nt_xent(z: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    """NT-Xent (SimCLR, equation 1), mean over all 2B anchors: one positive and 2B - 2 negatives each.

    z: float32 (2B, D), unit vectors; rows i and i + B are the two views of image i.
    """
    n = len(z)
    with torch.autocast(z.device.type, enabled=False):  # which would round the similarities to bf16
        similarity = z @ z.T / temperature  # 2B 2B
    similarity = similarity.masked_fill(torch.eye(n, dtype=torch.bool, device=z.device), float("-inf"))
    return classification(similarity, torch.arange(n, device=z.device).roll(n // 2))


def info_nce(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    """InfoNCE (MoCo, equation 1), mean over B queries: its key is the positive, the queue holds the negatives.

    q, k: float32 (B, D); queue: float32 (K, D); all unit vectors.
    """
    with torch.autocast(q.device.type, enabled=False):  # which would round the similarities to bf16
        positive, negatives = (q * k).sum(dim=1, keepdim=True), q @ queue.T
    logits = torch.cat([positive, negatives], dim=1) / temperature  # B 1+K
    return classification(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def of_neighbours(neighbours: torch.Tensor, p: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    """Cross-entropy of each neighbour against all predictions, positive the one of the same row.

    neighbours, p: float32 (B, D), unit vectors.
    """
    with torch.autocast(p.device.type, enabled=False):  # which would round the similarities to bf16
        logits = neighbours @ p.T / temperature  # B B
    return classification(logits, torch.arange(len(p), device=p.device))


def alignment(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of pairs of unit vectors, float32 (B, D) each: 2 - 2 cos (CLSP's added term)."""
    return (a - b).square().sum(dim=1).mean()


def with_alignment(
    contrast: dict[str, torch.Tensor], first: torch.Tensor, third: torch.Tensor, weight: float
) -> dict[str, torch.Tensor]:
    """CLSP's loss: that of two views, and `weight` times the `alignment` of a third one with the first."""
    distance = alignment(first, third)
    loss = contrast["loss"] + weight * distance
    return {"loss": loss, "contrast": contrast["loss"], "alignment": distance, "agreement": contrast["agreement"]}


def cross_prediction(scores: list[torch.Tensor], targets: list[torch.Tensor], temperature: float) -> torch.Tensor:
    """Mean over all pairs of a target and another view that predicts it: -sum_k target_k log softmax(score / t)_k.

    scores: float32 (B, K) of every view; targets: distributions (B, K) of the first ones. DINO's equation 3, SwAV's 6.
    """
    pairs = [(i, v) for i in range(len(targets)) for v in range(len(scores)) if v != i]
    return sum(F.cross_entropy(scores[v] / temperature, targets[i]) for i, v in pairs) / len(pairs)


def multi_positive(z: torch.Tensor, ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """For every anchor a: -1/|P(a)| sum over p in P(a) of log [exp(s_ap / t) / sum over b != a of exp(s_ab / t)].

    The supervised contrastive loss (Khosla et al., NeurIPS 2020, equation 2) with identities as labels.
    z: float32 (..., V, D), unit vectors; ids: int64 (..., V); P(a): the other rows of a's identity, at least one.
    Returns float32 (..., V), and whether the nearest other row is in P(a), bool (..., V). With two views of each
    identity this is NT-Xent.
    """
    with torch.autocast(z.device.type, enabled=False):  # which would round the similarities to bf16
        similarity = z @ z.mT / temperature  # ... V V
    itself = torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
    positive = (ids[..., :, None] == ids[..., None, :]) & ~itself
    others = similarity.masked_fill(itself, float("-inf"))
    drawn = (similarity * positive).sum(dim=-1) / positive.sum(dim=-1)
    right = positive.gather(-1, others.detach().argmax(dim=-1, keepdim=True))[..., 0]
    return others.logsumexp(dim=-1) - drawn, right
