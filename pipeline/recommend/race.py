"""A race between arms, paired by seed: which runs are wanted next, and what is known when it ends.

It looks at results alone, so a race that was broken off goes on where it was. Three heats:

1. short: every arm, a part of the length. Of each family (the same images at several strengths) the best goes on, of
   the family without generated images all that are not surely worse. Families are not compared: how much more images
   bring depends on the length.
2. full: what is left, at the whole length. The ceiling ends the race where even perfect images would surely bring less
   than the least gain of interest, and generated ones do not surely gain already. Arms that may still be the best of
   their kind go on.
3. fresh: they meet again on seeds that no choice has seen. After some numbers of seeds there is a look, each with a
   wider interval, so that all looks together err as seldom as one would; what is surely worse than its kind drops out.

Arms are chosen by validation images; what is reported is of test images and of fresh seeds alone. From the second look
on, the fresh seeds before it have chosen among what was left: that much luck may be in the number. Generated images
help if the best arm with them surely beats every arm without that is left; not only the best of those, which the race
may not have found. They harm, or bring no gain, if this is sure of every arm with them that is left.

Without labels there is nothing to be sure of. A measure takes the place of accuracy in the first two heats, and the
race ends with the arms that it likes best.
"""

import functools
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pipeline.study.analysis import Blocks, Difference, quantile

Kind = Literal["none", "generated", "ceiling"]
Heat = Literal["short", "full", "fresh"]
LOOKS = (3, 5, 8, 12, 18, 26)  # fresh seeds
# Of each look, so that six at equal distances err in 5 % of all cases together (Pocock, Biometrika 1977: a nominal
# level of .0142). Ours lie further apart and err more often, what must be sure of several arms less often: tests count.
CONFIDENCE = 0.9858
FIRST_FRESH = 100  # the first seed of the third heat


@dataclass(frozen=True)
class Rules:
    """least: the least gain of interest, in points. seeds: of the first two heats.

    keep: how many arms of a family the second heat has. anyway: whether to go on where perfect images bring nothing.
    labels: whether results are accuracies; else they are of a measure without labels, twice the same.
    """

    least: float = 1.0
    seeds: int = 2
    keep: tuple[tuple[Kind, int], ...] = (("none", 3), ("generated", 1), ("ceiling", 1))
    anyway: bool = False
    labels: bool = True


class Arm(NamedTuple):
    """What an arm is, and the family of those that differ from it in strength alone."""

    kind: Kind
    family: str


class Run(NamedTuple):
    """One run of a race."""

    heat: Heat
    arm: str
    seed: int


class Result(NamedTuple):
    """What a run gave, in percent: on validation images, by which arms are chosen, and on test images."""

    validation: float
    test: float


Results = dict[Run, Result]
Arms = dict[str, Arm]


@dataclass(frozen=True)
class Answer:
    """What is known. word: helps, harms, no gain (of `least` or more), could not help (nor could perfect images), not
    resolved, or weak evidence: no labels. best: the arm of each kind. gain, more and lacking: generated - none, ceiling
    - none and generated - ceiling, in points, with intervals that hold over all looks in 95 %. fresh, perfect: the
    fresh seeds that gain and the other two rest on; 0: the seeds of the choice. deviation: of a run from arm + seed, in
    points; NaN if unknown. rival: where it is not resolved, the generated arm that may gain most, and how much.
    """

    word: Literal["helps", "harms", "no gain", "could not help", "not resolved", "weak evidence"]
    best: dict[Kind, str]
    gain: Difference | None
    more: Difference | None
    lacking: Difference | None
    fresh: int
    perfect: int
    deviation: float
    rival: tuple[str, Difference] | None = None

    @property
    def chosen(self) -> str | None:
        """The arm to take: without generated images, which cost time, unless it is shown that they help."""
        sure = self.word == "weak evidence" and self.gain is not None and self.gain.low > 0
        return self.best.get("generated" if self.word == "helps" or sure else "none")


def wanted(arms: Arms, results: Results, rules: Rules) -> list[Run]:
    """The runs that are to be made next; none when the race is over."""
    for heat, those in (("short", list(arms)), ("full", kept(arms, results, rules))):
        missing = _missing(results, heat, those, range(rules.seeds))
        if missing:
            return missing
    if not rules.labels or (_hopeless(arms, results, rules) and not rules.anyway):
        return []
    for look in range(len(LOOKS)):
        left = _at_look(arms, results, look)
        if not {"none", "generated"} <= {arms[arm].kind for arm in left}:
            return []
        missing = _missing(results, "fresh", left, _fresh(look))
        if missing or _looked_at(arms, results, rules, look).word != "not resolved":
            return missing
    return []


