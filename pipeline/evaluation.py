"""The protocol of a linear evaluation: which features, which labels, which numbers.

The train images' labels, or a fixed number of labels that does not depend on train_size; regularisation chosen on
validation; the test images are used once, for the number.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import augment, backbones, files, linear_probe, loop, probes, seeds, shards, store
from pipeline.params.schema import Augment, Compute, LinearEval
from pipeline.progress import bar

CLEAN, OBJECTS, VIEWS = 2_000, 1_000, 10  # for measures without labels: validation images, those seen in views, views
CHUNK = 500  # images whose views are drawn together
KEPT = ("family", "form", "seed")  # of an encoder's own augmentation, in measures without labels
LARGEST = 32  # pixels a side of the raw-pixel probe
PER_CLASS, CONFUSION = ["class", "top1"], ["actual", "predicted", "count"]  # columns


@dataclass
class Judged:
    """metrics: at most ten numbers, none without labels; label_free: those that want no labels; protocol: how each came
    about; tables: name -> (columns, rows) for plots/."""

    metrics: dict[str, float]
    label_free: dict[str, float]
    protocol: dict
    tables: dict[str, tuple[list[str], list[dict]]] = field(default_factory=dict)


@dataclass
class _Predictions:
    """Of the test images: predicted[features, labels] -> int64 (n,), l2 likewise, by kNN; and what wants no labels."""

    predicted: dict[tuple[str, str], torch.Tensor]
    l2: dict[str, float]
    neighbours: torch.Tensor
    label_free: dict[str, float]


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
    lacking = [name for name, found in rows.items() if not len(found)]
    if lacking:
        empty = {"per_class": PER_CLASS, "confusion": CONFUSION, "grid": [*point, "top1"]}
        why = f"no linear probe: no image of {', '.join(lacking)} has a label"
        seen = probes.features(encoder, real.part(shards.VALIDATION)[0][:CLEAN], compute)
        unlabelled = label_free(encoder, real, seen, params, compute)
        return Judged({}, unlabelled, {"note": why}, {name: (columns, []) for name, columns in empty.items()})
    found = _predict(encoder, real, rows, params, compute)
    actual = real.labels[rows["test"]]
    right = {key: predicted.numpy() == actual for key, predicted in found.predicted.items()}
    metrics = _metrics(right, probes.accuracy(found.neighbours, actual))
    protocol = _protocol(rows, right, found.l2, params, real.images.shape[1:3]) | {"encoder_sha256": card["sha256"]}
    tables = _tables(real.classes, actual, found.predicted["encoder", "train"].numpy())
    tables["grid"] = ([*point, "top1"], [{**point, "top1": metrics["top1"]}])
    return Judged(metrics, found.label_free, protocol, tables)


def _predict(
    encoder: backbones.Encoder, real: shards.RealSet, rows: dict, params: LinearEval, compute: Compute
) -> _Predictions:
    labels = {name: torch.from_numpy(real.labels[r]) for name, r in rows.items()}
    used = np.unique(np.concatenate(list(rows.values())))
    l2, predicted = {}, {}

    def probe(x: torch.Tensor, budget: str) -> tuple[torch.Tensor, float]:
        x = {name: x[np.searchsorted(used, r)] for name, r in rows.items()}
        fit, validation = (x[budget], labels[budget]), (x["validation"], labels["validation"])
        return linear_probe.linear_probe(fit, validation, x["test"], len(real.classes), params.l2)

    def untrained() -> tuple[torch.Tensor, float]:
        before = backbones.untrained(encoder).to(compute.device)
        return probe(probes.features(before, real.images[used], compute), "train")

    def pixels() -> tuple[torch.Tensor, float]:
        return probe(probes.pixels(small(real.images[used])), "train")

    with bar("linear evaluation", 4, "probe") as progress:
        x = probes.features(encoder, real.images[used], compute)
        train, validation, test = (x[np.searchsorted(used, rows[name])] for name in ("train", "validation", "test"))
        for budget in ("train", "labelled"):
            predicted["encoder", budget], l2[f"encoder, {budget}"] = probe(x, budget)
            progress.update()
        neighbours = probes.knn(train, labels["train"], test)
        unlabelled = label_free(encoder, real, validation[:CLEAN], params, compute)
        parts = [real.images[used], *(part for r in rows.values() for part in (r, real.labels[r]))]
        of = {"data": [hashlib.sha256(part).hexdigest() for part in parts], "l2": params.l2}
        built = {name: encoder.card[name] for name in ("width", "blocks", "mean", "std", "seed")}
        predicted["untrained", "train"], l2["untrained, train"] = _once(untrained, of | {"encoder": built}, compute)
        progress.update()
        predicted["pixels", "train"], l2["pixels, train"] = _once(pixels, of, compute)
        progress.update()
    return _Predictions(predicted, l2, neighbours, unlabelled)


def _metrics(right: dict[tuple[str, str], np.ndarray], knn: float) -> dict[str, float]:
    """right: of each probe, bool (n,), whether it is right on each test image."""
    best = right["encoder", "train"]
    low, high = probes.wilson(int(best.sum()), len(best))
    return {
        "top1": 100 * float(best.mean()),
        "top1_low": low,
        "top1_high": high,
        "top1_10k": 100 * float(right["encoder", "labelled"].mean()),
        "knn": knn,
        "pixels": 100 * float(right["pixels", "train"].mean()),
        "untrained": 100 * float(right["untrained", "train"].mean()),
    }


def _protocol(rows: dict, right: dict, l2: dict, params: LinearEval, size: tuple[int, int]) -> dict:
    """How the numbers came about, and by how much the encoder beats what was not trained."""

    def over(what: str) -> dict[str, float]:
        found = probes.paired_difference(right["encoder", "train"], right[what, "train"])
        return dict(zip(("points", "low", "high"), (round(v, 4) for v in found), strict=True))

    clean = min(CLEAN, len(rows["validation"]))
    objects = min(OBJECTS, clean)
    return {
        "test_images": len(rows["test"]),
        "train_labels": len(rows["train"]),
        "fixed_labels": len(rows["labelled"]),
        "validation_images": len(rows["validation"]),
        "probe": "multinomial logistic regression, mean cross-entropy + l2/2 |W|^2, features standardised; "
        "l2 by validation top-1",
        "l2": l2,
        "pixels": f"averaged to {LARGEST} x {LARGEST}" if max(size) > LARGEST else "as they are",
        "knn": {"k": probes.KNN_K, "temperature": probes.KNN_TEMPERATURE, "bank": "train"},
        "top1_interval": "Wilson, 95 %",
        "over_pixels": over("pixels"),
        "over_untrained": over("untrained"),
        "differences": "paired by test image, normal, 95 %",
        "label_free": f"{clean:,} validation images as they are (rankme, uniformity), {objects:,} in {VIEWS} views of "
        f"strength {params.view_strength:g} (lidar; alignment and connectivity: in two)",
    }


def _once(probe: Callable[[], tuple[torch.Tensor, float]], of: dict, compute: Compute) -> tuple[torch.Tensor, float]:
    """A probe that does not depend on the encoder's training: its test predictions and l2, made or from the store."""
    parts = {"of": of, "code": store.code("evaluation"), "arithmetic": loop.arithmetic(compute)}
    fingerprint = store.fingerprint(probe=probe.__name__, **parts)
    with store.work("baseline", fingerprint) as folder:
        if not (folder / "manifest.json").exists():
            predicted, l2 = probe()
            files.write_json(folder / "probe.json", {"predicted": predicted.tolist(), "l2": l2})
            shards.seal(folder, ["probe.json"], {"fingerprint": fingerprint})
        shards.verify(folder, "linear_eval")
        found = files.read_json(folder / "probe.json")
    return torch.tensor(found["predicted"]), found["l2"]


