"""The current run's section of the page: metrics, curves, pictures; if data/ is there, also what the encoder sees."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from PIL import Image
from sklearn.manifold import TSNE

from pipeline.core import files, seeds, store
from pipeline.core.errors import UserError
from pipeline.data import scores, shards
from pipeline.engine import arithmetic
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params import reader
from pipeline.params.generators import SOURCES
from pipeline.params.schema import Params
from pipeline.report import agreement, figures, table
from pipeline.report.render import render

MOST_CONFUSED = 30  # pairs of classes
ON_MAP, GENERATED_ON_MAP, FEWEST_ON_MAP = 1500, 300, 10
BANK = 7500  # neighbours are sought among so many train images and as many generated ones
QUERIES, NEIGHBOURS = 10, 9
YARDSTICKS = ("pixels", "untrained", "baseline")
_GENERATED = Path("data/generated/inflation")
_FRAME, _PAPER = (249, 115, 22), (255, 255, 255)  # around generated images; around others


def section() -> Markup:
    """Numbers, samples, curves, classes; the map and the neighbours if data/ is there. Empty if nothing ever ran."""
    params, lacking = None, ""
    try:
        params = reader.load()
    except UserError as fault:
        lacking = str(fault)
    found = agreement.here(params)
    numbers = {path.relative_to("metrics").with_suffix("").as_posix(): files.read_json(path) for path in found}
    foreign = agreement.faults(params)
    if foreign:  # a number of one run beside the pictures of another would be believed
        notes = [f"not of one run: {fault}" for fault in foreign]
        return render("run.html", notes=notes, tiles=[], figures=[], seen=[], lacking="", rows=[])
    judged = numbers.get("linear_eval", {}) | numbers.get("label_free", {})
    words = table.words_for(numbers.get("linear_eval.protocol", {}))
    told = ((name, key, v) for name, of in numbers.items() for key, v in of.items() if isinstance(v, int | float))
    rows = [[name, key, f"{v:,}" if isinstance(v, int) else f"{v:g}"] for name, key, v in told]
    drawn, seen = [*_pictures(numbers), *_curves(), *_confusion()], []
    if not numbers and not drawn:
        return Markup()
    notes = [f"generated images: {SOURCES['real']}"] if "ceiling" in numbers.get("generate", {}) else []
    if words.keys() - judged.keys():
        notes.append("metrics/linear_eval.json: made by older code - run `dvc repro`")
    try:
        seen = _seen(params) if params else []
    except UserError as fault:
        lacking = str(fault)
    tiles = _tiles(judged, words, numbers.get("linear_eval.protocol", {}))
    return render("run.html", notes=notes, tiles=tiles, figures=drawn, seen=seen, lacking=lacking, rows=rows)


def _tiles(judged: dict[str, float], words: dict[str, str], proof: dict) -> list[dict]:
    """Each number with its name, unit, interval and what it is to be compared with; of a set without labels, measures.

    The interval is that of the choice of test images (Wilson); differences are paired by image, as linear_eval made
    them.
    """
    if not words or "test_images" not in proof:
        return [{"value": f"{value:.2f}", "unit": "", "words": name, "under": []} for name, value in judged.items()]
    found, n = [], proof["test_images"]
    for name in (name for name in words if name in judged):
        low, high = probes.wilson(round(judged[name] * n / 100), n)
        under = [f"{low:.1f} to {high:.1f}"]
        if f"over_{name}" in proof:  # a yardstick
            over = proof[f"over_{name}"]
            under.append(f"encoder: {over['points']:+.1f} points ({over['low']:+.1f} to {over['high']:+.1f})")
        elif name in ("top1", "clsp", "knn"):  # of the labels that the yardsticks have
            beside = [f"{words[yardstick]} {judged[yardstick]:.1f}" for yardstick in YARDSTICKS if yardstick in judged]
            under.append(", ".join(beside))
        found.append({"value": f"{judged[name]:.2f}", "unit": "%", "words": words[name], "under": under})
    return found


def _pictures(numbers: dict[str, dict]) -> list[Markup]:
    """Pictures of generated images, but those of a run that has none."""
    counted = {
        ("generated", "generate", "images"): "Generated images above real ones",
        (
            "closest",
            "quality",
            "judged",
        ): "The generated images that are nearest to a train image, each with that image",
    }
    there = [(name, words) for (name, by, of), words in counted.items() if numbers.get(by, {}).get(of) != 0]
    found = {words: Path(f"plots/{name}.png") for name, words in there}
    return [figures.picture(words, path.read_bytes()) for words, path in found.items() if path.exists()]


def _read(name: str) -> pd.DataFrame:
    """A table of plots/, as text; empty if it is not there or holds nothing."""
    try:
        return pd.read_csv(Path("plots") / f"{name}.csv", dtype=str, keep_default_na=False)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()


def _curves() -> list[Markup]:
    wanted = (
        ("generator", "loss", "Training the generator: loss"),
        ("pretrain", "loss", "Pretraining: loss"),
        ("validation", "validation_knn", "Pretraining: kNN on validation images, %"),
        ("validation", "validation_online", "Pretraining: a linear layer beside on validation images, %"),
        ("validation", "rankme", "Pretraining: RankMe of train images, without labels"),
        ("validation", "feature_spread", "Pretraining: spread of the features, 0 where they have collapsed"),
    )
    drawn = []
    for name, column, title in wanted:
        found = _read(name)
        if column in found and len(found):
            series = {column: tuple(found[["step", column]].astype(float).to_numpy().T)}
            from_zero = column == "feature_spread"  # small next to 0 is what matters
            drawn.append(figures.lines(title, "step", "", series, from_zero=from_zero))
    return drawn


def _confusion() -> list[Markup]:
    """All pairs of classes; of many classes, as linear_eval's own table, the most frequent confusions."""
    found = _read("confusion")
    if found.empty:
        return []
    names, counts = list(found["actual"].unique()), found["count"].astype(int)
    wrong = found["actual"] != found["predicted"]
    if len(names) <= figures.MANY and not wrong.all():
        square = counts.to_numpy().reshape(len(names), -1)  # linear_eval wrote them row by row
        return [figures.confusion("Test images: actual classes and those that the probe predicts", names, square)]
    most = found[wrong & (counts > 0)].assign(count=counts).nlargest(MOST_CONFUSED, "count")
    rows = [(f"{row.actual} as {row.predicted}", row[3]) for row in most.itertuples()]
    return [figures.bars(f"Test images: the {len(rows)} most frequent confusions of the probe", rows, "images")]


