"""The layer that learned labels beside an encoder, as an evaluation reads it."""

import pytest
import torch

from pipeline.core import weights
from pipeline.core.errors import UserError
from pipeline.networks import backbones, heads


def encoder(block="basic"):
    return backbones.build(backbones.resnet(4, [1, 1, 1, 1], block), [0.5], [0.25], 0)


def test_the_layer_comes_back_and_where_there_is_none_there_is_none(tmp_path):
    assert backbones.load_online_head(tmp_path, encoder("bottleneck"), 3) is None
    layer = torch.nn.Linear(128, 3)  # 32 times the width
    weights.save(tmp_path / heads.ONLINE, layer)
    found = backbones.load_online_head(tmp_path, encoder("bottleneck"), 3)
    for ours, theirs in zip(found, (layer.weight, layer.bias), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad


@pytest.mark.parametrize(("width", "classes"), [(32, 4), (16, 3), (64, 3)])
def test_a_layer_of_other_classes_or_of_another_encoder_is_refused(tmp_path, width, classes):
    path = tmp_path / heads.ONLINE
    weights.save(path, torch.nn.Linear(width, classes))
    with pytest.raises(UserError, match=rf"weight is \({classes}, {width}\), not \(3, 32\)") as refused:
        backbones.load_online_head(tmp_path, encoder(), 3)
    assert (refused.value.where, refused.value.code) == (str(path), 2)
