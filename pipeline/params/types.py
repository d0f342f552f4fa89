"""What the sections of params.yaml are made of: their base class, the ranges of numbers, and what a rule is."""

from collections.abc import Callable, Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0, lt=2**31)]
Several = Annotated[int, Field(ge=2, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Depth = Annotated[int, Field(ge=1, le=100)]  # blocks of a network, one after the other
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=4)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Pixels = Annotated[int, Field(ge=8, le=1024)]
Key = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,39}$")]  # of a file, a stage and a parameter

Fault = tuple[tuple, str]  # the path of a key in the file, and what is wrong with its value
Faults = Iterator[Fault]
OwnFaults = Iterator[tuple[str, str]]  # of one section: the name of a field, and what is wrong


class Refused(Exception):
    """A rule asked for a value that is wrong or not there, of which another line tells; the rule is not judged."""


def rule(check: Callable) -> Callable:
    """Mark a method of a section as a rule about its fields: it yields (field, message) for each fault.

    `self` may be a view of a section of which some values were refused (judge.Partial); it hands out right values only.
    """
    check.is_rule = True
    return check


class Section(BaseModel):
    """Exact types, no unknown keys, no change after reading. A docstring below a field documents it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @classmethod
    def rules(cls) -> list[Callable]:
        """The rules of this class and of those that it inherits from."""
        return [check for kind in cls.__mro__[::-1] for check in vars(kind).values() if hasattr(check, "is_rule")]


def told(value: object) -> str:
    """A plain value as the file has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
