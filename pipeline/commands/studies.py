"""Commands that run many experiments to answer one question."""

import argparse
from pathlib import Path

from pipeline.commands import Work, optional


def study(parser: argparse.ArgumentParser) -> Work:
    """Many experiments that answer one question: studies/NAME.yaml, remembered in studies/NAME.csv."""
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in {
        "plan": "print which cells are missing, and what they cost",
        "run": "run what is missing, as long as there is time; the same command goes on",
        "table": "print every number, from the CSV alone",
    }.items():
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("name", metavar="NAME", help="a file of studies/, without .yaml")
        if name == "run":
            command.add_argument("--minutes", type=float, required=True, help="stop after so many")
            command.add_argument("--jobs", type=int, default=1, help="experiments at a time; each has compute.threads")
            command.add_argument("--part", action="append", help="only this part (may be given several times)")
            _executor(command)
        if name == "table":
            marks = "a Markdown file: put it between <!-- table NAME --> and <!-- end NAME -->"
            command.add_argument("--into", type=Path, metavar="FILE", help=marks)

    def work(asked: argparse.Namespace) -> None:
        from pipeline.study import cells, runner

        study = cells.load(asked.name)
        if asked.command == "plan":
            print(runner.plan(study))
        elif asked.command == "run":
            _refuse_idle(asked, {one.params.compute.device for one in runner.wanted(study)})
            start, jobs = _start(asked)
            runner.run(study, asked.part, asked.minutes, jobs, start)
        else:
            optional("scipy")  # imported late, for Student's t
            tables = optional("pipeline.study.tables")
            if asked.into is None:
                print(tables.table(study), end="")
            else:
                tables.write(asked.into, study)

    return work


def recommend(parser: argparse.ArgumentParser) -> Work:
    """Ask by a race of experiments: do generated images help here, how many, with how strong an augmentation?

    The plan is printed first: arms, what a run costs here, which difference the time can resolve. The same command goes
    on, also with more hours; studies/recommend.csv remembers every run.

      leaven recommend --hours 2                             the data set of params.yaml
      leaven recommend --hours 8 --folder data/mine          a folder of pictures
    """
    parser.add_argument("--hours", type=float, required=True, help="stop after so many")
    parser.add_argument("--folder", type=Path, help="of pictures, looked at as `leaven dataset` does")
    parser.add_argument("--labels", type=int, metavar="N", help="use so many labels alone, of more")
    parser.add_argument(
        "--min-gain", type=float, default=1.0, metavar="POINTS", help="the least that is of interest; 1"
    )
    parser.add_argument("--name", default="recommend", help="of its files in studies/")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time; each has compute.threads")
    parser.add_argument("--anyway", action="store_true", help="go on where not even perfect images would help")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    _executor(parser)

    def work(asked: argparse.Namespace) -> None:
        optional("scipy")  # imported late, for Student's t
        from pipeline.params import reader
        from pipeline.recommend import command, question
        from pipeline.recommend.race import Rules

        _refuse_idle(asked, {reader.load().compute.device})
        rules = Rules(least=asked.min_gain, anyway=asked.anyway)
        wish = question.Wish(asked.name, asked.folder, asked.labels, rules)
        start, jobs = _start(asked)
        command.recommend(wish, asked.hours, jobs, start, asked.executor != "local", asked.dry_run)

    return work


def _executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="here, or as jobs of SLURM")
    parser.add_argument("--time", type=int, default=60, metavar="MINUTES", help="of a job, which then goes on anew; 60")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="each experiment has N of its own")
    parser.add_argument("--partition", metavar="NAME", help="of SLURM's; its own choice")


def _refuse_idle(asked: argparse.Namespace, devices: set[str]) -> None:
    """Refuse GPUs for experiments that all compute on the CPU."""
    if asked.gpus and devices == {"cpu"}:
        from pipeline.core.errors import UserError

        what = "compute.device is cpu, so they would be idle"
        remedy = "set it to cuda in params.yaml or the study's base"
        raise UserError(what, f"--gpus {asked.gpus}", remedy)


def _start(asked: argparse.Namespace):
    """How a cell is run, None: on this machine, all GPUs visible; and how many at a time."""
    if asked.gpus < 0:
        from pipeline.core.errors import UserError

        raise UserError("must not be below 0", "--gpus")
    if asked.executor == "local":
        from pipeline.core.progress import log
        from pipeline.study import experiment

        if not asked.gpus:
            return None, asked.jobs
        gpus = experiment.Gpus(asked.gpus)
        if asked.jobs > gpus.most:
            log(f"--jobs {asked.jobs}: the GPUs are enough for {gpus.most} at a time")
        return gpus.start, min(asked.jobs, gpus.most)
    from pipeline.study import cluster

    return cluster.Resources(asked.time, asked.gpus, asked.partition).send, asked.jobs
