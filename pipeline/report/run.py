"""The run at hand: committed metrics, curves and pictures; with data/ there, also what the encoder sees."""

import csv
import html
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.manifold import TSNE

from pipeline.core import files, seeds
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params import reader
from pipeline.report import figures
from pipeline.report.studies import table

ON_MAP, GENERATED_ON_MAP, FEWEST_ON_MAP = 1500, 300, 10
BANK = 7500  # train images, and generated ones, that neighbours are sought among
QUERIES, NEIGHBOURS = 10, 9
_FRAME = (249, 115, 22)  # around generated images


def section() -> str:
    """Numbers, samples, curves, classes; the map and the neighbours where data/ has what they are made of."""
    found = sorted(Path("metrics").rglob("*.json"))
    numbers = {path.relative_to("metrics").with_suffix("").as_posix(): files.read_json(path) for path in found}
    judged = numbers.get("linear_eval", {}) | numbers.get("label_free", {})
    tiles = [(words, judged[name]) for name, words in _TILES if name in judged]
    tiles = tiles or [(name, value) for name, value in judged.items()]  # a set without labels
    shown = "".join(f"<div><b>{value:.2f}</b><span>{words}</span></div>" for words, value in tiles)
    rows = [
        [name, key, f"{v:g}"] for name, of in numbers.items() for key, v in of.items() if isinstance(v, int | float)
    ]
    drawn = [*_pictures(), *_curves(), *_confusion()]
    if not numbers and not drawn:
        return ""
    try:
        seen = "".join(_seen())
    except UserError as lacking:
        seen = f"<p>Not drawn here, {html.escape(str(lacking))}</p>"
    return (
        f'<section id="run"><h2>This run</h2><div class=tiles>{shown}</div><div class=figures>{"".join(drawn)}</div>'
        f"<h3>What the encoder sees</h3><div class=figures>{seen}</div>"
        f"<details><summary>All numbers</summary>{table(['file', 'number', 'value'], rows)}</details></section>"
    )


_TILES = (
    ("top1", "linear probe, the train images' labels"),
    ("top1_10k", "linear probe, a fixed number of labels"),
    ("top1_10pct", "a tenth of those"),
    ("top1_1pct", "a hundredth of those"),
    ("clsp", "CLSP's protocol"),
    ("knn", "weighted kNN"),
    ("untrained", "untrained encoder"),
    ("pixels", "raw pixels"),
)


def _pictures() -> list[str]:
    named = {
        "generated": "Generated images above real ones",
        "closest": "Generated images nearest to a train image, and it",
    }
    found = {words: Path(f"plots/{name}.png") for name, words in named.items()}
    return [figures.picture(words, path.read_bytes()) for words, path in found.items() if path.exists()]


def _read(name: str) -> dict[str, list[str]]:
    path = Path("plots") / f"{name}.csv"
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [row[column] for row in rows] for column in (rows[0] if rows else ())}


def _curves() -> list[str]:
    wanted = (
        ("generator", "loss", "Training the generator: loss"),
        ("pretrain", "loss", "Pretraining: loss"),
        ("validation", "validation_knn", "Pretraining: kNN on validation images, %"),
        ("validation", "feature_spread", "Pretraining: spread of the features, 0 where they have collapsed"),
    )
    drawn = []
    for name, column, title in wanted:
        found = _read(name)
        if column in found:
            x, y = ([float(v) for v in found[key]] for key in ("step", column))
            drawn.append(figures.lines(title, "step", "", {column: (x, y)}))
    return drawn


def _confusion() -> list[str]:
    found = _read("confusion")
    if not found:
        return []
    names = list(dict.fromkeys(found["actual"]))
    counts = np.zeros((len(names), len(names)), int)
    for actual, predicted, count in zip(found["actual"], found["predicted"], found["count"], strict=True):
        counts[names.index(actual), names.index(predicted)] = int(count)
    return [figures.confusion("Test images: what they are and what the probe says", names, counts)]


def _seen() -> list[str]:
    """A map of features and nearest neighbours, of validation, train and generated images."""
    params = reader.load()
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    unseen, labels = (part[:ON_MAP] for part in real.part(shards.VALIDATION))
    train = real.part(shards.TRAIN)[0][:BANK]
    bank = np.concatenate([train, *shards.map_generated(Path("data/generated/inflation"))])[: len(train) + BANK]
    x = torch.nn.functional.normalize(probes.features(encoder, np.concatenate([unseen, bank]), params.compute), dim=1)
    queries, keys = x[: len(unseen)], x[len(unseen) :]
    return [
        *_map(queries, keys[len(train) :][:GENERATED_ON_MAP], labels, real.classes),
        _neighbours(unseen, labels, queries, bank, keys, len(train)),
    ]


def _map(unseen: torch.Tensor, generated: torch.Tensor, labels: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """Unit features in the plane; nothing where there are too few for a neighbourhood."""
    both = torch.cat([unseen, generated]).numpy()
    if len(both) < FEWEST_ON_MAP:
        return []
    perplexity, seed = min(30, (len(both) - 1) / 3), seeds.key(0, "map") % 2**32
    places = TSNE(init="pca", random_state=seed, perplexity=perplexity).fit_transform(both)
    groups = np.concatenate([labels, np.full(len(generated), -1)])
    title = f"{len(unseen):,} validation images as the encoder sees them (t-SNE of unit features)"
    title += f"; rings: {len(generated)} generated ones" if len(generated) else ""
    return [figures.scatter(title, places, groups, classes, np.arange(len(both)) >= len(unseen))]


def _neighbours(
    unseen: np.ndarray, labels: np.ndarray, queries: torch.Tensor, bank: np.ndarray, keys: torch.Tensor, n_real: int
) -> str:
    """A validation image of each of the first classes, or the first ones, beside the nearest of the bank."""
    first = [np.flatnonzero(labels == c)[0] for c in np.unique(labels[labels >= 0])][:QUERIES]
    first = first or list(range(min(QUERIES, len(unseen))))
    nearest = (queries[first] @ keys.T).topk(min(NEIGHBOURS, len(bank)), dim=1).indices.numpy()
    words = "Validation images (left) and the train and generated images that are nearest to them; framed: generated"
    return figures.picture(words, _sheet(unseen[first], bank, nearest, n_real))


def _sheet(queries: np.ndarray, bank: np.ndarray, nearest: np.ndarray, n_real: int, scale: int = 2) -> bytes:
    """A row an image: itself, a gap, its neighbours; PNG."""
    height, width, _ = queries.shape[1:]
    cell_h, cell_w, gap = height * scale + 6, width * scale + 6, 10
    sheet = Image.new("RGB", (cell_w * (nearest.shape[1] + 1) + gap, cell_h * len(queries)), (255, 255, 255))
    for i, (query, found) in enumerate(zip(queries, nearest, strict=True)):
        for j, (image, generated) in enumerate([(query, False), *((bank[k], k >= n_real) for k in found)]):
            tile = Image.fromarray(np.broadcast_to(image, (height, width, 3)).copy()).resize(
                (width * scale, height * scale), 0
            )
            left, top = j * cell_w + (gap if j else 0), i * cell_h
            if generated:
                sheet.paste(_FRAME, (left, top, left + cell_w, top + cell_h))
            sheet.paste(tile, (left + 3, top + 3))
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()
