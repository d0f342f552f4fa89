"""Runs the missing cells of a study: each is a DVC experiment in a temporary copy, its numbers a row of the CSV.

A stopped cell goes on from its checkpoint, which is in the store. A finished one never runs again.
"""

import functools
import math
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.core import files, processes
from pipeline.core.errors import Stopped, UserError, UserErrors
from pipeline.core.progress import log
from pipeline.params import presets, reader
from pipeline.run import copies
from pipeline.study import cells, rows
from pipeline.study.experiment import PATIENCE, Experiment, Wanted

Start = Callable[[str, Wanted, str], Experiment]  # a study's name, a cell and a commit -> the cell, running


class CellsFailed(UserError):
    """Cells of a study failed; there may be others that were not run. labels: of those that failed."""

    def __init__(self, failed: dict[str, str], study: str):
        super().__init__(f"failed, {len(failed)} of the cells: {'; '.join(failed)}", study, "see above", code=1)
        self.labels = frozenset(failed)


def wanted(study: cells.Study) -> list[Wanted]:
    """Every cell of a study, in order."""
    base, digest = reader.load(), functools.cache(cells.content)
    resolved = [(cell, cells.resolve(cell, base)) for cell in study.cells]
    return [Wanted(cell, params, cells.key(params, digest)) for cell, params in resolved]


def missing(asked: list[Wanted]) -> list[Wanted]:
    """Cells whose key no row of any study has; each key once."""
    done, found = {row["key"] for row in rows.everywhere()}, []
    for one in asked:
        if one.key not in done:
            done.add(one.key)
            found.append(one)
    return found


def adopt(study: cells.Study, asked: list[Wanted]) -> None:
    """Copy rows of other studies, and of other cells of this one, for cells with the same key."""
    here = {(row["cell"], row["key"]) for row in rows.read(study.memory)}
    known = {row["key"]: row for row in rows.everywhere()}
    for one in asked:
        if one.key in known and (one.cell.name, one.key) not in here:
            here.add((one.cell.name, one.key))
            rows.add(study.memory, known[one.key] | {"label": one.cell.label, "cell": one.cell.name})


def pace(known: list[dict]) -> Callable[[Wanted], float | None]:
    """About how many seconds a cell takes: by the median time an image of rows with its method and width, else of all.

    None if there is no row yet.
    """
    each: dict[tuple[str, str], list[float]] = {}
    for row in known:
        each.setdefault((row["method"], row["width"]), []).append(float(row["seconds"]) / int(row["images"]))
    median = {of: statistics.median(found) for of, found in each.items()}
    overall = statistics.median(time for found in each.values() for time in found) if each else None

    def seconds(one: Wanted) -> float | None:
        t = one.params.pretrain
        image = median.get((t.method, str(t.backbone.width or "")), overall)
        return None if image is None else image * t.steps * t.batch_size

    return seconds


def plan(study: cells.Study) -> str:
    """A line for each part: its cells, how many are missing, and about how long these take one after the other."""
    asked, seconds = wanted(study), pace(rows.everywhere())
    lacking = missing(asked)
    lines = [f"{study.file.title}", f"  {'part':<14} {'cells':>6} {'missing':>8} {'minutes':>8}  asks"]
    every: list[float | None] = []
    for name, part in study.file.parts.items():
        each = [seconds(one) for one in lacking if one.cell.part == name]
        every += each
        cost = f"{sum(each) / 60:.0f}" if None not in each else "?"
        count = sum(cell.part == name for cell in study.cells)
        lines.append(f"  {name:<14} {count:>6} {len(each):>8} {cost:>8}  {part.asks}")
    if lacking and len(study.file.parts) > 1:
        cost = f"{sum(every) / 60:.0f}" if None not in every else "?"
        lines.append(f"  {'in all':<14} {len(study.cells):>6} {len(every):>8} {cost:>8}")
    names = {one.cell.name for one in lacking}
    stale = sum(row["cell"] in names for row in rows.read(study.memory))
    if stale:
        lines.append(f"  {stale} rows are of cells that count as missing: other code or another params.yaml made them")
    return "\n".join(lines)


