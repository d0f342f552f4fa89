import json

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from pipeline import backbones, files
from pipeline.errors import UserError

SMALL = backbones.resnet(4, [1, 2, 1, 1])


def build(params=SMALL, channels=1, seed=0):
    return backbones.build(params, [0.25, 0.5, 0.75][:channels], [0.5, 0.25, 0.125][:channels], seed)


def images(n=2, channels=1, size=12):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def disturb(encoder):
    """Some training: other weights, other batch statistics."""
    encoder.train()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(images(4)).square().mean().backward()
    optimiser.step()


def test_width_64_is_torchvisions_resnet18_with_the_small_stem():
    ours = build(backbones.resnet(64, [2, 2, 2, 2]), channels=3).backbone.eval()
    theirs = resnet18()
    theirs.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    theirs.maxpool = theirs.fc = torch.nn.Identity()
    generator = torch.Generator().manual_seed(1)
    values = {k: torch.rand(v.shape, generator=generator).to(v.dtype) + 0.1 for k, v in ours.state_dict().items()}
    ours.load_state_dict(values, strict=True)
    theirs.load_state_dict(values, strict=True)
    x = images(2, 3, 16)
    with torch.no_grad():
        expected = theirs.eval()(x)
        assert expected.shape == (2, 512)
        assert torch.allclose(ours(x), expected, rtol=1e-4)


def test_width_64_is_initialised_with_the_variances_of_torchvision():
    """Kaiming's normal, fan out, gain of relu: variance 2 / (out channels x kernel area)."""
    for name, weight in build(backbones.resnet(64, [1, 1, 1, 1])).backbone.named_parameters():
        if weight.ndim == 4 and weight.numel() > 10_000:
            expected = (2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])) ** 0.5
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_normalises_by_channel_before_the_backbone(channels):
    encoder = build(channels=channels).eval()
    x = images(channels=channels)
    by_hand = x.numpy().copy()
    for c in range(channels):
        by_hand[:, c] = (by_hand[:, c] - [0.25, 0.5, 0.75][c]) / [0.5, 0.25, 0.125][c]
    with torch.no_grad():
        assert torch.allclose(encoder(x), encoder.backbone(torch.from_numpy(by_hand)), atol=1e-6)


@pytest.mark.parametrize("width", [1, 4, 6])
def test_a_feature_vector_is_eight_times_the_width(width):
    encoder = build(backbones.resnet(width, [1, 1, 1, 1])).eval()
    with torch.no_grad():
        assert encoder(images(3)).shape == (3, 8 * width) == (3, encoder.width)


