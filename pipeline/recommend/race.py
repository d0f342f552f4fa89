"""A race between arms, paired by seed: which runs are wanted next, and what is known when it ends.

It looks at results alone, so a race that was broken off goes on where it was. Three heats:

1. short: every arm, a part of the length. An arm drops out where it is surely worse than the best of its own kind, or
   not among the first few. Kinds are never compared here: how much more images bring depends on the length.
2. full: what is left, at the whole length. The ceiling ends the race where even perfect images would surely bring less
   than the least gain of interest. Arms that may still be the best of their kind go on.
3. fresh: they meet again on seeds that no choice has seen. After some numbers of seeds there is a look, each with a
   wider interval, so that all looks together err as seldom as one would; what is surely worse than its kind drops out.

Arms are chosen by validation images; what is reported is of test images and of fresh seeds alone. Generated images help
if the best arm with them surely beats every arm without that is left; not only the best of those, which the race may
not have found. They harm, or bring no gain, if this is sure of every arm with them that is left.
"""

import math
from dataclasses import dataclass
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
    """least: the least gain of interest, in points. seeds: of the first two heats. keep: arms of a kind in the second.

    anyway: whether to go on where perfect images would bring nothing.
    """

    least: float = 1.0
    seeds: int = 2
    keep: tuple[tuple[Kind, int], ...] = (("none", 3), ("generated", 3), ("ceiling", 1))
    anyway: bool = False


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
Arms = dict[str, Kind]


@dataclass(frozen=True)
class Answer:
    """What is known. word: helps, harms, no gain (of `least` or more), could not help (nor could perfect images), or
    not resolved. best: the arm of each kind. gain and more: generated - none and ceiling - none, in points, with
    intervals that hold over all looks in 95 %. fresh: the fresh seeds they rest on; 0: those of the choice.
    deviation: of a run from arm + seed, in points; NaN if unknown.
    """

    word: Literal["helps", "harms", "no gain", "could not help", "not resolved"]
    best: dict[Kind, str]
    gain: Difference | None
    more: Difference | None
    fresh: int
    deviation: float


def wanted(arms: Arms, results: Results, rules: Rules) -> list[Run]:
    """The runs that are to be made next; none when the race is over."""
    for heat, those in (("short", list(arms)), ("full", kept(arms, results, rules))):
        missing = _missing(results, heat, those, range(rules.seeds))
        if missing:
            return missing
    if _hopeless(arms, results, rules) and not rules.anyway:
        return []
    for look in range(len(LOOKS)):
        left = _at_look(arms, results, look)
        if not {"none", "generated"} <= {arms[arm] for arm in left}:
            return []
        missing = _missing(results, "fresh", left, _fresh(look))
        if missing or _looked_at(arms, results, rules, look).word != "not resolved":
            return missing
    return []


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
    found = []
    for kind, most in rules.keep:
        found += _close(short, [arm for arm, of in arms.items() if of == kind])[:most]
    return [arm for arm in arms if arm in found]


def racing(arms: Arms, results: Results, look: int) -> list[str]:
    """The arms of a look that may be the best of their kind, judging by validation images before it."""
    fit = _fit(_until(results, look - 1), "full", "fresh")
    if fit is None:
        return []
    left = racing(arms, results, look - 1) if look else fit.arms
    kinds = ("none", "generated")
    return [arm for kind in kinds for arm in _close(fit, [arm for arm in left if arms[arm] == kind])]


def _at_look(arms: Arms, results: Results, look: int) -> list[str]:
    """The arms that run for a look: at the first one, the best with perfect images as well."""
    return racing(arms, results, look) + (_ceiling(arms, results) if look == 0 else [])


def _close(blocks: Blocks, arms: list[str]) -> list[str]:
    """The arms that are not surely worse than the best of them, the best first; of equals, the one named first."""
    order = sorted(arms, key=lambda arm: -blocks.effects[blocks.arms.index(arm)])
    if not blocks.df:
        return order
    wider = quantile(CONFIDENCE, blocks.df) / quantile(0.95, blocks.df)
    behind = {arm: blocks.contrast({arm: 1, order[0]: -1}) for arm in order[1:]}
    return [arm for arm in order if arm not in behind or behind[arm].points + wider * behind[arm].half >= 0]


def _ceiling(arms: Arms, results: Results) -> list[str]:
    """The best arm with perfect images, of the second heat."""
    full = _fit(results, "full")
    return [] if full is None else _close(full, [arm for arm in full.arms if arms[arm] == "ceiling"])[:1]


def answer(arms: Arms, results: Results, rules: Rules) -> Answer:
    """What is known by now: at the first look that resolved it, else at the last one whose runs are all there."""
    found = _looked_at(arms, results, rules, -1)
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
        best.setdefault(arms[arm], arm)
    deviation = math.sqrt(every.variance) if every is not None and every.df else math.nan
    if {"none", "generated"} - best.keys():
        return Answer("not resolved", best, None, None, 0, deviation)

    def over(one: str, other: str = best["none"]) -> Difference:
        return _between(before, every, one, other)

    gain, more = over(best["generated"]), over(best["ceiling"]) if "ceiling" in best else None
    if look < 0:
        word = "could not help" if _hopeless(arms, results, rules) and not rules.anyway else "not resolved"
        return Answer(word, best, gain, more, 0, deviation)
    without, generated = ([arm for arm in left if arms[arm] == kind] for kind in ("none", "generated"))
    most = max(over(arm).high for arm in generated)
    word = "harms" if most < 0 else "no gain" if most < rules.least else "not resolved"
    if all(over(best["generated"], arm).low > 0 for arm in without):
        word = "helps"
    return Answer(word, best, gain, more, LOOKS[look], deviation)


def _hopeless(arms: Arms, results: Results, rules: Rules) -> bool:
    """Whether perfect images would surely bring less than the least gain of interest."""
    full = _fit(results, "full")
    if full is None:
        return False
    best = {kind: _close(full, [arm for arm in full.arms if arms[arm] == kind])[:1] for kind in ("none", "ceiling")}
    if not (best["none"] and best["ceiling"]):
        return False
    return full.contrast({best["ceiling"][0]: 1, best["none"][0]: -1}).high < rules.least


def _fit(results: Results, *heats: Heat, of: Literal["validation", "test"] = "validation") -> Blocks | None:
    """Arm + seed of some heats, by least squares."""
    values = {(run.arm, run.seed): getattr(found, of) for run, found in results.items() if run.heat in heats}
    return Blocks(values) if values else None


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
