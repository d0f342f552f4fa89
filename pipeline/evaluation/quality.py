"""Judging generated images: how far they are from real ones, how varied, how easily told apart, whether any are copies.

They are compared with validation images, which no generator trained here has seen. The feature network is a classifier
of spare real images; density, coverage and the Frechet distance are measured in its features, copies in pixels.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.core import access, files
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import shards
from pipeline.measures import memorisation, probes
from pipeline.params.generators import SOURCES, ceiling
from pipeline.params.schema import Augment, Compute, Quality
from pipeline.training import classifier

NEIGHBOURS = 5  # k of density and coverage, as their authors'
MEMORISED = 0.05  # a larger share of generated images that near is a verdict
SHOWN = 16  # closest pairs in the picture
CLASSES = "classes"  # what the feature network tells
MOST = 5_000  # positives of which the class is asked


@dataclass
class Judged:
    """metrics: at most ten numbers, None for what could not be measured; protocol: how each came about.

    pairs: for the picture, as outputs.pairs takes them.
    """

    metrics: dict[str, float | None]
    protocol: dict
    pairs: list[tuple[str, np.ndarray, np.ndarray, list[str]]]


def judge(generated: np.ndarray, source: str, real: shards.RealSet, params: Quality, compute: Compute) -> Judged:
    """All numbers of the first `params.images` generated images (N, H, W, C), or of fewer if there are fewer.

    source: where they come from, generator.source; who trained elsewhere may have seen the validation images.
    """
    seen, _ = real.part(shards.TRAIN)
    unseen, _ = real.part(shards.VALIDATION)
    n = min(params.images, len(generated), len(unseen) // 2)
    if n < 2:
        why = f"{len(generated)} generated images, {len(unseen)} of validation, quality.images {params.images}"
        return Judged({"judged": 0, **ceiling(source)}, {"note": f"nothing to judge: {why}"}, [])
    judged, one, two = generated[:n], unseen[:n], unseen[n : 2 * n]
    embed, network = features(real, params, compute)
    x, a, b = (embed(images) for images in (judged, one, two))
    density, coverage = density_and_coverage(a, x)
    floor = density_and_coverage(a, b)
    right, of = told_apart(judged, one, params, compute)
    low, high = probes.wilson(right, of)
    near, near_unseen = (memorisation.nearest(images, seen) for images in (judged, unseen[: 2 * n]))
    copied, limit = memorisation.copies(near, near_unseen)
    metrics = {
        "judged": n,
        "frechet": probes.frechet(a, x),
        "frechet_floor": probes.frechet(a, b),
        "density": density,
        "coverage": coverage,
        "told_apart": 100 * right / of,
        "tv_bound": max(0.0, 2 * low / 100 - 1),
        "nearest": float(np.median(near.distance) / usual) if (usual := np.median(near_unseen.distance)) else None,
        "copied": 100 * float(copied.mean()),
        "memorised": int(probes.wilson(int(copied.sum()), n)[0] > 100 * MEMORISED),
        **ceiling(source),
    }
    log(
        f"quality: Frechet {metrics['frechet']:.2f} (floor {metrics['frechet_floor']:.2f}), told from real ones in "
        f"{metrics['told_apart']:.1f} %, {metrics['copied']:.1f} % as near to a train image as "
        f"{100 * memorisation.RARE:g} % of validation's{': MEMORISED' if metrics['memorised'] else ''}"
    )
    protocol = {
        "real_images": f"{2 * n} of validation, in halves; {_seen_by(source)}{_mixed_labels(real)}",
        "network": network,
        "floor": "one half of the real images judged against the other",
        "density_floor": round(floor[0], 4),
        "coverage_floor": round(floor[1], 4),
        "told_apart": {"test_images": of, "low": round(low, 4), "high": round(high, 4), "interval": "Wilson, 95 %"},
        **_meanings(limit, n, len(seen)),
    }
    return Judged(metrics, protocol, _pairs(judged, near, unseen, near_unseen, seen))


def _meanings(limit: float, n: int, train: int) -> dict:
    """What the numbers mean that do not say so themselves, of n generated images and so many train images."""
    crowd, rare, surely = min(memorisation.CROWD, 2 * train), memorisation.RARE, memorisation.SURELY
    return {
        "neighbours": min(NEIGHBOURS, n - 1),
        "tv_bound": "2 a - 1 <= total variation between generated and real images, a the lower end of told_apart",
        "nearest": "median distance to the nearest train image or its mirror image, over that of validation images",
        "copied": f"% with a distance of at most {limit:.4f} of the mean one to the {crowd} nearest train images and "
        f"mirror images, as {100 * rare:g} % of validation images have (or {surely:g}, if that is less)",
        "memorised": f"1 where copied is above {100 * MEMORISED:g} % with 97.5 % confidence, that limit taken as known",
    }


def _mixed_labels(real: shards.RealSet) -> str:
    """A warning where validation images are of the few that have labels (STL-10)."""
    train = real.rows(shards.TRAIN)
    if len(real.with_labels(train)) < len(train) and len(real.with_labels(real.rows(shards.VALIDATION))):
        return "; they have labels, which most train images have not, and may be of another kind"
    return ""


def _seen_by(source: str) -> str:
    """What the generator knows of the validation images."""
    if source == "train":
        return "the generator did not see them"
    if source == "real":
        return f"judged beside {SOURCES['real']}"
    log("quality: the generator was not trained here and may have seen the validation images: then it looks too good")
    return "the generator was not trained here and MAY HAVE SEEN THEM"


def features(real: shards.RealSet, params: Quality, compute: Compute):
    """(embed, facts): uint8 images (N, H, W, C) -> float32 (N, D), and how that network came about."""
    if params.inception is not None:
        facts = {"kind": "Inception v3", "weights_sha256": files.sha256(Path(params.inception)), "features": 2048}
        scale = "comparable with distances of the same number of images alone, not with published ones of 50,000"
        return inception(params.inception, compute), facts | {"scale": scale}
    model, facts = feature_network(real, params, compute)
    return lambda images: probes.features(model.encoder, images, compute), facts


def distance(positives: list[np.ndarray], anchors: np.ndarray) -> float | None:
    """Root mean squared difference in pixels of positives and their anchors, over that of anchors and other anchors.

    0: copies; 1: as unlike as any two; None where anchors do not differ. Both uint8 (N, H, W, C), positives in parts,
    candidate by candidate.
    """

    def squares(one: np.ndarray, other: np.ndarray) -> int:
        return int(np.square(one.astype(np.int64) - other).sum())

    first, own = 0, 0
    for part in positives:
        places = np.arange(first, first + len(part)) % len(anchors)
        own += sum(squares(part[k : k + 500], anchors[places[k : k + 500]]) for k in range(0, len(part), 500))
        first += len(part)
    shifted = np.roll(anchors, 1, axis=0)
    others = sum(squares(anchors[k : k + 500], shifted[k : k + 500]) for k in range(0, len(anchors), 500))
    return float(np.sqrt((own / first) / (others / len(anchors)))) if others else None


def same_class(positives: list[np.ndarray], real: shards.RealSet, params: Quality, compute: Compute) -> dict:
    """How often the feature network takes positives for their image's class, in percent, and the images themselves.

    positives: uint8 (N, H, W, C) in parts, candidate by candidate of the train images; of these the first `MOST`.
    Nothing where the network does not tell classes, or a train image has no label. Of `params`, steps and seed count.
    """
    images, labels = real.part(shards.TRAIN)
    if labels.min() < 0:
        return {}
    model, facts = feature_network(real, params, compute)
    if facts["of"] != CLASSES:
        return {}
    right, seen = [], 0
    for part in positives:
        part = part[: MOST - seen]
        if len(part):
            guessed = probes.features(model, part, compute).argmax(dim=1).numpy()
            right.append(guessed == labels[np.arange(seen, seen + len(part)) % len(labels)])
            seen += len(part)
    guessed = probes.features(model, images[:MOST], compute).argmax(dim=1)
    own = probes.accuracy(guessed, labels[:MOST])
    return {"same_class": 100 * float(np.concatenate(right).mean()), "same_class_real": own}


def feature_network(real: shards.RealSet, params: Quality, compute: Compute) -> tuple[classifier.Classifier, dict]:
    """A classifier of the spare images, or of train images where there are none; and how it came about.

    Where not all of them have labels, or all the same one, it tells by how many quarter turns an image was turned.
    """
    rows, source = real.rows(shards.SPARE), "spare images, which no generator trained here has seen"
    if not len(rows):
        rows, source = real.rows(shards.TRAIN), "train images, WHICH THE GENERATOR SAW: dataset.spare_size is 0"
        log("quality: no spare images; the feature network learns from the generator's own train images")
    images, labels = real.images[rows], real.labels[rows]
    unseen, answers = real.part(shards.VALIDATION)
    task = CLASSES
    if min(labels.min(), answers.min(initial=0)) < 0 or len(np.unique(labels)) < 2:
        task = "quarter turns (Gidaris et al. 2018), as not all images have labels, or all the same"
        (images, labels), (unseen, answers) = turned(images), turned(unseen)
    schedule = classifier.plan(params.steps, params.seed)
    model = classifier.train("training the feature network", schedule, images, labels, recipes.PLAIN, compute)
    facts = {"kind": "classifier trained here", "of": task, "on": f"{len(rows)} {source}"}
    if len(unseen):
        guessed = probes.features(model, unseen, compute).argmax(dim=1)
        facts["validation_top1"] = probes.accuracy(guessed, answers)
    return model, facts


def plain(channels: int, strength: float) -> Augment:
    """The symmetric family at one strength, for images of 1 or 3 channels."""
    alone = dict.fromkeys(recipes.NUMBERS)  # null: what strength gives
    form = "grey" if channels == 1 else "colour"
    own = {"family": "symmetric", "form": form, "strength": strength, "replace": 0.0, "replaced": "second", "seed": 0}
    return Augment(**own, **alone, interpolation="bicubic")


def turned(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square images (N, H, W, C), the i-th turned by i mod 4 quarters, and that number."""
    quarters = np.arange(len(images)) % 4
    out = images.copy()
    for k in (1, 2, 3):
        out[quarters == k] = np.rot90(images[quarters == k], k, axes=(1, 2))
    return out, quarters


