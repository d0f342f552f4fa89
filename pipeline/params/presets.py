"""Presets: small params files that compose from left to right, as -S words or written into params.yaml."""

import csv
import difflib
import io
import itertools
import json
import re
import textwrap
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params import reader

_PLAIN = re.compile(r"[\w./+-]+")
FOLDER = Path(__file__).parent.parent / "presets"


def load(name: str) -> dict[tuple, object]:
    """A preset's values by their path, entries of a mapping whole; keys that the schema does not know are refused."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        meant = f"-S {name}" if "=" in name else near[0] if near else None
        remedy = f"did you mean {meant}?" if meant else f"there are {', '.join(names())}"
        raise UserError(f"no preset {name}", remedy=remedy)
    path = FOLDER / f"{name}.yaml"
    values, _, faults = reader.parse(reader.text_of(path))
    flat, known = leaves(values), set(reader.keys())
    for where, value in flat.items():
        if not reader.is_entry(where):
            faults += [(where, "unknown key")] * (where not in known)
            faults += [(where, "a section needs keys")] * (reader.section(where) is not None)
        elif not isinstance(value, dict) or set(value) != set(reader.section(where).model_fields):
            faults.append((where, f"an entry has the keys {', '.join(reader.section(where).model_fields)}"))
    if faults:
        raise UserError("; ".join(f"{'.'.join(map(str, where))}: {what}" for where, what in faults), path)
    return flat


def compose(names: list[str]) -> dict[tuple, object]:
    """The values of several presets; later ones win."""
    return {where: value for name in names for where, value in load(name).items()}


def names() -> list[str]:
    """All presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def about(name: str) -> str:
    """What a preset is: the first words of its file."""
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
    return textwrap.shorten(re.split(r"[.;] | \(|, at ", first)[0].rstrip("."), 100, placeholder=" ...")


def cells() -> list[dict[str, str]]:
    """The cells of AdaInf's main table and then its neighbours': dataset, method, arm and the presets that compose it.

    top1 is the published linear top-1 in percent, protocol how it was measured, and source where it stands; empty where
    it could not be read.
    """
    with open(FOLDER / "published.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def differs(name: str) -> str:
    """In what a preset differs from its source, as its first lines say after "Differs:"; "" where they do not."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    found = re.search(r"Differs: (.*?)\.(?= [A-Z]|$)", head)
    return found[1] if found else ""


def table() -> str:
    """A few lines a cell: what it is, the published number and its protocol, the command, and what differs."""
    lines = []
    for row in cells():
        number = f"{row['top1']} ({row['protocol']}; {row['source']})"
        number = number if row["top1"] else "not published in what we could read"
        named = " ".join(f"{row[name]:<13}" for name in ("dataset", "method", "arm"))
        lines += [f"{named} {number}", f"    leaven run {row['presets']}"]
        lines += [f"    {name} differs: {what}" for name in row["presets"].split() if (what := differs(name))]
    return "\n".join(lines)


def words(flat: dict[tuple, object]) -> list[str]:
    """-S words of `dvc exp run`; they hold no blanks, so that a shell's `$(...)` takes them apart rightly."""
    found = []
    for where, value in flat.items():
        key = ".".join(where)
        if reader.is_entry(where):  # a new one, or in place of one that is there
            inner = ",".join(f"{name}:{_word((*where, name), part)}" for name, part in value.items())
            found += ["-S", f"++{key}={{{inner}}}"]
        else:
            found += ["-S", f"{key}={_word(where, value)}"]
    return found


def write(flat: dict[tuple, object], path: Path = reader.FILE) -> None:
    """Set the values in params.yaml in place, as DVC does for -S: comments are kept, null is blank."""
    reader.load(path)  # a file with faults is not written to
    yaml = YAML()  # as dvc.utils.serialize has it
    yaml.default_flow_style = False
    document = yaml.load(path.read_text(encoding="utf-8"))
    for where, value in flat.items():
        section = document
        for key in where[:-1]:
            section = section[key]
        if reader.is_entry(where) and not section:
            section.fa.set_block_style()  # it was {}
        section[where[-1]] = value
    files.write(path, lambda temporary: yaml.dump(document, temporary))


def as_yaml(values: dict) -> str:
    """Nested sections as the text of a YAML file, without anchors for what is there twice."""
    yaml, out = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(json.loads(json.dumps(values)), out)
    return out.getvalue()


def leaves(values: dict, path: tuple = ()) -> dict[tuple, object]:
    """Values of nested sections by their path; an entry of a mapping, and what is empty, is a value."""
    flat = {}
    for key, value in values.items():
        here = (*path, key)
        nested = isinstance(value, dict) and value and not reader.is_entry(here)
        flat |= leaves(value, here) if nested else {here: value}
    return flat


def _word(where: tuple, value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    if not _PLAIN.fullmatch(value) or reader.parse(f"a: {value}")[0] != {"a": value}:
        what = f"{value!r} does not survive as a word of a shell"
        raise UserError(what, ".".join(where), "write it into params.yaml: leaven preset --write")
    return value
