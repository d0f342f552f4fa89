"""Which process of its job this one is, as torchrun and accelerate tell it: RANK and WORLD_SIZE."""

import os


def rank() -> int:
    """The number of this process in its job, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def alone() -> None:
    """From here on this process, the first of its job, works by itself; the others have left."""
    os.environ["WORLD_SIZE"] = "1"


class Alone:
    """A job of one process, as `core.store` wants it; engine.distributed is the other."""

    def first(self) -> bool:
        """It leads."""
        return True

    def agreed(self, value: object) -> object:
        """Its own value."""
        return value

    def differ(self, value: object) -> bool:
        """It cannot."""
        return False

    def wait(self) -> None:
        """For nobody."""


ALONE = Alone()
