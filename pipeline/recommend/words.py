"""What a race found, in words that a person can act on, and as numbers for metrics/recommend.json."""

import itertools
import math

from pipeline.recommend import race
from pipeline.recommend.prices import Prices
from pipeline.recommend.race import LOOKS, Answer, Rules
from pipeline.run import remarks
from pipeline.study.analysis import Difference, quantile

USUAL = 0.5  # points: a run's deviation from arm + seed in the committed studies, before there are any here

FAR = 5  # times the least gain: test images that move a difference by more than that are too few


def resolvable(looks: int, deviation: float = USUAL, df: int = 20) -> float:
    """The true difference that would be found four times in five after so many looks, in points."""
    error = deviation * math.sqrt(2 / LOOKS[looks - 1])
    return (quantile(race.CONFIDENCE, df) + quantile(0.6, df)) * error


def told(answer: Answer, rules: Rules, prices: Prices | None, perfect: float, judged: tuple[float, int]) -> list[str]:
    """A line for each thing that is known.

    perfect: further real images for each one in the ceiling. judged: the runs' top-1, %, and of how many test images.
    """
    lines = [_verdict(answer, rules, perfect)]
    if answer.more is not None:
        lines.append(_ceiling(answer, perfect))
    if answer.gain is not None:
        lines.append(_of_images(*judged, max(FAR * rules.least, abs(answer.gain.points))))
    if answer.best:
        lines.append("best: " + "; ".join(f"{kind}: {arm}" for kind, arm in answer.best.items()))
    if answer.word == "not resolved" and answer.rival is not None and answer.gain.high < rules.least:
        arm, d = answer.rival
        lines.append(f"not resolved, since another arm may still gain {_least(rules)}: {arm} ({_points(d)})")
    more = hours_to_resolve(answer, rules, prices)
    if answer.word == "not resolved" and more is not None:
        lines.append(f"to resolve {_least(rules)} would take about {more:.1f} hours more")
    elif answer.word == "not resolved" and resolvable(len(LOOKS), answer.deviation) > rules.least:
        most = resolvable(len(LOOKS), answer.deviation)
        deviate = f"runs deviate so much that {LOOKS[-1]} fresh seeds resolve {most:.1f} points"
        lines.append(f"{deviate}: ask for a --min-gain of as many")
    return lines


def without_labels(answer: Answer, measure: str, reliability: str, over: bool) -> list[str]:
    """What a measure likes, and how little that says. over: whether the race is."""
    if answer.gain is None:
        return ["generated images: nothing is known yet"]
    d = answer.gain
    liked = "prefers them" if d.low > 0 else "prefers the arms without" if d.high < 0 else "does not tell"
    liked += "" if over else ", so far"
    lines = [
        f"generated images: weak evidence, as there are no labels: {measure} {liked} ({_points(d, 'for them', 2)})",
        f"how weak: {reliability}",
    ]
    return [*lines, "best: " + "; ".join(f"{kind}: {arm}" for kind, arm in answer.best.items())]


def _of_images(top1: float, test: int, matters: float) -> str:
    most = remarks.of_test_images(top1, test)
    line = f"intervals are over training seeds; the choice of these {test:,} test images may add {most:.1f} points"
    return line + f"; {test:,} are too few to judge by" * (most > matters)


def _verdict(answer: Answer, rules: Rules, perfect: float) -> str:
    if answer.gain is None:
        return "generated images: nothing is known yet"
    not_even = f"they could not help: {perfect:g} x as many real ones in their place do not bring {_least(rules)}"
    said = {
        "helps": "they help",
        "harms": "they harm",
        "no gain": f"no gain of {_least(rules)} or more",
        "could not help": not_even,
        "not resolved": "not resolved",
    }[answer.word]
    return f"generated images: {said} ({_points(answer.gain)}; {_rests(answer.fresh)})"


def _ceiling(answer: Answer, perfect: float) -> str:
    """What perfect images bring, and what generated ones surely lack of it."""
    line = f"real ones in their place, {perfect:g} x as many, bring {_points(answer.more)}; {_rests(answer.perfect)}"
    lacking = answer.lacking
    if answer.perfect and answer.more.low > 0 and lacking is not None and lacking.high < 0:
        line += (
            f"; the generated images lack {-lacking.points:.1f} of these ({-lacking.high:.1f} to {-lacking.low:.1f})"
        )
    return line


def _rests(seeds: int) -> str:
    return f"{seeds} fresh paired seeds" if seeds else "the seeds by which arms were chosen, which flatter"


def _least(rules: Rules) -> str:
    return f"{rules.least:g} point" + "s" * (rules.least != 1)


def _points(d: Difference, unit: str = "points", digits: int = 1) -> str:
    if math.isinf(d.low):
        return f"{d.points:+.{digits}f} {unit}, no interval yet"
    return f"{d.points:+.{digits}f} {unit}, 95 % interval {d.low:+.{digits}f} to {d.high:+.{digits}f}"


def hours_to_resolve(answer: Answer, rules: Rules, prices: Prices | None) -> float | None:
    """About how much more time resolves the least gain, if two arms are left and runs deviate as they did.

    None if no look would, or nothing is known of runs yet.
    """
    if prices is None or math.isnan(answer.deviation) or "generated" not in answer.best:
        return None
    for look, seeds in enumerate(LOOKS, 1):
        if seeds > answer.fresh and resolvable(look, answer.deviation) <= rules.least:
            return hours_of_looks(answer.fresh, seeds, prices)
    return None


def hours_of_looks(since: int, until: int, prices: Prices) -> float:
    """What it takes to come from so many fresh seeds to so many, look by look, if two arms are left."""
    looks = [since, *(seeds for seeds in LOOKS if since < seeds <= until)]
    return prices.hours(*((2 * (after - before), prices.run) for before, after in itertools.pairwise(looks)))


def numbers(answer: Answer, rules: Rules) -> dict[str, object]:
    """The same for metrics/recommend.json."""

    def interval(d: Difference | None) -> dict[str, float] | None:
        if d is None or math.isinf(d.low):
            return None
        return {"points": round(d.points, 3), "low": round(d.low, 3), "high": round(d.high, 3)}

    return {
        "answer": answer.word,
        "least_gain": rules.least,
        "gain": interval(answer.gain),
        "ceiling": interval(answer.more),
        "lacking": interval(answer.lacking),
        "fresh_seeds": answer.fresh,
        "ceiling_seeds": answer.perfect,
        "deviation": None if math.isnan(answer.deviation) else round(answer.deviation, 3),
        "best": answer.best,
    }
