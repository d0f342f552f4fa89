"""How a rung runs: check by check, whatever one of them does, within its time; the JSON grows with every check."""

import json
import math
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from pipeline.core import files, sources
from pipeline.core.errors import Stopped
from pipeline.params import reader
from pipeline.params.schema import Compute, Params

LAST = 12  # lines of a traceback that are kept


@dataclass(frozen=True)
class Setting:
    """Where a rung runs, and whether at sizes that take no time.

    data: the folder of real images; out: where files go; until: when its time is over, by time.monotonic.
    """

    device: str
    toy: bool
    data: Path | None = None
    out: Path = Path()
    until: float = math.inf

    def compute(self, precision: str = "fp32", device: str | None = None) -> Compute:
        """The section `compute` for a check."""
        return Compute(device=device or self.device, precision=precision, threads=1 if self.toy else 8, compile=False)

    def left(self) -> float:
        """Seconds until the time is over."""
        return self.until - time.monotonic()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Raise Stopped inside the block once the time is over; a training saves its checkpoint before."""

        def over(number: int, frame: object) -> None:
            raise Stopped("stopped, as the time is over", number)

        before = signal.signal(signal.SIGTERM, over)
        timer = threading.Timer(min(self.left(), 1e6), os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            signal.signal(signal.SIGTERM, before)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], times: int = 3) -> float:
        """The least time of a work, after one turn to warm up."""
        work()
        found = []
        for _ in range(times):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found)


Check = Callable[[Setting], dict]


@cache
def defaults() -> Params:
    """params.yaml, of which reading takes a moment."""
    return reader.load()


def climb(checks: list[Check], setting: Setting, seconds: float, path: Path) -> list[dict]:
    """A row a check: its facts or its fault, its seconds, and the most GPU memory that it held, in bytes.

    No check starts after `seconds`. Prints the table, and writes it with the machine's facts to `path`.
    """
    facts, rows, start = machine(setting), [], time.monotonic()
    setting = replace(setting, until=start + seconds, out=path.parent)
    for check in checks:
        began = time.monotonic()
        row = {"check": check.__name__, "facts": {}, "fault": "", "seconds": 0.0, "memory": 0}
        if setting.left() < 0:
            row["fault"] = f"not started: {seconds:g} s are over"
        else:
            if setting.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                row["facts"] = check(setting)
            except Stopped as stop:
                if setting.left() > 0:
                    raise
                row["fault"] = str(stop)
            except Exception:
                row["fault"] = "\n".join(traceback.format_exc().splitlines()[-LAST:])
            row["seconds"] = round(time.monotonic() - began, 2)
            row["memory"] = torch.cuda.max_memory_allocated() if setting.device == "cuda" else 0
        rows.append(row)
        print(told(row), flush=True)
        files.write_text(path, json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    print(f"{len(rows)} checks in {time.monotonic() - start:.0f} s, {sum(bool(r['fault']) for r in rows)} with a fault")
    return rows


def told(row: dict) -> str:
    """A check in lines, for people."""
    head = f"{row['check']:<16} {row['seconds']:7.1f} s {row['memory'] / 1e6:9,.0f} MB"
    if row["fault"]:
        return f"{head}  FAULT\n{row['fault']}"
    return "\n".join([head, *(f"    {name:<28} {value}" for name, value in row["facts"].items())])


def machine(setting: Setting) -> dict:
    """What the numbers are of."""
    card = torch.cuda.get_device_name() if setting.device == "cuda" else ""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    return {"device": setting.device, "card": card, "toy": setting.toy, "commit": sources.commit(), **versions}
