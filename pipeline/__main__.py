"""One door for people: `leaven COMMAND ...`, or `python -m pipeline COMMAND ...` where nothing is installed.

A command is a function below: it names its arguments, and returns what is done with them. What a command needs is
imported when it runs, so that help is there at once.
"""

import argparse
import contextlib
import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

Work = Callable[[argparse.Namespace], None]


def _run(parser: argparse.ArgumentParser) -> Work:
    """Run the pipeline as a DVC experiment, with presets and changed parameters.

    Everything is checked first: a misspelt preset or parameter runs nothing. Later presets win over earlier ones, -S
    wins over presets. What follows `--` goes to `dvc exp run` as it is.

      leaven run smoke                                        in this folder
      leaven run adainf-cifar10 moco --temp -n moco           in a copy, under a name
      leaven run -S 'pretrain.seed=0,1,2' --queue             a sweep, for `dvc queue start`
    """
    parser.usage = "%(prog)s [PRESET ...] [-S KEY=VALUE ...] [--temp | --queue] [-n NAME] [-C PATH ...] [-- ...]"
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="see `preset --list`")
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="a parameter")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--temp", action="store_true", help="run in a temporary copy of what git tracks")
    place.add_argument("--queue", action="store_true", help="queue it; `dvc queue start` runs it")
    parser.add_argument("-n", "--name", help="the experiment's name")
    parser.add_argument("-C", "--copy-paths", action="append", default=[], metavar="PATH", help="copy this, too")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.run import experiment

        options = ["--temp"] * asked.temp + ["--queue"] * asked.queue
        options += ["--name", asked.name] if asked.name else []
        options += [word for path in asked.copy_paths for word in ("--copy-paths", path)]
        experiment.run(asked.presets, asked.set_param, [*options, *asked.further], asked.queue)

    return work


def _preset(parser: argparse.ArgumentParser) -> Work:
    """Show presets, or write them into params.yaml for `dvc repro`."""
    parser.add_argument("names", nargs="*", metavar="PRESET", help="later ones win; their -S words are printed")
    parser.add_argument("--write", action="store_true", help="write into params.yaml instead of printing")
    parser.add_argument("--list", action="store_true", help="print the names of all presets")
    parser.add_argument("--cells", action="store_true", help="the papers' tables: commands and published numbers")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.params import presets

        if asked.cells:
            print(presets.table())
        elif asked.list or not asked.names:
            print("\n".join(presets.names()))
        elif asked.write:
            presets.write(presets.compose(asked.names))
        else:
            print(" ".join(presets.words(presets.compose(asked.names))))

    return work


def _params(parser: argparse.ArgumentParser) -> Work:
    """Write docs/parameters.md and the JSON schema for editors, from the schema's own words."""
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER", help="where to")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.params import documentation

        documentation.write(asked.out)

    return work


def _fetch(parser: argparse.ArgumentParser) -> Work:
    """Download a published data set into data/NAME and verify it; `dataset.path` is then that folder.

    There are cifar10, cifar100, stl10, svhn and tiny-imagenet; and digits, a folder of pictures for `transfer`.
    """
    parser.add_argument("name", metavar="NAME")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.progress import log
        from pipeline.data import fetch

        log(f"path: {fetch.fetch(asked.name)}")

    return work


def _dataset(parser: argparse.ArgumentParser) -> Work:
    """Look at a folder of pictures, and write the parameters that fit it into params.yaml; then run `dvc repro`.

    Prints what is there (classes, sizes, copies, what cannot be read) and draws dataset.png, a contact sheet.

      leaven dataset data/mine                               class folders, or train/ and test/ with them
      leaven dataset data/mine --labels labels.csv           a table of files and labels in the folder
      leaven dataset cifar10                                 a published set, after `leaven fetch cifar10`
    """
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of pictures")
    parser.add_argument("--labels", metavar="CSV", help="a file in the folder: a header, and a line for each picture")
    parser.add_argument("--label-column", metavar="NAME", help="its column of labels, where there are several")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="height and width that pictures are brought to")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="1 grey, 3 colour")
    parser.add_argument("--resize", choices=("crop", "pad", "stretch"), help="how a picture becomes square")
    parser.add_argument("--dry-run", action="store_true", help="write nothing into params.yaml")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.run import survey

        wish = survey.Wish(asked.labels, asked.label_column, asked.size, asked.channels, asked.resize)
        survey.propose(asked.folder, wish, write=not asked.dry_run)

    return work


