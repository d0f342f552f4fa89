"""docs/parameters.md and the JSON schema for editors, both made from the schema: `write` after a change of it."""

import json
from inspect import cleandoc
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import model_json_schema

from pipeline.core import files
from pipeline.params.judge import is_section
from pipeline.params.schema import SECTIONS, Params

PAGE, SCHEMA = "parameters.md", "params.schema.json"
_HEAD = """# Parameters

`params.yaml` holds every number that a run depends on; none has a default elsewhere. This page is made from the schema
in `pipeline/params` by `leaven params`. `leaven run -S inflation.ratio=2` changes one parameter. A blank
value is null. The check stage names every fault in the file at once.
"""


def write(folder: Path) -> None:
    """Write the page and the JSON schema into a folder."""
    files.write_text(Path(folder) / PAGE, text())
    files.write_text(Path(folder) / SCHEMA, schema())


def schema() -> str:
    """The JSON schema of params.yaml, which editors complete and check by."""
    return json.dumps(model_json_schema(Params), indent=2, ensure_ascii=False) + "\n"


def text() -> str:
    """The page: a part for each section, a row for each key."""
    parts = [_HEAD]
    for name, kind in SECTIONS.items():
        named = get_origin(kind) is dict
        parts += _section(f"{name}.NAME", get_args(kind)[1]) if named else _section(name, kind)
    return "\n".join(parts)


def _section(name: str, kind: type[BaseModel]) -> list[str]:
    """A section's part and those of the sections inside it."""
    parts = [f"## {name}\n", cleandoc(kind.__doc__) + "\n"]
    bases = {name: base for name, base in SECTIONS.items() if base in kind.__mro__[1:]}
    told = {(key, field.description) for base in bases.values() for key, field in base.model_fields.items()}
    if bases:
        parts.append(f"It has the keys of {' and '.join(f'[{name}](#{name})' for name in bases)}, and:\n")
    of_keys = model_json_schema(kind)
    rows, inside = [], []
    for key, field in kind.model_fields.items():
        if (key, field.description) in told:
            continue
        rows.append(f"| `{key}` | {_values(of_keys['properties'][key])} | {field.description} |")
        if is_section(field.annotation):
            inside += _section(f"{name}.{key}", field.annotation)
    table = ["| key | value | what it is |\n|---|---|---|\n" + "\n".join(rows) + "\n"] if rows else []
    return parts + table + inside


def _values(of: dict) -> str:
    """The values that a key takes, in words, by its JSON schema."""
    if "anyOf" in of:
        return " or ".join(map(_values, of["anyOf"]))
    if "enum" in of or "const" in of:
        return ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    words = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    if of.get("type") == "array":
        length = of.get("minItems") if of.get("minItems") == of.get("maxItems") else None
        return f"list{f' of {length}' if length else ''}, each a {_values(of['items'])}"
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {of[bound]:g}" for bound, sign in bounds.items() if bound in of and abs(of[bound]) < 2**31]
    return " ".join(["a section" if "$ref" in of else words.get(of["type"], of["type"]), ", ".join(limits)]).strip()
