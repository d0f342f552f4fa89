"""SimCLR on the whole of CIFAR-10 for as many epochs as there is time, beside the published accuracies.

The recipe is lightly's for this set (its cifar10_benchmark.py): SGD at 0.06 for 128 images, 512 of them a batch, weight
decay 5e-4 of everything, a head of 512 and 128 units, temperature 0.5, strong views without blur. A linear layer learns
beside, as solo-learn's number is measured. Differs: a twentieth of the steps warms up, and images are JPEG copies.
"""

from dataclasses import asdict

from bench.gpu.encoders import Recipe, cost, judged, planned, pretrained
from bench.gpu.fast import arithmetic_of
from bench.gpu.images import cifar10
from bench.gpu.rung import Setting
from pipeline.data import shards
from pipeline.measures import linear_probe, probes
from pipeline.networks import backbones
from pipeline.params.methods import SimCLR
from pipeline.training.batches import Images

ALL, MOST = 50_000, 1_000  # images, and epochs
HEAD = SimCLR(hidden_dim=512, output_dim=128, temperature=0.5, views_together=False)
NUMBERS = {"strength": 2.0, "blur": 0.0}
RECIPE = Recipe(HEAD, 512, 0.06, 5e-4, NUMBERS, decay_vectors=True, online_head=1.0)
PUBLISHED = {  # of SimCLR on ResNet-18; the published images, not JPEG copies
    "kNN of 200, lightly, 200 epochs": "84.8, best epoch (github.com/lightly-ai/lightly@0243660, benchmarks.rst)",
    "top-1 online, solo-learn, 1,000 epochs": "90.74 (github.com/vturrisi/solo-learn@0126879, README.md)",
}


def plan(setting: Setting) -> dict:
    """How many epochs end in time."""
    real = cifar10(setting, ALL)
    return planned(setting, "paper", lambda: measured(setting, real))


def measured(setting: Setting, real: shards.RealSet) -> dict:
    """The costs of the training, and how many whole epochs that leaves."""
    there = cost(setting, RECIPE, Images(real, [], []), lambda network: judged(setting, network, real))
    each = len(real.rows(shards.TRAIN)) / RECIPE.batch  # steps of an epoch
    epochs = 1 if setting.toy else min(MOST, max(1, int(there.steps(setting.left()) / each)))
    return {"epochs": epochs, "steps": max(4, round(epochs * each)), **asdict(there)}


def accuracies(setting: Setting) -> dict:
    """The loss in ten places of the training, and every accuracy on the test images, beside the published ones."""
    real, planned_for = cifar10(setting, ALL), plan(setting)
    trained = pretrained(setting, RECIPE, Images(real, [], []), planned_for["steps"])
    metrics, _ = judged(setting, trained.network, real)
    layer = backbones.load_online_head(trained.folder, trained.network, len(real.classes))
    test, answers = real.part(shards.TEST)
    seen = probes.features(trained.network, test, arithmetic_of(setting))
    shown = trained.rows[:: max(1, len(trained.rows) // 10)]
    return {
        "epochs": planned_for["epochs"],
        **metrics,
        "top-1 online": probes.accuracy(linear_probe.predict(layer, seen), answers),
        "loss after step": {row["step"]: round(row["loss"], 3) for row in shown},
        "published": PUBLISHED,
        "seconds of training": round(trained.seconds),
    }


CHECKS = [plan, accuracies]