def _embed(parser: argparse.ArgumentParser) -> Work:
    """Write the features of a folder of pictures, or of the images of an HDF5 file, by the finished encoder.

    leaven embed ~/pictures features.npy                   names in features.names.json
    leaven embed data/real/images.h5 features.h5           or .parquet
    """
    parser.add_argument("source", type=Path, metavar="IN", help="a folder of pictures, or an HDF5 file with `images`")
    parser.add_argument("out", type=Path, metavar="OUT", help="ends in .npy, .h5 or .parquet")
    parser.add_argument("--encoder", type=Path, default=Path("data/encoder"), metavar="FOLDER", help="data/encoder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--skip", action="store_true", help="leave out pictures that cannot be read")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.errors import UserError
        from pipeline.core.progress import log
        from pipeline.params.schema import Compute
        from pipeline.release import embed

        if asked.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise UserError("torch finds no CUDA device", "--device", "leave it out")
        threads = os.cpu_count() or 1
        compute = Compute(device=asked.device, precision="fp32", threads=threads, compile=False)
        n, width = embed.embed(asked.encoder, asked.source, asked.out, compute, asked.skip)
        log(f"{asked.out}: features of {n:,} images, {width:,} numbers each")

    return work


def _export(parser: argparse.ArgumentParser) -> Work:
    """Write the finished encoder as a file or folder that other programs load.

    leaven export encoder.pt2                              torch.export; torch alone runs it
    leaven export encoder.onnx                             ONNX; needs `pip install -e '.[export]'`
    leaven export mine                                     a folder for the Hugging Face hub, with a model card
    """
    parser.add_argument("out", type=Path, metavar="OUT", help="ends in .pt2 or .onnx, or is a folder")
    parser.add_argument("--encoder", type=Path, default=Path("data/encoder"), metavar="FOLDER", help="data/encoder")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.progress import log
        from pipeline.release import export

        width = export.export(asked.encoder, asked.out)
        log(f"{asked.out}: images in, {width:,} numbers each out")

    return work


def _sample(parser: argparse.ArgumentParser) -> Work:
    """Sample shards of the generated images into the store, beside others that do; `dvc repro` finds them there.

    Start as many as you like, in any order, on whatever machine sees the clone and the store; each shard is made once.
    The generator must be there: `dvc repro generator`.

      leaven sample                                          what inflation.ratio asks for
      leaven sample --shards 0-179                           these, also beyond what is asked for
      leaven sample --shards $SLURM_ARRAY_TASK_ID            one, in each task of an array
    """
    parser.add_argument("--shards", metavar="A-B", help="from number A to number B, or one number; 0 is the first")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.progress import log
        from pipeline.run import sample

        log(sample.sample(asked.shards))

    return work


def _study(parser: argparse.ArgumentParser) -> Work:
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
            runner.run(study, asked.part, asked.minutes, asked.jobs, _start(asked))
        else:
            _extra("scipy")  # imported late, for Student's t
            tables = _extra("pipeline.study.tables")
            if asked.into is None:
                print(tables.table(study), end="")
            else:
                tables.write(asked.into, study)

    return work


def _executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="here, or as jobs of SLURM")
    parser.add_argument("--time", type=int, default=60, metavar="MINUTES", help="of a job, which then goes on anew; 60")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="each experiment has N of its own")
    parser.add_argument("--partition", metavar="NAME", help="of SLURM's; its own choice")


def _start(asked: argparse.Namespace):  # None: on this machine, all GPUs visible
    if asked.gpus < 0:
        from pipeline.core.errors import UserError

        raise UserError("must not be below 0", "--gpus")
    if asked.executor == "local":
        from pipeline.core.progress import log
        from pipeline.study import experiment

        if not asked.gpus:
            return None
        gpus = experiment.Gpus(asked.gpus)
        if asked.jobs > gpus.most:
            log(f"--jobs {asked.jobs}: the GPUs are enough for {gpus.most} at a time")
            asked.jobs = gpus.most
        return gpus.start
    from pipeline.study import cluster

    return cluster.Resources(asked.time, asked.gpus, asked.partition).send


def _recommend(parser: argparse.ArgumentParser) -> Work:
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
        _extra("scipy")  # imported late, for Student's t
        from pipeline.recommend import command, question
        from pipeline.recommend.race import Rules

        rules = Rules(least=asked.min_gain, anyway=asked.anyway)
        wish = question.Wish(asked.name, asked.folder, asked.labels, rules)
        elsewhere = asked.executor != "local"
        command.recommend(wish, asked.hours, asked.jobs, _start(asked), elsewhere, asked.dry_run)

    return work


def _table(parser: argparse.ArgumentParser) -> Work:
    """Print the numbers of the last run, and how long each stage took."""

    def work(asked: argparse.Namespace) -> None:
        from pipeline.report import table

        print(table.summary())

    return work


