"""Which process of its job this one is, by RANK and WORLD_SIZE of torchrun and accelerate; signals that stop it."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator


def rank() -> int:
    """The number of this process in its job, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def alone() -> None:
    """From here on this process, the first of its job, works by itself; the others have left."""
    os.environ["WORLD_SIZE"] = "1"


def end_with_parent() -> None:
    """Let this process of multiprocessing end when the one that started it has, also by SIGKILL.

    It would wait at a pipe for ever, whose other end it holds itself.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def signals(act: Callable[[int], None] = lambda number: None) -> Iterator[list[int]]:
    """Collect the numbers of SIGINT and SIGTERM inside the block, instead of being stopped; call `act` at each."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        act(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
