"""Scores of generated images: their file, which images they let take part, and how often each of those is drawn."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import store
from pipeline.core.errors import UserError
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


def read(folder: Path, generated: dict) -> np.ndarray:
    """The scores, float64 (n,), verified; UserError if they are of other images than the set of this manifest."""
    manifest = store.verify(folder, "score")
    if [manifest.get(name) for name in ("n", "generated")] != [generated["n"], generated["fingerprint"]]:
        raise UserError("are of other generated images, or of none", folder, "run `dvc repro score`")
    return shards.read_array(folder / FILE, "score")


def kept(params: Inflation, generated: dict, folder: Path = FOLDER) -> Kept:
    """What takes part of the generated set with this manifest; scores are read only if the parameters want them."""
    n = generated["n"]
    if params.select == 1 and params.weighting == "uniform":
        return Kept(np.arange(n), None)
    score = read(folder, generated)
    best = np.lexsort((np.arange(n), -score))[: params.kept(n)]  # of equals, the first
    rows = np.sort(best)
    return Kept(rows, importance(score[rows]) if params.weighting == "density_ratio" and len(rows) else None)


def importance(log_ratio: np.ndarray) -> np.ndarray:
    """Weights in proportion to density ratios, of mean 1 before they are kept within MOST of it; float64 (m,)."""
    ratio = np.exp(log_ratio - log_ratio.max())
    return np.clip(ratio / ratio.mean(), 1 / MOST, MOST)


def judged(taking_part: Kept, most: int, seed: int) -> np.ndarray:
    """int64 (k,), ascending: the first images that take part, or as many drawn in proportion to their weights."""
    rows, weights = taking_part
    k = min(most, len(rows))
    return rows[:k] if weights is None else rows[np.sort(mixture.in_proportion(weights, k, seed))]


def effective(weights: np.ndarray) -> float:
    """How many images, drawn all alike, have as little variance: Kish's effective size (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
