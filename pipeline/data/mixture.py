"""The mixture of real and generated images: which image stands in which slot of which batch.

Data inflation with re-weighting (AdaInf, ICLR 2024, section 3): a real image is drawn N times as often as a generated
one. Every batch is a pure function of (seed, step), and no list of draws is stored.
"""

import math
from fractions import Fraction

import numpy as np
import torch

from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.core.shares import real_share
from pipeline.params.schema import Inflation


def mixture(
    n_real: int, n_generated: int, params: Inflation, batch_size: int, steps: int, weights: np.ndarray | None = None
) -> "Mixture | Copies":
    """The batches that `params.order` names: our slots, or the authors' list of copies.

    n_generated: images that take part. weights: of `Mixture`.
    """
    common = n_real, n_generated, params.real_weight, batch_size, params.seed
    if params.order == "copies":
        return Copies(*common)
    end = params.final_real_share
    return Mixture(*common, weights=weights, end=None if end is None else (Fraction(str(end)), steps))


def alone(seed: int) -> Inflation:
    """Real images without generated ones."""
    none = {"ratio": 0.0, "score": "none", "select": 1.0, "weighting": "uniform", "final_real_share": None}
    return Inflation(**none, real_weight=1.0, order="slots", seed=seed)


def positives(rows: np.ndarray, n_real: int, n_generated: int, candidates: int, seed: int, step: int) -> np.ndarray:
    """int64 (B,): for each of `rows`, the row of one of its positives in the image bank, drawn anew in each step.

    The bank holds n_real real images, n_generated generated ones and then, candidate by candidate, a positive of each
    real image. A generated image has no positives and is its own.
    """
    drawn = torch.randint(candidates, (len(rows),), generator=seeds.generator(seed, "candidate", step)).numpy()
    return np.where(rows < n_real, n_real + n_generated + drawn * n_real + rows, rows)


def replaced(
    rows: np.ndarray,
    probability: float,
    n_real: int,
    n_generated: int,
    candidates: int,
    seed: int,
    step: int,
    view: int,
) -> np.ndarray:
    """int64 (B,): `rows`, each replaced with this probability by one of its positives, as in `positives`.

    T0 of GenSSL (Ayromlou et al., AAAI 2025, arXiv 2403.05966, section 3). Every view draws independently.
    """
    drawn = torch.rand(len(rows), generator=seeds.generator(seed, "replace", step, view)).numpy() < probability
    others = positives(rows, n_real, n_generated, candidates, seeds.key(seed, "replaced view", view), step)
    return np.where(drawn, others, rows)


class Weighted:
    """Draws of k different entries of range(m), entry j with probability k w_j / sum w, or surely if that exceeds 1.

    weights: float (m,), positive. Systematic sampling (Madow 1949): points at distance 1 on a line where entry j is as
    long as its probability. `every` draws make a pass. It has one line, in a random order, and the first points of its
    draws stand at a random place and 1 / every apart, in a random order. So a pass of draws of k holds an entry as
    often as these probabilities add up to, but for less than one, and a draw takes O(k log m).
    """

    def __init__(self, weights: np.ndarray, seed: int, every: int = 1):
        self.weights, self.seed, self.every = weights, seed, every
        self._number, self._lines = -1, {}

    def rows(self, k: int, draw: int) -> np.ndarray:
        """int64 (k,): the entries of this draw."""
        if not k:
            return np.empty(0, np.int64)
        number, place = divmod(draw, self.every)
        order = seeds.permutation(self.seed, "order", number, len(self.weights), slice(None))
        turn = seeds.permutation(self.seed, "turn", number, self.every, place)
        start = torch.rand((), dtype=torch.float64, generator=seeds.generator(self.seed, "start", number)).item()
        first = (start + turn / self.every) % 1
        found = np.searchsorted(self._line(k, number, order), first + np.arange(k), side="right")
        return order[np.minimum(found, len(order) - 1)]

    def _line(self, k: int, number: int, order: np.ndarray) -> np.ndarray:
        """float64 (m,): where each entry ends; kept while the pass lasts."""
        if number != self._number:
            self._number, self._lines = number, {}
        if k not in self._lines:
            ends = np.cumsum(_chances(self.weights, k)[order])
            self._lines[k] = ends * (k / ends[-1])
        return self._lines[k]


def _chances(weights: np.ndarray, k: int) -> np.ndarray:
    """float64 (m,): each entry's probability to be among k."""
    chance = np.zeros(len(weights))
    free, left = np.ones(len(weights), bool), k
    while left:  # what is certain takes a slot, and the others share the rest
        chance[free] = left * weights[free] / weights[free].sum()
        sure = free & (chance >= 1)
        if not sure.any():
            break
        chance[sure], left = 1.0, left - int(sure.sum())
        free &= ~sure
        chance[free] = 0.0
    return chance


