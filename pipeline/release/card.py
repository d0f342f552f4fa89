"""The model card of an exported encoder, and the lines that load it without Leaven."""

import json
from pathlib import Path

from pipeline.core import files, sources
from pipeline.networks.resnet import STEMS

METRICS = Path("metrics")
_CARD = """---
{library}pipeline_tag: image-feature-extraction
tags: [self-supervised-learning, contrastive-learning, data-inflation]
---

# {name}

An encoder of images, {shape}: it makes a vector of {width:,} numbers of each.
It was pretrained by {method} without labels, on {n_real:,} real images{generated} (data inflation:
[Wang et al., ICLR 2024](https://arxiv.org/abs/2403.12448)), and exported by Leaven at commit {commit}.

## Load it

It needs `pip install torch timm safetensors`, and nothing of Leaven.

```python
{lines}
```

## Data

| | |
|---|---|
{data}

## Numbers

{numbers}

## Files

- `model.safetensors`: the weights (sha256 `{sha256}`).
- `config.json`: the network's form, mean and standard deviation of the images, and under `leaven` what was trained how.
"""
_NAMES = {  # of metrics/linear_eval.json, for people
    "top1": "linear probe",
    "top1_labelled": "linear probe, {fixed_labels:,} labels",
    "top1_10pct": "linear probe, {few_labels[10pct]:,} labels",
    "top1_1pct": "linear probe, {few_labels[1pct]:,} labels",
    "balanced_accuracy": "linear probe, all classes alike (balanced accuracy)",
    "macro_f1": "linear probe, macro-F1",
    "knn": "weighted kNN",
    "baseline": "linear probe of {baseline[name]}, downloaded and frozen",
    "untrained": "linear probe of the untrained network",
    "pixels": "linear probe of raw pixels",
}


def text(card: dict, width: int, name: str, fixed: bool) -> str:
    """The card in Markdown. card: the encoder's own; width: length of its vectors; fixed: as for `lines`."""
    kind = "more in the place of generated" if card.get("generated") == "real" else "generated"
    made = f" and {card['n_generated']:,} {kind} ones" if card["n_generated"] else ""
    if positives := card.get("candidates"):
        made += f", with {positives} generated positive{'s' * (positives > 1)} of each real one"
    recipe = card["augment"]
    side, ways = card["size"], {"crop": "middle square", "pad": "black beside the shorter side", "stretch": "stretched"}
    square = f", {ways[card['resize']]}" if card.get("resize") else ""
    rows = {
        "images": f"{card.get('data', 'unknown')}, {side} x {side} pixels{square}",
        "real share of a batch": f"{card['beta']:.3f}",
        "passes over the real images": f"{card['real_passes']:.1f}",
        "augmentation": f"{recipe['family']}, {recipe['form']}, strength {recipe['strength']:g}",
        "first weights": f"pretrained before, sha256 `{card['start']}`" if card.get("start") else "random",
    }
    return _CARD.format(
        name=name,
        library="library_name: timm\n" if card["kind"] == "timm" else "",
        shape=f"float (N, {len(card['mean'])}, {side}, {side}) in [0, 1]",
        width=width,
        method=card["method"],
        n_real=card["n_real"],
        generated=made,
        commit=sources.commit(),
        lines=lines(card, fixed),
        data="\n".join(f"| {key} | {value} |" for key, value in rows.items()),
        numbers=_numbers(card),
        sha256=card["sha256"],
    )


def _numbers(card: dict) -> str:
    """The linear evaluation of these very weights, as a table; a sentence where there is none."""
    paths = METRICS / "linear_eval.json", METRICS / "linear_eval.protocol.json"
    if not all(path.exists() for path in paths):
        return "These weights were not evaluated."
    found, protocol = map(files.read_json, paths)
    if protocol.get("encoder_sha256") != card["sha256"]:
        return "The evaluation at hand was of other weights."
    if "few_labels" not in protocol and found.keys() & {"top1_10pct", "top1_1pct"}:
        return "The evaluation at hand was made by older code."
    if "top1" not in found:
        return f"{protocol.get('note', 'No linear probe')}."
    rows = [f"| {_NAMES[key].format(**protocol)} | {found[key]:.2f} |" for key in _NAMES if key in found]
    caption = (
        f"{protocol['train_labels']:,} labels where nothing else is said, {protocol['test_images']:,} test images; "
        f"the first number's 95 % interval is {found['top1_low']:.2f} to {found['top1_high']:.2f}."
    )
    return "\n".join(["| test top-1 | % |", "|---|---|", *rows, "", caption])


def lines(card: dict, fixed: bool) -> str:
    """Python that makes the network of a card, loads the weights and computes features, without Leaven.

    fixed: whether a network of timm's is made for one size.
    """
    channels = len(card["mean"])
    if card["kind"] == "timm":
        imports = "import timm"
        size = f", img_size={card['size']}" if fixed else ""
        shape = [f'model = timm.create_model("{card["name"]}", in_chans={channels}, num_classes=0{size})']
    elif card["kind"] == "vit":
        imports = "from timm.models.vision_transformer import VisionTransformer"
        shape = [
            f"model = VisionTransformer(img_size={card['size']}, patch_size={card['patch']}, in_chans={channels},",
            f"    embed_dim={card['width']}, depth={card['depth']}, num_heads={card['heads']}, num_classes=0,",
            '    global_pool="avg", fc_norm=False)',
        ]
    else:
        shape, imports = _resnet(card, channels), "from timm.models.resnet import BasicBlock, Bottleneck, ResNet"
    mean, std = json.dumps(card["mean"]), json.dumps(card["std"])
    return "\n".join(
        [
            "import torch",
            imports,
            "from safetensors.torch import load_file",
            "",
            *shape,
            'model.load_state_dict(load_file("model.safetensors"))',
            f"mean, std = (torch.tensor(x)[:, None, None] for x in ({mean}, {std}))",
            f"images = torch.rand(8, {channels}, {card['size']}, {card['size']})  # yours, in [0, 1]",
            "features = model.eval()((images - mean) / std)",
        ]
    )


def _resnet(card: dict, channels: int) -> list[str]:
    """timm's ResNet of any width: its deep stem is half as wide as what follows, and gives way to the card's."""
    width, stem = card["width"], STEMS[card["stem"]]
    block = {"basic": "BasicBlock", "bottleneck": "Bottleneck"}[card["block"]]
    planes = [width * 2**k for k in range(4)]
    conv = f"torch.nn.Conv2d({channels}, {width}, {stem.kernel}, {stem.stride}, {stem.padding}, bias=False)"
    return [
        f'model = ResNet({block}, {card["blocks"]}, num_classes=0, stem_type="deep", stem_width={width // 2},',
        f"    channels={planes})",
        f"model.conv1 = {conv}",
        *([] if stem.pool else ["model.maxpool = torch.nn.Identity()"]),
    ]