def _seen(params: Params) -> list[Markup]:
    """The map of features, and nearest neighbours among train and generated images. Without a GPU, on the CPU."""
    if not torch.cuda.is_available():
        params = params.model_copy(update={"compute": params.compute.model_copy(update={"device": "cpu"})})
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    unseen, labels = (part[:ON_MAP] for part in real.part(shards.VALIDATION))
    if not len(unseen):
        raise UserError("has no validation images", "data/real")
    train = real.part(shards.TRAIN)[0][:BANK]
    manifests = store.verify(_GENERATED, "generate"), store.verify(Path("data/real"), "prepare")
    kept = scores.kept(params.inflation, *manifests).rows[:BANK]
    bank = np.concatenate([train, *shards.of_parts(shards.map_generated(_GENERATED), kept)])
    x = torch.nn.functional.normalize(probes.features(encoder, np.concatenate([unseen, bank]), params.compute), dim=1)
    queries, keys = x[: len(unseen)], x[len(unseen) :]
    return [
        *_map(queries, keys[len(train) :][:GENERATED_ON_MAP], labels, real.classes),
        _neighbours(unseen, labels, queries, bank, keys, len(train)),
    ]


def _map(unseen: torch.Tensor, generated: torch.Tensor, labels: np.ndarray, classes: tuple[str, ...]) -> list[Markup]:
    """Unit features in the plane; nothing if there are too few for a neighbourhood."""
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
) -> Markup:
    """A validation image of each of the first classes (or the first ones) and the nearest images of the bank."""
    first = [np.flatnonzero(labels == c)[0] for c in np.unique(labels[labels >= 0])][:QUERIES]
    first = first or list(range(min(QUERIES, len(unseen))))
    nearest = (queries[first] @ keys.T).topk(min(NEIGHBOURS, len(bank)), dim=1).indices.numpy()
    words = "Validation images (left) and the train and generated images that are nearest to them; framed: generated"
    return figures.picture(words, _sheet(unseen[first], bank, nearest, n_real))


def _sheet(queries: np.ndarray, bank: np.ndarray, nearest: np.ndarray, n_real: int, scale: int = 2) -> bytes:
    """PNG with a row for each query: the image, a gap, its neighbours; generated ones are framed."""

    def tile(image: np.ndarray, frame: tuple[int, int, int]) -> np.ndarray:
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        height, width, _ = enlarged.shape
        framed = np.full((height + 6, width + 6, 3), frame, np.uint8)
        framed[3:-3, 3:-3] = enlarged
        return framed

    rows = []
    for query, found in zip(queries, nearest, strict=True):
        tiles = [tile(bank[k], _FRAME if k >= n_real else _PAPER) for k in found]
        gap = np.full((len(tiles[0]), 10, 3), _PAPER, np.uint8)
        rows.append(np.concatenate([tile(query, _PAPER), gap, *tiles], axis=1))
    out = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(out, "PNG", optimize=True)
    return out.getvalue()
