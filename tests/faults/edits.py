"""Random damage to a file's bytes, and the clock that an input may take."""

import contextlib
import signal
from collections.abc import Iterator

from hypothesis import strategies as st

PLACES = 2**20
SECONDS = 5.0


@st.composite
def edits(draw, most: int = 3):
    """A list of (kind, place, length, bytes): what `apply` does to some content, whatever its size."""
    one = st.tuples(
        st.sampled_from(("flip", "set", "cut", "drop", "insert", "double", "zero", "number")),
        st.integers(0, PLACES - 1),
        st.integers(1, 64),
        st.binary(min_size=1, max_size=8),
    )
    return draw(st.lists(one, min_size=1, max_size=most))


def apply(content: bytes, changes: list) -> bytes:
    """The content after the changes, one after the other."""
    found = bytearray(content)
    for kind, share, length, new in changes:
        at = len(found) * share // PLACES
        end = min(len(found), at + length)
        if kind == "flip" and found:
            found[at] ^= 1 << length % 8
        elif kind == "set":
            found[at : at + len(new)] = new
        elif kind == "cut":
            del found[at:]
        elif kind == "drop":
            del found[at:end]
        elif kind == "insert":
            found[at:at] = new
        elif kind == "double":
            found[at:at] = found[at:end]
        elif kind == "zero":
            found[at:end] = bytes(end - at)
        elif kind == "number":  # a digit of a text for others: sizes, counts, versions
            digits = [i for i in range(at, len(found)) if 48 <= found[i] < 58][:1]
            for i in digits:
                found[i : i + 1] = b"9" * (length % 12 + 1)
    return bytes(found)


class TooLong(BaseException):
    """No Exception: a reader that takes whatever comes for damage would hide it."""


@contextlib.contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Fail where the block takes longer."""

    def late(number, frame):
        raise TooLong(f"more than {seconds} s")

    kept = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
