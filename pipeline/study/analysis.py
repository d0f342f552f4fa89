"""Statistics of a study, from its CSV alone: means, paired differences with intervals, best strengths, rankings.

A part is a randomised complete block design. Its seeds are the blocks, because all arms share a seed's initial weights
and order of images. Arm and seed effects are fitted by least squares; intervals are Student's t intervals with the
residual's degrees of freedom.
"""

import functools
import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.study import rows
from pipeline.study.cells import OUTCOME, Study

STRENGTH = "augment.strength"
# Measures without labels, and the sign that a better encoder should have according to their papers. Connectivity:
# according to AdaInf's theory, in which classes separate more easily if augmentation connects images. clid: the sum of
# the two of CLID, each in standard deviations over the arms (Lu et al., TMLR 2023).
EXPECTED = {"rankme": 1, "lidar": 1, "alignment": -1, "uniformity": -1, "connectivity": 1, "rotation": 1, "clid": 1}
CLID = ["cluster_learnability", "intrinsic_dimension"]
_POWER = 0.8
# Decimals in which a fit is the same on all processors: noise beyond them would decide ties, and how a half is rounded.
_EXACT = 9


@functools.cache  # scipy takes a tenth of a millisecond, and a race asks for the same few again and again
def quantile(confidence: float, df: int) -> float:
    """t with P(|T| < t) = confidence, of Student's distribution with df degrees of freedom."""
    from scipy import stats  # of the extra `report`

    return float(stats.t.ppf((1 + confidence) / 2, df))


