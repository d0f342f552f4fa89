"""What a person sees while they wait: what runs, how far it is, how fast, how long still."""

import sys

from tqdm import tqdm

from pipeline.core import processes


def log(message: str) -> None:
    """One line to standard error, above any bar; of several processes the first speaks."""
    if processes.rank() == 0:
        tqdm.write(message, file=sys.stderr)


def bar(what: str, total: int, unit: str, done: int = 0) -> tqdm:
    """A progress bar of `total` units of which `done` were finished by an earlier run.

    On a terminal it moves; in a log it adds a line every ten seconds at most.
    """
    live = sys.stderr.isatty()
    return tqdm(
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
