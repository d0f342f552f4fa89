"""All rules on all parameters, of a file with faults as well.

A rule is judged if the values that it asks for are right. Any exception of a rule other than Refused
is a bug in it and is let out.
"""

from collections.abc import Callable, Iterator
from typing import get_args, get_origin

from pydantic import BaseModel

from pipeline.params.schema import RULES, Params
from pipeline.params.types import Fault, Refused


class Partial:
    """A section of which some values were refused: its attributes are the right ones; Refused is raised for others."""

    def __init__(self, kind: type[BaseModel], values: dict, wrong: set[tuple], path: tuple = ()):
        self._kind, self._values, self._wrong, self._path = kind, values, wrong, path

    def __getattr__(self, name: str):
        field = self._kind.model_fields.get(name)
        if field is None:
            raise AttributeError(f"{self._kind.__name__} has no {name}")
        return self._right(field.annotation, self._values.get(name), (*self._path, name))

    def _right(self, kind: object, value: object, path: tuple):
        if path in self._wrong:
            raise Refused
        if is_section(kind):
            return Partial(kind, value, self._wrong, path)
        if get_origin(kind) is dict:
            named = ((key, (*path, key)) for key in value)
            return {key: self._right(get_args(kind)[1], value[key], at) for key, at in named if at not in self._wrong}
        if any(at[: len(path)] == path for at in self._wrong):  # an entry of a list
            raise Refused
        return value


def is_section(kind: object) -> bool:
    """Whether a field's type is a section of its own."""
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)


def broken(p: Params | Partial) -> list[Fault]:
    """Every rule that the parameters break, as (path of the key, message); of one broken off, what it had found."""
    found = []
    for path, kind, own in sections(Params, p):
        for check in kind.rules():
            for name, what in right(check, own):
                found.append(((*path, *(name if isinstance(name, tuple) else (name,))), what))
    for check in RULES:
        found += right(check, p)
    return found


def right(check: Callable, *asked) -> Iterator:
    """What a rule yields until it asks for a refused value."""
    try:
        yield from check(*asked)
    except Refused:
        return


def sections(kind: type[BaseModel], own: object, path: tuple = ()) -> Iterator[tuple[tuple, type, object]]:
    """(path, class, values) of a section and all inside it that are there."""
    yield path, kind, own
    for name, field in kind.model_fields.items():
        inner, at = field.annotation, (*path, name)
        if not is_section(inner) and get_origin(inner) is not dict:
            continue
        try:
            value = getattr(own, name)
        except Refused:
            continue
        if is_section(inner):
            yield from sections(inner, value, at)
        else:
            for key, entry in value.items():
                yield from sections(get_args(inner)[1], entry, (*at, key))
