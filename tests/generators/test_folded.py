"""The UNet rewritten for sampling against diffusers' own, block by block and as a whole."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from pipeline.core import seeds
from pipeline.generators import ddpm, folded
from tests.toys import COMPUTE, ddpm_params


def unet(**changes) -> UNet2DModel:
    """A UNet of diffusers of two levels, with weights that leave no block without effect."""
    given = {
        "sample_size": 12,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": None,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    with seeds.scope(0, "test unet"):
        model = UNet2DModel(**given | changes)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def kinds(model: nn.Module, *types: type) -> int:
    return sum(type(module) in types for module in model.modules())


def images(n: int, size: int = 12, channels: int = 3) -> torch.Tensor:
    return seeds.noise((n, channels, size, size), 0, "test images")


ASKED = [
    {},
    {"add_attention": False, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    {"mid_block_scale_factor": 2.0},
    {"layers_per_block": 2, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
]


@pytest.mark.parametrize("asked", ASKED, ids=["attention", "no attention", "scaled sums", "two layers"])
@pytest.mark.parametrize("t", [0, 500, 999])
@torch.inference_mode()
def test_a_folded_unet_computes_what_diffusers_does(asked, t):
    model, x = unet(**asked), images(3)
    expected = model(x, t).sample
    found = folded.fold(copy.deepcopy(model))
    assert kinds(found, ResnetBlock2D, Upsample2D) == 0, "nothing was rewritten"
    assert kinds(found, folded.Residual) == kinds(model, ResnetBlock2D)
    assert kinds(found, folded.DoubledConvolution) == kinds(model, Upsample2D) == 1
    assert torch.allclose(found(x, t).sample, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "asked",
    [
        {"resnet_time_scale_shift": "scale_shift"},
        {"act_fn": "gelu"},
        {"downsample_type": "resnet", "upsample_type": "resnet"},
    ],
    ids=["scale and shift", "another activation", "blocks that resize"],
)
@torch.inference_mode()
def test_what_cannot_be_rewritten_stays_and_the_rest_still_fits(asked):
    model, x = unet(**asked), images(2)
    expected = model(x, 300).sample
    found = folded.fold(copy.deepcopy(model))
    assert kinds(found, ResnetBlock2D) > 0
    assert torch.allclose(found(x, 300).sample, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7)])
@torch.inference_mode()
def test_four_small_convolutions_are_one_of_the_doubled_image(size):
    conv = nn.Conv2d(2, 5, 3, padding=1)
    x = torch.randn(4, 2, *size, generator=seeds.generator(0, "test x"))
    expected = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    assert torch.allclose(folded.DoubledConvolution(conv)(x), expected, atol=1e-5)


@torch.inference_mode()
def test_the_sums_of_weights_by_hand():
    # One channel, weights 1 ... 9 in reading order, an image of one pixel of value 1: its double is 2 x 2 ones, so each
    # output is the sum of the weights that fall on them, e.g. 5 + 6 + 8 + 9 in the upper left corner.
    conv = nn.Conv2d(1, 1, 3, padding=1)
    conv.weight.copy_(torch.arange(1.0, 10.0).reshape(1, 1, 3, 3))
    conv.bias.fill_(0.5)
    found = folded.DoubledConvolution(conv)(torch.ones(1, 1, 1, 1))
    assert found[0, 0].tolist() == [[28.5, 24.5], [16.5, 12.5]]


def test_no_other_size_than_double():
    with pytest.raises(NotImplementedError, match="double"):
        folded.DoubledConvolution(nn.Conv2d(1, 1, 3, padding=1))(torch.ones(1, 1, 2, 2), (5, 5))


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_images_are_those_of_the_network_as_it_was_saved(precision, near):
    params = ddpm_params()
    model, noise = ddpm.unet(params, 8, 1).eval(), ddpm.scheduler(params)

    def drawn(network):
        solver, extra = ddpm.solver("ddim", noise, 0.0, True)
        solver.set_timesteps(4)
        return ddpm.sample(network, solver, extra, range(4), 0)

    given = drawn(model)
    made = ddpm.for_sampling(copy.deepcopy(model), COMPUTE.model_copy(update={"precision": precision}))
    assert made.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    found = drawn(made)
    assert found.dtype == torch.float32
    assert (found - given).abs().mean() < near
    assert given.std() > 0.1
