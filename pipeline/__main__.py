"""One door for people: `leaven COMMAND ...`, or `python -m pipeline COMMAND ...` where nothing is installed."""

import argparse
import contextlib
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.commands import images, runs, studies

COMMANDS = {
    "run": runs.run,
    "preset": runs.preset,
    "params": runs.params,
    "fetch": images.fetch,
    "dataset": images.dataset,
    "embed": images.embed,
    "export": images.export,
    "sample": images.sample,
    "study": studies.study,
    "recommend": studies.recommend,
    "table": runs.table,
    "report": runs.report,
    "theory": runs.theory,
    "store": runs.store,
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


if __name__ == "__main__":
    sys.exit(main())
