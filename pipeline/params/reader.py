"""The only reader of params.yaml. All faults are named at once, one line each; nothing in the file is ignored.

DVC reads the file as YAML 1.2 and records what it reads; PyYAML reads YAML 1.1. Scalars are read here as DVC reads
them, and those that the two dialects take for different things are refused: the value that runs is the one recorded.
"""

import difflib
import re
import types
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.core.errors import UserError, UserErrors
from pipeline.params import rules
from pipeline.params.schema import Params

FILE = Path("params.yaml")
_DEEPEST, _LARGEST = 8, 100_000  # levels, characters: far more than the schema needs
_FLOAT = re.compile(
    r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+][0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_CONSTANTS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_CONSTANTS |= dict.fromkeys(("null", "Null", "NULL", "~", ""))
# What YAML 1.1 or 1.2 readers take for something else than the other does: booleans, octal, sexagesimal, dates, 1_000.
_TRAP = re.compile(
    r"(?i:y|n|yes|no|on|off)|[-+]?0[0-9_]+|[-+]?0[box][0-9a-fA-F_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|\d{4}-\d\d?-\d\d?.*|[-+]?[0-9.][0-9_.]*_[0-9_.eE+-]*|[-+]_[0-9_]*|[-+]?\.[0-9]+[eE][0-9]+|=|<<"
)
_APART = re.compile(r" *:[ \n]")  # {a:,b:1} has the keys "a" and "b:1" in YAML 1.1, "a:" and "b:1" in 1.2
_BREAK = re.compile("[\x85\u2028\u2029]")  # the end of a line in YAML 1.1 and not in 1.2


def load(path: Path = FILE) -> Params:
    """params.yaml of the working directory, or a UserError that names every fault in it."""
    values, lines, faults = parse(text_of(path, "run from the repository's top folder"))
    if values or not faults:  # otherwise it is no YAML at all, and nothing in it is missing or misspelt
        seen = {where for where, _ in faults}
        params, more = validate(values)
        faults += [(where, what) for where, what in more if where not in seen]
    if faults:
        raise UserErrors([UserError(_line(path, lines, where, what)) for where, what in faults])
    return params


def text_of(path: Path, remedy: str = "") -> str:
    """A YAML file's text, or a UserError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise UserError(f"not readable: {fault}", path, remedy) from fault


def parse(text: str) -> tuple[dict, dict[tuple, int], list[tuple[tuple, str]]]:
    """Plain values of a YAML text, the line of every key (by its path), and faults as (path, message)."""
    if len(text) > _LARGEST:
        return {}, {}, [((), f"longer than {_LARGEST:,} characters")]
    faults: list[tuple[tuple, str]] = []
    lines: dict[tuple, int] = {}
    try:
        unused = _unused(text)
        node = None if unused else yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as fault:
        unused = (text.count("\n", 0, fault.position), f"the character U+{fault.character:04X} is not allowed")
    except yaml.MarkedYAMLError as fault:
        what = " ".join(str(fault.problem).split())
        what = "a tab where YAML wants blanks" if "'\\t'" in what else f"not YAML: {what}"
        unused = (fault.problem_mark.line, what)
    if unused:
        return {}, {(): unused[0] + 1}, [((), unused[1])]
    if not isinstance(node, yaml.MappingNode):
        return {}, {}, [((), "expected sections of `key: value` lines")]
    return _plain(node, (), lines, faults), lines, faults


def _unused(text: str) -> tuple[int, str] | None:
    """Line and name of the first part of YAML that no parameter needs: hidden values, code, another dialect."""
    odd = _BREAK.search(text)
    if odd:
        return text.count("\n", 0, odd.start()), f"the character U+{ord(odd[0]):04X} is not allowed"
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        what = None
        if depth > _DEEPEST:
            what = "nested too deeply"
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            what = "anchors and aliases are not used here"
        elif getattr(event, "tag", None):
            what = f"tag {_key(event.tag)} is not used here"
        elif getattr(event, "version", None) or getattr(event, "tags", None):
            what = "directives are not used here"
        elif getattr(event, "style", None) in ("|", ">"):
            what = "blocks of text are not used here"
        if what:
            return event.start_mark.line, what
    return None


def _plain(node: yaml.Node, path: tuple, lines: dict, faults: list):
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, faults)
    if isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            lines[(*path, i)] = child.start_mark.line + 1
        return [_plain(child, (*path, i), lines, faults) for i, child in enumerate(node.value)]
    values = {}
    for key, child in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        here = (*path, name)
        lines.setdefault(here, key.start_mark.line + 1)
        before = len(faults)
        read = _scalar(key, here, faults) if isinstance(key, yaml.ScalarNode) else None
        if len(faults) > before:
            continue
        if not isinstance(read, str):
            faults.append((here, "a key must be text"))
        elif name in values:
            faults.append((here, f"key stands twice, again on line {key.start_mark.line + 1}"))
        elif node.flow_style and key.style is None and not _APART.match(key.end_mark.buffer, key.end_mark.pointer):
            faults.append((here, "write {key: value} with a blank after the colon"))
        else:
            values[name] = _plain(child, here, lines, faults)
    return values


def _scalar(node: yaml.ScalarNode, path: tuple, faults: list):
    text = node.value
    if not text.isprintable():
        faults.append((path, f"{_short(repr(text))} holds a character that does not print"))
        return None
    if node.style is not None:  # quoted
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _TRAP.fullmatch(text):
        what = f"{_short(text)} means different things to different YAML readers: quote text, write numbers plainly"
        faults.append((path, what))
        return text
    number = int if _INT.fullmatch(text) else float if _FLOAT.fullmatch(text) else None
    if number and len(text) > 100:
        faults.append((path, f"{_short(text)} is a number of {len(text)} characters"))
        return text
    return number(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if number else text


def validate(values: dict) -> tuple[Params | None, list[tuple[tuple, str]]]:
    """The typed parameters (None if a type or range is wrong) and every fault, the combinations' included."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        details = error.errors()
        faults = [(_place(detail), _message(detail)) for detail in details]
        partial = _namespace(values, [where for where, _ in faults])
        return None, faults + rules.broken(partial)
    return params, rules.broken(params)


def _place(detail: dict) -> tuple:
    """Where in the file; of a key that is itself at fault pydantic also says that it is one."""
    loc = tuple(detail["loc"])
    return loc[:-1] if loc[-1:] == ("[key]",) else loc


def _namespace(values: dict, wrong: list[tuple], path: tuple = ()) -> SimpleNamespace:
    """What is right in a file with faults, so that the combinations of that can be judged too."""
    right = {}
    for key, value in values.items():
        here = (*path, key)
        if here not in wrong and isinstance(value, dict):
            right[key] = _namespace(value, wrong, here)
        elif not any(where[: len(here)] == here for where in wrong):  # nor an entry of it
            right[key] = value
    return SimpleNamespace(**right)


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
    wanted = _WANTED[kind].format(**bounds)
    return f"must be {wanted}{' or null' if _nullable(loc) else ''}, not {_shown(given)}"


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


def _nullable(loc: tuple) -> bool:
    field = getattr(section(loc[:-1]), "model_fields", {}).get(loc[-1])
    return field is not None and types.NoneType in get_args(field.annotation)


def _shown(value: object) -> str:
    """A value as the file would have it, on one line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, float):
        return re.sub("(inf|nan)", r".\1", repr(value))
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def keys(model: type[BaseModel] = Params, path: tuple = ()) -> list[tuple]:
    """Every key of the schema by its path, sections included."""
    found = []
    for name, field in model.model_fields.items():
        found.append((*path, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
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
    of_keys = get_origin(found) is dict or (isinstance(found, type) and issubclass(found, BaseModel))
    return found if of_keys else None


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
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in where)
    return f"{place}: {name[1:]}: {what}" if name else f"{place}: {what}"


def _key(part: str) -> str:
    return _short(part) if part.isprintable() else _short(repr(part))
