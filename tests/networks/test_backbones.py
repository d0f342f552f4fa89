import copy
import json

import numpy as np
import pytest
import torch
from torchvision.models import resnet18, resnet50

from pipeline.core import files, weights
from pipeline.core.errors import UserError
from pipeline.measures import probes
from pipeline.networks import backbones, heads, resnet
from tests.toys import COMPUTE

SMALL = backbones.resnet(4, [1, 2, 1, 1])
VIT = backbones.vit(8, 2, 2, 4)  # of 9 patches
BOTH = pytest.mark.parametrize("form", [SMALL, VIT], ids=["resnet", "vit"])
FORMS = {f"{stem} {block}": (stem, block) for stem in resnet.STEMS for block in ("basic", "bottleneck")}
EVERY = pytest.mark.parametrize(("stem", "block"), FORMS.values(), ids=FORMS)


def build(params=SMALL, channels=1, seed=0):
    return backbones.build(params, [0.25, 0.5, 0.75][:channels], [0.5, 0.25, 0.125][:channels], seed, 12)


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


def conv1(padding):
    """The first layer that CLSP (padding 1) and solo-learn (2) give torchvision's ResNet for small images."""
    return torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)


NOTHING = torch.nn.Identity()
REPLACED = {  # what each stem puts in place of torchvision's own layers
    "3x3": {"conv1": conv1(1), "maxpool": NOTHING},  # github.com/dewenzeng/clsp@91c8f9e utils/utils.py, "small"
    "3x3-pad2": {"conv1": conv1(2), "maxpool": NOTHING},  # github.com/PKU-ML/adainf@233a6bd solo/methods/base.py
    "3x3-pool": {"conv1": conv1(1)},  # CLSP's "mid", which keeps the max-pool
    "7x7": {},
}
TORCHVISIONS = {"resnet18": (resnet18, "basic", [2, 2, 2, 2]), "resnet50": (resnet50, "bottleneck", [3, 4, 6, 3])}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_width_64_is_torchvisions_resnet_with_every_stem(name):
    """Its parameters by name and shape but for the classifier, and its features of the same weights."""
    make, block, blocks = TORCHVISIONS[name]
    theirs = make().eval()
    theirs.fc = NOTHING
    generator = torch.Generator().manual_seed(1)
    for value in theirs.state_dict().values():  # normalisation that is no identity
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    x = torch.rand(2, 3, 36, 36, generator=generator)
    for stem, replaced in REPLACED.items():
        own = copy.deepcopy(theirs)
        for layer, module in replaced.items():
            setattr(own, layer, module)
        built = build(backbones.resnet(64, blocks, block, stem), channels=3)
        ours = built.backbone.eval()
        assert list(ours.state_dict()) == list(own.state_dict())
        ours.load_state_dict(own.state_dict(), strict=True)
        with torch.no_grad():
            expected, found = own(x), ours(x)
        assert expected.shape == (2, built.width) == (2, 512 if block == "basic" else 2048)
        assert expected.std() > 0.01
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())), stem