def inception(weights: str, compute: Compute):
    """torch-fidelity's Inception v3, the network of the published Frechet distances, from a local file of weights.

    The file is read here, where a pickle cannot run code, and handed on as a copy: torch-fidelity would run it.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as fault:
        remedy = "pip install torch-fidelity, or set it to null"
        raise UserError("wants torch-fidelity", "params.yaml: quality.inception", remedy) from fault
    with access.reading(weights, "not Inception's weights", "name another file", Exception):  # by what it is instead
        state = torch.load(weights, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = f"{folder}/weights.pth"
            torch.save(state, copy)
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=copy)

    @torch.inference_mode()
    def embed(images: np.ndarray) -> torch.Tensor:
        chunks = torch.from_numpy(images).permute(0, 3, 1, 2).split(50)
        return torch.cat([network(x.expand(-1, 3, -1, -1).to(compute.device))[0].float().cpu() for x in chunks])

    network.to(compute.device)
    return embed


def density_and_coverage(real: torch.Tensor, generated: torch.Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Density and coverage (Naeem et al., ICML 2020, equations 5 and 6) of features, float (N, D) and (M, D).

    Both look at the balls around real images that reach to their k-th nearest real neighbour: how many of them hold a
    generated image on average, over k; and what share of them holds one at all. Expected of real images: 1, 1 - 1/2^k.
    """
    k = min(k, len(real) - 1)
    real, generated = real.double(), generated.double()
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # the nearest is the image itself
    inside = torch.cdist(real, generated) < radius[:, None]
    return float(inside.float().sum() / (k * len(generated))), float(inside.any(dim=1).float().mean())


