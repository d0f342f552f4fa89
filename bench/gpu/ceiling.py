"""What generated images could give at most: real images that are not in the train set stand in their place.

5,000 real images of CIFAR-10, and the other 45,000 as if a perfect generator had made them. Where these do not help, no
generator can. The baseline that counts is the better of the two arms without them.
"""

from dataclasses import asdict

import numpy as np

from bench.gpu import fast
from bench.gpu.encoders import Recipe, cost, judged, planned, pretrained
from bench.gpu.images import cifar10
from bench.gpu.rung import Check, Setting
from pipeline.data import shards
from pipeline.measures import probes
from pipeline.training.batches import Images

REAL, STEPS = 5_000, 10_000
STRENGTHS = {"weak": 1.0, "strong": 2.0}
ARMS = [(name, inflated) for name in STRENGTHS for inflated in (False, True)]  # the pair that differs most goes first
RIGHT: dict[tuple[Setting, str], np.ndarray] = {}  # of each arm that was judged, whether it is on each test image


def plan(setting: Setting) -> dict:
    """How many steps each of the four arms has, so that all of them end in time: 10,000, or fewer."""
    real = cifar10(setting, REAL)
    return planned(setting, "ceiling", lambda: measured(setting, real))


def measured(setting: Setting, real: shards.RealSet) -> dict:
    """The costs of an arm with all that there is, and how many steps that leaves."""
    there = cost(setting, recipe("strong"), images(real, True), lambda network: judged(setting, network, real))
    steps = 4 if setting.toy else min(STEPS, there.steps(setting.left(), len(ARMS)))
    return {"steps": steps, "of": STEPS, **asdict(there)}


def arm(name: str, inflated: bool) -> Check:
    """The check that pretrains and judges one arm."""

    def check(setting: Setting) -> dict:
        real = cifar10(setting, REAL)
        trained = pretrained(setting, recipe(name), images(real, inflated), plan(setting)["steps"])
        metrics, right = judged(setting, trained.network, real)
        passes = round(trained.facts["real_passes"], 1)
        found = {**metrics, "passes over the real images": passes, "seconds of training": round(trained.seconds)}
        for (where, other), theirs in RIGHT.items():
            if where == setting:
                points, low, high = probes.paired_difference(right, theirs)
                found[f"over {other}"] = f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
        RIGHT[setting, check.__name__] = right
        return found

    check.__name__ = f"{'inflated' if inflated else 'none'}_{name}"
    return check


CHECKS = [plan, *(arm(name, inflated) for name, inflated in ARMS)]


# --- what the checks are made of


def recipe(name: str) -> Recipe:
    """SimCLR with AdaInf's head, at one strength of augmentation."""
    return Recipe(fast.HEAD, batch=256, lr=0.1, weight_decay=1e-4, augment={"strength": STRENGTHS[name]})


def images(real: shards.RealSet, inflated: bool) -> Images:
    """The train images, and if inflated all others to learn from as generated ones."""
    others, _ = real.part(shards.LABELLED)
    return Images(real, [others] if inflated else [], [])
