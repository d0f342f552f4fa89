"""What a race found, in words that a person can act on, and as numbers for metrics/recommend.json."""

import math

from pipeline.recommend import race
from pipeline.recommend.prices import Prices
from pipeline.recommend.race import LOOKS, Answer, Rules
from pipeline.study.analysis import Difference, quantile

USUAL = 0.5  # points: a run's deviation from arm + seed in the committed studies, before there are any here


def resolvable(looks: int, deviation: float = USUAL, df: int = 20) -> float:
    """The true difference that would be found four times in five after so many looks, in points."""
    error = deviation * math.sqrt(2 / LOOKS[looks - 1])
    return (quantile(race.CONFIDENCE, df) + quantile(0.6, df)) * error


def told(answer: Answer, rules: Rules, prices: Prices, test: int | None) -> list[str]:
    """A line for each thing that is known. test: test images, for what they cannot tell; None: unknown."""
    lines = [_verdict(answer, rules)]
    if answer.more is not None:
        lines.append(_ceiling(answer, rules))
    if answer.best:
        lines.append("best: " + "; ".join(f"{kind}: {arm}" for kind, arm in answer.best.items()))
    if test:
        noise = 100 * 1.96 * math.sqrt(2 * 0.16 / test)
        lines.append(f"on other test images, {test:,} as here, differences may lie up to {noise:.1f} points elsewhere")
    more = hours_to_resolve(answer, rules, prices)
    if answer.word == "not resolved" and more is not None:
        lines.append(f"to resolve {rules.least:g} points would take about {more:.1f} hours more")
    return lines


def _verdict(answer: Answer, rules: Rules) -> str:
    if answer.gain is None:
        return "generated images: nothing is known yet"
    said = {
        "helps": "they help",
        "harms": "they harm",
        "no gain": f"no gain of {rules.least:g} points or more",
        "could not help": f"they could not help: not even perfect images bring {rules.least:g} points",
        "not resolved": "not resolved",
    }[answer.word]
    rests = (
        f"{answer.fresh} fresh paired seeds" if answer.fresh else "the seeds by which arms were chosen, which flatter"
    )
    return f"generated images: {said} ({_points(answer.gain)}; {rests})"


def _ceiling(answer: Answer, rules: Rules) -> str:
    """What perfect images bring, and so what limits generated ones."""
    more, gain = answer.more, answer.gain
    line = f"a perfect generator would bring {_points(more)}"
    if gain is None or not answer.fresh or more.low <= 0:
        return line
    lacking = more.points - gain.points
    return f"{line}: the generated images lack {lacking:.1f} of these" if lacking > rules.least else line


def _points(d: Difference) -> str:
    if math.isinf(d.low):
        return f"{d.points:+.1f} points, no interval yet"
    return f"{d.points:+.1f} points, 95 % interval {d.low:+.1f} to {d.high:+.1f}"


def hours_to_resolve(answer: Answer, rules: Rules, prices: Prices) -> float | None:
    """About how much more time resolves the least gain, if runs go on to deviate as they did; None if no look would."""
    if math.isnan(answer.deviation) or "generated" not in answer.best:
        return None
    for look, seeds in enumerate(LOOKS, 1):
        if seeds > answer.fresh and resolvable(look, answer.deviation) <= rules.least:
            return 2 * (seeds - answer.fresh) * prices.run / 3600
    return None


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
        "fresh_seeds": answer.fresh,
        "deviation": None if math.isnan(answer.deviation) else round(answer.deviation, 3),
        "best": answer.best,
    }