def run(study: cells.Study, parts: list[str] | None, minutes: float, jobs: int, start: Start | None = None) -> None:
    """Run missing cells, `jobs` experiments at a time, for so many minutes; each row is written when its cell ends.

    If a cell fails, the others go on. A cell that would not end in time is not started, unless it is the first. start:
    how a cell is run; None: here, and it sees all GPUs.
    """
    unknown = sorted(set(parts or ()) - set(study.file.parts))
    if unknown:
        raise UserError(f"no part {', '.join(unknown)}", study.name, f"there are {', '.join(study.file.parts)}")
    if not (minutes > 0 and math.isfinite(minutes) and jobs > 0):
        raise UserError("must be above 0", "--minutes and --jobs")
    with files.lock(Path(".dvc/tmp/studies.lock"), "a study in this clone"), processes.signals() as signals:
        began, end = rows.commit(), time.monotonic() + 60 * minutes
        asked = [one for one in wanted(study) if parts is None or one.cell.part in parts]
        _ready(study, asked)
        adopt(study, asked)
        todo = missing(asked)
        log(f"study {study.name}: {len(todo)} of {len(asked)} cells to run, for {minutes:g} minutes")
        running: list[Experiment] = []
        failed, first, begun, most, fits = {}, True, False, jobs, True
        try:
            while True:
                if not all(experiment.settled() for experiment in running):
                    time.sleep(0.2)
                    continue
                stopping = bool(signals) or time.monotonic() >= end
                begun = begun or any(experiment.begun() for experiment in running)
                free = fits and not stopping and len(running) < (most if begun else 1)
                chosen = _affordable(todo, end - time.monotonic(), anyway=first) if free else None
                if free:
                    fits = chosen is not None  # what does not fit now does not later, unless a row says otherwise
                if chosen is not None:
                    commit = _current(began)
                    try:
                        running.append((start or Experiment)(study.name, chosen, commit))
                    except UserError as fault:  # a full queue, say
                        if not running and not signals:
                            raise
                        if not signals and len(running) != most:
                            log(f"{chosen.cell.label}: {fault}; it waits until another has ended")
                        most = len(running)
                        continue
                    todo.remove(chosen)
                    first, most = False, jobs
                    continue
                if not running:
                    break
                if stopping:
                    _stop(running)
                for experiment in [e for e in running if e.code() is not None]:
                    _current(began)
                    running.remove(experiment)
                    most, fits = jobs, True
                    label = experiment.one.cell.label
                    if experiment.code() == 0:
                        row = experiment.row()
                        rows.add(study.memory, row)
                        adopt(study, asked)
                        outcome = next((f"{row[name]:.2f}" for name in ("top1_labelled", "rankme") if name in row), "")
                        log(f"{label}: {outcome} in {row['seconds']:.0f} s; {len(todo)} to start")
                    elif stopping:
                        experiment.keep_time()
                        log(f"{label}: stopped")
                    else:
                        failed[label] = experiment.fault()
                        if not begun:  # it is the clone, or the cluster, not the cell
                            what = f"no cell begins: {failed[label]}"
                            raise UserError(what, study.name, "mend that, then run the same command again")
                        log(f"{label}: {failed[label]}")
                time.sleep(0.2)
        finally:
            _stop(running)
            for experiment in running:  # of a run that was broken off
                experiment.keep_time()
        left = len(missing(asked))
        log(f"{study.memory}: {left} of {len(asked)} cells missing; commit it")
    if signals:
        raise Stopped(f"stopped; `leaven study run {study.name}` goes on", signals[0])
    if failed:
        raise CellsFailed(failed, study.name)


def _affordable(todo: list[Wanted], left: float, anyway: bool) -> Wanted | None:
    """The first cell that, judging by rows so far, ends within `left` seconds; else the first one if `anyway`."""
    seconds = pace(rows.everywhere())
    fitting = (one for one in todo if (seconds(one) or 0) <= left)
    return next(fitting, todo[0] if todo and anyway else None)


def _ready(study: cells.Study, asked: list[Wanted]) -> None:
    """Refuse, before the first cell, what would lose its numbers or fail in every one."""
    for one in asked:
        _refuse_words(one)
    copies.refuse_shallow()
    with files.disk_faults(study.memory), tempfile.TemporaryFile(dir=study.memory.parent):
        pass
    faults = {str(fault): fault for one in asked for fault in copies.absent(one.params, copied=True)}
    if faults:
        raise UserErrors(list(faults.values()))


def _refuse_words(one: Wanted) -> None:
    try:
        presets.words(one.cell.values)
    except UserError as fault:
        raise UserError(fault.what, one.cell.label, "write it without blanks and quotes") from fault


def _current(began: str) -> str:
    """Today's commit; UserError if its code or parameters are not those of the one at which the study began."""
    commit = rows.commit()
    if commit != began and not rows.alike(began, commit):
        what = "other code or parameters than when the study began"
        raise UserError(what, "HEAD", "run the same command again")
    return commit


def _stop(running: list[Experiment]) -> None:
    """Interrupt all, as Ctrl-C does: stages save and end, DVC removes its copies. Kill what takes too long."""
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, PATIENCE)):
        for experiment in running:
            experiment.interrupt(number)
        end = time.monotonic() + patience
        while any(experiment.code() is None for experiment in running) and time.monotonic() < end:
            time.sleep(0.1)
