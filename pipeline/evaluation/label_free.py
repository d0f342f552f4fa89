"""Measures of an encoder without labels, on validation images or, where there are none, on train images."""

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.data import shards
from pipeline.measures import geometry, linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.schema import Augment, Compute, LinearEval

CLEAN, OBJECTS, VIEWS = 2_000, 1_000, 10  # images as they are, those of them that are seen in views, views of each
ROTATION_L2 = 1e-3  # fixed: nothing is left to choose it on
KEPT = ("family", "form", "interpolation", "seed")  # of an encoder's own augmentation, where the strength is another


def measures(
    encoder: backbones.Encoder,
    real: shards.RealSet,
    validation: torch.Tensor | None,
    params: LinearEval,
    compute: Compute,
) -> tuple[dict[str, float], str]:
    """The measures by their names, and which images they are of.

    validation: features (n, D) of the validation images, where they are known already.

    Views are those of the encoder's own family of augmentations at strength `params.view_strength`, so that encoders
    trained at different strengths are looked at alike.
    """
    whose, images = images_of(real)
    given = validation if whose == "validation" else None
    clean = probes.features(encoder, images, compute) if given is None else given[:CLEAN]
    batch = torch.from_numpy(images[: min(len(clean), OBJECTS)])
    chosen = [recipes.recipe(at_strength(encoder, params.view_strength), view % 2) for view in range(VIEWS)]
    seen, most = [], probes.at_once(max(batch.shape[1:3]))
    for first in range(0, len(batch), most):
        draw = seeds.generator(params.seed, "label-free views", first)
        views = recipes.views(batch[first : first + most], chosen, draw)
        seen.append(torch.stack([probes.embed(encoder, view, compute) for view in views], dim=1))
    views = torch.cat(seen)  # images views D
    found = {
        "rankme": geometry.rankme(clean),
        "lidar": geometry.lidar(views),
        "alignment": geometry.alignment(views[:, 0], views[:, 1]),
        "uniformity": geometry.uniformity(clean),
        "connectivity": geometry.connectivity(views[:, 0], views[:, 1]),
        "rotation": rotation(encoder, images[: len(clean)], compute),
        "cluster_learnability": geometry.cluster_learnability(clean, seeds.generator(params.seed, "clusters")),
        "intrinsic_dimension": geometry.intrinsic_dimension(clean),
    }
    of = (
        f"{len(clean):,} {whose} images as they are (rankme, uniformity, clusters, dimension; rotation: turned), "
        f"{len(batch):,} in {VIEWS} views of strength {params.view_strength:g} (lidar; alignment, connectivity: in two)"
    )
    return found, of


def rotation(encoder: backbones.Encoder, images: np.ndarray, compute: Compute) -> float:
    """How often, in percent, a linear layer on the features tells by how many quarter turns an image was turned.

    SelfAugment (Reed et al., CVPR 2021). The layer learns on the first half of the images, uint8 (N, H, H, C), and is
    judged on the others, in all four turns.
    """
    turned = np.concatenate([np.rot90(images, turns, axes=(1, 2)) for turns in range(4)])
    x, turns = probes.features(encoder, turned, compute), torch.arange(4).repeat_interleave(len(images))
    first = torch.arange(len(x)) % len(images) < len(images) // 2
    learned, nothing = (x[first], turns[first]), (x[:0], turns[:0])
    told, _ = linear_probe.linear_probe(learned, nothing, x[~first], 4, [ROTATION_L2])
    return probes.accuracy(told, turns[~first].numpy())


def images_of(real: shards.RealSet) -> tuple[str, np.ndarray]:
    """The part that the measures are of, and its first CLEAN images, uint8 (N, H, W, C): train without validation."""
    unseen = real.rows(shards.VALIDATION)
    whose, rows = ("validation", unseen) if len(unseen) else ("train", real.rows(shards.TRAIN))
    return whose, real.images[rows[:CLEAN]]


def at_strength(encoder: backbones.Encoder, strength: float) -> Augment:
    """The family and form of augmentation that an encoder was trained with, at this strength and as that gives it."""
    own = {"interpolation": "bicubic"} | encoder.card["augment"]  # which older encoders' cards do not name
    kept = {name: own[name] for name in KEPT} | {"replace": 0.0, "replaced": "second"}  # every view is of the image
    return Augment(**dict.fromkeys(own) | kept | {"strength": strength})
