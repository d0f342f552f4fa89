"""Networks of timm's and weights from a file: what is loaded is what was there, and what does not fit is refused."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.measures import probes
from pipeline.networks import backbones, pretrained
from pipeline.params.schema import Backbone, Start
from tests.toys import COMPUTE

NONE = dict.fromkeys(("path", "hub", "revision", "sha256"))


def named(name):
    fields = dict.fromkeys(Backbone.model_fields)
    return Backbone(**fields | {"kind": "timm", "name": name})


def start(source="file", **changes):
    return Start(**NONE | {"path": "data/weights", "source": source} | changes)


def build(form, channels=3, size=32, path=None):
    return backbones.build(form, [0.5] * channels, [0.25] * channels, 0, size, path)


def images(n, channels=3, size=32):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def saved(module, path):
    """Its weights in a file, as those of a training: no zero, no one."""
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.rand(x.shape, generator=generator) * 0.1 + 0.05 if x.is_floating_point() else x
        for name, x in module.state_dict().items()
    }
    save_file(state, path)
    module.load_state_dict(state)
    return module.eval()


def test_a_network_of_timm_is_an_encoder_and_comes_back_from_its_folder(tmp_path):
    """With batch normalisation that has its activation inside (MobileNet's), and a head behind the pooled features."""
    encoder = build(named("mobilenetv3_small_050"), channels=1)
    with torch.no_grad():
        assert encoder.eval()(images(2, 1)).shape == (2, encoder.width) == (2, 1024)
    encoder.train()(images(4, 1)).square().mean().backward()
    torch.optim.SGD(encoder.parameters(), lr=0.1).step()
    backbones.save(encoder, tmp_path)
    found = backbones.load(tmp_path)
    assert (found.card["name"], found.card["size"], found.width) == ("mobilenetv3_small_050", 32, 1024)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    expected = probes.features(encoder, pixels, COMPUTE)
    assert torch.equal(probes.features(found, pixels, COMPUTE), expected)
    fresh = build(named("mobilenetv3_small_050"), channels=1).eval()
    assert torch.equal(
        probes.features(backbones.untrained(found), pixels, COMPUTE), probes.features(fresh, pixels, COMPUTE)
    )


def test_a_network_that_is_made_for_one_size_is_made_for_that_of_the_images():
    encoder = build(named("vit_tiny_patch16_224"), size=64).eval()
    with torch.no_grad():
        assert encoder(images(2, size=64)).shape == (2, 192)


@pytest.mark.parametrize("name", ["resnet81", "hf-hub:timm/resnet18.a1_in1k", "local-dir:x"])
def test_a_name_that_timm_does_not_know_is_refused(name):
    with pytest.raises(UserError, match="timm has no network"):
        build(named(name))


def test_a_near_name_is_offered():
    with pytest.raises(UserError, match=r"did you mean .*resnet18.*\?"):
        build(named("resnet_18"))


def test_torchvisions_weights_start_the_own_resnet_and_timms(tmp_path):
    """The classifier is left out; features are torchvision's."""
    path = tmp_path / "resnet18.safetensors"
    theirs = saved(resnet18(num_classes=7), path)
    theirs.fc = torch.nn.Identity()
    x = images(2, size=64)
    for form in (backbones.resnet(64, [2, 2, 2, 2], "basic", "7x7"), named("resnet18")):
        encoder = build(form, size=64, path=path).eval()
        assert encoder.card["start"] == files.sha256(path)
        with torch.no_grad():
            expected, found = theirs((x - 0.5) / 0.25), encoder(x)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        fresh = build(form, size=64).eval()
        with torch.no_grad():
            assert torch.equal(backbones.untrained(encoder).eval()(x), fresh(x))


def test_an_encoder_of_ones_own_starts_another(tmp_path):
    for form in (backbones.resnet(4, [1, 1, 1, 1]), backbones.vit(16, 1, 2, 4)):
        first = build(form, channels=1)
        saved(first.backbone, tmp_path / "encoder.safetensors")
        second = build(form, channels=1, path=tmp_path / "encoder.safetensors").eval()
        with torch.no_grad():
            assert torch.equal(first.eval()(images(2, 1)), second(images(2, 1)))


@pytest.mark.parametrize(
    "form", [backbones.resnet(64, [2, 2, 2, 2], "basic", "7x7"), named("resnet18")], ids=["own", "timm"]
)
def test_weights_of_colours_see_grey_as_three_equal_channels(form, tmp_path):
    """Their first convolution is summed over its channels: sum_c w_c x = (sum_c w_c) x."""
    path = tmp_path / "resnet18.safetensors"
    saved(resnet18(), path)
    grey, colour = build(form, channels=1, path=path).eval(), build(form, path=path).eval()
    x = images(2, 1)
    with torch.no_grad():
        expected = colour(x.expand(-1, 3, -1, -1))
        assert torch.allclose(grey(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("form", "change"),
    [
        (backbones.resnet(64, [2, 2, 2, 2]), None),  # another stem
        (backbones.resnet(32, [2, 2, 2, 2], "basic", "7x7"), None),
        (named("resnet34"), None),
        (named("resnet18"), lambda state: state.pop("layer1.0.conv1.weight")),
        (named("resnet18"), lambda state: state.update(extra=torch.zeros(2))),
        (backbones.vit(16, 1, 2, 4), None),
    ],
)
def test_weights_of_another_network_are_refused_in_a_line(form, change, tmp_path):
    path, state = tmp_path / "weights.safetensors", resnet18().state_dict()
    if change:
        change(state)
    save_file(state, path)
    with pytest.raises(UserError, match="weights do not fit") as caught:
        build(form, path=path)
    assert caught.value.code == 2
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch.save(resnet18().state_dict(), path)
    for form in (backbones.resnet(64, [2, 2, 2, 2], "basic", "7x7"), named("resnet18")):
        with pytest.raises(UserError, match="not readable as safetensors"):
            build(form, path=path)


@pytest.mark.fault(23)
def test_the_file_is_found_and_its_digest_compared(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    assert pretrained.find(start("none"), "start") is None
    assert pretrained.find(start(path=str(path)), "start") == path
    assert pretrained.find(start(path=str(path), sha256=files.sha256(path)), "start") == path
    with pytest.raises(UserError, match=r"sha256 is .*, not start\.sha256"):
        pretrained.find(start(path=str(path), sha256="0" * 64), "start")
    with pytest.raises(UserError, match=r"not found - set start\.path"):
        pretrained.find(start(path=str(tmp_path / "none.safetensors")), "start")


def test_every_network_of_timm_with_published_weights_says_what_is_asked_of_it():
    """Mean, std and channels, of those that have weights: what a baseline needs."""
    for name in timm.list_models(pretrained=True)[::40]:
        config = pretrained.timm_config(name)
        assert len(config.mean) == len(config.std) == config.input_size[0] == 3
