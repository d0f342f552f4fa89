"""Pretrained weights from a file or the hub, and networks of timm's: from safetensors only, whole or not at all."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.core import files, hub, weights
from pipeline.core.errors import UserError, out_of_memory
from pipeline.params.schema import PretrainedWeights

if TYPE_CHECKING:
    from timm.models import PretrainedCfg  # timm takes seconds to import

FILE = "model.safetensors"  # of a repository on the hub
_CLASSIFIERS = ("fc.", "head.")  # names of what torchvision and timm put behind a ResNet's and a ViT's features
_OTHER = "name the network that they are of"


def find(params: PretrainedWeights, section: str) -> Path | None:
    """The file of the weights that a section of params.yaml names, of the stated digest; None with source none."""
    if params.source == "none":
        return None
    path = Path(params.path)
    if params.source == "hub":
        remedy = f"download {FILE} on another machine and name it in {section}.path (source: file)"
        there = hub.snapshot(params.hub, params.revision, [FILE], section, remedy, lambda at: (at / FILE).exists())
        path = there / FILE
        if not path.exists():
            raise UserError(f"holds no {FILE}", f"{params.hub}@{params.revision}", "take a repository with safetensors")
    if not path.is_file():
        raise UserError("is no file" if path.exists() else "not found", path, f"set {section}.path to the weights")
    if params.sha256 not in (None, digest := files.sha256(path)):
        raise UserError(f"its sha256 is {digest}, not {section}.sha256", path, "get it again, or state this one")
    return path


def load_into(network: nn.Module, path: Path) -> nn.Module:
    """The network with the weights of the file, whose classifier is left out.

    Of a first convolution `conv1` that takes other channels, the weights are adapted as timm does: summed for grey.
    """
    state = {name: x for name, x in weights.read(path).items() if not name.startswith(_CLASSIFIERS)}
    first = getattr(network, "conv1", None)
    if first is not None and "conv1.weight" in state and state["conv1.weight"].ndim == 4:
        given, wanted = state["conv1.weight"].shape[1], first.in_channels
        if given != wanted:
            from timm.models import adapt_input_conv

            state["conv1.weight"] = adapt_input_conv(wanted, state["conv1.weight"], base_chans=given)
    return weights.load_into(network, state, path, f"{_OTHER} in pretrain.backbone")


def timm_config(name: str) -> "PretrainedCfg":
    """What timm knows of a network's published weights: mean, std, input_size, classifier; UserError of no network."""
    import timm

    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a tag that it does not know
        config = None
    if config is None:
        known = timm.list_models() + timm.list_pretrained()
        near = difflib.get_close_matches(name, known, 3, 0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them"
        raise UserError(f"timm has no network {name}", remedy=meant)
    return config


def timm_network(name: str, channels: int, size: int | None, path: Path | None = None) -> nn.Module:
    """A network of timm's without classifier, (N, channels, H, W) -> (N, D): fresh, or with the weights of a file.

    size: height and width, for those networks that are made for one. Weights are loaded by timm, which resamples
    positions and adapts channels; what lacks some or has others is refused.
    """
    config = timm_config(name)
    shape = {"in_chans": channels} | ({"img_size": size} if size and config.fixed_input_size else {})
    what = f"timm's {name} cannot be made for images of {size} pixels"
    network = _created(what, None, "take another network or size", name, num_classes=0, **shape)
    if path is None:
        return network
    state = weights.read(path)
    classes, of_file = _classes(config, state), _channels(config, state)
    overlay = {"state_dict": state, "custom_load": False, "num_classes": classes, "label_offset": 0}
    overlay |= {"input_size": (of_file, *config.input_size[1:])}
    # With the file's own classifier timm's loading is strict.
    given = {"pretrained": True, "pretrained_cfg_overlay": overlay, "num_classes": classes}
    what = f"its weights do not fit timm's {name}"
    loaded = _created(what, path, _OTHER, name, **given, **shape).state_dict()
    names = network.state_dict().keys()
    return weights.load_into(network, {key: loaded[key] for key in names & loaded.keys()}, path, _OTHER)


def _created(what: str, where: Path | None, remedy: str, name: str, **options: object) -> nn.Module:
    """timm's network; whatever it raises is a UserError, since a foreign state can raise anything in timm's filters."""
    import timm

    try:
        return timm.create_model(name, **options)
    except Exception as fault:
        if out_of_memory(fault):
            raise
        said = " ".join(str(fault).split())[:300] or type(fault).__name__
        raise UserError(f"{what}: {said}", where or "", remedy) from fault


def _classes(config: "PretrainedCfg", state: dict[str, torch.Tensor]) -> int:
    """Classes that the file's classifier tells apart; 0 where it has none."""
    found = state.get(f"{_first(config.classifier)}.weight")
    return 0 if found is None else len(found)


def _channels(config: "PretrainedCfg", state: dict[str, torch.Tensor]) -> int:
    """Channels that the file's first convolution takes; the published weights' where that cannot be seen."""
    found = state.get(f"{_first(config.first_conv)}.weight")
    return config.input_size[0] if found is None or found.ndim != 4 else found.shape[1]


def _first(names: str | tuple[str, ...] | None) -> str:
    return names if isinstance(names, str) else next(iter(names or ()), "")
