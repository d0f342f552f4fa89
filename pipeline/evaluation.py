"""The protocol of a linear evaluation: which features, which labels, which numbers.

The train images' labels, or a fixed number of labels that does not depend on train_size; regularisation chosen on
validation; the test images are used once, for the number.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import augment, backbones, linear_probe, probes, seeds, shards
from pipeline.params.schema import Augment, Compute, LinearEval
from pipeline.progress import bar

PAIRS = 2_000  # validation images that alignment and uniformity are measured on
LARGEST = 32  # pixels a side of the raw-pixel probe
CURVES = ("per_class", "confusion", "grid")


@dataclass
class Judged:
    """metrics: at most ten numbers; protocol: how each came about; tables: name -> (columns, rows) for plots/."""

    metrics: dict[str, float]
    protocol: dict
    tables: dict[str, tuple[list[str], list[dict]]] = field(default_factory=dict)


def judge(encoder: backbones.Encoder, real: shards.RealSet, params: LinearEval, compute: Compute) -> Judged:
    """All numbers of one encoder; the label-free ones alone where no image to learn from or to test on has a label."""
    card = encoder.card
    point = {"ratio": round(card["n_generated"] / card["n_real"], 4), "strength": card["augment"]["strength"]}
    rows = {
        "train": real.with_labels(real.rows(shards.TRAIN)),
        "labelled": real.labelled_rows(),
        "validation": real.with_labels(real.rows(shards.VALIDATION)),
        "test": real.with_labels(real.rows(shards.TEST)),
    }
    if not all(map(len, rows.values())):
        empty = {
            "per_class": ["class", "top1"],
            "confusion": ["actual", "predicted", "count"],
            "grid": [*point, "top1"],
        }
        lacking = ", ".join(name for name, found in rows.items() if not len(found))
        why = f"no linear probe: no image of {lacking} has a label"
        seen = probes.features(encoder, real.part(shards.VALIDATION)[0][:PAIRS], compute)
        unlabelled = label_free(encoder, real, seen, params.seed, compute)
        return Judged(unlabelled, {"note": why}, {name: (columns, []) for name, columns in empty.items()})
    labels = {name: torch.from_numpy(real.labels[r]) for name, r in rows.items()}
    used = np.unique(np.concatenate(list(rows.values())))
    before = backbones.untrained(encoder).to(compute.device)
    kinds = {
        "encoder": lambda images: probes.features(encoder, images, compute),
        "untrained": lambda images: probes.features(before, images, compute),
        "pixels": lambda images: probes.pixels(small(images)),
    }
    right, l2, predicted = {}, {}, {}
    with bar("linear evaluation", 4, "probe") as progress:
        for kind, features in kinds.items():
            x = features(real.images[used])
            x = {name: x[np.searchsorted(used, r)] for name, r in rows.items()}
            for budget in ("train", "labelled") if kind == "encoder" else ("train",):
                found, l2[f"{kind}, {budget}"] = linear_probe.linear_probe(
                    (x[budget], labels[budget]),
                    (x["validation"], labels["validation"]),
                    x["test"],
                    len(real.classes),
                    params.l2,
                )
                predicted[kind, budget] = found
                right[kind, budget] = (found == labels["test"]).numpy()
                progress.update()
            if kind == "encoder":
                neighbours = probes.knn(x["train"], labels["train"], x["test"])
                unlabelled = label_free(encoder, real, x["validation"][:PAIRS], params.seed, compute)
    actual = labels["test"].numpy()
    best, n = right["encoder", "train"], len(actual)
    low, high = probes.wilson(int(best.sum()), n)
    over = {k: probes.paired_difference(best, right[k, "train"]) for k in ("pixels", "untrained")}
    metrics = {
        "top1": 100 * float(best.mean()),
        "top1_low": low,
        "top1_high": high,
        "top1_10k": 100 * float(right["encoder", "labelled"].mean()),
        "knn": probes.accuracy(neighbours, actual),
        "pixels": 100 * float(right["pixels", "train"].mean()),
        "untrained": 100 * float(right["untrained", "train"].mean()),
        **unlabelled,
    }
    protocol = {
        "test_images": n,
        "train_labels": len(rows["train"]),
        "fixed_labels": len(rows["labelled"]),
        "validation_images": len(rows["validation"]),
        "probe": "multinomial logistic regression, mean cross-entropy + l2/2 |W|^2, features standardised; "
        "l2 by validation top-1",
        "l2": l2,
        "pixels": "averaged to 32 x 32" if max(real.images.shape[1:3]) > LARGEST else "as they are",
        "knn": {"k": probes.KNN_K, "temperature": probes.KNN_TEMPERATURE, "bank": "train"},
        "top1_interval": "Wilson, 95 %",
        "over_pixels": dict(zip(("points", "low", "high"), (round(v, 4) for v in over["pixels"]), strict=True)),
        "over_untrained": dict(zip(("points", "low", "high"), (round(v, 4) for v in over["untrained"]), strict=True)),
        "differences": "paired by test image, normal, 95 %",
        "encoder_sha256": card["sha256"],
    }
    tables = _tables(real.classes, actual, predicted["encoder", "train"].numpy())
    tables["grid"] = ([*point, "top1"], [{**point, "top1": metrics["top1"]}])
    return Judged(metrics, protocol, tables)


def label_free(
    encoder: backbones.Encoder, real: shards.RealSet, clean: torch.Tensor, seed: int, compute: Compute
) -> dict[str, float]:
    """RankMe, alignment and uniformity on the first validation images, whose features are `clean` (n, D).

    Alignment is that of two views drawn as in pretraining.
    """
    images = real.part(shards.VALIDATION)[0][: len(clean)]
    params = Augment(**encoder.card["augment"])
    batch = torch.from_numpy(images)
    draw = seeds.generator(seed, "alignment")
    views = augment.views(batch, [augment.recipe(params, view) for view in (0, 1)], draw)
    one, two = (probes.embed(encoder, view, compute) for view in views)
    return {
        "rankme": probes.rankme(clean),
        "alignment": probes.alignment(one, two),
        "uniformity": probes.uniformity(clean),
    }


def small(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C), averaged down to at most 32 x 32: raw pixels are a yardstick, and its cost grows as D^3."""
    height, width = (min(side, LARGEST) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images
    chunks = torch.from_numpy(images).split(500)
    means = [F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2).float(), (height, width)) for x in chunks]
    return torch.cat([x.round().to(torch.uint8) for x in means]).permute(0, 2, 3, 1).numpy()


def _tables(classes: tuple[str, ...], actual: np.ndarray, predicted: np.ndarray) -> dict:
    count = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(count, (actual, predicted), 1)
    per_class = [
        {"class": name, "top1": float(100 * count[i, i] / max(1, count[i].sum()))} for i, name in enumerate(classes)
    ]
    confusion = [
        {"actual": a, "predicted": b, "count": int(count[i, j])}
        for i, a in enumerate(classes)
        for j, b in enumerate(classes)
    ]
    return {
        "per_class": (["class", "top1"], per_class),
        "confusion": (["actual", "predicted", "count"], confusion),
    }