@pytest.mark.parametrize(("stem", "sides"), [("3x3", 32), ("3x3-pad2", 34), ("3x3-pool", 16), ("7x7", 8)])
def test_a_stem_gives_maps_of_its_size(stem, sides):
    network, seen = build(backbones.resnet(4, [1, 1, 1, 1], stem=stem)).backbone, []
    network.layer1.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    network.layer4.register_forward_hook(lambda _, given, made: seen.append(made.shape))
    network(images(2, size=32))
    assert seen == [(2, 4, sides, sides), (2, 32, -(-sides // 8), -(-sides // 8))]


def test_width_64_is_initialised_with_the_variances_of_torchvision():
    """Kaiming's normal, fan out, gain of relu: variance 2 / (out channels x kernel area)."""
    for name, weight in build(backbones.resnet(64, [1, 1, 1, 1])).backbone.named_parameters():
        if weight.ndim == 4 and weight.numel() > 10_000:
            expected = (2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])) ** 0.5
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_normalises_by_channel_before_the_backbone(channels, form):
    encoder = build(form, channels=channels).eval()
    x = images(channels=channels)
    by_hand = x.numpy().copy()
    for c in range(channels):
        by_hand[:, c] = (by_hand[:, c] - [0.25, 0.5, 0.75][c]) / [0.5, 0.25, 0.125][c]
    with torch.no_grad():
        assert torch.allclose(encoder(x), encoder.backbone(torch.from_numpy(by_hand)), atol=1e-5)


@EVERY
@pytest.mark.parametrize("width", [1, 6])
def test_a_feature_vector_is_8_or_32_times_the_width_and_may_be_of_any(width, stem, block):
    encoder = build(backbones.resnet(width, [1, 1, 1, 1], block, stem)).eval()
    times = {"basic": 8, "bottleneck": 32}[block]
    with torch.no_grad():
        assert encoder(images(3)).shape == (3, times * width) == (3, encoder.width)


@EVERY
def test_a_resnet_of_each_stem_and_block_learns_and_comes_back_from_its_folder(tmp_path, stem, block):
    """And its features without batch normalisation of their own, which the probes fold away, are the same numbers."""
    encoder = build(backbones.resnet(5, [1, 2, 1, 1], block, stem), channels=3, seed=2)
    before = state(encoder)
    encoder.train()(images(4, 3)).square().mean().backward()
    assert all(weight.grad.any() for weight in encoder.parameters())
    torch.optim.SGD(encoder.parameters(), lr=0.1).step()
    backbones.save(encoder, tmp_path)
    found = backbones.load(tmp_path)
    assert (found.card["stem"], found.card["block"], found.width) == (stem, block, encoder.width)
    assert same(state(encoder), state(found))
    assert same(before, state(backbones.untrained(found)))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = encoder.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    assert torch.allclose(probes.features(found, pixels, COMPUTE), expected, rtol=1e-5, atol=1e-5)


@BOTH
def test_a_card_of_before_stems_and_blocks_is_of_3x3_and_basic_ones(tmp_path, form):
    encoder = build(form)
    backbones.save(encoder, tmp_path)
    path = tmp_path / "card.json"
    card = files.read_sealed(path, "pretrain", {})
    assert {"stem", "block"} <= card.keys()
    files.write_sealed(path, {name: value for name, value in card.items() if name not in ("stem", "block")})
    found = backbones.load(tmp_path)
    assert found.card == card
    assert same(state(encoder), state(found))
    with torch.no_grad():
        assert torch.equal(found(images()), encoder.eval()(images()))
        assert torch.equal(backbones.untrained(found).eval()(images()), build(form).eval()(images()))


def test_the_layer_that_learned_labels_beside_is_read_if_there_is_one_and_fits(tmp_path):
    encoder, layer, path = build(), torch.nn.Linear(32, 3), tmp_path / heads.ONLINE
    assert backbones.load_online_head(tmp_path, encoder, 3) is None
    weights.save(path, layer)
    encoder.card["online_sha256"] = files.sha256(path)
    matrix, bias = backbones.load_online_head(tmp_path, encoder, 3)
    assert torch.equal(matrix, layer.weight)
    assert torch.equal(bias, layer.bias)
    assert not matrix.requires_grad
    with pytest.raises(
        UserError, match=r"online_head\.safetensors: its weights do not fit: bias is \(3,\), not \(4,\)"
    ):
        backbones.load_online_head(tmp_path, encoder, 4)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"sha256 is not that in card\.json"):
        backbones.load_online_head(tmp_path, encoder, 3)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        backbones.load_online_head(tmp_path, encoder, 3)