def told_apart(generated: np.ndarray, real: np.ndarray, params: Quality, compute: Compute) -> tuple[int, int]:
    """How many held-out images a classifier assigns rightly to generated or real, and of how many.

    It learns from one half of each; both sets are uint8 (n, H, W, C).
    """
    half = len(generated) // 2
    images = np.concatenate([generated[:half], real[:half]])
    held_out = np.concatenate([generated[half:], real[half:]])
    labels, answers = (np.repeat([1, 0], len(x) // 2) for x in (images, held_out))
    schedule = classifier.plan(params.steps, params.seed)
    model = classifier.train("telling generated from real", schedule, images, labels, recipes.PLAIN, compute)
    guessed = probes.features(model, held_out, compute).argmax(dim=1).numpy()
    return int((guessed == answers).sum()), len(answers)


def _pairs(
    judged: np.ndarray, near: memorisation.Near, unseen: np.ndarray, near_unseen: memorisation.Near, seen: np.ndarray
) -> list:
    """The pairs nearest to each other, of generated and of validation images with train images; nearest first."""
    found = []
    for name, images, its in (("generated", judged, near), ("validation", unseen, near_unseen)):
        first = np.argsort(its.relative, kind="stable")[:SHOWN]
        title = f"{name} images nearest to a train image, each above it; distance over the mean one to the 50 nearest"
        found.append((title, images[first], seen[its.row[first]], [f"{d:.2f}" for d in its.relative[first]]))
    return found
