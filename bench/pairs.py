"""Speed as a ratio: two ways of the same work by turns, A B A B, and the median of the pairs' ratios.

Absolute times of a shared machine mean little; what ran a moment before or after on the same machine can be compared.
A peer runs apart, in a process of its own, as its users have it: with as many threads, and no other setting of ours.
"""

import contextlib
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import torch

from pipeline.engine import arithmetic
from pipeline.params import reader
from pipeline.params.schema import Params

PAIRS = 5


@functools.cache
def setting() -> Params:
    """The committed parameters, in the precision that is notably faster here: what the first run advises."""
    given = reader.load()
    return given.model_copy(update={"compute": arithmetic.faster(given.compute)})


@dataclass
class Row:
    """One line of the table. ratio: how many times faster ours is, or with `at_most` how many times as long it takes.

    target None: reported only. pairs: seconds of (ours, peer), in the order that they ran.
    """

    name: str
    ratio: float
    target: float | None
    met: bool
    pairs: list[tuple[float, float]]
    note: str = ""
    facts: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """For people."""
        wanted = "" if self.target is None else f"{self.target:g} {'met' if self.met else 'MISSED'}"
        spread = sorted(_ratio(pair, self.facts.get("at_most")) for pair in self.pairs)
        between = f"{spread[0]:.2f} to {spread[-1]:.2f}" if spread else ""
        return f"{self.name:<22} {self.ratio:8.2f}  {between:<16} {wanted:<12} {self.note}"


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    target: float | None,
    at_most: bool = False,
    pairs: int = PAIRS,
    note: str = "",
) -> Row:
    """Time both by turns after a warm-up of each; `at_most`: the ratio is ours / peer, and not to exceed the target."""
    ours(), peer()
    found = [(_seconds(ours), _seconds(peer)) for _ in range(pairs)]
    ratio = statistics.median(_ratio(pair, at_most) for pair in found)
    met = target is None or (ratio <= target if at_most else ratio >= target)
    return Row(name, ratio, target, met, found, note, {"at_most": float(at_most)})


@contextlib.contextmanager
def apart(factory: Callable[..., Callable[[], object]], *words: object) -> Iterator[Callable[[], None]]:
    """A peer in a process of its own: factory(*words) there gives the callable that is timed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare, (factory, words)) as process:
        yield lambda: process.submit(_turn).result()


def _prepare(factory: Callable[..., Callable[[], object]], words: tuple) -> None:
    global _work
    torch.set_num_threads(reader.load().compute.threads)
    _work = factory(*words)


def _turn() -> None:
    _work()


def _ratio(pair: tuple[float, float], at_most: object) -> float:
    ours, peer = pair
    return ours / peer if at_most else peer / ours


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
