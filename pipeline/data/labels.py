"""A table of labels beside a folder's pictures: a CSV with a header and a line for each picture (UTF-8).

Commas, semicolons or tabs part its columns: that of which the header has most.

The column of files is the one named file, filename, file_name, path or image, else the first. A file is named from the
folder (`a/1.jpg`), or as shortly as is clear: without its folder, without its ending. An empty label is none.
"""

import csv
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.core import access
from pipeline.core.errors import UserError

FILES = ("file", "filename", "file_name", "path", "image")
SHOWN = 10  # names in a message
UNNAMED = "(no name)"  # a column without one, as pandas writes its index


class Table:
    """The labels that a CSV gives to files; `column`: which one, None where there is but one beside the files'."""

    def __init__(self, path: Path, column: str | None):
        self.path, self.labels, self.files = path, {}, ""
        header, *rows = _rows(path)
        files, chosen = _columns(path, header, [row for _, row in rows], column)
        self.files = header[1][files]
        wrong, lines = [], {}
        for number, row in rows:
            if len(row) != len(header[1]):
                wrong.append(f"line {number} has {len(row)} columns and the header {len(header[1])}")
                continue
            name, label = _plain(row[files].replace("\\", "/").removeprefix("./")), _plain(row[chosen]).strip()
            if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in label):
                wrong.append(f"line {number} has a label with a line break or a control character, {label!r}")
            if name in self.labels and self.labels[name] != label:
                wrong.append(f"lines {lines[name]} and {number} give {name!r} two labels")
            self.labels[name], lines[name] = label, number
        if wrong:
            raise UserError(some(wrong), path, "mend the table")

    def of(self, pictures: Iterable[Path], root: Path) -> tuple[dict[Path, str], list[str], list[UserError]]:
        """Of the pictures of a root: (picture -> label, "" for none; names that are no picture's; faults)."""
        found, faults = dict.fromkeys(pictures, ""), []
        whole, short, lost = {}, defaultdict(list), []
        for path in found:
            name = PurePosixPath(_plain(path.relative_to(root).as_posix()))
            whole[str(name)] = [path]
            for shorter in {str(name.with_suffix("")), name.name, name.stem}:
                short[shorter].append(path)
        for name, label in self.labels.items():
            match whole.get(name) or short[name]:
                case []:
                    lost.append(name)
                case [path]:
                    if found[path] and found[path] != label:
                        what = f"gives {path.relative_to(root)} two labels, {found[path]!r} and {label!r}"
                        faults.append(UserError(what, self.path, "name each picture once"))
                    found[path] = label
                case several:
                    what = f"{name!r} may be {some([str(path.relative_to(root)) for path in several])}"
                    faults.append(UserError(what, self.path, f"name files relative to {root}, with their endings"))
        if len(lost) == len(self.labels):
            first = next(iter(self.labels), None)
            what = f"names no picture of the folder; in its column {self.files!r} the first file is {first!r}"
            there = next(iter(found)).relative_to(root) if found else "a/1.jpg"
            faults.append(UserError(what, self.path, f"name files relative to {root}, as {there}"))
        first = _plain(self.files.strip().removeprefix("./"))
        if {".", "/"} & set(first) and (whole.get(first) or short.get(first)):
            what = f"has no header: its first line is of the picture {first}"
            faults.append(UserError(what, self.path, "put a line before it: file,label"))
        return found, lost, faults


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, fields) of every row that is not empty, the header first."""
    if not path.exists():
        raise UserError("not found", path, "a table of labels lies in the folder of pictures, and is named from there")
    with (
        access.reading(path, "not readable as a CSV", "save it as CSV in UTF-8", UnicodeDecodeError, csv.Error),
        open(path, encoding="utf-8-sig", newline="") as file,
    ):
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
        found = [(reader.line_num, row) for row in reader if row]
    if len(found) < 2:
        raise UserError("holds no labels", path, "a header, and a line for each picture: file,label")
    return found


def _columns(path: Path, header: tuple[int, list[str]], rows: list[list[str]], column: str | None) -> tuple[int, int]:
    """The places of the files and of the labels. An index of pandas, 0, 1, ... without a name, is neither."""
    names = [name.strip() or UNNAMED for name in header[1]]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if len(names) < 2 or twice:
        what = f"has two columns named {twice[0]!r}" if twice else f"has one column, {names[0]!r}"
        raise UserError(what, path, "the header names a column of files and one of labels: file,label")
    index = names[0] == UNNAMED and len(names) > 2 and [row[:1] for row in rows] == [[f"{k}"] for k in range(len(rows))]
    files = next((i for i, name in enumerate(names) if name.casefold() in FILES), 1 if index else 0)
    others = [name for i, name in enumerate(names) if i != files and name != UNNAMED]
    if column is None and len(others) > 1:
        what = f"has columns {some(others)}, and dataset.label_column names none"
        raise UserError(what, path, f"name one: dataset.label_column={others[0]}, or --label-column")
    if column is not None and column not in others:
        raise UserError(f"has no column of labels {column!r}, but {some(others)}", path, "set dataset.label_column")
    return files, names.index(others[0] if column is None else column)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def some(names: list[str]) -> str:
    """The first names of a list, and how many there are if they are more."""
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names):,})" if len(names) > SHOWN else "")