@dataclass(frozen=True)
class Difference:
    """A contrast in the outcome's unit (percentages: points), its 95 % interval, and `visible`, the smallest true
    difference that would be found 4 times in 5 (a power of 80 %)."""

    points: float
    low: float
    high: float
    visible: float

    @property
    def half(self) -> float:
        """Half the interval's length."""
        return self.high - self.points

    @property
    def verdict(self) -> str:
        """better, worse, or not resolved."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not resolved"


class Blocks:
    """The least-squares fit of arm + block to one number per cell; cells may be missing.

    values: (arm, block) -> number; a block is a seed, or a seed at one point of a grid. residual: what the fit leaves
    of each number, in their order.
    """

    def __init__(self, values: dict[tuple[str, Hashable], float]):
        self.arms, blocks = sorted({arm for arm, _ in values}), sorted({block for _, block in values})
        column = {name: i for i, name in enumerate((*self.arms, *((block,) for block in blocks)))}
        x = np.zeros((len(values), len(column)))
        for i, (arm, block) in enumerate(values):
            x[i, column[arm]] = x[i, column[(block,)]] = 1
        y = np.array(list(values.values()))
        self.gram = x.T @ x
        self.inverse = np.linalg.pinv(self.gram, rcond=1e-10, hermitian=True)  # singular: the mean is in both
        self.effects = (self.inverse @ x.T @ y).round(_EXACT)
        self.df = len(y) - round(np.trace(self.inverse @ self.gram))  # the trace of a projection is its rank
        self.residual = y - x @ self.effects
        self.variance = float(self.residual @ self.residual) / self.df if self.df else math.nan

    def contrast(self, weights: dict[str, float]) -> Difference:
        """The weighted sum of arms' effects; weights add up to 0. NaN if no block connects the arms."""
        c = np.zeros(len(self.effects))
        for arm, weight in weights.items():
            c[self.arms.index(arm)] += weight
        if np.abs(c @ self.inverse @ self.gram - c).max() > 1e-6:
            return Difference(math.nan, -math.inf, math.inf, math.inf)
        points = round(float(c @ self.effects), _EXACT)
        if not self.df:
            return Difference(points, -math.inf, math.inf, math.inf)
        error = math.sqrt(self.variance * float(c @ self.inverse @ c))
        half = quantile(0.95, self.df) * error
        return Difference(points, points - half, points + half, half + quantile(2 * _POWER - 1, self.df) * error)

    def best(self, curve: dict[float, str]) -> tuple[float, float, float]:
        """The strength at which the parabola through the arms is highest, and its 95 % interval.

        curve: strength -> arm; the parabola is in log2(strength). The interval has all strengths at which the slope
        is not significantly different from 0 (Fieller 1954), within the range that was tried. If the parabola does not
        bend down, it is that whole range.
        """
        x, to, pick = self._parabola(curve)
        if math.isnan(self.contrast(slope(curve)).points):  # no seed connects its arms
            return math.nan, float(2 ** x[0]), float(2 ** x[-1])
        _, b, c = to @ pick @ self.effects
        places = np.linspace(x[0], x[-1], 1001)
        if c >= 0 or not self.df:
            return tuple(float(2**place) for place in (x[np.argmax(pick @ self.effects)], x[0], x[-1]))
        rises = np.stack([np.zeros_like(places), np.ones_like(places), 2 * places], axis=1) @ to @ pick
        error = np.sqrt(self.variance * np.einsum("ij,jk,ik->i", rises, self.inverse, rises))
        kept = places[np.abs(rises @ self.effects) <= quantile(0.95, self.df) * error]
        top = np.clip(-b / (2 * c), x[0], x[-1])
        return tuple(float(2**place) for place in (top, min(kept, default=top), max(kept, default=top)))

    def misfit(self, curve: dict[float, str]) -> float:
        """The largest distance of an arm from the parabola of `best`, in points; 0 for three arms."""
        x, to, pick = self._parabola(curve)
        effects = pick @ self.effects
        return float(np.abs(effects - np.vander(x, 3, increasing=True) @ to @ effects).max())

    def _parabola(self, curve: dict[float, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log2 of the strengths; the matrix from these arms' effects to coefficients; the one that picks these."""
        strengths = sorted(curve)
        pick = np.zeros((len(strengths), len(self.effects)))
        for i, strength in enumerate(strengths):
            pick[i, self.arms.index(curve[strength])] = 1
        x = np.log2(strengths)
        return x, np.linalg.pinv(np.vander(x, 3, increasing=True)), pick


def frame(study: Study) -> pd.DataFrame:
    """A row for each finished cell, with its part, arm, seed and point. Of several rows of a cell, the last counts."""
    known = {row["cell"]: row for row in rows.read(study.memory)}
    found = [
        {**known[cell.name], "part": cell.part, "arm": cell.arm, "of": cell.of, "seed": cell.seed, "point": cell.point}
        for cell in study.cells
        if cell.name in known
    ]
    data = pd.DataFrame(found, columns=[*rows.COLUMNS, "part", "arm", "of", "point"])
    return data.assign(**data[rows.NUMBERS].apply(pd.to_numeric))


def fitted(data: pd.DataFrame, outcome: str = OUTCOME, within: bool = False) -> Blocks:
    """The fit to one part's rows; within: a seed is a separate block at each point of the grid."""
    data = data.dropna(subset=[outcome])
    places = [tuple(point.values()) if within else () for point in data.point]
    blocks = zip(data.arm, data.seed, places, strict=True)
    return Blocks({(arm, (seed, *place)): y for (arm, seed, place), y in zip(blocks, data[outcome], strict=True)})


def differences(data: pd.DataFrame, against: str, outcome: str = OUTCOME) -> tuple[dict[str, Difference], Blocks]:
    """Every other arm of a part minus `against`, and the fit that this comes from.

    Where `against` is an arm over a grid, each arm is compared with it at the same point. Arms without the outcome are
    left out.
    """
    data = data.dropna(subset=[outcome])
    one = against in set(data.arm)
    blocks = fitted(data, outcome, within=not one)
    at = {tuple(row.point.items()): row.arm for row in data.itertuples() if row.of == against}
    found = {}
    for arm, point in {row.arm: tuple(row.point.items()) for row in data.itertuples()}.items():
        partner = against if one else at.get(point)
        if partner not in (None, arm):
            found[arm] = blocks.contrast({arm: 1, partner: -1})
    return found, blocks


def contrasts(data: pd.DataFrame, wanted: dict[str, dict[str, float]], outcome: str = OUTCOME) -> dict[str, Difference]:
    """Further comparisons of a part, if all their arms have the outcome; seeds are the blocks."""
    blocks = fitted(data, outcome)
    return {words: blocks.contrast(weights) for words, weights in wanted.items() if set(weights) <= set(blocks.arms)}


@dataclass(frozen=True)
class Decomposition:
    """Where a gain comes from: the best arm of each kind in a part, and the differences between them.

    none has no generated images, ceiling further real ones in their place, generated those of a generator, if there is
    such an arm. more: ceiling - none, what perfect images bring. gain: generated - none. wrong: generated - ceiling,
    what is lost as they are not perfect; gain = more + wrong.
    """

    none: str
    ceiling: str
    generated: str | None
    more: Difference
    gain: Difference | None
    wrong: Difference | None


def decomposed(data: pd.DataFrame, outcome: str = OUTCOME) -> Decomposition | None:
    """A part's decomposition; None unless it has an arm without generated images and one with a ceiling.

    The best of a kind is the one with the highest fitted effect.
    """
    blocks, best = fitted(data, outcome), {}
    alone = (data.ratio == 0) & (data.positives == "none") & ~(data["replace"] > 0) & (data.method != "joint_gan")
    kind = np.where(alone, "none", np.where(data.source == "real", "ceiling", "generated"))
    for of, arm in zip(kind, data.arm, strict=True):
        if arm in blocks.arms:
            best[of] = max(best.get(of, arm), arm, key=lambda arm: blocks.effects[blocks.arms.index(arm)])
    if not {"none", "ceiling"} <= best.keys():
        return None

    def between(one: str, other: str) -> Difference:
        return blocks.contrast({best[one]: 1, best[other]: -1})

    made = "generated" in best
    gain, wrong = (between("generated", other) if made else None for other in ("none", "ceiling"))
    return Decomposition(best["none"], best["ceiling"], best.get("generated"), between("ceiling", "none"), gain, wrong)


def curves(data: pd.DataFrame, outcome: str = OUTCOME) -> dict[str, dict[float, str]]:
    """For a part with a grid of strengths: the rest of the setting -> strength -> arm. 0 is left out: no logarithm."""
    found: dict[str, dict[float, str]] = {}
    data = data.dropna(subset=[outcome])
    for arm, point in zip(data.arm, data.point, strict=True):
        if point.get(STRENGTH):
            rest = ", ".join(word for word in arm.split(", ") if not word.startswith("strength "))
            found.setdefault(rest, {})[float(point[STRENGTH])] = arm
    return {rest: curve for rest, curve in found.items() if len(curve) > 2}


def slope(curve: dict[float, str]) -> dict[str, float]:
    """The arms' weights in the slope of the straight line over log2(strength), in points per doubling."""
    x = np.log2(list(curve))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return dict(zip(curve.values(), weights.tolist(), strict=True))


def ranking(data: pd.DataFrame, outcome: str = OUTCOME) -> pd.DataFrame:
    """How well measures without labels order a part's arms (means over seeds).

    rho: Spearman's rank correlation with the outcome, times the expected sign. regret: points lost by taking the arm
    that the measure likes best. Both are NaN for a measure that an arm lacks. Arms without the outcome do not count.
    """
    data = data.dropna(subset=[outcome])
    names = list(data.arm.unique())
    there = data.groupby("arm")[[outcome, *rows.LABEL_FREE]].count().min()
    # Fitted effects, not plain means: a seed that an arm lacks is not held against it.
    fits = {name: fitted(data, name) for name in there.index if there[name] > 0}
    means = pd.DataFrame({n: [f.effects[f.arms.index(arm)] for arm in names] for n, f in fits.items()}, index=names)
    if set(CLID) <= set(means):
        apart = means[CLID] - means[CLID].mean()
        means["clid"] = (apart / means[CLID].std(ddof=0).replace(0, 1)).sum(axis=1)
    found = []
    for name, sign in EXPECTED.items():
        if name not in means:
            found.append({"measure": name, "arms": len(means), "rho": math.nan, "regret": math.nan})
            continue
        rho = sign * means[name].rank().corr(means[outcome].rank()) if len(means) > 2 else math.nan
        regret = means[outcome].max() - means[outcome][(sign * means[name]).idxmax()]
        found.append({"measure": name, "arms": len(means), "rho": rho, "regret": regret})
    return pd.DataFrame(found)


def chance(arms: int) -> float:
    """The absolute rank correlation that 95 % of random orders of so many arms stay within; 1: any may be chance.

    Up to 8 arms from all orders; above by t = rho sqrt((n - 2) / (1 - rho^2)), which is .02 too low at 9 arms.
    """
    if arms > 8:
        t = quantile(0.95, arms - 2)
        return t / math.sqrt(arms - 2 + t * t)
    orders = np.array(list(itertools.permutations(range(arms))))
    apart = ((orders - np.arange(arms)) ** 2).sum(axis=1)
    rho = np.abs(1 - 6 * apart / (arms * (arms**2 - 1)))
    steps = np.unique(rho.round(9))
    return float(next(step for step in steps if (rho > step + 1e-6).mean() <= 0.05))