def _report(parser: argparse.ArgumentParser) -> Work:
    """Write one HTML file of all studies and of the run at hand; it needs nothing else."""
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")

    def work(asked: argparse.Namespace) -> None:
        _extra("pipeline.report.page").write(asked.out)

    return work


def _theory(parser: argparse.ArgumentParser) -> Work:
    """Measure AdaInf's two terms, labelling error and connectivity, on the images that the stages made."""
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0, 2.0, 3.0, 4.0], help="of augmentation")
    parser.add_argument("--images", type=int, help="real images in the graph; 500, or all where there are fewer")
    parser.add_argument("--views", type=int, default=16, help="views of each image")
    parser.add_argument("--steps", type=int, default=1000, help="of the labelling oracle's training")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the rows as CSV")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core import outputs
        from pipeline.evaluation import theory

        rows = theory.of_the_run(asked.strengths, asked.images, asked.views, asked.steps)
        print(theory.shown(rows))
        if asked.out is not None:
            outputs.table(asked.out, theory.COLUMNS, rows)

    return work


def _store(parser: argparse.ArgumentParser) -> Work:
    """List the work that the store keeps, its size and when it was last used; prune what is old."""
    parser.add_argument("--prune", type=float, metavar="DAYS", help="delete what was not used for DAYS days")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core import store

        for line in store.listing(asked.prune):
            print(line)

    return work


COMMANDS = {
    "run": _run,
    "preset": _preset,
    "params": _params,
    "fetch": _fetch,
    "dataset": _dataset,
    "embed": _embed,
    "export": _export,
    "sample": _sample,
    "study": _study,
    "recommend": _recommend,
    "table": _table,
    "report": _report,
    "theory": _theory,
    "store": _store,
}


def main() -> int:
    """Run the command that sys.argv names; the exit code. It ends in silence if nobody reads on, as with `| head`.

    `leaven`, installed from one clone and called in another, becomes that one's: its stages are, too.
    """
    clone = [
        Path(name) for name in ("pipeline/__main__.py", "pipeline/run/stage.py", "stages/linear_eval.py", "dvc.yaml")
    ]
    if Path(sys.argv[0]).stem == "leaven" and all(map(Path.exists, clone)) and not clone[0].samefile(__file__):
        os.execv(sys.executable, [sys.executable, "-m", "pipeline", *sys.argv[1:]])
    try:
        code = _main(*(sys.argv[1:] or ["--help"]))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        return 128 + 13  # as of a program that SIGPIPE ends


def _main(name: str, *words: str) -> int:
    program = "leaven" if Path(sys.argv[0]).stem == "leaven" else "python -m pipeline"
    if name in ("-h", "--help"):
        lines = (f"  {each:<9} {(command.__doc__ or '').splitlines()[0]}" for each, command in COMMANDS.items())
        print(f"usage: {program} COMMAND ...\n\n", *(f"{line}\n" for line in lines), sep="", end="")
        print(f"\n{program} COMMAND --help tells more of each.")
        return 0
    near = difflib.get_close_matches(name, COMMANDS, 1)
    wanted = "preset" in (name, *near) and "--write" not in words
    with _harmless(name, *words) if wanted else contextlib.nullcontext():
        if name not in COMMANDS:
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            print(f"no command {name!r} - {remedy}", file=sys.stderr)
            sys.exit(2)
        _command(program, name, list(words))
    return 0


@contextlib.contextmanager
def _harmless(*words: str) -> Iterator[None]:
    """After a fault print a word at which DVC fails: `dvc exp run $(...)` with no word would run the default."""
    try:
        yield
    except SystemExit as end:
        if end.code and not sys.stdout.isatty():
            print("-S", "refused-" + re.sub(r"[^\w.]+", "-", " ".join(words)))
            sys.stdout.flush()
        raise


def _command(program: str, name: str, words: list[str]) -> None:
    description = inspect.cleandoc(COMMANDS[name].__doc__ or "").replace("leaven", program)
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"{program} {name}", description=description, formatter_class=layout)
    work = COMMANDS[name](parser)
    words, further = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    if further and name != "run":
        parser.error("nothing may follow --")
    asked = parser.parse_intermixed_args(words) if name == "run" else parser.parse_args(words)
    asked.further = further
    from pipeline.run import stage  # help needs none of it

    stage.command(lambda: work(asked))


def _extra(module: str) -> ModuleType:
    """A module that needs packages of the extra `report`."""
    from pipeline.core.errors import UserError

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        if (fault.name or "").startswith("pipeline"):
            raise
        raise UserError(f"needs {fault.name}", "report", "pip install -e '.[report]'") from fault


if __name__ == "__main__":
    sys.exit(main())
