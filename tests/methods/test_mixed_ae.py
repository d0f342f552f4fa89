import math

import h5py
import numpy as np
import pytest
import torch
from lightly.loss import NTXentLoss
from timm.layers.attention import Attention

from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.engine import distributed
from pipeline.methods import mixed_ae
from pipeline.methods.mixed_ae import homologous, homologous_contrast, mixing_map, over_unseen, patches
from pipeline.networks import backbones
from pipeline.params.methods import MixedAE as Params
from tests.methods import contract

PLAIN = {"attention": False, "segments": False, "contrast": 0.0}
ARMS = {  # of docs/methods/mixed-ae.md
    "mae": {"mixing": False} | PLAIN,
    "naive": PLAIN,
    "attention": PLAIN | {"attention": True},
    "contrast": PLAIN | {"attention": True, "contrast": 0.5},
    "full": {"contrast": 0.5},
}
EVERY = pytest.mark.parametrize("arm", ARMS)
FORM = backbones.vit(8, 2, 2, 4)


def built(size=16, channels=1, **changes):
    """Four sources of 16 patches where nothing else is said; weights that are not those of the initialisation."""
    given = {"sources": 4, "decoder_width": 12, "decoder_heads": 3} | changes
    params = contract.METHODS["mixed_ae"].model_copy(update=given)
    mean, std = [0.25, 0.5, 0.75][:channels], [0.5, 0.25, 0.125][:channels]
    method = mixed_ae.MixedAE.build(params, backbones.build(FORM, mean, std, 0, size), 0).train()
    with torch.no_grad():
        for k, weight in enumerate(method.parameters()):
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(k)))
    return method


def images(n, size=16, channels=1, seed=0):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def drawn(groups, n, sources=4, seed=0):
    return mixing_map(groups, n, sources, torch.Generator().manual_seed(seed))


# ---- slow forms, in float64, number by number


def norm(x, layer):
    """Layer normalisation of rows (N, D), with timm's or torch's own epsilon."""
    spread = (x.var(dim=1, keepdim=True, correction=0) + layer.eps).sqrt()
    return (x - x.mean(dim=1, keepdim=True)) / spread * layer.weight + layer.bias


def slow_attention(attention, x, m, keep, restricted):
    """Of one mixed image: a head and a query after the other. Gives the output and the share of its own among the kept.

    x (1 + N, D), m a list of N sources.
    """
    n, heads = len(m), attention.num_heads
    d = x.shape[1] // heads
    q, k, v = (x @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=1)
    out, own = torch.zeros_like(x), []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(n + 1):
            logits = [float(q[i, part] @ k[j, part]) / math.sqrt(d) for j in range(n + 1)]
            open = set(range(n + 1))
            if i:
                best = sorted(range(1, n + 1), key=lambda j: -logits[j])[:keep]
                own += [m[j - 1] == m[i - 1] for j in best]
                open = {0, *best} if restricted else open
            total = sum(math.exp(logits[j]) for j in open)
            out[i, part] = sum(math.exp(logits[j]) / total * v[j, part] for j in open)
    return out @ attention.proj.weight.T + attention.proj.bias, sum(own) / len(own)


def slow_contrast(x, m, temperature):
    """The supervised contrastive loss of one mixed image's tokens (N, D)."""
    rows = x.tolist()
    lengths = [math.sqrt(sum(a * a for a in row)) for row in rows]

    def e(i, j):
        return math.exp(
            sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / lengths[i] / lengths[j] / temperature
        )

    total = 0.0
    for i in range(len(m)):
        below = sum(e(i, j) for j in range(len(m)) if j != i)
        positive = [p for p in range(len(m)) if p != i and m[p] == m[i]]
        total -= sum(math.log(e(i, p) / below) for p in positive) / len(positive)
    return total / len(m)