class Mixture:
    """Slots of every batch: real ones first, then generated ones.

    The real share is exactly beta = N n / (N n + m). A batch of B has about beta B real slots; the remainder is carried
    to the next batch, so that the total is off by less than one image after any number of steps. Real and generated
    slots each walk through permutations of their images; no index occurs twice in a batch.

    weights: float (m,), positive; then a batch's k generated slots hold image j with probability k w_j / sum w (or
    always, where that is above 1), and about m slots in a row hold it as often as it weighs. end: (share, steps); then
    the real share moves from beta to this one in a line over so many steps.
    """

    def __init__(
        self,
        n_real: int,
        n_generated: int,
        real_weight: float,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
        end: tuple[Fraction, int] | None = None,
    ):
        self.beta = real_share(n_real, n_generated, real_weight)
        self.n_real, self.n_generated, self.batch_size, self.seed = n_real, n_generated, batch_size, seed
        self.last, self.steps = end or (self.beta, 1)
        self.share = (self.beta + self.last) / 2  # of real images, over all steps
        self.most = {}  # slots of a kind in a batch
        largest = max(self.beta, self.last), 1 - min(self.beta, self.last)
        for kind, share, n in (("real", largest[0], n_real), ("generated", largest[1], n_generated)):
            self.most[kind] = most = math.ceil(share * batch_size)
            if most > n:
                what = f"a batch of {batch_size} needs {most} {kind} images and there are {n}"
                raise UserError(what, "params.yaml: pretrain.batch_size", "lower it, or take more images")
        self.weighted = None
        if weights is not None:
            every = max(1, n_generated // max(1, self.most["generated"]))
            self.weighted = Weighted(weights, seeds.key(seed, "weighted"), every)

    def real_before(self, step: int) -> int:
        """Real slots in all batches before `step`."""
        there = min(step, self.steps)  # the share at step t is beta + (last - beta) t / steps: here its integral
        share = self.beta * step + (self.last - self.beta) * (Fraction(there**2, 2 * self.steps) + step - there)
        return int(share * self.batch_size + Fraction(1, 2))

    def rows(self, step: int) -> np.ndarray:
        """int64 (B,): rows of the image bank for batch `step`; rows >= n_real are generated images."""
        first, last = self.real_before(step), self.real_before(step + 1)
        real = self._walk("real", self.n_real, first, last)
        first, last = step * self.batch_size - first, (step + 1) * self.batch_size - last
        if self.weighted is None:
            generated = self._walk("generated", self.n_generated, first, last)
        else:
            generated = self.weighted.rows(last - first, step)
        return np.concatenate([real, self.n_real + generated])

    def _walk(self, kind: str, n: int, first: int, last: int) -> np.ndarray:
        """Places first..last-1 of an endless walk over range(n), each pass a permutation of it."""
        places = np.arange(first, last)
        if first == last:
            return places
        if n < 3 * self.most[kind]:  # passes of about a batch: one permutation, repeated, has no equals in n places
            return seeds.permutation(self.seed, kind, 0, n, places % n)
        passes = [
            self._pass(kind, n, number, places[places // n == number] - number * n)
            for number in range(first // n, (last - 1) // n + 1)
        ]
        return np.concatenate(passes)

    def _pass(self, kind: str, n: int, number: int, places: np.ndarray) -> np.ndarray:
        """Entries at some places, in order, of pass `number`.

        A batch may straddle two passes and must not hold an image twice. So the head of a pass (as many places as slots
        in a batch) must not share images with the tail of the pass before: twice as many places are reordered, images
        that are not in that tail first.
        """
        slots, entries = self.most[kind], seeds.permutation(self.seed, kind, number, n, places)
        if number == 0 or places[0] >= 2 * slots:
            return entries
        head = seeds.permutation(self.seed, kind, number, n, np.arange(2 * slots))
        tail = seeds.permutation(self.seed, kind, number - 1, n, np.arange(n - slots, n))
        taken = np.isin(head, tail)
        clear = np.flatnonzero(~taken)[:slots]
        head = np.concatenate([head[clear], np.delete(head, clear)])
        inside = places < 2 * slots
        entries[inside] = head[places[inside]]
        return entries


class Copies:
    """Batches as the authors draw them: a shuffled list of N copies of each real image and one of each generated one.

    main_pretrain.py of PKU-ML/adainf@233a6bd. The real share is beta on average, but not in each batch, and a batch may
    hold an image twice, which is then its own negative. Only for comparison with `Mixture`.
    """

    def __init__(self, n_real: int, n_generated: int, real_weight: float, batch_size: int, seed: int):
        self.copies = int(real_weight) * n_real
        self.length = self.copies + n_generated
        self.beta = self.share = Fraction(self.copies, self.length)
        self.n_real, self.n_generated, self.batch_size, self.seed = n_real, n_generated, batch_size, seed

    def real_before(self, step: int) -> int:
        """Real images in all batches before `step`; O(length)."""
        passes, rest = divmod(step * self.batch_size, self.length)
        return passes * self.copies + int((self._list(passes, np.arange(rest)) < self.n_real).sum())

    def rows(self, step: int) -> np.ndarray:
        """int64 (B,): rows of the image bank for batch `step`; rows >= n_real are generated images."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        numbers = places // self.length
        each = [self._list(number, places[numbers == number] % self.length) for number in np.unique(numbers)]
        return np.concatenate(each)

    def _list(self, number: int, places: np.ndarray) -> np.ndarray:
        entries = seeds.permutation(self.seed, "copies", int(number), self.length, places)
        return np.where(entries < self.copies, entries % self.n_real, self.n_real + entries - self.copies)
