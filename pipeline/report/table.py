"""The table at the end of `make repro`: the numbers of metrics/, and how long each stage took."""

from pathlib import Path

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.params import reader

STAGES = ("check", "prepare", "generator", "generate", "positives", "quality", "pretrain", "linear_eval")


def summary() -> str:
    """Seconds of each stage's last real run, then the accuracies."""
    params = reader.load()
    # A share's files have its text in params.yaml, which may be 1 or 1.0.
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
        "top1_labelled": f"encoder, labels of {proof['fixed_labels']:,} images",
        "top1_10pct": f"encoder, labels of {proof['few_labels']['10pct']:,} images",
        "top1_1pct": f"encoder, labels of {proof['few_labels']['1pct']:,} images",
        "clsp": "encoder, CLSP's protocol",
        "knn": "encoder, weighted kNN",
        "untrained": "untrained encoder",
        "pixels": "raw pixels",
    }
    lines += [f"  {text:<40} {judged[name]:6.2f}" for name, text in words_for.items()]
    lines.append(f"  95 % interval of the first: {judged['top1_low']:.2f} to {judged['top1_high']:.2f}")
    further = {Path(f"metrics/transfer/{key}.json"): (f"transfer to {key}", "pixels") for key in sets}
    for share in shares:
        further[Path(f"metrics/finetune/{share}.json")] = (f"fine-tuned, share {share} of labels", "from_scratch")
    for path, (text, yardstick) in further.items():
        if path.exists():
            found = files.read_json(path)
            words = f"({yardstick.replace('_', ' ')}: {found[yardstick]:.2f})"
            lines.append(f"  {text:<40} {found['top1']:6.2f} {words}")
    return "\n".join(lines)
