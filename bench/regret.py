"""What following `leaven recommend` costs against a full grid: by real races and a grid of the same arms.

python -m bench.regret

Reads studies/grids.csv, a part for each set, and the race of the same name in studies/races. Nothing is run.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.params import reader
from pipeline.recommend import arms, race
from pipeline.study import analysis, cells, rows
from pipeline.study.analysis import Blocks, Difference

RACES = cells.FOLDER / "races"
SHARE = 1 / 3  # of the grid's time, after which the race is looked at, too


@dataclass(frozen=True)
class Raced:
    """A race's arms, its runs in the order in which they ended, and the seconds of each."""

    arms: race.Arms
    results: race.Results
    seconds: list[float]

    def within(self, most: float) -> race.Results:
        """The runs that end within so many seconds, if one follows another."""
        spent, found = 0.0, {}
        for (run, result), seconds in zip(self.results.items(), self.seconds, strict=True):
            spent += seconds
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
    return Raced(
        {cell.arm: arms.of(cell) for cell in study.cells}, results, [float(row["seconds"]) for _, row in there]
    )


def best(data: pd.DataFrame) -> str:
    """The arm that the whole grid would take: by validation images, as a race chooses, so not by what judges it."""
    fit = analysis.fitted(data, "validation")
    return max(fit.arms, key=lambda arm: fit.effects[fit.arms.index(arm)])


def regret(grid: Blocks, taken: str, chosen: str) -> Difference:
    """The arm that the grid takes minus the one that a race chose, in points of top-1 on the grid's test images."""
    return Difference(0.0, 0.0, 0.0, 0.0) if taken == chosen else grid.contrast({taken: 1, chosen: -1})


def gain(grid: Blocks, answer: race.Answer) -> Difference:
    """What the grid says of the two arms that the race's answer compares."""
    return grid.contrast({answer.best["generated"]: 1, answer.best["none"]: -1})


def line(name: str, data: pd.DataFrame) -> str:
    """A set's row of the table. data: the grid's rows of that set."""
    found, rules = raced(RACES / f"{name}.yaml"), race.Rules()
    whole = sum(data.seconds)
    grid, answer = analysis.fitted(data), race.answer(found.arms, found.results, rules)
    early = race.answer(found.arms, found.within(SHARE * whole), rules).chosen
    taken = best(data)
    said = [name, answer.word, _told(answer.gain), _told(gain(grid, answer)), taken, answer.chosen]
    said += [_told(regret(grid, taken, answer.chosen)), f"{sum(found.seconds) / whole:.2f}"]
    said.append(_told(regret(grid, taken, early)) if early else "no arm yet")
    return f"| {' | '.join(said)} |"


def _told(d: Difference) -> str:
    return f"{d.points:+.1f} ({d.low:+.1f} to {d.high:+.1f})"


def main() -> None:
    """Print the table."""
    data = analysis.frame(cells.load("grids"))
    names = "set | the race says | gain, by the race | by the grid | the grid takes | the race takes"
    print(f"| {names} | regret | time | at a third |\n{'|---' * 9}|")
    for name, of in data.groupby("part", sort=False):
        print(line(str(name), of))


if __name__ == "__main__":
    main()
