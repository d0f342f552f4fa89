"""What people read: metrics as JSON, curves as CSV, pictures; and the table at the end of `make repro`.

python -m pipeline.report    the numbers of metrics/ and how long each stage took
"""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import files, stage, store
from pipeline.errors import UserError
from pipeline.params import reader

STAGES = ("check", "prepare", "generator", "generate", "positives", "quality", "pretrain", "linear_eval")
_INK, _PAPER, _GAP = 40, 255, 2


def metrics(path: Path, values: dict[str, float]) -> None:
    """Write a stage's metrics, at most fifteen: each is a column of `dvc exp show`. Floats to four decimals."""
    if len(values) > 15:
        raise ValueError(f"{len(values)} metrics in {path}: at most fifteen fit a table")
    files.write_json(path, {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})


def columns(rows: list[dict], *but: str) -> list[str]:
    """The names that a log's rows have, in the order in which they first appear; players of a game may begin late."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in but))


def table(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows as CSV; a value that a row lacks stays empty, floats have six digits."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    for row in rows:
        values = (row.get(column, "") for column in columns)
        lines.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
    files.write_text(path, text.getvalue())


def beside(path: Path, sets: list[tuple[str, np.ndarray]], columns: int = 16, rows: int = 4, scale: int = 2) -> None:
    """A PNG of the first images of each set under its name; images: uint8 (N, H, W, 1 or 3), N may be 0.

    Without a set it says that there is none.
    """
    sets = sets or [("none", np.empty((0, 1, 1, 1), np.uint8))]
    height, width, _ = next((images.shape[1:] for _, images in sets if len(images)), (1, 1, 1))
    cell_h, cell_w, title = height * scale + _GAP, width * scale + _GAP, 26
    sheet = Image.new("RGB", (columns * cell_w + _GAP, len(sets) * (rows * cell_h + title)), (_PAPER,) * 3)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (name, images) in enumerate(sets):
        top = i * (rows * cell_h + title)
        draw.text((_GAP + 2, top + 3), name, fill=(_INK,) * 3, font=font)
        for j, image in enumerate(images[: rows * columns]):
            tile = Image.fromarray(np.broadcast_to(image, (height, width, 3)).copy())
            tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (_GAP + j % columns * cell_w, top + title + j // columns * cell_h))
    files.write(path, lambda temporary: sheet.save(temporary, format="PNG"))


def summary() -> str:
    """The table at the end: time of each stage's last real run, then the numbers that answer the question."""
    params = reader.load()
    # A share goes by the text that params.yaml has for it, of which 1 and 1.0 are read alike.
    sets, shares = params.transfer, dict.fromkeys(f(x) for x in params.finetune.labels for f in (str, "{:g}".format))
    names = [*STAGES, *(f"transfer@{key}" for key in sets), *(f"finetune@{share}" for share in shares)]
    records = {name: store.root() / "records" / f"{name}.json" for name in names}
    times = {name: files.read_json(path)["seconds"] for name, path in records.items() if path.exists()}
    width = max(map(len, names))
    lines = [f"  {name:<{width}} {seconds:8.1f} s" for name, seconds in times.items()]
    lines += [f"  {'all stages':<{width}} {sum(times.values()):8.1f} s", ""]
    made, judged = files.read_json(Path("metrics/pretrain.json")), files.read_json(Path("metrics/linear_eval.json"))
    lines.append(f"  real share beta {made['beta']:.3f}, {made['real_passes']:.1f} passes over the real images")
    if "top1" not in judged:
        judged = files.read_json(Path("metrics/label_free.json"))
        return "\n".join([*lines, *(f"  {name:<40} {value:8.3f}" for name, value in judged.items())])
    proof = files.read_json(Path("metrics/linear_eval.protocol.json"))
    if "few_labels" not in proof:
        raise UserError("made by older code", "metrics/linear_eval.protocol.json", "run `dvc repro`")
    lines += ["", f"  {'linear probe, test top-1':<40} {'%':>6}"]
    words_for = {
        "top1": f"encoder, labels of {proof['train_labels']:,} images",
        "top1_10k": f"encoder, labels of {proof['fixed_labels']:,} images",
        "top1_10pct": f"encoder, labels of {proof['few_labels']['10pct']:,} images",
        "top1_1pct": f"encoder, labels of {proof['few_labels']['1pct']:,} images",
        "clsp": "encoder, CLSP's protocol",
        "knn": "encoder, weighted kNN",
        "untrained": "untrained encoder",
        "pixels": "raw pixels",
    }
    lines += [f"  {text:<40} {judged[name]:6.2f}" for name, text in words_for.items()]
    lines.append(f"  95 % interval of the first: {judged['top1_low']:.2f} to {judged['top1_high']:.2f}")
    beside = {Path(f"metrics/transfer/{key}.json"): (f"transfer to {key}", "pixels") for key in sets}
    for share in shares:
        beside[Path(f"metrics/finetune/{share}.json")] = (f"fine-tuned, share {share} of labels", "from_scratch")
    for path, (text, yardstick) in beside.items():
        if path.exists():
            found = files.read_json(path)
            words = f"({yardstick.replace('_', ' ')}: {found[yardstick]:.2f})"
            lines.append(f"  {text:<40} {found['top1']:6.2f} {words}")
    return "\n".join(lines)


def main() -> None:
    """Print it."""
    print(summary())


if __name__ == "__main__":
    stage.command(main)