@BOTH
def test_initialisation_depends_on_the_seed_alone(form):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = state(build(form, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first, state(build(form, seed=3)))
    other = state(build(form, seed=4))
    drawn = "backbone.conv1.weight" if form is SMALL else "backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(first[drawn], other[drawn])


@BOTH
def test_untrained_is_the_encoder_before_its_first_step_even_after_a_round_trip(tmp_path, form):
    encoder = build(form)
    before = state(encoder)
    disturb(encoder)
    assert not same(before, state(encoder))
    backbones.save(encoder, tmp_path)
    for trained in (encoder, backbones.load(tmp_path)):
        assert same(before, state(backbones.untrained(trained)))
        with torch.no_grad():
            expected = build(form).eval()(images())
            assert torch.equal(backbones.untrained(trained).eval()(images()), expected)


@BOTH
def test_a_saved_encoder_comes_back_bit_for_bit_and_in_evaluation_mode(tmp_path, form):
    encoder = build(form, channels=3)
    encoder.train()
    encoder(images(4, 3))  # moves the batch statistics
    backbones.save(encoder, tmp_path, method="simclr", n_real=5)
    found = backbones.load(tmp_path)
    assert not found.training
    assert same(state(encoder), state(found))
    assert found.card["method"] == "simclr"
    with torch.no_grad():
        assert torch.equal(found(images(2, 3)), encoder.eval()(images(2, 3)))


@BOTH
def test_saving_twice_gives_the_same_bytes(tmp_path, form):
    for folder in ("a", "b"):
        backbones.save(build(form), tmp_path / folder, method="simclr", n_real=5)
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


OF_A_VIT = {"size": 12}  # as it is


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 8}, r"bn1\.bias is \(4,\), not \(8,\).* and \d+ more"),
        ({"blocks": [1, 1, 1, 1]}, r"layer2\.1\.bn1\.bias is \(8,\), not wanted"),
        ({"blocks": [1, 3, 1, 1]}, r"layer2\.2\.bn1\.bias is missing, not \(8,\)"),
        ({"width": 20_000}, r"bn1\.bias is \(4,\), not \(20000,\)"),  # would be forty gigabytes
        ({"blocks": [2**30, 1, 1, 1]}, r"do not fit"),
        ({"width": "4"}, r"do not fit"),
        ({"blocks": None}, r"do not fit: blocks: must be given with kind resnet, not null"),
        ({"stem": "5x5"}, r"do not fit"),
        ({"stem": None}, r"do not fit: stem: must be given with kind resnet, not null"),
        ({"stem": "7x7"}, r"conv1\.weight is \(4, 1, 3, 3\), not \(4, 1, 7, 7\)"),
        ({"block": "bottleneck"}, r"layer1\.0\.bn3\.bias is missing, not \(16,\)"),
        ({"kind": "vit"}, r"do not fit: stem: is for kind resnet and must be null with kind vit"),
        ({"kind": "cnn"}, r"do not fit"),
        ({"kind": None}, r"kind as str"),
        (OF_A_VIT | {"width": 16}, r"blocks\.0\.attn\.proj\.bias is \(8,\), not \(16,\).* and \d+ more"),
        (OF_A_VIT | {"width": 20_000}, r"blocks\.0\.attn\.proj\.bias is \(8,\), not \(20000,\)"),
        (OF_A_VIT | {"depth": 1}, r"blocks\.1\.attn\.proj\.bias is \(8,\), not wanted"),
        (OF_A_VIT | {"depth": 2**30}, r"do not fit"),
        (OF_A_VIT | {"depth": None}, r"do not fit: depth: must be given with kind vit, not null"),
        (OF_A_VIT | {"patch": 3}, r"pos_embed is \(1, 10, 8\), not \(1, 17, 8\)"),
        (OF_A_VIT | {"patch": 5}, r"do not fit: patch: 5 does not divide the image's 12 pixels"),
        (OF_A_VIT | {"size": 16}, r"pos_embed is \(1, 10, 8\), not \(1, 17, 8\)"),
        (OF_A_VIT | {"size": 4 * 10**9}, r"do not fit"),
        (OF_A_VIT | {"size": -12}, r"do not fit: a ViT for images of -12 pixels"),
        (OF_A_VIT | {"heads": 3}, r"do not fit: heads: 3 do not divide width 8"),
        (OF_A_VIT | {"kind": "resnet"}, r"do not fit: stem: must be given with kind resnet"),
    ],
)
def test_weights_of_another_form_than_the_cards_are_refused_before_memory_is_taken(tmp_path, monkeypatch, change, says):
    backbones.save(build(VIT if "size" in change else SMALL), tmp_path)
    path = tmp_path / "card.json"
    files.write_sealed(path, files.read_sealed(path, "pretrain", {}) | change)
    made = []

    def count(layer):
        init = layer.__init__

        def counted(self, *arguments, **named):
            init(self, *arguments, **named)
            made.append(self.weight.device.type)

        monkeypatch.setattr(layer, "__init__", counted)

    count(torch.nn.Conv2d)
    count(torch.nn.Linear)
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