def test_initialisation_depends_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = state(build(seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first, state(build(seed=3)))
    other = state(build(seed=4))
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_untrained_is_the_encoder_before_its_first_step_even_after_a_round_trip(tmp_path):
    encoder = build()
    before = state(encoder)
    disturb(encoder)
    assert not same(before, state(encoder))
    backbones.save(encoder, tmp_path)
    for trained in (encoder, backbones.load(tmp_path)):
        assert same(before, state(backbones.untrained(trained)))
        with torch.no_grad():
            expected = build().eval()(images())
            assert torch.equal(backbones.untrained(trained).eval()(images()), expected)


def test_a_saved_encoder_comes_back_bit_for_bit_and_in_evaluation_mode(tmp_path):
    encoder = build(channels=3)
    encoder.train()
    encoder(images(4, 3))  # moves the batch statistics
    backbones.save(encoder, tmp_path, method="simclr", n_real=5)
    found = backbones.load(tmp_path)
    assert not found.training
    assert same(state(encoder), state(found))
    assert found.card["method"] == "simclr"
    with torch.no_grad():
        assert torch.equal(found(images(2, 3)), encoder.eval()(images(2, 3)))


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        backbones.save(build(), tmp_path / folder, method="simclr", n_real=5)
    for name in ("encoder.safetensors", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.fault(22)
@pytest.mark.parametrize("harm", ["flip", "truncate", "lose", "swap"])
def test_other_weights_than_the_cards_are_refused(tmp_path, harm):
    backbones.save(build(), tmp_path)
    path = tmp_path / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    if harm == "swap":
        backbones.save(build(seed=1), tmp_path / "other")
        content = (tmp_path / "other" / "encoder.safetensors").read_bytes()
    elif harm == "flip":
        content[-1] ^= 1
    path.write_bytes(content[:-1] if harm == "truncate" else content)
    if harm == "lose":
        path.unlink()
    with pytest.raises(UserError, match=r"encoder\.safetensors: (missing|damaged: its sha256)") as caught:
        backbones.load(tmp_path)
    assert caught.value.code == 2


def test_a_card_that_lacks_what_an_encoder_is_built_from_is_refused(tmp_path):
    backbones.save(build(), tmp_path)
    path = tmp_path / "card.json"
    card = files.read_sealed(path, "pretrain", {})
    files.write_sealed(path, {name: value for name, value in card.items() if name not in ("std", "mean")})
    with pytest.raises(UserError, match=r"card\.json: lacks mean as list, std as list - .*dvc repro -f -s pretrain"):
        backbones.load(tmp_path)


@pytest.mark.fault(9)
def test_a_card_with_another_value_than_was_written_is_refused(tmp_path):
    """Of its mean too, with which the weights are whole and every feature is wrong."""
    backbones.save(build(), tmp_path)
    path = tmp_path / "card.json"
    text = path.read_text()
    path.write_text(text.replace('"width": 4', '"width": 5').replace("0.25", "0.75", 1))
    assert path.read_text() != text
    with pytest.raises(UserError, match=r"card\.json: damaged: its seal is not that of its values"):
        backbones.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"mean": ["a"]}, {"mean": [None]}, {"std": [0.1, 0.2]}, {"std": []}, {"mean": [1]}], ids=str
)
def test_a_card_whose_mean_and_std_are_not_numbers_a_channel_is_refused(tmp_path, change):
    backbones.save(build(), tmp_path)
    path = tmp_path / "card.json"
    files.write_sealed(path, files.read_sealed(path, "pretrain", {}) | change)
    with pytest.raises(UserError, match=r"card\.json: mean and std are not numbers, one a channel"):
        backbones.load(tmp_path)


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 8}, r"bn1\.bias is \(4,\), not \(8,\).* and \d+ more"),
        ({"blocks": [1, 1, 1, 1]}, r"layer2\.1\.bn1\.bias is \(8,\), not wanted"),
        ({"blocks": [1, 3, 1, 1]}, r"layer2\.2\.bn1\.bias is missing, not \(8,\)"),
        ({"width": 20_000}, r"bn1\.bias is \(4,\), not \(20000,\)"),  # would be forty gigabytes
        ({"blocks": [2**30, 1, 1, 1]}, r"do not fit"),
        ({"width": "4"}, r"width as int"),
    ],
)
def test_weights_of_another_form_than_the_cards_are_refused_before_memory_is_taken(tmp_path, monkeypatch, change, says):
    backbones.save(build(), tmp_path)
    path = tmp_path / "card.json"
    files.write_sealed(path, files.read_sealed(path, "pretrain", {}) | change)
    made = []
    init = torch.nn.Conv2d.__init__

    def counted(self, *arguments, **named):
        init(self, *arguments, **named)
        made.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Conv2d, "__init__", counted)
    with pytest.raises(UserError, match=says) as caught:
        backbones.load(tmp_path)
    assert set(made) <= {"meta"}
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_an_encoder_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="dvc repro pretrain"):
        backbones.load(tmp_path)


def test_the_card_holds_what_rebuilds_the_encoder(tmp_path):
    backbones.save(build(channels=3, seed=9), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["blocks"] == [1, 2, 1, 1]
    assert (card["width"], card["seed"]) == (4, 9)
    assert np.allclose(card["mean"], [0.25, 0.5, 0.75])


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys_in_float64(channels):
    pixels = np.random.default_rng(0).beta(2, 5, (40, 9, 7, channels)) * [255, 100, 30][:channels]
    pixels = pixels.astype(np.uint8)
    mean, std = backbones.statistics(pixels)
    values = pixels.astype(np.float64) / 255
    assert mean == pytest.approx(values.mean(axis=(0, 1, 2)).tolist(), rel=1e-12)
    assert std == pytest.approx(values.std(axis=(0, 1, 2)).tolist(), rel=1e-9)


def test_images_of_one_grey_do_not_divide_by_zero():
    assert backbones.statistics(np.full((3, 2, 2, 1), 51, np.uint8)) == ([0.2], [pytest.approx(1 / 255)])
