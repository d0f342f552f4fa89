"""The table at the end of `make repro`: the numbers of metrics/, and how long each stage took."""

from pathlib import Path

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.params.generators import SOURCES
from pipeline.params.schema import Params
from pipeline.report import agreement
from pipeline.run import graph

STAGES = ("check", "prepare", "generator", "generate", "score", "positives", "quality", "pretrain", "linear_eval")


def summary() -> str:
    """Seconds of each stage's last real run, then the accuracies, and what of it does not belong together."""
    params = reader.load()
    # A share's files have its text in params.yaml, which may be 1 or 1.0.
    names = [*STAGES, *(f"{stage}@{name}" for stage, them in agreement.further(params).items() for name in them)]
    records = {name: store.root() / "records" / f"{name}.json" for name in names}
    ran = {name: files.read_json(path) for name, path in records.items() if path.exists()}
    width, lines = max(map(len, names)), []
    for name, record in ran.items():
        other = "" if _with(name, params, record) else "  (with other parameters)"
        lines.append(f"  {name:<{width}} {record['seconds']:8.1f} s{other}")
    lines += [f"  {'all stages':<{width}} {sum(record['seconds'] for record in ran.values()):8.1f} s", ""]
    foreign = [f"  not of one run: {fault}" for fault in agreement.faults(params)]
    made, judged = files.read_json(Path("metrics/pretrain.json")), files.read_json(Path("metrics/linear_eval.json"))
    if "ceiling" in made:
        lines.append(f"  generated images: {SOURCES['real']}")
    lines.append(f"  real share beta {made['beta']:.3f}, {made['real_passes']:.1f} passes over the real images")
    if "top1" not in judged:
        judged = files.read_json(Path("metrics/label_free.json"))
        lines += [f"  {name:<40} {value:8.3f}" for name, value in judged.items()]
        return "\n".join([*lines, *_further(params), *foreign])
    words = words_for(files.read_json(Path("metrics/linear_eval.protocol.json")))
    if not words or words.keys() - judged.keys():
        raise UserError("made by older code", "metrics/linear_eval.json", "run `dvc repro`")
    lines += ["", f"  {'linear probe, test top-1':<40} {'%':>6}"]
    lines += [f"  {text:<40} {judged[name]:6.2f}" for name, text in words.items()]
    lines.append(f"  95 % interval of the first: {judged['top1_low']:.2f} to {judged['top1_high']:.2f}")
    return "\n".join([*lines, *_further(params), *foreign])


def _further(params: Params) -> list[str]:
    """What the encoder is worth on other sets, which may have labels where its own has none, and fine-tuned."""
    words = {"transfer": ("transfer to {}", "pixels"), "finetune": ("fine-tuned, share {} of labels", "from_scratch")}
    lines = []
    for stage, names in agreement.further(params).items():
        said, yardstick = words[stage]
        for name in names:
            path = Path(f"metrics/{stage}/{name}.json")
            if path.exists():
                found = files.read_json(path)
                beside = f"({yardstick.replace('_', ' ')}: {found[yardstick]:.2f})"
                lines.append(f"  {said.format(name):<40} {found['top1']:6.2f} {beside}")
    return lines


def words_for(proof: dict) -> dict[str, str]:
    """Accuracies of metrics/linear_eval.json, and what to call them by its protocol; {} where older code wrote that."""
    if "few_labels" not in proof:
        return {}
    published = {"online": "encoder, layer trained beside it", "offline": "encoder, solo-learn's offline protocol"}
    return {
        "top1": f"encoder, labels of {proof['train_labels']:,} images",
        "top1_labelled": f"encoder, labels of {proof['fixed_labels']:,} images",
        "top1_10pct": f"encoder, labels of {proof['few_labels']['10pct']:,} images",
        "top1_1pct": f"encoder, labels of {proof['few_labels']['1pct']:,} images",
        "clsp": "encoder, CLSP's protocol",
        **{name: words for name, words in published.items() if name in proof},
        "knn": "encoder, weighted kNN",
        "untrained": "untrained encoder",
        "pixels": "raw pixels",
        **({"baseline": f"{proof['baseline']['name']}, downloaded and frozen"} if "baseline" in proof else {}),
    }


def _with(name: str, params: Params, record: dict) -> bool:
    """Whether a stage's record is of these parameters, as far as the stage is given them."""
    then, faults = reader.validate(record.get("params", {}))
    if faults:
        return False
    stage, _, key = name.partition("@")
    described = graph.load(stage)
    try:
        return described.select(then, key or None) == described.select(params, key or None)
    except UserError:  # it had no such entry then
        return False
