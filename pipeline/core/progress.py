"""What a person sees while they wait: what runs, how far it is, how fast, how long still."""

import contextlib
import sys
from collections.abc import Iterator
from weakref import WeakSet

from tqdm import tqdm

from pipeline.core import processes

_open: WeakSet[tqdm] = WeakSet()


def log(message: str, all_speak: bool = False) -> None:
    """One line to standard error, above any bar; of several processes the first speaks, or all."""
    if all_speak or processes.rank() == 0:
        tqdm.write(message, file=sys.stderr)


def bar(what: str, total: int, unit: str, done: int = 0) -> tqdm:
    """A progress bar of `total` units of which `done` were finished by an earlier run.

    On a terminal it moves; in a log it adds a line every ten seconds at most.
    """
    live = sys.stderr.isatty()
    moving = tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        file=sys.stderr,
        disable=processes.rank() != 0,
        mininterval=0.2 if live else 10,
        maxinterval=10,
        dynamic_ncols=live,
        ncols=None if live else 100,
    )
    _open.add(moving)
    return moving


@contextlib.contextmanager
def ended_bars() -> Iterator[None]:
    """End the lines of bars that a fault leaves open, so that what is told of it begins a line."""
    try:
        yield
    finally:
        for moving in list(_open):
            moving.close()
