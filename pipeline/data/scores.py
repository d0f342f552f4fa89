"""Scores of generated images: their file, which images they let take part, and how often each of those is drawn."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import store
from pipeline.core.errors import UserError
from pipeline.core.shares import rounded
from pipeline.data import mixture, shards
from pipeline.params.schema import Inflation

FILE, FOLDER = "scores.h5", Path("data/generated/scores")
MOST = 10.0  # an image is drawn at most so many times as often as the average one, and at least a tenth as often


class Kept(NamedTuple):
    """What takes part of a generated set. rows: int64 (m,), ascending; weights: float64 (m,) or None, as Mixture's."""

    rows: np.ndarray
    weights: np.ndarray | None


def write(folder: Path, score: np.ndarray) -> None:
    """Write the scores, float64 (n,), of the images 0..n-1."""
    numbers = np.arange(len(score))
    shards.write_arrays(folder / FILE, {"number": numbers, "score": score.astype(np.float64)}, {})


def facts(kind: str, generated: dict, real: dict) -> dict:
    """What the manifest of scores says: their kind, and which sets (by their manifests) were compared."""
    return {
        "n": generated["n"],
        "generated": generated["fingerprint"],
        "real": real["files"][shards.FILE],
        "kind": kind,
    }


def read(folder: Path, wanted: dict) -> np.ndarray:
    """The scores, float64 (n,), verified; UserError if they are not what `facts` of the sets at hand says."""
    manifest = store.verify(folder, "score")
    if {name: manifest.get(name) for name in wanted} != wanted:
        raise UserError("are of other images or of another kind", folder, "run `dvc repro score`")
    return shards.read_array(folder / FILE, "score")


def kept(params: Inflation, generated: dict, real: dict, folder: Path = FOLDER) -> Kept:
    """What takes part of a generated set; scores are read only if the parameters want them.

    params: score, select and weighting count; generated, real: the manifests of both sets.
    """
    n = generated["n"]
    if not n or (params.select == 1 and params.weighting == "uniform"):
        return Kept(np.arange(n), None)
    score = read(folder, facts(params.score, generated, real))
    best = np.lexsort((np.arange(n), -score))[: rounded(params.select, n)]  # of equals, the first
    rows = np.sort(best)
    return Kept(rows, importance(score[rows]) if params.weighting == "density_ratio" else None)


def importance(log_ratio: np.ndarray) -> np.ndarray:
    """Weights of mean 1, float64 (m,), in proportion to density ratios but within MOST of the mean."""
    widest = np.log(MOST)
    low, high = -log_ratio.max() - widest, widest - log_ratio.min()  # of the logarithm of the factor that gives mean 1
    for _ in range(100):
        factor = (low + high) / 2
        found = np.exp(np.clip(factor + log_ratio, -widest, widest))
        low, high = (factor, high) if found.mean() < 1 else (low, factor)
    return found


def judged(taking_part: Kept, most: int, seed: int) -> np.ndarray:
    """int64 (k,), ascending: the first images that take part, or some drawn in proportion to their weights.

    Of these at most as many as the weights are worth: of all images, each once, none would weigh more than another.
    """
    rows, weights = taking_part
    if weights is None:
        return rows[:most]
    k = max(1, min(most, int(effective(weights))))
    return rows[np.sort(mixture.Weighted(weights, seed).rows(k, 0))]


def told(params: Inflation, n: int, taking_part: Kept) -> str:
    """What takes part, for a protocol."""
    if not n or (params.select == 1 and params.weighting == "uniform"):
        return f"all of {n:,} generated images"
    words = f"{len(taking_part.rows):,} of {n:,} generated images, those of the highest {params.score}"
    if taking_part.weights is None:
        return words
    return f"{words}; drawn in proportion to it, as varied as {effective(taking_part.weights):,.0f} drawn alike"


def effective(weights: np.ndarray) -> float:
    """How many images, drawn all alike, have as little variance: Kish's effective size (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
