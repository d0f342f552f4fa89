"""The only reader of params.yaml. All faults are named at once, one line each; nothing in the file is ignored.

It is read by DVC's own call (dvc.utils.serialize, parse_yaml): what runs is what DVC records. What that lets pass and a
file of parameters must not have is refused here: keys that stand twice or are no text, anchors, what does not print.
"""

import contextlib
import difflib
import functools
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML, MappingNode, Node, ScalarNode
from ruamel.yaml.error import MarkedYAMLError

from pipeline.core import access
from pipeline.core.errors import UserError, UserErrors
from pipeline.params import judge
from pipeline.params.schema import Params
from pipeline.params.types import told

FILE = Path("params.yaml")
_DEEPEST, _LARGEST, _LONGEST = 8, 100_000, 1_000  # levels; characters of a file, and of a value


class _Unread(Exception):
    """Where and why a text cannot be read as parameters at all."""


def load(path: Path = FILE) -> Params:
    """params.yaml of the working directory, or a UserError that names every fault in it."""
    values, lines, faults = parse(text_of(path, "run from the repository's top folder"))
    if values or not faults:  # otherwise it could not be read, and nothing in it is missing or misspelt
        seen = {where for where, _ in faults}
        params, more = validate(values)
        faults += [(where, what) for where, what in more if where not in seen]
    if faults:
        raise UserErrors([UserError(_line(path, lines, where, what)) for where, what in faults])
    return params


