"""Encoders: a ResNet of any width, a small ViT, or any network of timm's; saved with a card.

Width 64 and 3 channels with blocks 2-2-2-2 have the parameters of torchvision's `resnet18` but for stem and classifier,
with bottlenecks 3-4-6-3 those of `resnet50`; with stem 7x7 all but the classifier.
(resnet.py and vit.py; pretrained.py has timm's.)
"""

import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.core import files, seeds, weights
from pipeline.core.errors import UserError
from pipeline.networks import pretrained
from pipeline.networks.heads import ONLINE
from pipeline.networks.resnet import ResNet
from pipeline.params.schema import Backbone
from pipeline.params.training import unfit

MADE_FROM = (*Backbone.model_fields, "size", "mean", "std", "seed")  # of a card: the encoder before its first step
_SHARED = 32  # channels below which the sums of two threads share lines of cache, of which processors fetch 128 bytes
_BEYOND = 0.01  # how far a view's values may leave [0, 1] by rounding
_CARD = {"kind": str, "mean": list, "std": list, "seed": int, "sha256": str}
_OLDER = {"stem": "3x3", "block": "basic"}  # of a ResNet whose card does not say


def _checked(x: torch.Tensor, channels: int, look: bool) -> torch.Tensor:
    """The images, if they are what an encoder takes; look: at their values, for which one waits on a GPU."""
    if not x.is_floating_point():
        raise TypeError(f"an encoder takes float images in [0, 1], not {x.dtype}: pass images.float() / 255")
    if x.ndim != 4 or x.shape[1] != channels:
        what = f"an encoder of {channels} channels takes (N, {channels}, H, W), not {tuple(x.shape)}"
        raise ValueError(f"{what}; (N, H, W, {channels}) becomes that by images.permute(0, 3, 1, 2)")
    if look and x.numel():
        low, high = (float(end) for end in x.detach().aminmax())  # NaN passes: training tells of it better
        if low < -_BEYOND or high > 1 + _BEYOND:
            what = f"an encoder takes images in [0, 1] and normalises them itself, these are {low:g} to {high:g}"
            raise ValueError(f"{what}: divide those of 0 to 255 by 255")
    return x


torch.fx.wrap("_checked")  # `probes.features` traces an encoder: the check is one step of it


class Encoder(nn.Module):
    """A backbone behind the normalisation that it was trained with: float (N, C, H, W) in [0, 1] -> features (N, D).

    Other numbers or another shape are a TypeError or ValueError; values are looked at in the first batch of evaluation
    mode, so that training does not wait for a GPU.
    """

    def __init__(self, backbone: nn.Module, card: dict):
        super().__init__()
        self.backbone, self.card, self._looked = backbone, card, False
        # Length of a feature vector; some of timm's networks have a head behind their `num_features`.
        self.width = getattr(backbone, "head_hidden_size", backbone.num_features)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(card[name])[:, None, None], persistent=False)

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """What the backbone sees of images, float (N, C, H, W) in [0, 1]."""
        return (x - self.mean) / self.std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        look = not (self.training or self._looked or torch.compiler.is_compiling())
        x = _checked(x, len(self.card["mean"]), look)
        self._looked |= look
        return self.backbone(self.normalised(x))


def resnet(width: int, blocks: list[int], block: str = "basic", stem: str = "3x3") -> Backbone:
    """The parameters of a ResNet."""
    none = dict.fromkeys(("name", "depth", "heads", "patch"))
    return Backbone(kind="resnet", width=width, stem=stem, block=block, blocks=blocks, **none)


def vit(width: int, depth: int, heads: int, patch: int) -> Backbone:
    """The parameters of a ViT."""
    none = dict.fromkeys(("name", "stem", "block", "blocks"))
    return Backbone(kind="vit", width=width, depth=depth, heads=heads, patch=patch, **none)


def build(
    params: Backbone, mean: list[float], std: list[float], seed: int, size: int | None = None, start: Path | None = None
) -> Encoder:
    """A new encoder; mean and std (one a channel, pixels in [0, 1]) are those of the real images.

    size: pixels of their sides; a ResNet takes any. start: a safetensors file with its first weights; None: fresh ones.
    """
    card = {**params.model_dump(), "size": size, "mean": mean, "std": std, "seed": seed}
    return _new(card if start is None else {**card, "start": files.sha256(start)}, start)


def untrained(encoder: Encoder) -> Encoder:
    """The encoder's network with fresh weights, whatever it started from."""
    return _new({name: encoder.card.get(name) for name in MADE_FROM})


def _new(card: dict, start: Path | None = None) -> Encoder:
    with seeds.scope(card["seed"], "backbone"):
        return Encoder(_network(card, start), card)


