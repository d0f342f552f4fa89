"""All rules on all parameters, of a file with faults as well.

A rule is judged if the values that it asks for are right. Any exception of a rule other than Refused
is a bug in it and is let out.
"""

from collections.abc import Callable, Iterator
from typing import get_args, get_origin

from pipeline.params.schema import RULES, Params
from pipeline.params.types import Fault, Refused, Section


def is_section(kind: object) -> bool:
    """Whether a field's type is a section of its own."""
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Section)


def partial(kind: object, value: object, wrong: set[tuple], path: tuple = ()) -> object:
    """What is right in a file's value for a field of this type: sections lack what lies at a wrong path."""
    if is_section(kind):
        inner = {name: field.annotation for name, field in kind.model_fields.items()}
    elif get_origin(kind) is dict:
        inner = dict.fromkeys(value, get_args(kind)[1])
    else:
        return value
    paths = {name: (*path, name) for name in inner}
    right = {name: partial(inner[name], value[name], wrong, at) for name, at in paths.items() if at not in wrong}
    return kind.model_construct(**right) if is_section(kind) else right


def broken(p: Params) -> list[Fault]:
    """Every rule that the parameters break, as (path of the key, message); of one broken off, what it had found."""
    found = []
    for path, section in sections(p):
        for check in section.rules():
            for name, what in right(check, section):
                found.append(((*path, *(name if isinstance(name, tuple) else (name,))), what))
    for check in RULES:
        found += right(check, p)
    return found


def right(check: Callable, asked: Section) -> Iterator:
    """What a rule yields until it asks for a refused value."""
    try:
        yield from check(asked)
    except Refused:
        return


def sections(section: Section, path: tuple = ()) -> Iterator[tuple[tuple, Section]]:
    """(path, section) of a section and of all inside it that are there."""
    yield path, section
    for name, value in vars(section).items():
        if isinstance(value, Section):
            yield from sections(value, (*path, name))
        elif isinstance(value, dict):
            for key, entry in value.items():
                yield from sections(entry, (*path, name, key))