def text_of(path: Path, remedy: str = "") -> str:
    """A YAML file's text, or a UserError where it cannot be read."""
    with access.reading(path, "not readable", remedy, UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8")


def parse(text: str) -> tuple[dict, dict[tuple, int], list[tuple[tuple, str]]]:
    """Values of a YAML text as DVC reads them, the line of every key (by its path), and faults as (path, message)."""
    lines: dict[tuple, int] = {}
    faults: list[tuple[tuple, str]] = []
    try:
        if len(text) > _LARGEST:
            raise _Unread((), f"longer than {_LARGEST:,} characters")
        return _read(text, lambda node: _look(node, (), lines, faults)), lines, faults
    except _Unread as fault:
        where, what, *line = fault.args
        return {}, lines | dict.fromkeys([where] if line else [], *line), [*faults, (where, what)]


def _read(text: str, look: Callable[[Node | None], None]) -> dict:
    """The text's values; `look` sees its tree of nodes before they are made."""
    yaml = YAML(typ="safe")
    yaml.max_depth = _DEEPEST
    yaml.allow_duplicate_keys = True  # _look tells of them, and of all
    with _faults_of_the_text():
        node = yaml.compose(text)
    look(node)
    with _faults_of_the_text():
        return yaml.constructor.construct_document(node)


@contextlib.contextmanager
def _faults_of_the_text() -> Iterator[None]:
    try:
        yield
    except MarkedYAMLError as fault:
        mark, what = fault.problem_mark or fault.context_mark, " ".join(f"{fault.problem or fault.context}".split())
        known = {"'\\t'": "a tab where YAML wants blanks", "maximum depth": "nested too deeply"}
        what = next((words for part, words in known.items() if part in what), f"not YAML: {_short(what)}")
        raise _Unread((), what, *([mark.line + 1] if mark else [])) from fault
    except Exception as fault:  # whatever else the library raises, it is the text that it cannot read
        raise _Unread((), f"not YAML: {_short(' '.join(str(fault).split()))}") from fault


def _look(node: Node | None, path: tuple, lines: dict, faults: list) -> None:
    """Note the line of every key, and the faults that the library does not see or would tell one at a time."""
    if not path and not isinstance(node, MappingNode):
        raise _Unread((), "expected sections of `key: value` lines")
    if node.anchor:
        raise _Unread(path, "anchors and aliases are not used here", node.start_mark.line + 1)
    if isinstance(node, ScalarNode):
        if len(node.value) > _LONGEST:
            raise _Unread(path, f"a value of {len(node.value)} characters, more than {_LONGEST:,}")
        if not node.value.isprintable():
            faults.append((path, f"{_short(repr(node.value))} holds a character that does not print"))
        return
    for i, entry in enumerate(node.value):
        key, child = entry if isinstance(node, MappingNode) else (None, entry)
        here = (*path, i if key is None else key.value if isinstance(key, ScalarNode) else "?")
        line = (key or child).start_mark.line + 1
        if key and (not isinstance(key, ScalarNode) or key.tag != "tag:yaml.org,2002:str"):
            raise _Unread(here, "a key must be text", line)
        if key and not key.value.isprintable():
            raise _Unread(here, "a key must print", line)
        if here in lines:
            faults.append((here, f"key stands twice, again on line {line}"))
        lines.setdefault(here, line)
        if key and key.anchor:
            raise _Unread(here, "anchors and aliases are not used here", line)
        _look(child, here, lines, faults)


def validate(values: dict) -> tuple[Params | None, list[tuple[tuple, str]]]:
    """The typed parameters (None if a type or range is wrong) and every fault, the combinations' included."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        faults = [(_place(detail), _message(detail)) for detail in error.errors()]
        # A list with a wrong entry is wrong.
        wrong = {tuple(part for part in where if isinstance(part, str)) for where, _ in faults}
        return None, faults + judge.broken(judge.partial(Params, values, wrong))
    return params, judge.broken(params)


def changed(params: Params, values: dict[tuple, object]) -> tuple[Params | None, list[tuple[tuple, str]]]:
    """`params` with other values by their path, and every fault, as `validate` tells them."""
    whole = params.model_dump()
    for (*path, name), value in values.items():
        functools.reduce(dict.__getitem__, path, whole)[name] = value
    return validate(whole)


def with_values(params: Params, values: dict[tuple, object], where: object) -> Params:
    """The same, or a UserError that names every fault; where: whose values they are."""
    found, faults = changed(params, values)
    if faults:
        raise UserError("; ".join(f"{'.'.join(map(str, path))}: {what}" for path, what in faults), where)
    return found


def _place(detail: dict) -> tuple:
    """Where in the file; of a key that is itself at fault pydantic also says that it is one."""
    loc = tuple(detail["loc"])
    return loc[:-1] if loc[-1:] == ("[key]",) else loc


def _message(detail: dict) -> str:
    kind, given, loc, bounds = detail["type"], detail["input"], _place(detail), detail.get("ctx", {})
    if kind == "extra_forbidden":
        found = _nearest(tuple(str(part) for part in loc))
        near = " or ".join(found if len(found) <= 3 else [found[0], "that of another section"])
        return f"unknown key - did you mean {near}?" if near else "unknown key"
    if kind == "missing":
        return "missing"
    if kind in ("too_short", "too_long"):
        bound = f"at least {bounds['min_length']}" if kind == "too_short" else f"at most {bounds['max_length']}"
        return f"must have {bound} entries, not {bounds['actual_length']}"
    bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in bounds.items()}
    field = getattr(section(loc[:-1]), "model_fields", {}).get(loc[-1])
    nullable = field is not None and types.NoneType in get_args(field.annotation)
    return f"must be {_WANTED[kind].format(**bounds)}{' or null' if nullable else ''}, not {_shown(given)}"


_WANTED = {
    "int_type": "a whole number",
    "int_parsing_size": "a whole number of a few digits",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
    "list_type": "a list",
    "dict_type": "a section of named entries",
    "model_type": "a section of `key: value` lines",
    "literal_error": "{expected}",
    "finite_number": "finite",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}


def _shown(value: object) -> str:
    """A value as the file would have it, on one line."""
    if isinstance(value, bool) or value is None:
        return told(value)
    if isinstance(value, float):
        return re.sub("(inf|nan)", r".\1", repr(value))
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    return _short(repr(value)) if isinstance(value, str | int) else f"a {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def keys(model: type[BaseModel] = Params, path: tuple = ()) -> list[tuple]:
    """Every key of the schema by its path, sections included."""
    found = []
    for name, field in model.model_fields.items():
        found.append((*path, name))
        if judge.is_section(field.annotation):
            found += keys(field.annotation, (*path, name))
    return found


def section(path: tuple) -> type | None:
    """The schema's class of the section at a path, or of the mapping whose entries have free names; None of a value."""
    found = Params
    for part in path:
        if get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            field = getattr(found, "model_fields", {}).get(part)
            found = field.annotation if field else None
    return found if get_origin(found) is dict or judge.is_section(found) else None


def is_entry(path: tuple) -> bool:
    """Whether a path is that of an entry of a mapping (transfer.digits), which is given whole or not at all."""
    return get_origin(section(path[:-1])) is dict


def _nearest(path: tuple[str, ...]) -> list[str]:
    """Keys of the schema that `path` may have meant: a like one beside it, or the same one in other sections."""

    def near(names: list[str], likeness: float) -> list[str]:
        return difflib.get_close_matches(path[-1], names, 1, likeness)

    known, own = keys(), section(path[:-1])
    if is_entry(path[:-1]):
        known += keys(own, path[:-1])
    beside = [key[-1] for key in known if key[:-1] == path[:-1]]
    name = near(beside, 0.8)
    if not name and path[-1] not in [key[-1] for key in known]:
        name = near(beside, 0.6) or near([key[-1] for key in known], 0.75)
    meant = name[0] if name else path[-1]
    found = [path[:-1]] if meant in beside else [key[:-1] for key in known if key[-1] == meant]
    inside = [own for own in found if own[:1] == path[:1]]
    found = inside or sorted(found, key=len)  # a section's own before one inside a section
    return [".".join((*section, meant)) for section in found]


def _line(path: Path, lines: dict[tuple, int], where: tuple, what: str) -> str:
    known = next((lines[where[:i]] for i in range(len(where), -1, -1) if where[:i] in lines), None)
    place = f"{path}:{known}" if known else str(path)
    parts = (part if isinstance(part, int) or part.isprintable() else repr(part) for part in where)
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in parts)
    return f"{place}: {name[1:]}: {what}" if name else f"{place}: {what}"
