"""What people read of a stage: metrics as JSON, curves as CSV, contact sheets as PNG."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.core import files

_INK, _PAPER, _GAP, _SCALE = 40, 255, 2, 2


def metrics(path: Path, values: dict[str, float | None]) -> None:
    """Write a stage's metrics, at most twenty: each is a column of `dvc exp show`. Floats to four decimals.

    None is a number of which there was nothing to measure; it is left out.
    """
    values = {k: v for k, v in values.items() if v is not None}
    if len(values) > 20:
        raise ValueError(f"{len(values)} metrics in {path}: at most twenty fit a table")
    files.write_json(path, {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})


def columns(rows: list[dict], *but: str) -> list[str]:
    """The names that a log's rows have, in the order in which they first appear; players of a game may begin late."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in but))


def table(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows as CSV; a value that a row lacks stays empty, floats have six digits."""
    text = io.StringIO()
    lines = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for row in rows:
        lines.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
    files.write_text(path, text.getvalue())


def pairs(path: Path, groups: list[tuple[str, np.ndarray, np.ndarray, list[str]]]) -> None:
    """A PNG of images, each above the one that it belongs to and over a few words: a row for each group.

    groups: name, the upper images, the lower ones (both uint8 (N, H, W, 1 or 3)), and the words, one a pair. Without a
    group it says that there is none.
    """
    if not groups:
        contact_sheet(path, [])
        return
    height, width, _ = groups[0][1].shape[1:]
    scale = max(1, round(64 / width))  # of small images, or the words would not find room
    cell_w, cell_h, title, words = max(width * scale, 56) + 3 * _GAP, 2 * height * scale + 2 * _GAP, 26, 20
    columns, row = max(len(upper) for _, upper, _, _ in groups), cell_h + title + words
    sheet = Image.new("RGB", (columns * cell_w + _GAP, len(groups) * row), (_PAPER,) * 3)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(16), ImageFont.load_default(13)
    for i, (name, upper, lower, told) in enumerate(groups):
        draw.text((_GAP + 2, i * row + 3), name, fill=(_INK,) * 3, font=font)
        for j, (one, other, said) in enumerate(zip(upper, lower, told, strict=True)):
            for k, image in enumerate((one, other)):
                tile = Image.fromarray(np.broadcast_to(image, (height, width, 3)).copy())
                tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
                sheet.paste(tile, (_GAP + j * cell_w, i * row + title + k * height * scale))
            draw.text((_GAP + j * cell_w, i * row + title + cell_h), said, fill=(_INK,) * 3, font=small)
    files.write(path, lambda temporary: sheet.save(temporary, format="PNG"))


def contact_sheet(path: Path, sets: list[tuple[str, np.ndarray]], columns: int = 16, rows: int = 4) -> None:
    """A PNG of the first images of each set under its name; images: uint8 (N, H, W, 1 or 3), N may be 0.

    Without a set it says that there is none.
    """
    sets = sets or [("none", np.empty((0, 1, 1, 1), np.uint8))]
    height, width, _ = next((images.shape[1:] for _, images in sets if len(images)), (1, 1, 1))
    cell_h, cell_w, title = height * _SCALE + _GAP, width * _SCALE + _GAP, 26
    sheet = Image.new("RGB", (columns * cell_w + _GAP, len(sets) * (rows * cell_h + title)), (_PAPER,) * 3)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (name, images) in enumerate(sets):
        top = i * (rows * cell_h + title)
        draw.text((_GAP + 2, top + 3), name, fill=(_INK,) * 3, font=font)
        for j, image in enumerate(images[: rows * columns]):
            tile = Image.fromarray(np.broadcast_to(image, (height, width, 3)).copy())
            tile = tile.resize((width * _SCALE, height * _SCALE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_GAP + j % columns * cell_w, top + title + j // columns * cell_h))
    files.write(path, lambda temporary: sheet.save(temporary, format="PNG"))
