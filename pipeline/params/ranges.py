"""Ranges of numbers, and names, that values in params.yaml have."""

from typing import Annotated

from pydantic import Field

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
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # sha256
Key = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,39}$")]  # of a file, a stage and a parameter
