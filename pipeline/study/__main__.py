"""Studies: many experiments for one question, remembered in a CSV (studies/NAME.yaml and studies/NAME.csv).

python -m pipeline.study plan NAME                  what is missing, and what it costs
python -m pipeline.study run NAME --minutes 60      run it, as long as there is time; the same again goes on
python -m pipeline.study table NAME                 every number, from the CSV alone (--into FILE.md: between its marks)
"""

import argparse
from pathlib import Path

from pipeline.run import stage
from pipeline.study import cells, rows, runner


def plan(study: cells.Study) -> str:
    """A line a part: its cells, how many have no row, about how long these take one after the other."""
    asked, known = runner.wanted(study), rows.everywhere()
    lacking = runner.missing(asked)
    lines = [f"{study.file.title}", f"  {'part':<14} {'cells':>6} {'missing':>8} {'minutes':>8}  asks"]
    for name, part in study.file.parts.items():
        each = [runner.seconds(one, known) for one in lacking if one.cell.part == name]
        cost = f"{sum(each) / 60:.0f}" if None not in each else "?"
        count = sum(cell.part == name for cell in study.cells)
        lines.append(f"  {name:<14} {count:>6} {len(each):>8} {cost:>8}  {part.asks}")
    names = {one.cell.name for one in lacking}
    stale = sum(row["cell"] in names for row in rows.read(study.memory))
    if stale:
        lines.append(f"  {stale} rows are of cells that count as missing: other code or another params.yaml made them")
    return "\n".join(lines)


def main() -> None:
    """Plan, run and tabulate studies."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.study", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in {
        "plan": "print what is missing and what it costs",
        "run": "run what is missing",
        "table": "print every number, from the CSV alone",
    }.items():
        command = commands.add_parser(name, help=does)
        command.add_argument("name", help="a file of studies/, without .yaml")
        if name == "run":
            command.add_argument("--minutes", type=float, required=True, help="stop after so many")
            command.add_argument("--jobs", type=int, default=1, help="experiments at a time; each has compute.threads")
            command.add_argument("--part", action="append", help="only this part (may be given several times)")
        if name == "table":
            command.add_argument(
                "--into", type=Path, help="a Markdown file, between <!-- table NAME --> and <!-- end NAME -->"
            )
    asked = parser.parse_args()
    study = cells.load(asked.name)
    if asked.command == "plan":
        print(plan(study))
    elif asked.command == "run":
        runner.run(study, asked.part, asked.minutes, asked.jobs)
    else:
        from pipeline.study import tables  # pandas takes a second

        if asked.into is None:
            print(tables.table(study), end="")
        else:
            tables.write(asked.into, study)


if __name__ == "__main__":
    stage.command(main)
