"""What dvc.yaml says of a stage: the parameters that it is given and the files that it makes."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.params.evaluation import spelled
from pipeline.params.schema import Params

FILE, LOCK = Path("dvc.yaml"), Path("dvc.lock")


class Described(NamedTuple):
    """A stage of dvc.yaml.

    params: a section ("inflation"), a value ("inflation.ratio"), or the section that a value names
    ("${pretrain.method}"); None: all of them. outs: outputs, metrics and plots. foreach: the mapping or the list of
    numbers that dvc.yaml makes the stage of, one for each entry. data: values that name what it reads ("dataset.path").
    """

    params: tuple[str, ...] | None
    outs: tuple[str, ...]
    foreach: str | None
    data: tuple[str, ...] = ()

    def read(self, params: Params, key: str | None = None) -> list[Path]:
        """The files and folders outside the pipeline that the stage reads."""
        found = []
        for words in self.data:
            section, *names = words.split(".")
            start = _entry(params, self.foreach, key) if section == "item" else getattr(params, section)
            found.append(functools.reduce(getattr, names, start))
        return [Path(path) for path in found if path is not None]

    def select(self, params: Params, key: str | None = None) -> SimpleNamespace:
        """The parts of the parameters that the stage is given, as attributes of their own names.

        The section that a value names is found under the value's name: `method_params` for ${pretrain.method},
        `kind_params` for ${generator.kind}. Of a stage with foreach, `item` is the entry that is called `key`. `outs`
        are the files that it makes.
        """
        outs = (path.replace("${key}", str(key)).replace("${item}", str(key)) for path in self.outs)
        chosen = SimpleNamespace(outs=tuple(outs))
        if self.foreach:
            chosen.key, chosen.item = key, _entry(params, self.foreach, key)
        for words in type(params).model_fields if self.params is None else self.params:
            if words == f"{self.foreach}.${{key}}":
                continue
            section, _, value = words.strip("${}").partition(".")
            found = getattr(params, section)
            if words.startswith("$"):
                setattr(chosen, f"{value}_params", getattr(params, getattr(found, value)))
            elif value:
                part = getattr(chosen, section, SimpleNamespace())
                setattr(part, value, getattr(found, value))
                setattr(chosen, section, part)
            else:
                setattr(chosen, section, found)
        return chosen


def load(name: str) -> Described:
    """What dvc.yaml of the working directory says of a stage."""
    remedy = "run from the repository's top folder, or restore it: git checkout"
    try:
        stage = YAML(typ="safe").load(reader.text_of(FILE, remedy))["stages"][name]
        each = stage.get("foreach")
        stage = stage.get("do", stage)
        params = stage.get("params", [])
        whole = any(not isinstance(words, str) for words in params)  # a whole file, as the check takes it
        outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        outs = tuple(out if isinstance(out, str) else next(iter(out)) for out in outs)
        data = tuple(path.strip("${}") for path in stage.get("deps", []) if path.startswith("${"))
        return Described(None if whole else tuple(params), outs, each.strip("${}") if each else None, data)
    except (YAMLError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"does not describe the stage {name}: {type(fault).__name__}", FILE, remedy) from fault


def changed(name: str, params: Params) -> list[str]:
    """Parameters with another value than when DVC ran a stage last, by dvc.lock; none where that lacks the stage."""
    if not LOCK.exists():
        return []
    try:
        stages = YAML(typ="safe").load(reader.text_of(LOCK, "git checkout"))["stages"]
        recorded = stages.get(name, {}).get("params", {}).get(str(reader.FILE), {})
    except (YAMLError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"not readable: {type(fault).__name__}", LOCK, "git checkout") from fault
    dumped, found = params.model_dump(mode="json"), []
    for key, value in recorded.items():
        today = functools.reduce(lambda section, part: (section or {}).get(part), key.split("."), dumped)
        if isinstance(value, dict) and isinstance(today, dict):
            found += [f"{key}.{part}" for part in {*value, *today} if value.get(part) != today.get(part)]
        elif value != today:
            found.append(key)
    return sorted(found)


def _entry(params: Params, foreach: str, key: str) -> object:
    """What DVC's foreach calls `key`: a mapping's value, or a number of a list by its text."""
    values = functools.reduce(getattr, foreach.split("."), params)
    if not isinstance(values, dict):
        values = {name: value for value in values for name in spelled(value)}
    if key not in values:
        there = f"there are {', '.join(values)}" if values else "there is none"
        raise UserError(f"has no {key!r}", f"params.yaml: {foreach}", f"{there}; add it")
    return values[key]