# ---- the ViT


def trained(form=VIT, channels=1):
    """A ViT whose weights are not those of its initialisation, biases and class token included."""
    encoder = build(form, channels).eval()
    with torch.no_grad():
        for k, weight in enumerate(encoder.backbone.parameters()):
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(k)))
    return encoder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vits_state_is_timms_and_so_are_its_features(channels):
    from timm.models.vision_transformer import VisionTransformer

    ours = trained(channels=channels).backbone
    shape = {"img_size": 12, "patch_size": 4, "in_chans": channels, "embed_dim": 8, "depth": 2, "num_heads": 2}
    theirs = VisionTransformer(**shape, num_classes=0, global_pool="avg", fc_norm=False).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = images(3, channels)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
        assert torch.allclose(ours.encode(ours.embed(x)), theirs.forward_features(x), rtol=1e-5, atol=1e-6)


def test_a_vit_number_by_number():
    """In float64, by the definition: patches, positions, one head of attention after another, means."""
    vit, x = trained(backbones.vit(8, 2, 2, 6)).backbone.double(), images(1).double()
    of = {name: value.detach().numpy() for name, value in vit.state_dict().items()}

    def norm(tokens, name):
        spread = np.sqrt(tokens.var(axis=1, keepdims=True) + 1e-6)
        return (tokens - tokens.mean(axis=1, keepdims=True)) / spread * of[f"{name}.weight"] + of[f"{name}.bias"]

    def linear(tokens, name):
        return tokens @ of[f"{name}.weight"].T + of[f"{name}.bias"]

    cut = [x[0, 0, i : i + 6, j : j + 6].numpy() for i in (0, 6) for j in (0, 6)]
    filters = of["patch_embed.proj.weight"][:, 0]
    tokens = [[(f * patch).sum() for f in filters] + of["patch_embed.proj.bias"] for patch in cut]
    tokens = np.concatenate([of["cls_token"][0], np.array(tokens)]) + of["pos_embed"][0]
    for b in range(2):
        q, k, v = np.split(linear(norm(tokens, f"blocks.{b}.norm1"), f"blocks.{b}.attn.qkv"), 3, axis=1)
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            weights = np.exp(q[:, h] @ k[:, h].T / 2)
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, h])
        tokens = tokens + linear(np.concatenate(heads, axis=1), f"blocks.{b}.attn.proj")
        inner = linear(norm(tokens, f"blocks.{b}.norm2"), f"blocks.{b}.mlp.fc1")
        gelu = inner * 0.5 * (1 + torch.erf(torch.from_numpy(inner) / 2**0.5).numpy())
        tokens = tokens + linear(gelu, f"blocks.{b}.mlp.fc2")
    expected = norm(tokens, "norm")[1:].mean(axis=0)
    with torch.no_grad():
        assert vit(x)[0].numpy() == pytest.approx(expected, rel=1e-6)


def test_positions_are_maes_up_to_the_order_of_the_features():
    """He et al.'s code, number by number: sin and cos of each coordinate times 10000^(-i / (width / 4))."""
    found = build(backbones.vit(24, 1, 2, 3)).backbone.pos_embed
    assert not found[0, 0].any()
    for place, row in enumerate(found[0, 1:].double()):
        angles = [at / 10_000 ** (i / 6) for at in divmod(place, 4) for i in range(6)]
        expected = sorted([np.sin(a) for a in angles] + [np.cos(a) for a in angles])
        assert sorted(row.tolist()) == pytest.approx(expected, abs=1e-6)
    assert len(found[0, 1:].unique(dim=0)) == 16


def test_a_vit_has_the_positions_of_smaller_images():
    vit = trained().backbone
    small = build(VIT).backbone.__class__(8, 2, 2, 4, 8, 1).eval()
    weights = {name: value for name, value in vit.state_dict().items() if name != "pos_embed"}
    small.load_state_dict(weights | {"pos_embed": small.pos_embed})
    x = images(3, size=8)
    with torch.no_grad():
        assert torch.equal(vit(x), small(x))
    with pytest.raises(AssertionError, match="divisible by patch size"):
        vit(images(3, size=10))


