"""Losses that several methods share; the others are in their method's file."""

import torch
import torch.nn.functional as F


def of_neighbours(neighbours: torch.Tensor, p: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    """Cross-entropy of the neighbours, float32 (B, D), against all predictions p (B, D), unit vectors: row i is i's.

    Also gives the share of neighbours that are most similar to their own image's prediction ("agreement").
    """
    with torch.autocast(p.device.type, enabled=False):  # which would round the similarities to bf16
        logits = neighbours @ p.T / temperature  # B B
    own = torch.arange(len(p), device=p.device)
    return {
        "loss": F.cross_entropy(logits, own),
        "agreement": (logits.detach().argmax(dim=1) == own).float().mean(),
    }
