"""The code blocks of docs/extending.md: what each says, and how a copy of the repository gets them."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs/extending.md"
METHOD, KIND = "A method", "A kind of positives"  # its parts
_BLOCK = re.compile(r"(?ms)^```(python|yaml)\n(.*?)^```$")
_GOES = re.compile(r"# (file|add to): (\S+?)(?:, (after|before): (.+))?$")
_BETWEEN = {"python": "\n\n", "yaml": "\n"}  # of top-level parts of a file


class Block(NamedTuple):
    """A block of code: the file, how and at which text it goes there (a whole file: neither), and the code."""

    language: str
    path: str
    where: str | None
    text: str | None
    code: str


def blocks(part: str) -> list[Block]:
    """The blocks of a part of the page; ValueError for one whose first line does not say where it goes."""
    (whole,) = re.findall(rf"(?ms)^## {part}$\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"))
    found = []
    for language, block in _BLOCK.findall(whole):
        first, _, code = block.partition("\n")
        goes = _GOES.match(first)
        if goes is None or (goes[1] == "file") != (goes[3] is None):
            raise ValueError(f"does not say where it goes: {first}")
        found.append(Block(language, *goes.groups()[1:], code))
    return found


def apply(block: Block, folder: Path) -> None:
    """Do in a copy of the repository what a block says; LookupError if there is no line to put it at."""
    path = folder / block.path
    if block.where is None:
        path.write_text(block.code, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next((number for number, line in enumerate(lines) if block.text in line), None)
    if at is None:
        raise LookupError(f"{block.path} has no {block.text}")
    at += block.where == "after"
    apart = "" if block.code.startswith(" ") else _BETWEEN[block.language]
    lines[at:at] = [block.code + apart]
    path.write_text("".join(lines), encoding="utf-8")
