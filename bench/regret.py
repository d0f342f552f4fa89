"""What following `leaven recommend` costs: real races against a grid of the same arms on seeds that no race has seen.

python -m bench.regret

Reads studies/grids.csv, a part for each set, and studies/races, of the same names. Nothing is run.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.params import reader
from pipeline.recommend import arms, race
from pipeline.study import analysis, cells, rows
from pipeline.study.analysis import Blocks, Difference

RACES = cells.FOLDER / "races"
SHARE = 1 / 3  # of the grid's cost, after which the race is looked at, too


@dataclass(frozen=True)
class Raced:
    """A race's arms, its runs in the order in which they ended, and what a short one costs, in whole ones.

    Seconds of different days are not compared: a short run's share of a whole one's is of this race alone, medians of
    both. The generator is not counted, which a grid needs, too.
    """

    arms: race.Arms
    results: race.Results
    short: float

    def cost(self, run: race.Run) -> float:
        """In runs of the whole length."""
        return self.short if run.heat == "short" else 1.0

    @property
    def answer(self) -> race.Answer:
        """What it says, by the rules of `leaven recommend`."""
        return race.answer(self.arms, self.results, race.Rules())

    @property
    def whole(self) -> float:
        """The race's cost, in runs of the whole length."""
        return sum(map(self.cost, self.results))

    def within(self, most: float) -> race.Results:
        """The first runs, as long as they cost no more."""
        spent, found = 0.0, {}
        for run, result in self.results.items():
            spent += self.cost(run)
            if spent > most:
                break
            found[run] = result
        return found


def raced(path: Path) -> Raced:
    """The race of a study's file, whose CSV lies beside it."""
    study = cells.read(path.stem, reader.text_of(path))
    known = {cell.name: cell for cell in study.cells}
    there = [(known[row["cell"]], row) for row in rows.read(path.with_suffix(".csv")) if row["cell"] in known]
    results = {
        race.Run(cell.part, cell.arm, cell.seed): race.Result(float(row["validation"]), float(row[cells.OUTCOME]))
        for cell, row in there
    }
    seconds = [[float(row["seconds"]) for cell, row in there if (cell.part == "short") is of] for of in (True, False)]
    short = statistics.median(seconds[0]) / statistics.median(seconds[1]) if all(seconds) else 1.0
    return Raced({cell.arm: arms.of(cell) for cell in study.cells}, results, short)


def best(data: pd.DataFrame) -> str:
    """The arm that the whole grid would take: by validation images, as a race chooses, so not by what judges it."""
    fit = analysis.fitted(data, "validation")
    return max(fit.arms, key=lambda arm: fit.effects[fit.arms.index(arm)])


def regret(grid: Blocks, taken: str, chosen: str) -> Difference:
    """The arm that the grid takes minus another that a race chose, in points of top-1 on the grid's test images."""
    return grid.contrast({taken: 1, chosen: -1})


def gain(grid: Blocks, answer: race.Answer) -> Difference:
    """What the grid says of the two arms that the race's answer compares."""
    return grid.contrast({answer.best["generated"]: 1, answer.best["none"]: -1})


def line(name: str, found: Raced, data: pd.DataFrame) -> str:
    """A set's row of the table. data: the grid's rows of that set."""
    grid, answer = analysis.fitted(data), found.answer
    early = race.answer(found.arms, found.within(SHARE * len(data)), race.Rules()).chosen
    taken = best(data)
    said = [name, answer.word, _told(answer.gain), _told(gain(grid, answer)), taken, answer.chosen]
    said += [_regret(grid, taken, answer.chosen), f"{found.whole / len(data):.2f}", _regret(grid, taken, early)]
    return f"| {' | '.join(said)} |"


def alone(name: str, found: Raced) -> str:
    """A race that no grid is of, in a row."""
    answer = found.answer
    ceiling = _told(answer.more) if answer.more else "none"
    said = [name, answer.word, _told(answer.gain), ceiling, f"{len(found.results)}", f"{found.whole:.0f}"]
    return f"| {' | '.join(said)} |"


def _regret(grid: Blocks, taken: str, chosen: str | None) -> str:
    if chosen is None:
        return "no arm yet"
    return "0 (the same arm)" if chosen == taken else _told(regret(grid, taken, chosen))


def _told(d: Difference) -> str:
    return f"{d.points:+.1f} ({d.low:+.1f} to {d.high:+.1f})"


def main() -> None:
    """Print the table, and one of the races that have no grid."""
    data = analysis.frame(cells.load("grids"))
    grids = dict(list(data.groupby("part")))
    races = {path.stem: raced(path) for path in RACES.glob("*.yaml")}
    races = {name: found for name, found in races.items() if found.answer.gain is not None}  # or broken off too early
    _head("set | the race says | its gain | by the grid | the grid takes | the race takes | regret | cost | at a third")
    for name in sorted(grids.keys() & races.keys()):
        print(line(name, races[name], grids[name]))
    print()
    _head("race | says | gain | ceiling | runs | in whole ones")
    for name in sorted(races.keys() - grids.keys()):
        print(alone(name, races[name]))


def _head(names: str) -> None:
    print(f"| {names} |\n{'|---' * (names.count('|') + 1)}|")


if __name__ == "__main__":
    main()
