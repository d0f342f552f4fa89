"""A training's log while it runs: the CSV that `dvc plots show` draws, and TensorBoard for who asks for it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import UserError

EVERY = 5.0  # seconds between two writings of the CSV
BOARD = "LEAVEN_TENSORBOARD"  # a folder for TensorBoard's event files


def follow(name: str, write: Callable[[list[dict]], None]) -> Callable[[list[dict]], None]:
    """What a training shows its log to, as it grows: written every few seconds, each new row to $LEAVEN_TENSORBOARD.

    write: makes plots/NAME.csv. One of an earlier run stays until this one is done, if DVC has not taken it away. The
    last rows are not written here: whoever trains writes the whole log when it is done.
    """
    board, last = _board(name), -EVERY
    older = Path("plots", f"{name}.csv").exists()

    def seen(rows: list[dict]) -> None:
        nonlocal last
        if not older and time.monotonic() - last >= EVERY:
            write(rows)
            last = time.monotonic()
        board(rows[-1])

    return seen


def _board(name: str) -> Callable[[dict], None]:
    """What adds a row to TensorBoard's files, or does nothing."""
    folder = os.environ.get(BOARD)
    if not folder:
        return lambda row: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as fault:
        raise UserError(f"wants {fault.name}", BOARD, "pip install tensorboard, or unset it") from fault
    place = Path(os.environ.get("DVC_ROOT", "."), folder, time.strftime(f"{name}-%Y%m%d-%H%M%S"))
    boards: list[SummaryWriter] = []  # one, made at the first row: work that is found in the store has none

    def add(row: dict) -> None:
        boards.extend([] if boards else [SummaryWriter(place)])
        for key, value in row.items():
            if key != "step":
                boards[0].add_scalar(f"{name}/{key}", value, row["step"])
        boards[0].flush()

    return add