def _laid_out(network: nn.Module) -> nn.Module:
    """The network with channels last in memory: 1.4 times the steps a second on a CPU in bf16; same values."""
    wide = (module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    if all(width % 8 == 0 for width in wide):  # of others oneDNN's AVX2 kernels write past a strided gradient's end
        network.to(memory_format=torch.channels_last)
        for module in network.modules():
            if type(module) is nn.BatchNorm2d and module.num_features < _SHARED:
                module.register_forward_hook(_undivided)
    return network


def _undivided(module: nn.Module, given: tuple, y: torch.Tensor) -> None:
    """On a CPU, let one thread go back through this normalisation: the sums of two would lie in one line of cache, for
    which they wait so often that both together take twice as long as one."""
    if torch.compiler.is_compiling() or y.grad_fn is None or y.device.type != "cpu":
        return
    threads = torch.get_num_threads()
    y.grad_fn.register_prehook(lambda gradients: torch.set_num_threads(1))
    y.grad_fn.register_hook(lambda *gradients: torch.set_num_threads(threads))


def _network(card: dict, start: Path | None = None) -> nn.Module:
    """The backbone of a card, or a ValueError where its parameters do not fit together; start: as for `build`."""
    params = Backbone(**{name: card.get(name) for name in Backbone.model_fields})
    size, channels = card.get("size"), len(card["mean"])
    if params.kind == "vit" and (type(size) is not int or size < 1):
        raise ValueError(f"a ViT for images of {size} pixels")
    faults = [f"{name}: {fault}" for name, fault in unfit(params, size)]
    if faults:
        raise ValueError("; ".join(faults))
    if params.kind == "timm":
        return _laid_out(pretrained.timm_network(params.name, channels, size, start))
    if params.kind == "resnet":
        network = _laid_out(ResNet(params.width, params.blocks, channels, params.block, params.stem))
    else:
        from pipeline.networks.vit import SmallViT  # and with it timm, which takes its time

        network = SmallViT(params.width, params.depth, params.heads, params.patch, size, channels)
    return network if start is None else pretrained.load_into(network, start)


def statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel of uint8 images (N, H, W, C), as pixels in [0, 1]; sums are exact."""
    counts = np.zeros((images.shape[3], 256), np.int64)  # five times as fast as sums of squares
    for first in range(0, len(images), 1000):  # bincount makes int64 of what it counts
        for c, count in enumerate(counts):
            count += np.bincount(images[first : first + 1000, ..., c].reshape(-1), minlength=256)
    values = np.arange(256)
    mean = (counts * values).sum(axis=1) / counts.sum(axis=1)
    variance = (counts * values**2).sum(axis=1) / counts.sum(axis=1) - mean**2
    return (mean / 255).tolist(), (np.sqrt(variance.clip(min=1)) / 255).tolist()


def versions() -> dict[str, str]:
    """Of what computes a backbone beside the packages that arithmetic.facts names: part of an encoder's fingerprint."""
    return {"timm": version("timm")}


def save(encoder: Encoder, folder: Path, **facts: object) -> None:
    """encoder.safetensors (torchvision's key names, or timm's) and card.json with what `load` needs and `facts`."""
    weights.save(Path(folder) / "encoder.safetensors", encoder.backbone)
    digest = files.sha256(Path(folder) / "encoder.safetensors")
    files.write_sealed(Path(folder) / "card.json", {**encoder.card, **facts, "sha256": digest})


def refuse_other_channels(encoder: Encoder, channels: int) -> None:
    """UserError where an encoder of grey images is to see coloured ones, or the other way round."""
    own = len(encoder.card["mean"])
    if own != channels:
        what = f"takes {own} channels, the parameters' data have {channels}"
        raise UserError(what, "data/encoder", "run `dvc repro pretrain`")


def load_online_head(folder: Path, encoder: Encoder, classes: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(classes, width) and (classes,) of the layer that learned labels beside an encoder; None if its card has none."""
    digest = encoder.card.get("online_sha256")
    if digest is None:
        return None
    files.check_digests(folder, {ONLINE: digest}, "card.json", "pretrain")
    layer = weights.load(Path(folder) / ONLINE, lambda: nn.Linear(encoder.width, classes))
    return layer.weight.detach(), layer.bias.detach()


def load(folder: Path) -> Encoder:
    """The encoder in a folder that `save` wrote, in evaluation mode; refuses other weights than the card's."""
    folder = Path(folder)
    if not (folder / "card.json").exists():
        raise UserError("no encoder yet", folder, "run `dvc repro pretrain`, or `python -m stages.pretrain`")
    card = files.read_sealed(folder / "card.json", "pretrain", _CARD)
    older = _OLDER if card["kind"] == "resnet" else {}
    card = dict.fromkeys(Backbone.model_fields) | older | card
    files.check_digests(folder, {"encoder.safetensors": card["sha256"]}, "card.json", "pretrain")
    numbers = [*card["mean"], *card["std"]]
    if len(card["mean"]) != len(card["std"]) or not all(isinstance(x, float) and math.isfinite(x) for x in numbers):
        raise UserError("mean and std are not numbers, one a channel", folder / "card.json")
    return Encoder(weights.load(folder / "encoder.safetensors", lambda: _network(card)), card).eval()
