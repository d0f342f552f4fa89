"""What rungs that train encoders share: the recipe, how long it may take, and the numbers of what came out."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.gpu.fast import arithmetic_of
from bench.gpu.rung import Setting, defaults
from pipeline.core import files, sources, store
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.measures import linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.methods import SimCLR
from pipeline.training import encoder
from pipeline.training.batches import Images

L2 = [1e-4, 1e-3, 1e-2, 1e-1]  # of the probe; one of five parts of the labelled images chooses
SPARE = 0.05  # of the time that is planned, for what takes longer than it was measured to take


@dataclass(frozen=True)
class Recipe:
    """A pretraining, all but its length. lr: of SGD with a batch of 128, to which the rate is proportional."""

    head: SimCLR
    batch: int
    lr: float
    weight_decay: float
    augment: dict[str, float]
    decay_vectors: bool = False
    online_head: float | None = None

    def sections(self, setting: Setting, steps: int) -> encoder.Setting:
        """The parameters of `steps` steps on ResNet-18."""
        given, batch = defaults(), 8 if setting.toy else self.batch
        small = backbones.resnet(8, [1, 1, 1, 1])
        every = max(1, min(100, steps // 10))
        numbers = {
            "backbone": small if setting.toy else backbones.resnet(64, [2, 2, 2, 2]),
            "batch_size": batch,
            "lr": self.lr * batch / 128,
            "weight_decay": self.weight_decay,
            "decay_vectors": self.decay_vectors,
            "online_head": self.online_head,
            "steps": steps,
            "warmup_steps": steps // 20,
            "log_every": every,
            "evaluate_every": steps * every,  # after the last step alone
            "checkpoint_every": 2000,
        }
        return encoder.Setting(
            given.pretrain.model_copy(update=numbers),
            self.head,
            given.augment.model_copy(update={"form": "colour", **self.augment}),
            given.inflation.model_copy(update={"real_weight": 1.0}),
        )


@dataclass(frozen=True)
class Cost:
    """Seconds of a step, of what a training takes beside its steps, and of judging an encoder."""

    step: float
    beside: float
    judge: float

    def steps(self, seconds: float, trainings: int = 1) -> int:
        """How many steps each of the trainings has, so that all are made and judged within the seconds."""
        each = (1 - SPARE) * seconds / trainings - self.beside - self.judge
        return max(1, int(each / self.step))


def planned(setting: Setting, rung: str, measure: Callable[[], dict]) -> dict:
    """What a rung measures and decides before it trains: once in a store, so that its trainings go on there."""
    decided = {"rung": rung, "toy": setting.toy, "code": sources.digest("training/encoder")}

    def make(folder: Path, fingerprint: str) -> list[str]:
        files.write_json(folder / "plan.json", measure())
        return ["plan.json"]

    folder = store.once("bench", decided | {"arithmetic": arithmetic.facts(arithmetic_of(setting))}, make)
    return files.read_json(folder / "plan.json")


def cost(setting: Setting, recipe: Recipe, images: Images, judge: Callable[[backbones.Encoder], object]) -> Cost:
    """Measured on short trainings that leave nothing in the store, and on an encoder that was hardly trained."""
    few, many = (1, 3) if setting.toy else (20, 220)
    kept, took = os.environ.get("LEAVEN_STORE"), []
    os.environ["LEAVEN_STORE"] = "off"
    try:
        for steps in (few, few, many):  # the first warms up
            trained = pretrained(setting, recipe, images, steps)
            took.append(trained.seconds)
    finally:
        del os.environ["LEAVEN_STORE"]
        if kept is not None:
            os.environ["LEAVEN_STORE"] = kept
    step = max((took[2] - took[1]) / (many - few), 1e-6)
    start = time.perf_counter()
    judge(trained.network)
    return Cost(step, max(0.0, took[1] - few * step), time.perf_counter() - start)


class Trained(NamedTuple):
    """An encoder in evaluation mode on the device, its folder, its log, facts of the mixture, seconds of training."""

    network: backbones.Encoder
    folder: Path
    rows: list[dict]
    facts: dict
    seconds: float


def pretrained(setting: Setting, recipe: Recipe, images: Images, steps: int) -> Trained:
    """An encoder of so many steps, from the store or made; Stopped once the time is over."""
    start = time.perf_counter()
    with setting.stopped():
        made, *found = encoder.pretrain(recipe.sections(setting, steps), images, None, arithmetic_of(setting))
    seconds, folder = time.perf_counter() - start, made["encoder.safetensors"].parent
    return Trained(backbones.load(folder).to(setting.device), folder, *found, seconds)


def judged(setting: Setting, network: backbones.Encoder, real: shards.RealSet) -> tuple[dict[str, float], np.ndarray]:
    """Accuracies on the test images in percent, and whether the probe with the train images' labels is right on each.

    A probe with the labels of the train images, one with those of all images to learn from, and kNN among the former.
    """
    (train, y), (test, answers) = real.part(shards.TRAIN, shards.LABELLED), real.part(shards.TEST)
    x, seen = (probes.features(network, images, arithmetic_of(setting)) for images in (train, test))
    y, n = torch.from_numpy(y), len(real.rows(shards.TRAIN))  # stored first
    found = {size: probe((x[:size], y[:size]), seen) for size in dict.fromkeys((n, len(y)))}
    metrics = {f"top-1, {size:,} labels": probes.accuracy(predicted, answers) for size, predicted in found.items()}
    metrics["kNN"] = probes.accuracy(probes.knn(x[:n], y[:n], seen), answers)
    metrics["kNN of 200"] = probes.accuracy(probes.knn(x[:n], y[:n], seen, 200, 0.1), answers)
    return {name: round(value, 2) for name, value in metrics.items()}, found[n].numpy() == answers


def probe(labelled: linear_probe.Labelled, seen: torch.Tensor) -> torch.Tensor:
    """Classes, int64 (N,), of features (N, D) by the linear probe; a fifth of the labelled images chooses its l2."""
    x, y = labelled
    held, classes = linear_probe.folds(y) == 0, int(y.max()) + 1
    _, l2 = linear_probe.linear_probe((x[~held], y[~held]), (x[held], y[held]), seen[:1], classes, L2)
    return linear_probe.linear_probe((x, y), (x[:0], y[:0]), seen, classes, [l2])[0]
