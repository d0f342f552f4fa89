"""What the sections of params.yaml are made of: their base class, and what a rule is."""

from collections.abc import Callable, Iterator
from functools import cache

from pydantic import BaseModel, ConfigDict

Fault = tuple[str | tuple, str]  # a field of the section or the path of a key in the file, and what is wrong
Faults = Iterator[Fault]


class Refused(Exception):
    """A rule asked for a value that is wrong or not there, of which another line tells; the rule is not judged."""


def rule(check: Callable) -> Callable:
    """Mark a method of a section as a rule about its fields: it yields (field, message) for each fault."""
    check.is_rule = True
    return check


class Section(BaseModel):
    """Exact types, no unknown keys, no change after reading. A docstring below a field documents it.

    A section of a file with faults lacks the values that were refused (judge.partial); asked for one it raises Refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    def __getattr__(self, name: str):
        if name in type(self).model_fields:
            raise Refused
        return super().__getattr__(name)

    @classmethod
    @cache
    def rules(cls) -> list[Callable]:
        """The rules of this class and of those that it inherits from."""
        return [check for kind in cls.__mro__[::-1] for check in vars(kind).values() if hasattr(check, "is_rule")]


def told(value: object) -> str:
    """A plain value as the file has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