def to_first_look(arms: Arms, results: Results, rules: Rules) -> tuple[dict[Heat, int], dict[Heat, int]]:
    """Runs of each heat until fresh seeds are looked at first: if one arm of a kind is left then, and if all are."""
    seeds, those, most = range(rules.seeds), kept(arms, results, rules), dict(rules.keep)
    short, kinds = len(_missing(results, "short", list(arms), seeds)), len({arms[arm].kind for arm in those})
    going = sum(min(most[of.kind], n) for of, n in Counter(arms[arm] for arm in those).items())
    full = rules.seeds * going if short else len(_missing(results, "full", those, seeds))
    fresh = LOOKS[0] * kinds, LOOKS[0] * going
    if not short and not full:
        fresh = 2 * (len(_missing(results, "fresh", _at_look(arms, results, 0), _fresh(0))),)
    one, every = ({"short": short, "full": full, "fresh": runs if rules.labels else 0} for runs in fresh)
    return one, every


def _fresh(look: int) -> range:
    """The fresh seeds of a look; those before the first are none."""
    return range(FIRST_FRESH, FIRST_FRESH + (LOOKS[look] if look >= 0 else 0))


def _until(results: Results, look: int) -> Results:
    """The runs of the whole length that there are at a look, whatever was made since."""
    return {run: of for run, of in results.items() if run.heat == "full" or run.seed in _fresh(look)}


def _missing(results: Results, heat: Heat, arms: list[str], seeds: range) -> list[Run]:
    runs = [Run(heat, arm, seed) for seed in seeds for arm in arms]
    return [run for run in runs if run not in results]


def kept(arms: Arms, results: Results, rules: Rules) -> list[str]:
    """The arms of the second heat; all of them while the first is not over."""
    short = _fit(results, "short")
    if short is None or not set(arms) <= set(short.arms):
        return list(arms)
    most, families, found = dict(rules.keep), {}, []
    for arm, of in arms.items():
        families.setdefault(of, []).append(arm)
    for of, members in families.items():
        found += _close(short, members)[: most[of.kind]]
    return [arm for arm in arms if arm in found]


def racing(arms: Arms, results: Results, look: int) -> list[str]:
    """The arms of a look that may be the best of their kind, judging by validation images before it."""
    fit = _fit(_until(results, look - 1), "full", "fresh")
    if fit is None:
        return []
    left = racing(arms, results, look - 1) if look else fit.arms
    kinds = ("none", "generated")
    return [arm for kind in kinds for arm in _close(fit, _of(arms, kind, left))]


def _at_look(arms: Arms, results: Results, look: int) -> list[str]:
    """The arms that run for a look: at the first one, the best with perfect images as well."""
    return racing(arms, results, look) + (_ceiling(arms, results) if look == 0 else [])


def _close(blocks: Blocks, arms: list[str]) -> list[str]:
    """The arms that are not surely worse than the best of them, the best first; of equals, the one named first."""
    order = sorted(arms, key=lambda arm: -blocks.effects[blocks.arms.index(arm)])
    return [arm for arm in order if arm == order[0] or _wide(blocks, arm, order[0]).high >= 0]


def _wide(blocks: Blocks, one: str, other: str) -> Difference:
    """One arm minus another, with an interval for looks that are taken more than once."""
    found = blocks.contrast({one: 1, other: -1})
    if not blocks.df:
        return found
    half = found.half * quantile(CONFIDENCE, blocks.df) / quantile(0.95, blocks.df)
    return replace(found, low=found.points - half, high=found.points + half)


def _so_far(arms: Arms, results: Results) -> dict[Kind, str]:
    """Before the second heat: the best arm without generated images, once each of them has run."""
    short, without = _fit(results, "short"), [arm for arm, of in arms.items() if of.kind == "none"]
    return {"none": _close(short, without)[0]} if short is not None and set(without) <= set(short.arms) else {}


def _ceiling(arms: Arms, results: Results) -> list[str]:
    """The best arm with perfect images, of the second heat."""
    full = _fit(results, "full")
    return [] if full is None else _close(full, _of(arms, "ceiling", full.arms))[:1]


def _of(arms: Arms, kind: Kind, those: list[str]) -> list[str]:
    return [arm for arm in those if arms[arm].kind == kind]


