"""The theory's two terms, measured: how often augmentation changes an image's class, how well it connects images.

Theorem 4.1 of AdaInf (ICLR 2024) bounds the linear probe's error by alpha / lambda, alpha, and a shift of distribution
(quality.py bounds that from below). Stronger augmentation raises both alpha, the share of views that show another
class, and lambda, the (k+1)-th smallest eigenvalue of the normalised Laplacian of the graph of views, k the number of
classes; more images raise lambda alone. So with more images a weaker augmentation is best.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.core import seeds, store
from pipeline.core.errors import UserError
from pipeline.core.progress import bar, log
from pipeline.core.shares import rounded
from pipeline.data import scores, shards
from pipeline.engine import arithmetic
from pipeline.evaluation import quality
from pipeline.measures import probes
from pipeline.params import reader
from pipeline.params.schema import Augment, Compute, Params
from pipeline.training import classifier

ORACLE_STRENGTH = 2.0  # the labelling oracle sees strong augmentation while it learns, so that it can judge it
REACH = 3.0  # bandwidths beyond which the kernel is 0
COLUMNS = ["strength", "alpha", "flips", "flips_generated", "arm", "beta", "lambda", "components", "largest"]
COLUMNS += ["lambda_largest"]
_SETS = (("generated/inflation", "generate"), ("real", "prepare"))  # and what makes them
_CHUNK = 4_000


@dataclass
class Spectrum:
    """Eigenvalues of a graph's normalised Laplacian, ascending; how many components it has; those of the largest."""

    values: np.ndarray
    components: int
    largest: np.ndarray


def spectrum(affinity: torch.Tensor, weights: torch.Tensor) -> Spectrum:
    """The graph of views: w(a, a') = sum over images x of P(x) A(a | x) A(a' | x) (HaoChen et al. 2021).

    affinity: float (n, M), row i the distribution A(. | image i) over M views, summing to 1; weights: P, float (n,).
    The adjacency normalised by the views' degrees has the squared singular values of P^(1/2) A d^(-1/2), so an n x n
    matrix has all of its eigenvalues that are not 0.
    """
    a, p = affinity.double(), weights.double() / weights.double().sum()
    degree = p @ a
    seen = degree > 0
    c = p.sqrt()[:, None] * a[:, seen] * degree[seen].rsqrt()
    similar = c @ c.T
    component = _components(similar > 0)
    largest = component == component.bincount().argmax()
    return Spectrum(_laplacian(similar), int(component.max()) + 1, _laplacian(similar[largest][:, largest]))


def _laplacian(similar: torch.Tensor) -> np.ndarray:
    return (1 - torch.linalg.eigvalsh(similar)).flip(0).clamp(min=0).numpy()


def _components(linked: torch.Tensor) -> torch.Tensor:
    """Number of each node's connected component, int64 (n,); linked: bool (n, n), a node with itself, too."""
    lowest = torch.arange(len(linked))  # number of a node of the same component
    while True:
        lower = torch.where(linked, lowest, len(linked)).min(dim=1).values
        if torch.equal(lower, lowest):
            return lowest.unique(return_inverse=True)[1]
        lowest = lower


def affinity(features: torch.Tensor, images: int, bandwidth: float) -> torch.Tensor:
    """A(view | image), float (images, M): a kernel around an image's own views, over all M views as the common grid.

    features: float (M, D), the views of image 0, then of image 1, ... A Gaussian kernel, cut off at REACH bandwidths.
    """
    each = len(features) // images
    parts = []
    with bar("affinities", len(features), "view") as progress:
        for chunk in features.split(_CHUNK):
            near = torch.cdist(features, chunk) / bandwidth
            kernel = torch.where(near < REACH, torch.exp(-0.5 * near**2), 0.0)
            parts.append(kernel.view(images, each, -1).sum(dim=1))
            progress.update(len(chunk))
    rows = torch.cat(parts, dim=1)
    return rows / rows.sum(dim=1, keepdim=True)


