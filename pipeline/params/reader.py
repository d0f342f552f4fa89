"""The only reader of params.yaml. All faults are named at once, one line each; nothing in the file is ignored.

DVC reads the file as YAML 1.2 and records what it reads; PyYAML reads YAML 1.1. Scalars are read here as DVC reads
them, and those that the two dialects take for different things are refused: the value that runs is the one recorded.
"""

import difflib
import re
from pathlib import Path
from types import SimpleNamespace

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import UserError
from pipeline.params import rules
from pipeline.params.schema import Params

FILE = Path("params.yaml")
_DEEPEST, _LARGEST = 8, 100_000  # levels, bytes: far more than the schema needs
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_CONSTANTS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_CONSTANTS |= dict.fromkeys(("null", "Null", "NULL", "~", ""))
# What YAML 1.1 or 1.2 readers take for something else than the other does: booleans, octal, sexagesimal, dates, 1_000.
_TRAP = re.compile(
    r"(?i:y|n|yes|no|on|off)|[-+]?0[0-9_]+|[-+]?0[box][0-9a-fA-F_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|\d{4}-\d\d?-\d\d?.*|[-+]?[0-9.][0-9_.]*_[0-9_.eE+-]*|=|<<"
)


def load(path: Path = FILE) -> Params:
    """params.yaml of the working directory, or a UserError that names every fault in it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise UserError(f"not readable: {fault}", path, "run from the repository's top folder") from fault
    values, lines, faults = parse(text)
    params, more = validate(values)
    faults += more
    if faults:
        raise UserError("\n".join(_line(path, lines, where, what) for where, what in faults))
    return params


def parse(text: str) -> tuple[dict, dict[tuple, int], list[tuple[tuple, str]]]:
    """Plain values of a YAML text, the line of every key (by its path), and faults as (path, message)."""
    if len(text) > _LARGEST:
        return {}, {}, [((), f"longer than {_LARGEST:,} characters")]
    faults: list[tuple[tuple, str]] = []
    lines: dict[tuple, int] = {}
    try:
        _refuse_aliases(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        what = " ".join(str(getattr(fault, "problem", None) or fault).split())
        lines[()] = mark.line + 1 if mark else 1
        return {}, lines, [((), f"not YAML: {what}")]
    if not isinstance(node, yaml.MappingNode):
        return {}, {}, [((), "expected sections of `key: value` lines")]
    return _plain(node, (), lines, faults), lines, faults


def _refuse_aliases(text: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not used here", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"tag {event.tag} is not used here", problem_mark=event.start_mark)


def _plain(node: yaml.Node, path: tuple, lines: dict, faults: list):
    if len(path) > _DEEPEST:
        faults.append((path, "nested too deeply"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, i), lines, faults) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, faults)
    values = {}
    for key, child in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        here = (*path, name)
        if name in values:
            faults.append((here, "key stands twice"))
        lines.setdefault(here, key.start_mark.line + 1)
        values[name] = _plain(child, here, lines, faults)
    return values


def _scalar(node: yaml.ScalarNode, path: tuple, faults: list):
    text = node.value
    if node.style is not None:  # quoted, or a block
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _TRAP.fullmatch(text):
        faults.append(
            (path, f"{text} means different things to different YAML readers: quote text, write numbers plainly")
        )
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan").replace(".Inf", "inf").replace(".NaN", "nan"))
    return text


def validate(values: dict) -> tuple[Params | None, list[tuple[tuple, str]]]:
    """The typed parameters (None if a type or range is wrong) and every fault, the combinations' included."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        details = error.errors()
        faults = [(tuple(d["loc"]), _message(d)) for d in details]
        partial = _namespace(values, {tuple(d["loc"])[:3] for d in details} | {tuple(d["loc"]) for d in details})
        return None, list(dict.fromkeys(faults + rules.broken(partial)))
    return params, rules.broken(params)


def _namespace(values: dict, wrong: set[tuple], path: tuple = ()) -> SimpleNamespace:
    """What is right in a file with faults, so that the combinations of that can be judged too."""
    return SimpleNamespace(
        **{
            key: _namespace(value, wrong, (*path, key)) if isinstance(value, dict) else value
            for key, value in values.items()
            if (*path, key) not in wrong
        }
    )


def _message(detail: dict) -> str:
    kind, given, loc = detail["type"], detail["input"], detail["loc"]
    if kind == "extra_forbidden":
        near = _nearest(tuple(str(part) for part in loc))
        return f"unknown key{f' - did you mean {near}?' if near else ''}"
    if kind == "missing":
        return "missing"
    text = detail["msg"].replace("Input should be ", "must be ").replace("String should match pattern", "must match")
    shown = given if isinstance(given, int | float | str | bool) or given is None else type(given).__name__
    return f"{text}, not {shown!r}" if not isinstance(shown, str) or shown == given else f"{text}, not a {shown}"


def keys(model: type[BaseModel] = Params, path: tuple = ()) -> list[tuple]:
    """Every key of the schema by its path, sections included."""
    found = []
    for name, field in model.model_fields.items():
        found.append((*path, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += keys(field.annotation, (*path, name))
    return found


def _nearest(path: tuple[str, ...]) -> str | None:
    dotted = [".".join(key) for key in keys()]
    siblings = [key for key in dotted if key.rpartition(".")[0] == ".".join(path[:-1])]
    wanted = ".".join(path)
    close = difflib.get_close_matches(wanted, siblings, 1, 0.6) or difflib.get_close_matches(wanted, dotted, 1, 0.8)
    return close[0] if close else None


def _line(path: Path, lines: dict[tuple, int], where: tuple, what: str) -> str:
    known = next((lines[where[:i]] for i in range(len(where), -1, -1) if where[:i] in lines), None)
    place = f"{path}:{known}" if known else str(path)
    name = ".".join(str(part) for part in where if not _branch(part))
    return f"{place}: {name}: {what}" if name else f"{place}: {what}"


def _branch(part: object) -> bool:
    # pydantic names the branch of a union in a fault's location ("constrained-float", "function-...").
    return isinstance(part, str) and not part.replace("_", "").isalnum()