def label_free(
    encoder: backbones.Encoder, real: shards.RealSet, clean: torch.Tensor, params: LinearEval, compute: Compute
) -> dict[str, float]:
    """Measures without labels on the first validation images, whose features are `clean` (n, D).

    Views are those of the encoder's own family of augmentations at strength `params.view_strength`, every number as
    that gives it, so that encoders trained at different strengths are looked at alike.
    """
    batch = torch.from_numpy(real.part(shards.VALIDATION)[0][: min(len(clean), OBJECTS)])
    own = encoder.card["augment"]
    params_of = Augment(**dict.fromkeys(own) | {n: own[n] for n in KEPT} | {"strength": params.view_strength})
    recipes = [augment.recipe(params_of, view % 2) for view in range(VIEWS)]
    seen = []
    for first in range(0, len(batch), CHUNK):
        draw = seeds.generator(params.seed, "label-free views", first)
        views = augment.views(batch[first : first + CHUNK], recipes, draw)
        seen.append(torch.stack([probes.embed(encoder, view, compute) for view in views], dim=1))
    views = torch.cat(seen)  # images views D
    return {
        "rankme": probes.rankme(clean),
        "lidar": probes.lidar(views),
        "alignment": probes.alignment(views[:, 0], views[:, 1]),
        "uniformity": probes.uniformity(clean),
        "connectivity": probes.connectivity(views[:, 0], views[:, 1]),
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
        "per_class": (PER_CLASS, per_class),
        "confusion": (CONFUSION, confusion),
    }