def bandwidth_of(features: torch.Tensor) -> float:
    """A third of the median distance of an image to the nearest other: without augmentation, images hardly touch."""
    nearest = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf).min(dim=1).values
    if nearest.median() < 1e-6 * features.std():
        raise UserError("half of the train images are copies of one another", "data/real", "remove the copies")
    return float(nearest.median()) / 3


def labelling_error(views: list[torch.Tensor], clean: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """alpha and flips, in percent of the views, as an oracle of classes sees them.

    alpha: views of another class than the image's label, less images of another class as they are (the oracle's own
    errors). flips: views of another class than the image as it is, which needs no labels. views: logits of a view of
    each image, float (N, classes), several times; clean: those of the images; labels: int64 (N,).
    """

    def differ(logits: torch.Tensor, classes: torch.Tensor) -> float:
        return 100 * float((logits.argmax(dim=1) != classes).float().mean())

    alpha = np.mean([differ(view, labels) for view in views]) - differ(clean, labels)
    return float(alpha), float(np.mean([differ(view, clean.argmax(dim=1)) for view in views]))


def embed(network: torch.nn.Module, images: np.ndarray, recipe: recipes.Recipe, draw, compute: Compute) -> torch.Tensor:
    """A network's output for one view of each image, uint8 (N, H, W, C) -> float32 (N, D); draw: a torch generator."""
    chunks = torch.from_numpy(images).split(probes.at_once(max(images.shape[1:3])))
    return torch.cat([probes.embed(network, recipes.views(x, [recipe], draw)[0], compute) for x in chunks])


def arms(counts: tuple[int, int, int], ratio: float, weight: float) -> dict[str, torch.Tensor]:
    """Arm -> probability of each image, float64 (sum of counts,): real ones, then generated, then further real ones.

    No generated images; generated ones at N = 1 and at N = weight; and at N = 1 further real images in their place, as
    if the generator were perfect.
    """

    def shares(beta: float, others: int) -> torch.Tensor:
        each = [beta, 1 - beta if others == 1 else 0.0, 1 - beta if others == 2 else 0.0]
        return torch.cat([torch.full((n,), share / max(n, 1)) for n, share in zip(counts, each, strict=True)]).double()

    found = {"real only": shares(1.0, 0)}
    for n in dict.fromkeys((1.0, weight)) if counts[1] else ():
        found[f"N = {n:g}"] = shares(n / (n + ratio), 1)
    if counts[2]:
        found["N = 1, perfect"] = shares(1 / (1 + ratio), 2)
    return found


def of_the_run(strengths: list[float], images: int | None, views: int, steps: int) -> list[dict]:
    """`measure` of the images in data/ with the parameters of params.yaml; UserError where it cannot be done.

    images: None is 500, or all where there are fewer.
    """
    params = reader.load()
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.read_generated(Path("data/generated/inflation"))
    n, least = len(real.rows(shards.TRAIN)), len(real.classes) + 1
    asked = rounded(params.inflation.ratio, n)
    for held, wanted, where, maker in (
        (n, params.dataset.train_size, "data/real", "prepare"),
        (len(generated), asked, "data/generated/inflation", "generate"),
    ):
        if held != wanted:
            raise UserError(
                f"holds {held:,} images, params.yaml asks for {wanted:,}", where, f"run `dvc repro {maker}`"
            )
    if params.inflation.weighting != "uniform" or params.inflation.final_real_share is not None:
        log("theory: all images that take part count alike, by the real share of the first batch")
    manifests = (store.verify(Path(f"data/{name}"), by) for name, by in _SETS)
    generated = generated[scores.kept(params.inflation, *manifests).rows]
    images = min(500, n) if images is None else images
    if not least <= images <= n:
        raise UserError(f"{images} is not from {least} to {n}", "--images", "the train images are so many")
    if views < 1 or steps < 1:
        raise UserError("must be at least 1", "--views and --steps")
    if not all(0 <= strength <= 4 for strength in strengths):
        raise UserError("from 0 to 4", "--strengths")
    return measure(params, real, generated, strengths, images, views, steps)


def measure(
    params: Params, real: shards.RealSet, generated: np.ndarray, strengths: list[float], n: int, views: int, steps: int
) -> list[dict]:
    """A row a strength and arm, of the first n train images and, at most twice as many, generated ones.

    views: of each image; steps: of the labelling oracle's training.
    """
    images, labels = (part[:n] for part in real.part(shards.TRAIN))
    ratio = params.inflation.ratio * params.inflation.select
    made = generated[: min(rounded(ratio, len(images)), 2 * len(images))]
    further = real.part(shards.VALIDATION)[0][: len(made)]  # which the network has not seen either
    everything = [part for part in (images, made, further) if len(part)]
    network, _ = quality.feature_network(real, params.quality, params.compute)
    bandwidth = bandwidth_of(probes.features(network.encoder, images, params.compute))
    classes = len(real.classes)
    oracle = labelling_oracle(real, steps, params)
    rows = []
    for strength in strengths:
        recipe = recipes.recipe(Augment(**params.augment.model_dump() | {"strength": strength}), 0)

        def look(network, images: np.ndarray, purpose: str, recipe=recipe) -> list[torch.Tensor]:
            draws = (seeds.generator(params.augment.seed, f"theory {purpose}", k) for k in range(views))
            return [embed(network, images, recipe, draw, params.compute) for draw in draws]

        terms = {}
        if oracle is not None:
            clean = probes.features(oracle, images, params.compute)
            alpha, flips = labelling_error(look(oracle, images, "flips"), clean, torch.from_numpy(labels))
            terms = {"alpha": alpha, "flips": flips}
            if len(made):
                clean = probes.features(oracle, made, params.compute)
                _, flips = labelling_error(look(oracle, made, "flips_generated"), clean, clean.argmax(dim=1))
                terms["flips_generated"] = flips
        seen = [torch.stack(look(network.encoder, part, f"graph {i}"), dim=1) for i, part in enumerate(everything)]
        a = affinity(torch.cat(seen).flatten(0, 1), sum(map(len, everything)), bandwidth)
        counts = (len(images), len(made), len(further))
        for arm, weights in arms(counts, ratio, params.inflation.real_weight).items():
            found = spectrum(a[weights > 0], weights[weights > 0])
            largest = len(found.largest)
            connected = {
                "lambda": float(found.values[classes]),
                "components": found.components,
                "largest": largest,
                **({"lambda_largest": float(found.largest[classes])} if largest > classes else {}),
            }
            beta = float(weights[: len(images)].sum())
            rows.append({"strength": strength, **terms, "arm": arm, "beta": beta, **connected})
    return rows


def labelling_oracle(real: shards.RealSet, steps: int, params: Params) -> torch.nn.Module | None:
    """A classifier of spare images under strong augmentation; None where these lack labels of several classes."""
    images, labels = real.part(shards.SPARE)
    if not len(images) or labels.min() < 0 or real.part(shards.TRAIN)[1].min() < 0 or len(np.unique(labels)) < 2:
        log("theory: no spare images with labels (dataset.spare_size), so alpha is not measured")
        return None
    recipe = recipes.recipe(quality.plain(images.shape[3], ORACLE_STRENGTH), 0)
    schedule = classifier.plan(steps, params.quality.seed)
    return classifier.train("training the labelling oracle", schedule, images, labels, recipe, params.compute)


def shown(rows: list[dict]) -> str:
    """The rows as a table for people."""
    lines = [" ".join(f"{name:>15}" for name in COLUMNS)]
    for row in rows:
        cells = (row.get(name, "") for name in COLUMNS)
        lines.append(" ".join(f"{cell:>15.4f}" if isinstance(cell, float) else f"{cell:>15}" for cell in cells))
    return "\n".join(lines)