def answer(arms: Arms, results: Results, rules: Rules) -> Answer:
    """What is known by now: at the first look that resolved it, else at the last one whose runs are all there."""
    found = _looked_at(arms, results, rules, -1)
    if not rules.labels:
        return replace(found, word="weak evidence")
    for look in range(len(LOOKS)):
        left = _at_look(arms, results, look)
        if found.word != "not resolved" or not left or _missing(results, "fresh", left, _fresh(look)):
            break
        found = _looked_at(arms, results, rules, look)
    return found


def _looked_at(arms: Arms, results: Results, rules: Rules, look: int) -> Answer:
    """What a look says, -1: before the first. Runs that were made since do not count."""
    before, left, best = _until(results, look), racing(arms, results, max(look, 0)), {}
    every = _fit(before, "full", "fresh", of="test")
    for arm in [*left, *_ceiling(arms, results)]:
        best.setdefault(arms[arm].kind, arm)
    deviation = math.sqrt(every.variance) if every is not None and every.df else math.nan
    if {"none", "generated"} - best.keys():
        best = best or _so_far(arms, results)
        return Answer("not resolved", best, None, None, None, 0, 0, deviation)

    def over(one: str, other: str = best["none"]) -> Difference:
        return _between(before, every, one, other)

    gain, more, lacking = over(best["generated"]), None, None
    if "ceiling" in best:
        more, lacking = over(best["ceiling"]), over(best["generated"], best["ceiling"])
    perfect = LOOKS[0] if "ceiling" in best and look >= 0 else 0
    if look < 0:
        whole = not _missing(results, "full", kept(arms, results, rules), range(rules.seeds))
        word = "could not help" if whole and _hopeless(arms, results, rules) and not rules.anyway else "not resolved"
        return Answer(word, best, gain, more, lacking, 0, 0, deviation)
    without, generated = (_of(arms, kind, left) for kind in ("none", "generated"))
    rival = max(generated, key=lambda arm: over(arm).high)
    most = over(rival).high
    word = "harms" if most < 0 else "no gain" if most < rules.least else "not resolved"
    if all(over(best["generated"], arm).low > 0 for arm in without):
        word = "helps"
    return Answer(word, best, gain, more, lacking, LOOKS[look], perfect, deviation, (rival, over(rival)))


def _hopeless(arms: Arms, results: Results, rules: Rules) -> bool:
    """Whether perfect images would surely bring less than the least gain, on validation images and on the test.

    Further real images are no ceiling where the real ones are poor: generated ones that surely gain deny it.
    """
    full, test = _fit(results, "full"), _fit(results, "full", of="test")
    if full is None:
        return False
    best = {kind: _close(full, _of(arms, kind, full.arms))[:1] for kind in ("none", "generated", "ceiling")}
    if not all(best.values()):
        return False

    def gains(kind: Kind) -> list[Difference]:
        return [_wide(fit, best[kind][0], best["none"][0]) for fit in (full, test)]

    better = min(gain.low for gain in gains("generated")) > 0
    return not better and max(gain.high for gain in gains("ceiling")) < rules.least


def _fit(results: Results, *heats: Heat, of: Literal["validation", "test"] = "validation") -> Blocks | None:
    """Arm + seed of some heats, by least squares."""
    values = {(run.arm, run.seed): getattr(found, of) for run, found in results.items() if run.heat in heats}
    return _blocks(tuple(values.items())) if values else None


@functools.lru_cache(maxsize=64)  # a look asks for the same few again and again
def _blocks(values: tuple) -> Blocks:
    return Blocks(dict(values))


def _between(results: Results, every: Blocks, one: str, other: str) -> Difference:
    """One arm minus another on test images: on the fresh seeds of both, or on all seeds if there are none.

    The deviation is that of all runs of the whole length.
    """
    of = {run.seed for run in results if run.heat == "fresh" and run.arm == one}
    both = sorted(seed for seed in of if Run("fresh", other, seed) in results)
    if not both:
        return every.contrast({one: 1, other: -1})
    points = sum(results[Run("fresh", one, s)].test - results[Run("fresh", other, s)].test for s in both) / len(both)
    if not every.df:
        return Difference(points, -math.inf, math.inf, math.inf)
    error = math.sqrt(2 * every.variance / len(both))
    half = quantile(CONFIDENCE, every.df) * error
    return Difference(points, points - half, points + half, half + quantile(2 * 0.8 - 1, every.df) * error)
