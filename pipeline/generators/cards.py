"""The card of data/generator: kind, source and digests, which are read and checked before its files are used."""

from pathlib import Path
from typing import get_args

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params.schema import Generator


def of_generator(generator: Path) -> dict:
    """The card (kind, source, digests), after the digests were checked."""
    found = files.read_sealed(generator / "card.json", "generator", {"kind": str, "source": str, "files": dict})
    for name in ("kind", "source"):
        if found[name] not in get_args(Generator.model_fields[name].annotation):
            raise UserError(f"{name} is {found[name][:40]}, which is unknown here", generator / "card.json")
    files.check_digests(generator, found["files"], "card.json", "generator")
    return found
