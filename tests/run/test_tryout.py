"""What cannot be built is told by the check, before a generator is trained for it."""

import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from pipeline.params import reader
from pipeline.run import tryout
from tests.pipeline.clones import ROOT

TIMM = dict.fromkeys(("width", "stem", "block", "blocks")) | {"kind": "timm", "name": "resnet18"}


def found(**changes):
    """Faults of the committed parameters with SECTION__KEY=value changed; a dict changes a section inside."""
    params = dict(reader.load(ROOT / "params.yaml"))
    for name, value in changes.items():
        section, key = name.split("__")
        old = getattr(params[section], key)
        new = old.model_copy(update=value) if isinstance(value, dict) else value
        params[section] = params[section].model_copy(update={key: new})
    return [str(fault) for fault in tryout.faults(SimpleNamespace(**params))]


def test_a_run_that_names_nothing_of_it_imports_nothing(monkeypatch):
    for name in ("pipeline.networks.backbones", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert found() == []


def test_a_network_of_timm_is_shown_images_of_every_size_that_it_will_see():
    assert found(pretrain__backbone=TIMM) == []
    (line,) = found(pretrain__backbone=TIMM | {"name": "resnet17"})
    assert "params.yaml: pretrain.backbone: timm has no network resnet17 - did you mean" in line
    (line,) = found(pretrain__backbone=TIMM | {"name": "resnet18.a1_in1"})
    assert "timm has no network resnet18.a1_in1 - did you mean" in line
    (line,) = found(pretrain__backbone=TIMM | {"name": "nest_tiny"})
    assert "timm's nest_tiny cannot be made for images of 28 pixels: " in line
    vit = TIMM | {"name": "vit_tiny_patch16_224"}  # 28 pixels are no whole patches
    assert all("pretrain.backbone" in line for line in found(pretrain__backbone=vit, pretrain__method="swav"))
    small = found(
        pretrain__backbone=TIMM | {"name": "vit_tiny_patch16_224"}, pretrain__method="swav", swav__small_size=12
    )
    assert any("does not take images of 12 pixels" in line for line in small)


class Parted(torch.nn.Linear):
    """A network that only a CPU takes large images through, and no device the largest."""

    def forward(self, x):
        if x.shape[3] > 16 or (x.shape[3] > 8 and x.device.type != "cpu"):
            raise RuntimeError("no deterministic form")
        return super().forward(x.mean(dim=(2, 3)))


def test_a_network_is_tried_on_the_device_that_it_is_for():
    def told(sizes, device):
        return [str(fault) for fault in tryout._tried("here", sizes, 3, lambda: Parted(3, 5), device)]

    refused = "params.yaml: here: does not take images of {}: no deterministic form - take another network or size"
    assert told({8, 16}, "cpu") == told({8}, "meta") == []
    assert told({8, 16}, "meta") == [refused.format("16 pixels on meta")]
    assert told({8, 16, 24}, "meta") == [refused.format("24 pixels")]  # what no device takes is told once


def test_weights_that_do_not_fit_are_told_before_anything_is_computed(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(resnet18().state_dict(), path)
    given = {"start__source": "file", "start__path": str(path)}
    assert found(pretrain__backbone=TIMM, **given) == []
    (line,) = found(**given)
    assert f"{path}: its weights do not fit: " in line
    beside = {"source": "file", "path": str(path), "name": "resnet18"}
    assert found(linear_eval__baseline=beside) == []
    (line,) = found(linear_eval__baseline=beside | {"name": "resnet50"})
    assert f"{path}: its weights do not fit timm's resnet50: " in line
    (line,) = found(linear_eval__baseline=beside | {"sha256": "0" * 64})
    assert "not linear_eval.baseline.sha256" in line


@pytest.mark.parametrize("where", ["start", "linear_eval__baseline"])
def test_a_file_that_is_not_there_is_told_elsewhere(where):
    asked = {"source": "file", "path": "none.safetensors", "name": "resnet18"}
    changes = {"start__source": "file", "start__path": "none.safetensors"}
    assert found(**(changes if where == "start" else {where: asked})) == []
