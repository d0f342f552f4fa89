"""The protocol of a linear evaluation: which features, which labels, which numbers.

The train images' labels, or a number of labels that does not depend on train_size; regularisation chosen on
validation or, without one, in cross-validation on train images; the test images are used once, for the number.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from pipeline.core import files, sources, store
from pipeline.core.progress import bar, log
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import baseline, confusion, label_free, offline_probe
from pipeline.measures import clsp_probe, linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.generators import SOURCES, ceiling
from pipeline.params.schema import Compute, LinearEval

BUDGETS = {"train": "top1", "labelled": "top1_labelled", "1pct": "top1_1pct", "10pct": "top1_10pct"}  # labels: metric
FEW = {"1pct": 0.01, "10pct": 0.1}  # of the fixed labelled images
YARDSTICKS = 3  # measures of `compare` beside a probe for each budget
LARGEST = 32  # pixels a side of the raw-pixel probe


@dataclass
class Judged:
    """metrics: eleven numbers (ten without validation images), two more where the test's classes are unequal, one for
    each further protocol, and four of a baseline; none without labels. label_free: those that want none; protocol: how
    each came about; tables: name -> (columns, rows) for plots/."""

    metrics: dict[str, float]
    label_free: dict[str, float]
    protocol: dict
    tables: dict[str, tuple[list[str], list[dict]]] = field(default_factory=dict)


@dataclass
class Compared:
    """An encoder beside its yardsticks. Of the test images: predicted[features, labels] -> int64 (n,), l2 likewise.

    chosen: labels -> top-1 of the encoder's probe on validation images, in percent; empty if there are none. metrics:
    common to all sets; protocol: how they came about; validation, test: features (n, D) of these images.
    """

    predicted: dict[tuple[str, str], torch.Tensor]
    chosen: dict[str, float]
    metrics: dict[str, float]
    protocol: dict
    validation: torch.Tensor
    test: torch.Tensor


def judge(
    encoder: backbones.Encoder,
    online: linear_probe.Weights | None,
    real: shards.RealSet,
    params: LinearEval,
    compute: Compute,
) -> Judged:
    """All numbers of one encoder; the label-free ones alone where there is nothing to tell apart.

    online: the layer that learned labels while the encoder was pretrained, if one did.
    """
    backbones.refuse_other_channels(encoder, real.images.shape[3])
    card = encoder.card
    point = {"ratio": round(card["n_generated"] / card["n_real"], 4), "strength": card["augment"]["strength"]}
    rows = {
        "train": real.with_labels(real.rows(shards.TRAIN)),
        "labelled": real.labelled_rows(),
        **{name: share_of(real, share) for name, share in FEW.items()},
        **held_out(real),
    }
    nothing = untold(real, {name: found for name, found in rows.items() if name not in FEW})
    if nothing:
        empty = {"per_class": confusion.PER_CLASS, "confusion": confusion.PAIRS, "grid": [*point, "top1"]}
        if params.baseline.source != "none":
            log(f"no baseline, which wants labels as a linear probe does: {nothing}")
        note = {"note": f"no linear probe: {nothing}", **made_of(card)}
        unlabelled, _ = label_free.measures(encoder, real, None, params, compute)
        return Judged({}, unlabelled, note, {name: (columns, []) for name, columns in empty.items()})
    beside = baseline.load(params.baseline, real.images.shape[3], real.images.shape[1])
    steps = len(BUDGETS) + YARDSTICKS + 1 + (beside is not None)
    with bar("linear evaluation", steps, "measure") as progress:
        found = compare(encoder, real, rows, tuple(BUDGETS), params, compute, progress, beside)
        unlabelled, images = label_free.measures(encoder, real, found.validation, params, compute)
        progress.update()
    actual = real.labels[rows["test"]]
    top1 = {name: probes.accuracy(found.predicted["encoder", labels], actual) for labels, name in BUDGETS.items()}
    metrics = found.metrics | top1 | ceiling(card.get("generated", "none"))
    if found.chosen:
        metrics["validation"] = found.chosen["labelled"]
    if beside is not None:
        metrics |= {
            f"baseline{name.removeprefix('top1')}": probes.accuracy(found.predicted["baseline", labels], actual)
            for labels, name in BUDGETS.items()
        }
    if len(set(np.unique(actual, return_counts=True)[1])) > 1:
        metrics |= probes.balanced(found.predicted["encoder", "train"], actual)
    further = {}
    if online is not None:
        metrics["online"] = probes.accuracy(linear_probe.predict(online, found.test), actual)
        further["online"] = "a linear layer trained beside the encoder on its large views; last step"
    if params.offline:
        labelled = real.images[rows["train"]], real.labels[rows["train"]]
        layer = offline_probe.train(encoder, labelled, len(real.classes), params, compute)
        metrics["offline"] = probes.accuracy(linear_probe.predict(layer, found.test), actual)
        further["offline"] = offline_probe.told(params)
    protocol = found.protocol | {
        "fixed_labels": len(rows["labelled"]),
        "few_labels": {name: len(rows[name]) for name in FEW},
        **further,
        "label_free": images,
    }
    tables, told = confusion.tables(real.classes, actual, found.predicted["encoder", "train"].numpy())
    tables["grid"] = ([*point, "top1"], [{**point, "top1": metrics["top1"]}])
    return Judged(metrics, unlabelled, protocol | told, tables)


def untold(real: shards.RealSet, rows: dict[str, np.ndarray]) -> str:
    """Why no probe can be trained or judged on these rows (name -> int64); empty if one can.

    An empty validation part is allowed; one with images must have two labels.
    """
    spared = [] if len(real.rows(shards.VALIDATION)) else ["validation"]
    few = [name for name, found in rows.items() if len(found) < 2 and name not in spared]
    if few:
        return f"fewer than two images of {', '.join(few)} have a label"
    alike = np.unique(real.labels[np.concatenate(list(rows.values()))])
    return f"all images are of one class, {real.classes[alike[0]]}" if len(alike) < 2 else ""


def held_out(real: shards.RealSet) -> dict[str, np.ndarray]:
    """Rows, int64, of the validation and of the test images that have a label."""
    parts = {"validation": shards.VALIDATION, "test": shards.TEST}
    return {name: real.with_labels(real.rows(part)) for name, part in parts.items()}


def share_of(real: shards.RealSet, share: float) -> np.ndarray:
    """int64: the first so many of the fixed labelled images, in their stratified order: `share` of them.

    More where a class would have none: the shortest prefix with an image of each, and it is said if that is many more.
    """
    fixed = real.labelled_rows()
    classes, first = np.unique(real.labels[fixed], return_index=True)
    asked, needed = round(share * len(fixed)), max((*(first + 1), 0))
    if needed > 2 * max(asked, len(classes)):
        log(f"{100 * share:g} % of the labels are {needed:,} of {len(fixed):,} here, as the rarest class must have one")
    return fixed[: max(asked, needed)]


def compare(
    encoder: backbones.Encoder,
    real: shards.RealSet,
    rows: dict[str, np.ndarray],
    budgets: tuple[str, ...],
    params: LinearEval,
    compute: Compute,
    progress: tqdm,
    beside: tuple[baseline.Downloaded, dict] | None = None,
) -> Compared:
    """Probe, kNN and CLSP's protocol on frozen features; the probe on raw pixels and on the untrained encoder's.

    rows: of real.images, int64, with labels: "train", "validation", "test" and each of `budgets`, whose labels the
    probe learns from. beside: a frozen network that gets each of these probes, too. The progress moves by one a budget
    and by YARDSTICKS, and by one for what is beside.
    """
    labels = {name: torch.from_numpy(real.labels[r]) for name, r in rows.items()}
    used = np.unique(np.concatenate(list(rows.values())))
    classes, l2, predicted = len(real.classes), {}, {}

    def probe(x: torch.Tensor, budget: str, *also: str) -> tuple[torch.Tensor, float]:
        x = {name: x[np.searchsorted(used, r)] for name, r in rows.items()}
        fit, validation = (x[budget], labels[budget]), (x["validation"], labels["validation"])
        unseen = torch.cat([x[name] for name in (*also, "test")])
        return linear_probe.linear_probe(fit, validation, unseen, classes, params.l2)

    def untrained() -> tuple[torch.Tensor, float]:
        before = backbones.untrained(encoder).to(compute.device)
        return probe(probes.features(before, real.images[used], compute), "train")

    def pixels() -> tuple[torch.Tensor, float]:
        return probe(probes.pixels(small(real.images[used])), "train")

    x = probes.features(encoder, real.images[used], compute)
    train, validation, test = (x[np.searchsorted(used, rows[name])] for name in ("train", "validation", "test"))
    chosen = {}
    for budget in budgets:
        both, l2[f"encoder, {budget}"] = probe(x, budget, "validation")
        told, predicted["encoder", budget] = both.tensor_split([len(validation)])
        if len(validation):
            chosen[budget] = probes.accuracy(told, real.labels[rows["validation"]])
        progress.update()
    neighbours = probes.knn(train, labels["train"], test)
    mirror = probes.features(encoder, clsp_probe.mirrored(real.images[rows["train"]]), compute)
    layer = clsp_probe.train((train, labels["train"]), mirror, classes, params.clsp_lr, params.seed)
    clsp = F.linear(test, *layer)
    progress.update()
    parts = [real.images[used], *(part for r in rows.values() for part in (r, real.labels[r]))]
    of = {"data": [hashlib.sha256(part).hexdigest() for part in parts], "l2": params.l2}
    built = {name: encoder.card[name] for name in backbones.MADE_FROM} | backbones.versions()
    predicted["untrained", "train"], l2["untrained, train"] = _once(untrained, of | {"encoder": built}, compute)
    progress.update()
    predicted["pixels", "train"], l2["pixels, train"] = _once(pixels, of, compute)
    progress.update()
    if beside is not None:
        x = baseline.features(*beside, real.images[used], compute)
        for budget in budgets:
            predicted["baseline", budget], l2[f"baseline, {budget}"] = probe(x, budget)
        progress.update()

    right = {key: found.numpy() == real.labels[rows["test"]] for key, found in predicted.items()}
    best = right["encoder", "train"]
    low, high = probes.wilson(int(best.sum()), len(best))
    metrics = {
        "top1": 100 * float(best.mean()),
        "top1_low": low,
        "top1_high": high,
        "knn": probes.accuracy(neighbours, real.labels[rows["test"]]),
        "clsp": clsp_probe.top(clsp, labels["test"], 1),
        "pixels": 100 * float(right["pixels", "train"].mean()),
        "untrained": 100 * float(right["untrained", "train"].mean()),
    }
    protocol = _protocol(rows, right, l2, params, real.images.shape[1:3])
    if beside is not None:
        protocol["baseline"] = beside[1]
    if classes > 5:
        protocol["clsp_top5"] = round(clsp_probe.top(clsp, labels["test"], 5), 4)
    return Compared(predicted, chosen, metrics, protocol | made_of(encoder.card), validation, test)


def made_of(card: dict) -> dict:
    """Which encoder it is, by its card, and what stood in for generated images, for a protocol."""
    return {"encoder_sha256": card["sha256"], "generated_images": SOURCES[card.get("generated", "none")]}


def _protocol(rows: dict, right: dict, l2: dict, params: LinearEval, size: tuple[int, int]) -> dict:
    """How the numbers came about, and by how much the encoder beats what was not trained."""

    def over(what: str) -> dict[str, float]:
        found = probes.paired_difference(right["encoder", "train"], right[what, "train"])
        return dict(zip(("points", "low", "high"), (round(v, 4) for v in found), strict=True))

    return {
        "test_images": len(rows["test"]),
        "train_labels": len(rows["train"]),
        "validation_images": len(rows["validation"]),
        "probe": "multinomial logistic regression, mean cross-entropy + l2/2 |W|^2, features standardised; "
        f"l2 {_chosen(rows, params)}",
        "l2": l2,
        "pixels": f"averaged to {LARGEST} x {LARGEST}" if max(size) > LARGEST else "as they are",
        "knn": {"k": probes.KNN_K, "temperature": probes.KNN_TEMPERATURE, "bank": "train"},
        "clsp": f"features as they are, {clsp_probe.EPOCHS} epochs of SGD from rate {params.clsp_lr:g}, flips; last",
        "top1_interval": "Wilson, 95 %",
        **{f"over_{name}": over(name) for name, budget in right if budget == "train" and name != "encoder"},
        "differences": "paired by test image, normal, 95 %",
    }


def _chosen(rows: dict, params: LinearEval) -> str:
    """How the regularisation was chosen."""
    if len(params.l2) == 1:
        return "as given"
    if len(rows["validation"]):
        return "by validation top-1"
    return f"by top-1 in {linear_probe.FOLDS}-fold cross-validation on the images learned from; no validation"


def _once(probe: Callable[[], tuple[torch.Tensor, float]], of: dict, compute: Compute) -> tuple[torch.Tensor, float]:
    """A probe that does not depend on the encoder's training: its test predictions and l2, made or from the store."""
    parts = {"of": of, "code": sources.digest("evaluation/linear_eval"), "arithmetic": arithmetic.facts(compute)}

    def make(folder: Path, fingerprint: str) -> list[str]:
        predicted, l2 = probe()
        files.write_json(folder / "probe.json", {"predicted": predicted.tolist(), "l2": l2})
        return ["probe.json"]

    found = files.read_json(store.once("baseline", {"probe": probe.__name__, **parts}, make) / "probe.json")
    return torch.tensor(found["predicted"]), found["l2"]


def small(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C), averaged down to at most 32 x 32: raw pixels are a yardstick, and its cost grows as D^3."""
    height, width = (min(side, LARGEST) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images
    chunks = torch.from_numpy(images).split(500)
    means = [F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2).float(), (height, width)) for x in chunks]
    return torch.cat([x.round().to(torch.uint8) for x in means]).permute(0, 2, 3, 1).numpy()
