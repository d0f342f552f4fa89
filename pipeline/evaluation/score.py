"""A score of each generated image, the higher the better: how real it looks, or which real images it comes near.

Only train images are compared with: what judges the encoder, or the generated images, must not choose them.
"""

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.data import shards
from pipeline.evaluation import quality
from pipeline.measures import probes
from pipeline.params.schema import Compute, Quality
from pipeline.training import classifier

_TEMPERATURES = np.logspace(-1, 1.5, 101)
_AT_ONCE = 20_000_000  # distances


def density_ratio(
    real: np.ndarray, generated: list[np.ndarray], params: Quality, compute: Compute
) -> tuple[np.ndarray, dict]:
    """log p_real(x) / p_generated(x) of each generated image, float64 (n,), and facts; real: uint8 (N, H, W, C).

    A classifier of real against generated images estimates it (Sugiyama et al. 2012): its log odds, less those of the
    images that it saw. Each image is scored by one that saw only the other half of both kinds; one temperature, by
    which the log odds of unseen images fit best (Guo et al. 2017), takes back how sure it is. Of `params`, steps and
    seed count.
    """
    n = sum(map(len, generated))
    schedule = classifier.plan(params.steps, _seed(params))
    odds, own = np.empty(n), np.empty(len(real))
    for half in (0, 1):
        learned = np.arange(1 - half, n, 2)[: len(real) // 2 + 1]  # no more than there are real ones
        images = np.concatenate([real[1 - half :: 2], *shards.of_parts(generated, learned)])
        labels = np.repeat([1, 0], [len(images) - len(learned), len(learned)])
        model = classifier.train(f"scoring, half {half + 1} of 2", schedule, images, labels, recipes.PLAIN, compute)
        prior = np.log(labels.sum() / (len(labels) - labels.sum()))
        own[half::2] = _odds(model, real[half::2], compute) - prior
        first = 0
        for part in generated:
            mine = np.arange((half - first) % 2, len(part), 2)
            odds[first + mine] = _odds(model, part[mine], compute) - prior
            first += len(part)
    temperature = calibrated(own, odds)
    right = ((own > 0).mean() + (odds <= 0).mean()) / 2
    return odds / temperature, {"told_apart": 100 * float(right), "temperature": temperature}


def _seed(params: Quality) -> int:
    """Not that of the networks which judge what these scores choose."""
    return seeds.key(params.seed, "scores") >> 1  # 63 bits


def _odds(model: classifier.Classifier, images: np.ndarray, compute: Compute) -> np.ndarray:
    logits = probes.features(model, images, compute).double()
    return (logits[:, 1] - logits[:, 0]).numpy()


def calibrated(real: np.ndarray, generated: np.ndarray) -> float:
    """The temperature by which log odds are to be divided: least mean cross-entropy, both kinds counted alike."""
    losses = [np.logaddexp(0, -real / t).mean() + np.logaddexp(0, generated / t).mean() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def coverage(
    real: np.ndarray, generated: list[np.ndarray], params: Quality, compute: Compute
) -> tuple[np.ndarray, dict]:
    """How early an image is needed to come near every real one, float64 (n,), and facts; real: uint8 (N, H, W, C).

    Each real image ranks the generated ones by distance; an image's score is the best rank that any real image gives
    it, negated, ties by distance. So a share of the set holds the nearest generated image of every real one first,
    then the second nearest. Distances are those of a network that told the train images' quarter turns (Gidaris et al.
    2018): it needs no labels.
    """
    turned, quarters = quality.turned(real)
    schedule = classifier.plan(params.steps, _seed(params))
    model = classifier.train("training the scores' network", schedule, turned, quarters, recipes.PLAIN, compute)
    x = probes.features(model.encoder, real, compute)
    y = torch.cat([probes.features(model.encoder, part, compute) for part in generated])
    return ranked(x, y), {}


def ranked(real: torch.Tensor, generated: torch.Tensor) -> np.ndarray:
    """The score of `coverage` of features, float (N, D) and (n, D): float64 (n,), in (-n - 1, -1]."""
    n = len(generated)
    best, places = torch.full((n,), torch.inf, dtype=torch.float64), torch.arange(1, n + 1, dtype=torch.float64)
    for chunk in real.split(max(1, _AT_ONCE // n)):
        near, order = torch.cdist(chunk.double(), generated.double()).sort(dim=1, stable=True)
        best.scatter_reduce_(0, order.flatten(), (places + near / (1 + near)).flatten(), "amin")
    return -best.numpy()