def test_a_vits_first_weights_are_xaviers_of_patches_as_one_layer():
    """Uniform in +-sqrt(6 / (fan in + fan out)); biases 0; the class token's deviation is 0.02."""
    vit = build(backbones.vit(192, 1, 3, 4), channels=3).backbone
    for name, weight in vit.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif weight.ndim in (2, 4):
            bound = (6 / (len(weight) + weight[0].numel())) ** 0.5
            assert bound * 0.99 < weight.abs().max() <= bound, name
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.3)


def test_positions_are_not_trained():
    encoder = build(VIT)
    before = encoder.backbone.pos_embed.clone()
    disturb(encoder)
    assert torch.equal(encoder.backbone.pos_embed, before)
    assert "pos_embed" not in dict(encoder.backbone.named_parameters())
    assert all(weight.grad.any() for weight in encoder.parameters())


def test_a_vit_is_not_built_without_a_size_or_of_a_form_that_does_not_fit():
    with pytest.raises(ValueError, match="a ViT for images of None pixels"):
        backbones.build(VIT, [0.5], [0.5], 0)
    with pytest.raises(ValueError, match="patch: 5 does not divide the image's 12 pixels"):
        build(backbones.vit(8, 1, 2, 5))


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


WRONG = {
    "uint8": (lambda x: (255 * x).byte(), TypeError, r"images\.float\(\) / 255"),
    "float of 0 to 255": (lambda x: 255 * x, ValueError, "divide those of 0 to 255 by 255"),
    "of -1 to 1": (lambda x: 2 * x - 1, ValueError, r"takes images in \[0, 1\]"),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), ValueError, r"permute\(0, 3, 1, 2\)"),
    "other channels": (lambda x: x.repeat(1, 3, 1, 1)[:, : 4 - x.shape[1]], ValueError, r"takes \(N, [13], H, W\)"),
    "one image": (lambda x: x[0], ValueError, r"takes \(N, [13], H, W\)"),
}


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_image_is_has_no_features(form, channels, wrong):
    """Grey images would pass through an encoder of three channels by broadcasting."""
    change, kind, says = WRONG[wrong]
    with pytest.raises(kind, match=says):
        build(form, channels=channels).eval()(change(images(channels=channels)))


def test_training_and_later_batches_are_not_searched_for_values(monkeypatch):
    """Each search would wait for a GPU; and numbers that are not finite are the training loop's to tell of."""
    encoder, searched = build(), []
    search = torch.Tensor.aminmax
    monkeypatch.setattr(torch.Tensor, "aminmax", lambda x: searched.append(len(x)) or search(x))
    encoder.train()(images(4))
    assert searched == []
    for n in (3, 2):
        encoder.eval()(images(n))
    assert searched == [3]
    assert build().eval()(images() * torch.nan).isnan().all()


def test_an_encoder_can_be_compiled_whole():
    encoder = build().eval()
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(images()), encoder(images()))


def test_gradients_of_narrow_normalisations_are_made_by_one_thread_and_the_same(monkeypatch, request):
    """Two would share lines of cache. Three of them have 24 channels: behind the stem, and both of the first block."""
    asked, threads, set_threads = [], torch.get_num_threads(), torch.set_num_threads
    request.addfinalizer(lambda: set_threads(threads))
    set_threads(2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: asked.append(n) or set_threads(n))
    x = torch.rand(32, 1, 20, 20, generator=torch.Generator().manual_seed(0))

    def gradients(width, plain=False):
        network = backbones.build(backbones.resnet(width, [1, 1, 1, 1]), [0.5], [0.25], 0).train()
        for module in network.modules() if plain else ():
            module._forward_hooks.clear()
        network(x).square().mean().backward()
        assert torch.get_num_threads() == 2
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    found = gradients(24)
    assert asked == [1, 2] * 3
    gradients(32)
    network = backbones.build(backbones.resnet(24, [1, 1, 1, 1]), [0.5], [0.25], 0).train()
    with torch.no_grad():
        network(x)
    expected = gradients(24, plain=True)
    assert len(asked) == 6
    assert (found - expected).norm() <= 1e-5 * expected.norm()
