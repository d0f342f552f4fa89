"""A finished encoder as files that other programs load: torch.export, ONNX, or a folder for the Hugging Face hub.

A file is loaded again and compared with the encoder before it gets its name.
"""

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.core import files, seeds
from pipeline.core.errors import UserError, out_of_memory
from pipeline.networks import backbones, pretrained
from pipeline.release import card as model_card

NEAR = 1e-4  # largest difference of two features, relative to the largest feature
_OTHERS = (".pt", ".pth", ".bin", ".safetensors", ".h5", ".json")  # endings that no folder has
_HUB = ("config.json", "model.safetensors", "README.md")
_BATCHES = 1, 3  # sizes with which a file is compared: the first axis is free


class _Plain(nn.Module):
    """An encoder without its checks of what it is given: normalisation and backbone."""

    def __init__(self, encoder: backbones.Encoder):
        super().__init__()
        self.backbone = encoder.backbone
        for name in ("mean", "std"):
            self.register_buffer(name, getattr(encoder, name).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone((images - self.mean) / self.std)


def export(folder: Path, out: Path) -> int:
    """Write the encoder of `folder` to `out`: .pt2 (torch.export), .onnx, or a folder; the length of its features.

    Of the files the input is `images`, float (batch, C, H, W) in [0, 1], and the output `features`, (batch, D); batch
    is free. A folder has model.safetensors, config.json and README.md, the model card.
    """
    encoder = backbones.load(folder)
    if encoder.card.get("size") is None:
        raise UserError("does not say how large its images were", folder / "card.json", "run `dvc repro pretrain`")
    kinds = {".pt2": _pt2, ".onnx": _onnx}
    if out.suffix in kinds:
        encoder.backbone.to(memory_format=torch.contiguous_format)
        kinds[out.suffix](encoder, out)
    elif out.is_file() or out.suffix in _OTHERS:
        raise UserError("is no kind of file for an encoder", out, "end it in .pt2 or .onnx, or name a folder")
    else:
        _hub(encoder, folder, out)
    return encoder.width


def _images(encoder: backbones.Encoder, n: int) -> torch.Tensor:
    size, channels = encoder.card["size"], len(encoder.card["mean"])
    return torch.rand(n, channels, size, size, generator=seeds.generator(0, "export", n))


def _compare(encoder: backbones.Encoder, other: Callable[[torch.Tensor], torch.Tensor], what: Path) -> None:
    """Refuse what does not compute the encoder's features; that is a bug of an exporter."""
    for n in _BATCHES:
        images = _images(encoder, n)
        with torch.inference_mode():
            wanted = encoder(images)
            found = other(images)
        apart = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
        if not apart <= NEAR:
            raise RuntimeError(f"{what}: features of {n} images differ by {apart:.2g} of the largest, more than {NEAR}")


def _program(encoder: backbones.Encoder) -> torch.export.ExportedProgram:
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    plain = _Plain(encoder).eval().requires_grad_(False)
    try:
        return torch.export.export(plain, (_images(encoder, 2),), dynamic_shapes=shapes)
    except Exception as fault:  # of some networks of timm's
        if out_of_memory(fault):
            raise
        what = f"torch.export cannot trace {encoder.card['name'] or encoder.card['kind']}: {str(fault).splitlines()[0]}"
        raise UserError(what, remedy="export to a folder instead") from fault


def _pt2(encoder: backbones.Encoder, out: Path) -> None:
    program = io.BytesIO()
    torch.export.save(_program(encoder), program)
    program.seek(0)
    _compare(encoder, torch.export.load(program).module(), out)
    files.write(out, lambda temporary: temporary.write_bytes(program.getvalue()))


def _onnx(encoder: backbones.Encoder, out: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"wants {name}", out, "pip install -e '.[export]'")
    import onnxruntime

    def run(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(np.asarray(session.run(["features"], {"images": images.numpy()})[0]))

    def write(temporary: Path) -> None:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):  # of torch's and onnxscript's own insides
            made = torch.onnx.export(
                _program(encoder), input_names=["images"], output_names=["features"], dynamo=True, verbose=False
            )
            made.save(temporary, external_data=False)
        _compare(encoder, run(temporary), out)

    files.write(out, write)


def _hub(encoder: backbones.Encoder, folder: Path, out: Path) -> None:
    """A folder that `hf upload` takes as it is; the model card's own lines load it."""
    card, there = encoder.card, [name for name in _HUB if (out / name).exists()]
    if there and "leaven" not in (files.read_json(out / "config.json") if "config.json" in there else {}):
        raise UserError(f"holds a {there[0]} of something else", out, "name a new folder")
    if card["kind"] == "resnet" and card["width"] % 2:
        raise UserError(f"timm builds no ResNet of the odd width {card['width']}", out, "export to .pt2 or .onnx")
    fixed = card["kind"] == "timm" and bool(pretrained.timm_config(card["name"]).fixed_input_size)
    size, channels = card["size"], len(card["mean"])
    config = {
        "mean": card["mean"],
        "std": card["std"],
        "input_size": [channels, size, size],
        "interpolation": "bicubic",
    }
    if card["kind"] == "timm":  # as timm writes it: create_model("hf-hub:...") finds all that it wants
        config = {
            "architecture": card["name"],
            "num_classes": 0,
            "num_features": encoder.width,
            "model_args": {"in_chans": channels} | ({"img_size": size} if fixed else {}),
            "pretrained_cfg": {"num_classes": 0, "fixed_input_size": fixed, **config},
        }
    files.copy(folder / "encoder.safetensors", out / "model.safetensors")
    files.write_text(out / "config.json", json.dumps({**config, "leaven": card}, indent=2) + "\n")
    files.write_text(out / "README.md", model_card.text(card, encoder.width, out.name, fixed))