def block(b, x, attention):
    x = x + attention(b.attn, norm(x, b.norm1))
    inner = norm(x, b.norm2) @ b.mlp.fc1.weight.T + b.mlp.fc1.bias
    gelu = inner / 2 * (1 + torch.erf(inner / math.sqrt(2)))
    return x + gelu @ b.mlp.fc2.weight.T + b.mlp.fc2.bias


def plain(attention, x):
    return slow_attention(attention, x, [0] * (len(x) - 1), 1, restricted=False)[0]


def cut(image, side):
    """Its patches, row by row: (N, C side side)."""
    size = image.shape[1]
    corners = [(i, j) for i in range(0, size, side) for j in range(0, size, side)]
    return torch.stack([image[:, i : i + side, j : j + side].flatten() for i, j in corners])


def slow_loss(method, batch, maps):
    """Term -> its mean over the batch: an image after the other. maps: lists of sources, a group or (MAE) an image."""
    params, method = method.params, method.double()
    vit, decoder, encoder = method.encoder.backbone, method.decoder, method.encoder
    batch = (batch.double() - encoder.mean) / encoder.std
    sums = {"reconstruction": 0.0, "contrast": 0.0, "top_k": 0.0}
    unseen = 0
    groups = list(batch.split(params.sources)) if params.mixing else [batch[i : i + 1] for i in range(len(batch))]
    for group, m in zip(groups, maps, strict=True):
        n = len(m)
        embedded = [
            cut(x, 4) @ vit.patch_embed.proj.weight.flatten(1).T + vit.patch_embed.proj.bias + vit.pos_embed[0, 1:]
            for x in group
        ]
        if params.mixing:
            shown = list(range(n))
            tokens = [embedded[m[i]][i] + (method.segments[m[i]] if params.segments else 0) for i in shown]
        else:
            shown = [i for i in range(n) if m[i] == params.sources - 1]
            tokens = [embedded[0][i] for i in shown]
        shares = []

        def attention(layer, x, m=m, n=n, shares=shares):
            if not params.mixing:
                return plain(layer, x)
            found, share = slow_attention(layer, x, m, n // params.sources, params.attention)
            shares.append(share)
            return found

        x = torch.cat([vit.cls_token[0], torch.stack(tokens)])
        for b in vit.blocks:
            x = block(b, x, attention)
        x = norm(x, vit.norm)
        if params.mixing:
            sums["top_k"] += sum(shares) / len(shares) / len(groups)
        if params.contrast:
            sums["contrast"] += slow_contrast(x[1:], m, params.temperature) / len(groups)
        y = x @ decoder.narrow.weight.T + decoder.narrow.bias
        for source, image in enumerate(group):
            at = {i: y[1 + place] for place, i in enumerate(shown) if not params.mixing or m[i] == source}
            z = torch.stack([at.get(i, decoder.unseen[0, 0]) for i in range(n)]) + decoder.positions
            z = torch.cat([y[:1], z])
            for b in decoder.blocks:
                z = block(b, z, plain)
            predicted = (norm(z, decoder.norm) @ decoder.pixels.weight.T + decoder.pixels.bias)[1:]
            for i, wanted in enumerate(cut(image, 4)):
                if i in at:
                    continue
                if params.normalised:
                    mean = wanted.mean()
                    variance = (wanted - mean).square().sum() / (len(wanted) - 1)
                    wanted = (wanted - mean) / math.sqrt(variance + 1e-6)
                sums["reconstruction"] += float((predicted[i] - wanted).square().mean())
                unseen += 1
    sums["reconstruction"] /= unseen
    return sums


@EVERY
@pytest.mark.parametrize(("size", "channels", "normalised"), [(16, 1, True), (12, 3, False)])
def test_the_loss_is_that_of_the_slow_form(arm, size, channels, normalised):
    """Of 16 patches, and of 9, which four sources cannot share evenly."""
    method = built(size, channels, normalised=normalised, **ARMS[arm])
    batch, n = images(8, size, channels), (size // 4) ** 2
    groups = 2 if method.params.mixing else 8
    maps = mixing_map(groups, n, 4, seeds.generator(0, "mix", 5))
    found = method.loss([batch], 5)
    with torch.no_grad():
        expected = slow_loss(method, batch, maps.tolist())
    assert found["reconstruction"].item() == pytest.approx(expected["reconstruction"], rel=1e-5)
    total = expected["reconstruction"] + method.params.contrast * expected["contrast"]
    assert found["loss"].item() == pytest.approx(total, rel=1e-5)
    assert set(found) == {"loss", "reconstruction"} | {
        name for name, on in (("top_k", method.params.mixing), ("contrast", method.params.contrast)) if on
    }
    for name in set(found) - {"loss"}:
        assert found[name].item() == pytest.approx(expected[name], rel=1e-5)


# ---- the mixing map


@pytest.mark.parametrize(("n", "sources"), [(64, 4), (49, 4), (9, 2), (5, 5)])
def test_a_map_is_balanced_and_any_place_may_have_any_source(n, sources):
    maps = drawn(4000, n, sources)
    counts = torch.stack([(maps == s).sum(dim=1) for s in range(sources)], dim=1)
    assert (counts == torch.tensor([n // sources + (s < n % sources) for s in range(sources)])).all()
    shares = torch.stack([(maps == s).float().mean(dim=0) for s in range(sources)])  # sources n
    expected = counts[0].float()[:, None] / n
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_places_of_a_map_are_no_more_alike_than_balance_has_it():
    """Any two of 8 places hold the same of two sources with probability 3 / 7."""
    maps = drawn(6000, 8, 2)
    same = (maps[:, :, None] == maps[:, None]).float().mean(dim=0)
    apart = same[~torch.eye(8, dtype=torch.bool)]
    assert ((apart - 3 / 7).abs() < 5 * math.sqrt(3 / 7 * 4 / 7 / 6000)).all()


def test_maps_are_of_seed_and_step_and_the_groups_differ():
    method = built()
    maps = method.maps(6, 16, 3)
    assert torch.equal(maps, method.maps(6, 16, 3))
    assert len(maps.unique(dim=0)) == 6
    assert not torch.equal(maps, method.maps(6, 16, 4))
    params = contract.METHODS["mixed_ae"]
    other = mixed_ae.MixedAE.build(params, backbones.build(FORM, [0.5], [0.5], 1, 16), 1)
    assert not torch.equal(maps, other.maps(6, 16, 3))


def test_complementary_maps_show_every_patch_of_every_image_once():
    batch, maps = images(8), drawn(2, 9)  # which four sources cannot share evenly
    again, turned = mixed_ae.complementary(batch, maps, 4)
    assert len(again) == 4 * len(batch)
    for group in range(2):
        for s in range(4):
            number = 4 * group + s
            assert torch.equal(again[4 * number : 4 * number + 4], batch[4 * group : 4 * group + 4])
            assert turned[number].tolist() == [(m + s) % 4 for m in maps[group].tolist()]
        seen = turned[4 * group : 4 * group + 4]
        assert all(sorted(seen[:, place].tolist()) == [0, 1, 2, 3] for place in range(9))


@pytest.mark.parametrize("size", [16, 12])
def test_the_loss_of_full_mixing_is_that_of_the_slow_form_over_all_turns_of_the_maps(size):
    method, batch, n = built(size, contrast=0.5, mix="full"), images(8, size), (size // 4) ** 2
    maps, seen = mixing_map(2, n, 4, seeds.generator(0, "mix", 5)), []
    method.encoder.backbone.norm.register_forward_hook(lambda _, x, y: seen.append(y.shape))
    found = method.loss([batch], 5)
    assert seen == [(8, 1 + n, 8)]  # as many sequences of all patches as images
    assert method.passes(0) == (3,)
    with torch.no_grad():
        turns = [slow_loss(method, batch, ((maps + s) % 4).tolist()) for s in range(4)]
    for name in ("reconstruction", "contrast", "top_k"):
        assert found[name].item() == pytest.approx(sum(turn[name] for turn in turns) / 4, rel=1e-5)
    total = found["reconstruction"] + 0.5 * found["contrast"]
    assert found["loss"].item() == pytest.approx(total.item(), rel=1e-6)


# ---- attention


def attention(width=8, heads=2):
    with seeds.scope(0, "attention"):
        layer = Attention(width, heads, qkv_bias=True)
    with torch.no_grad():
        layer.qkv.weight.mul_(3)
    return layer


@pytest.mark.parametrize("restricted", [True, False])
def test_with_all_patches_kept_it_is_timms_attention(restricted):
    layer, x, maps = attention(), torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(1)), drawn(3, 9, 3)
    keep = 9 if restricted else 4  # without `restricted` how many are looked at decides nothing
    found, _ = homologous(layer, x, maps, keep, restricted)
    assert torch.allclose(found, layer(x), atol=1e-6)


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("keep", [1, 4, 8])
def test_attention_and_its_accuracy_are_those_of_the_slow_form(keep, restricted):
    layer, x, maps = attention(), torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(1)), drawn(3, 9, 3)
    found, shares = homologous(layer, x, maps, keep, restricted)
    layer = layer.double()
    for g in range(3):
        with torch.no_grad():
            expected, share = slow_attention(layer, x[g].double(), maps[g].tolist(), keep, restricted)
        assert torch.allclose(found[g].double(), expected, atol=1e-5)
        assert shares[g].item() == pytest.approx(share, rel=1e-6)


def test_attention_by_hand():
    """One head of width 1, all projections the identity: a class token 0, patches 1, 2, 3 and -1; the query 2 keeps 3
    and 2, the query -1 keeps -1 and 1."""
    layer = Attention(1, 1, qkv_bias=False)
    with torch.no_grad():
        layer.qkv.weight.fill_(1)
        layer.proj.weight.fill_(1)
        layer.proj.bias.zero_()
    x, maps = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [-1.0]]]), torch.tensor([[0, 1, 1, 0]])
    found, share = homologous(layer, x, maps, keep=2, restricted=True)
    two = (3 * math.exp(6) + 2 * math.exp(4)) / (math.exp(6) + math.exp(4) + 1)
    assert found[0, 2].item() == pytest.approx(two, rel=1e-6)
    last = (-1 * math.exp(1) + 1 * math.exp(-1)) / (math.exp(1) + math.exp(-1) + 1)
    assert found[0, 4].item() == pytest.approx(last, rel=1e-6)
    assert found[0, 0].item() == pytest.approx((1 + 2 + 3 - 1) / 5, rel=1e-6)  # the class token's logits are all 0
    assert share.item() == pytest.approx((0 + 2 + 2 + 2) / 8)  # 1 keeps 3 and 2, 2 and 3 keep 3 and 2, -1 keeps -1, 1


def test_top_k_is_what_chance_gives_where_tokens_know_nothing_and_1_where_they_know_all():
    layer, maps = attention(16, 2), drawn(400, 16)
    x = torch.randn(400, 17, 16, generator=torch.Generator().manual_seed(1))
    _, shares = homologous(layer, x, maps, 4, True)
    assert shares.mean().item() == pytest.approx(1 / 4, abs=0.02)
    with torch.no_grad():  # queries and keys are the tokens, and those of a source are alike
        layer.qkv.weight[:32] = torch.eye(16).repeat(2, 1)
        layer.qkv.bias.zero_()
    x[:, 1:] = 3 * torch.eye(4)[maps].repeat(1, 1, 4)
    _, shares = homologous(layer, x, maps, 4, True)
    assert torch.equal(shares, torch.ones(400))


def test_no_patch_learns_from_a_patch_that_it_does_not_keep():
    """What a patch gives has gradient at the patches that its heads keep, at itself, and at the class token alone."""
    layer, maps = attention(8, 1), drawn(1, 9, 3)
    x = torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found, _ = homologous(layer, x, maps, 3, True)
    q, k, _ = layer.qkv(x)[0].chunk(3, dim=1)
    for query in range(1, 10):
        best = (q @ k.T)[query, 1:].topk(3).indices + 1
        (gradient,) = torch.autograd.grad(found[0, query].sum(), x, retain_graph=True)
        moved = gradient[0].abs().sum(dim=1).nonzero().flatten().tolist()
        assert moved == sorted({0, query, *best.tolist()})


# ---- the contrastive loss


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_the_contrast_is_the_papers_formula(temperature):
    x = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1))
    maps = drawn(3, 9, 4)
    found = homologous_contrast(x, maps, temperature)
    expected = [slow_contrast(x[g].double(), maps[g].tolist(), temperature) for g in range(3)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_with_two_patches_a_source_the_contrast_is_lightlys_nt_xent():
    x, maps = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    theirs = NTXentLoss(temperature=0.25)(*x[0].chunk(2)).item()
    assert homologous_contrast(x, maps, 0.25).item() == pytest.approx(theirs, rel=1e-5)


def test_the_contrast_by_hand():
    """Of equal tokens ln (N - 1); of two sources on two axes, each patch has one at cosine 1 and two at cosine 0."""
    maps = torch.tensor([[0, 0, 1, 1]])
    assert homologous_contrast(torch.ones(1, 4, 3), maps, 0.25).item() == pytest.approx(math.log(3))
    apart = torch.tensor([[[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
    assert homologous_contrast(apart, maps, 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-6)
    assert homologous_contrast(apart, torch.tensor([[0, 1, 0, 1]]), 0.5).item() == pytest.approx(
        math.log(math.exp(2) + 2), rel=1e-6
    )


# ---- what is predicted


def test_patches_stand_as_the_tokens_do():
    backbone, batch = built(12, 3).encoder.backbone, images(2, 12, 3)
    found = patches(batch, backbone, normalised=False)
    assert torch.equal(found, torch.stack([cut(image, 4) for image in batch]))
    with torch.no_grad():
        tokens = found @ backbone.patch_embed.proj.weight.flatten(1).T + backbone.patch_embed.proj.bias
        assert torch.allclose(tokens + backbone.pos_embed[:, 1:], backbone.embed(batch), atol=1e-5)
    flat = patches(batch, backbone, normalised=True)
    assert torch.allclose(flat.mean(dim=2), torch.zeros(2, 9), atol=1e-5)
    assert torch.allclose(flat.var(dim=2), torch.ones(2, 9), atol=1e-4)


def test_a_flat_patch_is_predicted_as_0():
    assert not patches(torch.full((1, 1, 16, 16), 0.3), built().encoder.backbone, normalised=True).any()


def test_the_error_is_of_unseen_patches_by_hand():
    """Two images of three patches in one group: unseen are the errors 2, 3 and 4."""
    error = torch.tensor([[100.0, 2.0, 3.0], [4.0, 100.0, 100.0]])
    seen = torch.tensor([[True, False, False], [False, True, True]])
    assert over_unseen(error, seen, 2).tolist() == [3.0]
    assert over_unseen(error, seen, 1).tolist() == [2.5, 4.0]


# ---- the picture


def bytes_of(n, size=16, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def left(method, given, folder):
    """The arrays of the written file."""
    assert method.save_artifacts(folder, given) == ["reconstructions.h5"]
    with h5py.File(folder / "reconstructions.h5") as file:
        return {name: file[name][:] for name in file}


def squares(image, side=4):
    """Views of an image's (H, W, C) patches, row by row."""
    size = len(image)
    return [image[i : i + side, j : j + side] for i in range(0, size, side) for j in range(0, size, side)]


@EVERY
@pytest.mark.parametrize(("size", "channels", "normalised"), [(16, 1, True), (12, 3, False), (12, 3, True)])
def test_a_decoder_that_knows_what_is_to_be_predicted_gives_the_images_back(arm, size, channels, normalised, tmp_path):
    method, given = built(size, channels, normalised=normalised, **ARMS[arm]), bytes_of(20, size, channels)
    x = method.encoder.normalised(torch.from_numpy(given[:16]).permute(0, 3, 1, 2) / 255)
    method.decoder.forward = lambda tokens, seen: patches(x, method.encoder.backbone, normalised)
    found = left(method, given, tmp_path)
    assert np.array_equal(found["images"], given[:16])
    assert np.array_equal(found["reconstruction"], given[:16])
    sources = 4 if method.params.mixing else 1
    maps = mixing_map(16 // sources, (size // 4) ** 2, 4, seeds.generator(0, "picture")).tolist()
    assert ("mixed" in found) == method.params.mixing
    for k, image in enumerate(given[:16]):
        for place, (own, visible) in enumerate(zip(squares(image), squares(found["visible"][k]), strict=True)):
            seen = maps[k // sources][place] == (k % 4 if method.params.mixing else 3)
            assert np.array_equal(visible, own if seen else np.full_like(own, 128))
            if seen and method.params.mixing:
                assert np.array_equal(squares(found["mixed"][k // 4])[place], own)


def test_without_a_prediction_a_patch_is_flat_and_what_was_seen_stays(tmp_path):
    """Zeros are each patch's own mean where its numbers are put back, and the data's mean, .25, where not."""
    given = bytes_of(16)
    for normalised in (True, False):
        method = built(normalised=normalised)
        method.decoder.forward = lambda tokens, seen: torch.zeros(16, 16, 16)
        found = left(method, given, tmp_path)
        for image, visible, filled in zip(*(found[k] for k in ("images", "visible", "reconstruction")), strict=True):
            for own, shown, there in zip(*map(squares, (image, visible, filled)), strict=True):
                if np.array_equal(shown, own):
                    assert np.array_equal(there, own)
                else:
                    flat = own.mean() if normalised else 0.25 * 255
                    assert np.abs(there - flat).max() <= 0.51


def test_the_picture_is_what_the_decoder_predicts_of_unseen_patches(tmp_path):
    """Drawn twice it is the same; of fewer images than it shows some are shown again."""
    method, given = built(), bytes_of(3)
    found = left(method, given, tmp_path)
    again = left(method, given, tmp_path)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert np.array_equal(found["images"], given[np.arange(16) % 3])
    x = method.encoder.normalised(torch.from_numpy(found["images"]).permute(0, 3, 1, 2) / 255)
    maps = mixing_map(4, 16, 4, seeds.generator(0, "picture"))
    predicted, seen, _ = method.predict(x, maps)
    assert torch.equal(seen[5], maps[1] == 1)
    own, place = x[5].double(), int((maps[1] != 1).nonzero()[0, 0])
    patch = cut(own, 4)[place]
    wanted = predicted[5, place].double() * (patch.var() + 1e-6).sqrt() + patch.mean()
    wanted = ((wanted * 0.5 + 0.25) * 255).round().clamp(0, 255).view(4, 4).detach().numpy()
    assert np.abs(squares(found["reconstruction"][5])[place][..., 0] - wanted).max() <= 1


@pytest.mark.parametrize(("arm", "count"), [("full", 4), ("mae", 3)])
def test_rows_of_the_picture(arm, count, tmp_path):
    method = built(**ARMS[arm])
    method.save_artifacts(tmp_path, bytes_of(20))
    sets = mixed_ae.MixedAE.pictures({"reconstructions.h5": tmp_path / "reconstructions.h5"})
    assert len(sets) == count
    assert sets[-1][0] == "each, reconstructed from that and each unseen patch's own mean and deviation"
    assert {images.shape for _, images in sets} == {(16, 16, 16, 1)}
    if arm == "full":
        title, mixed = sets[1]
        assert title == "every 4 of them mixed into one, as the encoder sees it"
        assert all(np.array_equal(mixed[k], mixed[k - k % 4]) for k in range(16))


# ---- the whole


@EVERY
def test_of_an_image_the_encoder_sees_its_share_of_patches_and_no_other_pixel(arm):
    """Pixels of patches that are not seen are targets and nothing else: no prediction depends on them."""
    method = built(**ARMS[arm])
    batch = images(4).requires_grad_()
    tokens = method.encoder.backbone.embed(method.encoder.normalised(batch))
    maps = method.maps(1 if method.params.mixing else 4, 16, 0)
    back, seen, _ = (method.mixed if method.params.mixing else method.masked)(tokens, maps)
    (gradient,) = torch.autograd.grad(method.decoder(back, seen).square().sum(), batch)
    moved = torch.stack([cut(image, 4).abs().sum(dim=1) > 0 for image in gradient])
    assert torch.equal(moved, seen)
    assert (seen.sum(dim=1) == 4).all()
    if method.params.mixing:
        assert (seen.sum(dim=0) == 1).all()


@EVERY
def test_gradient_reaches_every_parameter_of_every_arm(arm):
    method = built(**ARMS[arm])
    method.loss([images(8)], 0)["loss"].backward()
    assert all(weight.grad.any() for weight in method.parameters())
    assert hasattr(method, "segments") == method.params.segments


def test_the_log_has_no_gradient_but_the_loss():
    found = built().loss([images(8)], 0)
    assert [name for name, value in found.items() if value.requires_grad] == ["loss"]


def test_groups_in_another_order_with_their_maps_are_the_same_loss(monkeypatch):
    method, batch, maps = built(), images(12), drawn(3, 16)
    monkeypatch.setattr(method, "maps", lambda *given: maps)
    expected = method.loss([batch], 0)
    order = torch.tensor([2, 0, 1])
    monkeypatch.setattr(method, "maps", lambda *given: maps[order])
    turned = method.loss([batch.view(3, 4, 1, 16, 16)[order].flatten(0, 1)], 0)
    for name, value in turned.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5)
    other = method.loss([batch], 0)  # whose maps are another group's
    assert other["loss"].item() != pytest.approx(expected["loss"].item(), rel=1e-4)


def test_a_process_whose_images_are_no_whole_groups_is_refused():
    """The rule refuses such a batch, but two processes may share twelve images."""
    with pytest.raises(UserError, match=r"6 images a process or part are no whole groups of mixed_ae\.sources 4"):
        built().loss([images(6)], 0)


def test_processes_draw_the_maps_of_the_whole_batch_and_take_their_own(monkeypatch):
    method = built()
    whole = method.maps(4, 16, 7)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for number in (0, 1):
        monkeypatch.setenv("RANK", str(number))
        assert distributed.size() == 2
        assert torch.equal(method.maps(2, 16, 7), whole[2 * number : 2 * number + 2])


def test_autocast_does_not_round_what_is_kept_and_the_cosines():
    x, maps = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(1)), drawn(4, 16)
    exact = homologous_contrast(x, maps, 0.25)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(homologous_contrast(x, maps, 0.25), exact)
        found = built().loss([images(8)], 0)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert all(torch.isfinite(value) for value in found.values())


def test_arms_are_different_methods():
    losses = {arm: built(**changes).loss([images(8)], 0)["loss"].item() for arm, changes in ARMS.items()}
    assert len({round(loss, 6) for loss in losses.values()}) == len(ARMS)
    assert set(Params.model_fields) >= {name for changes in ARMS.values() for name in changes}
