"""Weights that were trained elsewhere, and networks of timm's: from safetensors only, whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.core import files, hub, weights
from pipeline.core.errors import UserError, out_of_memory
from pipeline.params.schema import Elsewhere

if TYPE_CHECKING:
    from timm.models import PretrainedCfg  # timm takes seconds to import

FILE = "model.safetensors"  # of a repository on the hub
_CLASSIFIERS = ("fc.", "head.")  # names of what torchvision and timm put behind a ResNet's and a ViT's features


def find(params: Elsewhere, section: str) -> Path | None:
    """The file of the weights that a section of params.yaml names, of the stated digest; None with source none."""
    if params.source == "none":
        return None
    path = Path(params.path)
    if params.source == "hub":
        remedy = f"download {FILE} elsewhere and name it in {section}.path (source: file)"
        path = hub.snapshot(params.hub, params.revision, [FILE], section, remedy) / FILE
        if not path.exists():
            raise UserError(f"holds no {FILE}", f"{params.hub}@{params.revision}", "take a repository with safetensors")
    if not path.is_file():
        raise UserError("is no file" if path.exists() else "not found", path, f"set {section}.path to the weights")
    if params.sha256 not in (None, digest := files.sha256(path)):
        raise UserError(f"its sha256 is {digest}, not {section}.sha256", path, "get it again, or state this one")
    return path


def fill(network: nn.Module, path: Path) -> nn.Module:
    """The network with the weights of the file, whose classifier is left out.

    Of a first convolution that takes other channels, the weights are adapted as timm does: summed for grey.
    """
    state = {name: x for name, x in weights.read(path).items() if not name.startswith(_CLASSIFIERS)}
    first = getattr(network, "conv1", None)
    if first is not None and "conv1.weight" in state and state["conv1.weight"].ndim == 4:
        given, wanted = state["conv1.weight"].shape[1], first.in_channels
        if given != wanted:
            from timm.models import adapt_input_conv

            state["conv1.weight"] = adapt_input_conv(wanted, state["conv1.weight"], base_chans=given)
    return weights.fill(network, state, path)


def timm_config(name: str) -> "PretrainedCfg":
    """What timm knows of a network's published weights: mean, std, input_size, classifier; UserError of no network."""
    import timm

    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them"
        raise UserError(f"timm has no network {name}", remedy=meant)
    return timm.get_pretrained_cfg(name)


def timm_network(name: str, channels: int, size: int | None, path: Path | None = None) -> nn.Module:
    """A network of timm's without classifier, (N, channels, H, W) -> (N, D): fresh, or with the weights of a file.

    size: height and width, for those networks that are made for one. Weights are loaded by timm, which resamples
    positions and adapts channels; what lacks some or has others is refused.
    """
    import timm

    config = timm_config(name)
    shape = {"in_chans": channels} | ({"img_size": size} if size and config.fixed_input_size else {})
    if path is None:
        return timm.create_model(name, num_classes=0, **shape)
    state = weights.read(path)
    classes, of_file = _classes(config, state), _channels(config, state)
    overlay = {"state_dict": state, "custom_load": False, "num_classes": classes, "label_offset": 0}
    overlay |= {"input_size": (of_file, *config.input_size[1:])}
    try:  # with the file's own classifier timm's loading is strict
        made = {"pretrained": True, "pretrained_cfg_overlay": overlay, "num_classes": classes}
        network = timm.create_model(name, **made, **shape)
    except Exception as fault:  # a foreign state can raise anything inside timm's filters
        if out_of_memory(fault):
            raise
        what = " ".join(str(fault).split())[:300]
        raise UserError(
            f"its weights do not fit timm's {name}: {what}", path, "name the network they are of"
        ) from fault
    network.reset_classifier(0)
    return network


def _classes(config: "PretrainedCfg", state: dict[str, torch.Tensor]) -> int:
    """Classes that the file's classifier tells apart; 0 where it has none."""
    names = config.classifier or ()
    first = names if isinstance(names, str) else next(iter(names), "")
    found = state.get(f"{first}.weight")
    return 0 if found is None else len(found)


def _channels(config: "PretrainedCfg", state: dict[str, torch.Tensor]) -> int:
    """Channels that the file's first convolution takes; the published weights' where that cannot be seen."""
    names = config.first_conv or ()
    first = names if isinstance(names, str) else next(iter(names), "")
    found = state.get(f"{first}.weight")
    return config.input_size[0] if found is None or found.ndim != 4 else found.shape[1]
