"""Commands that run the pipeline, say what came of it and keep its store."""

import argparse
from pathlib import Path

from pipeline.commands import Work, optional


def run(parser: argparse.ArgumentParser) -> Work:
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


def preset(parser: argparse.ArgumentParser) -> Work:
    """Show presets, or write them into params.yaml for `dvc repro`."""
    parser.add_argument("names", nargs="*", metavar="PRESET", help="later ones win; their -S words are printed")
    parser.add_argument("--write", action="store_true", help="write into params.yaml instead of printing")
    parser.add_argument("--list", action="store_true", help="print all presets, and what each is")
    parser.add_argument("--cells", action="store_true", help="the papers' tables: commands and published numbers")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.params import presets

        if asked.cells:
            print(presets.table())
        elif asked.list or not asked.names:
            print("\n".join(f"{name:<18} {presets.about(name)}" for name in presets.names()))
        elif asked.write:
            presets.write(presets.compose(asked.names))
        else:
            print(" ".join(presets.words(presets.compose(asked.names))))

    return work


def params(parser: argparse.ArgumentParser) -> Work:
    """Write docs/parameters.md and the JSON schema for editors, from the schema's own words."""
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER", help="where to")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.params import documentation

        documentation.write(asked.out)

    return work


def table(parser: argparse.ArgumentParser) -> Work:
    """Print the numbers of the last run, and how long each stage took."""

    def work(asked: argparse.Namespace) -> None:
        from pipeline.report import table

        print(table.summary())

    return work


def report(parser: argparse.ArgumentParser) -> Work:
    """Write one HTML file of all studies and of the run at hand; it needs nothing else."""
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")

    def work(asked: argparse.Namespace) -> None:
        optional("pipeline.report.page").write(asked.out)

    return work


def theory(parser: argparse.ArgumentParser) -> Work:
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


def store(parser: argparse.ArgumentParser) -> Work:
    """List the work that the store keeps, its size and when it was last used; prune what is old."""
    parser.add_argument("--prune", type=float, metavar="DAYS", help="delete what was not used for DAYS days")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core import store

        for line in store.listing(asked.prune):
            print(line)

    return work
