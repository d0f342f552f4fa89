"""What the sections of params.yaml are made of: their base class and the ranges of numbers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0, lt=2**31)]
Several = Annotated[int, Field(gt=1, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Depth = Annotated[int, Field(ge=1, le=100)]  # blocks of a network, one after the other
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
SetName = Literal["fashion-mnist", "cifar10", "cifar100", "stl10", "svhn", "tiny-imagenet", "folder"]
Key = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,39}$")]  # of a file, a stage and a parameter


class Section(BaseModel):
    """Exact types, no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
