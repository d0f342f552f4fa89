"""Simulated races of `leaven recommend`: the truth is known, the rules are the real ones.

python -m bench.races 10000     (a quarter of an hour of one core)

How often the race says what is not so, what is lost by following it, and how many runs it takes, in worlds of which a
generated image is worth more or less. A run deviates from arm + seed as the runs of the committed study of AdaInf do.
"""

import collections
import itertools
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from pipeline.recommend import race
from pipeline.study import analysis, cells

STRENGTHS = ("0.5", "1", "2")
EVEN = (1.0, 1.0, 1.0)
# The deviations of Fashion-MNIST's grid, 0.27, 0.58 and 0.72 points, over their root mean square; there, too, the best
# strength, which here is the middle one, deviates most.
UNEVEN = (0.49, 1.30, 1.05)
SHORT = 0.25  # of a run of the whole length
THIRD = 20  # runs: a third of a grid of the twelve arms that need no further real images, in five seeds


@dataclass
class World:
    """Arms and their true accuracies. gain and perfect: over those without, at each strength.

    In the short heat more images bring three points less, as at 600 steps on CIFAR-10's copies. steep: what the first
    strength loses; the last loses 0.7 of it. A run's deviation from arm + seed is `noise(rng)`, at each strength so
    many times as large as `spread` says; its validation images add a deviation of their own.
    """

    gain: float
    perfect: float
    steep: float = 1.0
    noise: Callable[[np.random.Generator], float] = lambda rng: rng.normal(0, 0.5)
    unlike: float = 0.5
    spread: tuple[float, float, float] = EVEN
    arms: race.Arms = field(init=False)
    truth: dict[str, float] = field(init=False)

    def __post_init__(self):
        loss = dict(zip(STRENGTHS, (self.steep, 0.0, 0.7 * self.steep), strict=True))
        better = {"none": 0.0, "x1": self.gain, "x10": self.gain, "N 10": self.gain - 0.3, "perfect": self.perfect}
        kinds = {"none": "none"} | dict.fromkeys(("x1", "x10", "N 10"), "generated") | {"perfect": "ceiling"}
        self.arms = {f"{name}, strength {s}": race.Arm(kind, name) for name, kind in kinds.items() for s in STRENGTHS}
        self.truth = {f"{name}, strength {s}": 50 + better[name] - loss[s] for name in kinds for s in STRENGTHS}

    def result(self, run: race.Run, seed: int) -> race.Result:
        """The same whenever it is asked for."""
        of_seed = np.random.default_rng([seed, len(run.heat), run.seed]).normal(0, 0.8)
        rng = np.random.default_rng([seed, len(run.heat), run.seed, list(self.arms).index(run.arm)])
        short = 3.0 * (run.heat == "short" and self.arms[run.arm].kind != "none")
        scale = self.spread[STRENGTHS.index(run.arm.rpartition(" ")[2])]
        test = self.truth[run.arm] - short + of_seed + scale * self.noise(rng)
        return race.Result(test + rng.normal(0, self.unlike), test)

    def run(self, rules: race.Rules, seed: int) -> tuple[race.Answer, race.Results]:
        """A race to its end."""
        results: race.Results = {}
        while runs := race.wanted(self.arms, results, rules):
            results |= {run: self.result(run, seed) for run in runs}
        return race.answer(self.arms, results, rules), results

    def broken_off(self, rules: race.Rules, results: race.Results, most: float) -> race.Answer:
        """What it says after the first so many runs of the whole length."""
        spent = itertools.accumulate(cost([run]) for run in results)
        first = [run for run, total in zip(results, spent, strict=True) if total <= most]
        return race.answer(self.arms, {run: results[run] for run in first}, rules)

    def true(self, answer: race.Answer) -> float:
        """What the arms are truly apart whose difference the answer gives."""
        return self.truth[answer.best["generated"]] - self.truth[answer.best["none"]]

    def lost(self, answer: race.Answer) -> float:
        """Points by which the arm that is taken falls short of the best one; the ceiling is not to be had."""
        best = max(self.truth[name] for name, arm in self.arms.items() if arm.kind != "ceiling")
        return best - self.truth.get(answer.chosen, 50 - self.steep)


def cost(runs) -> float:
    """In runs of the whole length."""
    return sum(SHORT if run.heat == "short" else 1.0 for run in runs)


def residuals() -> np.ndarray:
    """How far runs of the study of AdaInf lie from arm + seed, in points, spread as independent ones would be."""
    data, found = analysis.frame(cells.load("adainf")), []
    for _, of in data.groupby("part"):
        fit = analysis.fitted(of)
        if fit.df:
            found.append(fit.residual * np.sqrt(len(fit.residual) / fit.df))
    return np.concatenate(found)


# gain, perfect; the last: real images are so poor that further ones bring nothing
EVENLY = ((0.0, 3.0), (0.5, 3.0), (1.0, 3.0), (2.0, 4.0), (-1.0, 3.0), (1.2, 1.2), (0.0, 0.0), (-2.0, -1.0), (2.0, 0.0))
UNEVENLY = ((0.0, 3.0), (1.0, 3.0), (0.0, 0.0))
WORLDS = [(*of, EVEN) for of in EVENLY] + [(*of, UNEVEN) for of in UNEVENLY]


def line(of: tuple[float, float, tuple[float, float, float]], races: int, measured: np.ndarray) -> str:
    """Of a world of this gain, these perfect images and this spread: a row of the table."""
    gain, perfect, spread = of
    rules, world = race.Rules(), World(gain, perfect, noise=lambda rng: rng.choice(measured), spread=spread)
    said, missed, lost, early, runs = collections.Counter(), 0, [], [], []
    for seed in range(races):
        answer, results = world.run(rules, seed)
        said[answer.word] += 1
        missed += not answer.gain.low <= world.true(answer) <= answer.gain.high
        lost.append(world.lost(answer))
        early.append(world.lost(world.broken_off(rules, results, THIRD)))
        runs.append(cost(results))
    words = ("helps", "harms", "no gain", "could not help", "not resolved")
    shares = [f"{100 * n / races:.1f} %" for n in (*(said[word] for word in words), missed)]
    columns = [f"{np.mean(values):.2f} | {np.quantile(values, 0.9):.2f}" for values in (lost, early)]
    columns += [f"{np.median(runs):.0f}", f"{np.quantile(runs, 0.9):.0f}"]
    uneven = "" if spread == EVEN else "*"
    return f"| {gain:+.1f}{uneven} | {perfect:+.1f} | {' | '.join([*shares, *columns])} |"


def main() -> None:
    """Print a line of a table for each world, two or more at a time."""
    races, measured = int(sys.argv[1]), residuals()
    said = "helps | harms | no gain | could not help | not resolved | missed"
    spread = f"lost, mean | lost, 90 % | at {THIRD} runs, mean | at {THIRD}, 90 % | runs, median | runs, 90 %"
    print(f"| gain | perfect | {said} | {spread} |")
    print("|---" * 14 + "|")
    with ProcessPoolExecutor() as processes:
        found = processes.map(line, WORLDS, itertools.repeat(races), itertools.repeat(measured))
        for row in tqdm(found, "worlds", len(WORLDS), unit="world"):
            print(row, flush=True)


if __name__ == "__main__":
    main()
