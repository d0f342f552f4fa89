"""One DVC experiment with presets and changed parameters, all of which are checked before anything runs."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from pipeline.core.errors import UserError, UserErrors
from pipeline.params import presets, reader

_PLACE = re.compile(r"^.*params\.yaml(:\d+)?: ")  # of a copy that nobody sees


def run(names: list[str], changes: list[str], options: list[str], queue: bool) -> None:
    """Become `dvc exp run` with the values of presets, further changes (KEY=VALUE) and options of DVC's.

    This process ends here and DVC has its place: its output, its signals and its exit code are those of DVC.
    """
    words = presets.words(presets.compose(names))
    check([word for word in words if word != "-S"] + changes, queue)
    words += [word for change in changes for word in ("-S", change)]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "dvc", "exp", "run", *options, *words], environment())


def environment() -> dict[str, str]:
    """This process's, for DVC: it starts stages as `python`, which is this one even where nothing is activated."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


def check(changes: list[str], queue: bool) -> None:
    """Refuse changes (KEY=VALUE, in DVC's grammar) with which params.yaml would not pass; of a sweep, every one."""
    from dvc.exceptions import InvalidArgumentError
    from dvc.utils import hydra
    from hydra.errors import HydraException  # a second

    reader.load()  # a fault of the file itself is told with its line
    for change in changes:
        if "=" not in change and not change.startswith("~"):
            raise UserError("must be KEY=VALUE", f"-S {change}")
    # DVC refuses a new key without a word of what was meant; the reader has one.
    added = [change if change[:1] in "+~" else f"++{change}" for change in changes]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / reader.FILE.name
        try:
            sweep = hydra.get_hydra_sweeps({str(copy): added}) if added else []
            if len(sweep) > 1 and not queue:
                raise UserError("several values are a sweep", "-S", "add --queue, then run `dvc queue start`")
            for one in sweep:
                shutil.copyfile(reader.FILE, copy)
                hydra.apply_overrides(copy, one[str(copy)])
                reader.load(copy)
        except (InvalidArgumentError, HydraException) as fault:
            cause = fault.__cause__ or fault
            raise UserError(str(cause).partition("\n")[0], "-S") from fault
        except UserErrors as faults:
            raise UserErrors([UserError(_PLACE.sub("", str(each))) for each in faults.faults]) from faults
