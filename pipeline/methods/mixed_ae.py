"""MixedAE (Chen et al., CVPR 2023, arXiv 2303.17152): a masked autoencoder whose gaps are filled with other images.

Patches of several images are mixed into one image; the decoder reconstructs the patches of each that the others cover.
To keep the images apart, a patch attends only to the patches most similar to it, which should be those of the same
image; a contrastive loss trains this. Without mixing it is MAE (He et al., CVPR 2022). docs/methods/mixed-ae.md says
which details are our reading.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from pipeline.core import seeds
from pipeline.core.devices import sent
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.engine import distributed
from pipeline.methods import Method, View, late_mean
from pipeline.methods.losses import multi_positive
from pipeline.networks import vit
from pipeline.networks.backbones import Encoder
from pipeline.params.methods import MixedAE as Params

EPSILON = 1e-6  # added to a patch's variance, as in MAE's code
RECONSTRUCTIONS = "reconstructions.h5"
SHOWN = 16  # images reconstructed for the report, or one group if that is more
_UNSEEN = 128  # grey


class Decoder(nn.Module):
    """Tokens of the visible patches, and a mask token for the others -> predicted pixels of all patches."""

    def __init__(self, params: Params, backbone: vit.SmallViT):
        super().__init__()
        width, heads = params.decoder_width, params.decoder_heads
        self.narrow = nn.Linear(backbone.embed_dim, width)
        norm = partial(nn.LayerNorm, eps=1e-6)  # as in MAE's code, and in timm's encoder
        blocks = [Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(params.decoder_depth)]
        self.blocks, self.norm = nn.Sequential(*blocks), norm(width)
        self.pixels = nn.Linear(width, backbone.patch_embed.proj.weight[0].numel())
        vit.initialise(self)
        self.unseen = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.register_buffer("positions", vit.code(backbone.patch_embed.grid_size, width), persistent=False)

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """tokens: (B, 1 + N, width), narrowed, a class token first; seen: bool (B, N) -> (B, N, pixels of a patch)."""
        patches = torch.where(seen[:, :, None], tokens[:, 1:], self.unseen) + self.positions
        x = self.blocks(torch.cat([tokens[:, :1], patches], dim=1))
        return self.pixels(self.norm(x))[:, 1:]


class MixedAE(Method):
    """Encoder (a ViT), decoder, and with `segments` an embedding for each image of a mixed one."""

    HEADS = "decoder"
    views = (View(recipe=0),)

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.together = params.sources if params.mixing else 1  # images of one map
        self.decoder = Decoder(params, encoder.backbone)
        if params.segments:
            drawn = torch.empty(params.sources, encoder.width)
            self.segments = nn.Parameter(nn.init.trunc_normal_(drawn, std=0.02))

    def passes(self, step: int) -> tuple[float, ...]:
        """One pass of all patches for `sources` images; with full mixing one for each image."""
        return (3.0 if self.params.mix == "full" else 3 / self.params.sources,)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: one view, float (B, C, H, W). Adjacent images are mixed by maps drawn from (seed, step).

        Also gives the terms of the loss, and how well attention finds patches of the same image ("top_k").
        """
        params = self.params
        images = self.encoder.normalised(batch[0])
        if len(images) % self.together:
            what = f"{len(images)} images a process or part are no whole groups of mixed_ae.sources {self.together}"
            raise UserError(what, "PIPELINE_LAUNCH", "start fewer processes, or lower pretrain.accumulate")
        maps = self.maps(len(images) // self.together, self.encoder.backbone.patch_embed.num_patches, step)
        maps = sent(maps, images.device)
        if params.mix == "full":
            images, maps = complementary(images, maps, params.sources)
        predicted, seen, terms = self.predict(images, maps)
        error = (predicted - patches(images, self.encoder.backbone, params.normalised)).square().mean(dim=2)  # B N
        terms = {"reconstruction": over_unseen(error, seen, self.together), **terms}
        # One value for each group or image, of equally many numbers each: their mean is that of the whole batch.
        (together,) = distributed.gather([torch.stack(list(terms.values()), dim=1)])
        found = dict(zip(terms, together.mean(dim=0), strict=True))
        loss = found["reconstruction"] + params.contrast * found.get("contrast", 0)
        return {"loss": loss, **{name: value.detach() for name, value in found.items()}}

    def maps(self, groups: int, n: int, step: int) -> torch.Tensor:
        """`mixing_map` of this process's groups, int64 (groups, N); drawn for the whole batch from (seed, step)."""
        together, rows = distributed.whole(groups)
        return mixing_map(together, n, self.params.sources, seeds.generator(self.seed, "mix", step))[rows]

    def predict(self, images: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Predicted pixels, float32 (B, N, C p p), which patches were visible, bool (B, N), and further terms.

        images: normalised, float (B, C, H, W); maps: int64 (B / together, N), one for adjacent images.
        """
        tokens = self.encoder.backbone.embed(images)  # B N D
        encode = self.mixed if self.params.mixing else self.masked
        tokens, seen, terms = encode(tokens, maps)
        return self.decoder(tokens, seen).float(), seen, terms

    def mixed(self, tokens: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Tokens (B, N, D), mixed into G images by maps (G, N) -> tokens of each image, bool (B, N), terms (G,)."""
        params, backbone = self.params, self.encoder.backbone
        groups, n = maps.shape
        x = tokens.view(groups, params.sources, n, -1)
        x = x.gather(1, maps[:, None, :, None].expand(-1, -1, -1, x.shape[3]))[:, 0]  # G N D
        if params.segments:
            x = x + self.segments[maps]
        shares = []

        def attend(attention: nn.Module, x: torch.Tensor) -> torch.Tensor:
            x, share = homologous(attention, x, maps, n // params.sources, params.attention)
            shares.append(share)
            return x

        x = backbone.encode(x, attend)
        terms = {"top_k": torch.stack(shares).mean(dim=0)}
        if params.contrast:
            terms["contrast"] = homologous_contrast(x[:, 1:].float(), maps, params.temperature)
        seen = maps[:, None] == torch.arange(params.sources, device=maps.device)[:, None]  # G sources N
        # The same tokens for each source: the decoder uses only those that `seen` marks as its own.
        back = self.decoder.narrow(x)[:, None].expand(-1, params.sources, -1, -1)
        return back.flatten(0, 1), seen.flatten(0, 1), terms

    def masked(self, tokens: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """MAE: only the N / sources patches of (B, N, D) where maps (B, N) are largest go through the encoder."""
        seen = maps == self.params.sources - 1  # as many of each image
        # Their numbers in order, without asking the device how many there are: a stable sort puts them first.
        n = maps.shape[1]
        first = seen.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : n // self.params.sources]
        rows = (first + n * torch.arange(len(maps), device=maps.device)[:, None]).flatten()
        x = tokens.flatten(0, 1).index_select(0, rows).view(len(maps), -1, tokens.shape[2])
        x = self.decoder.narrow(self.encoder.backbone.encode(x))  # B 1+N/sources width
        back = x.new_zeros(maps.numel(), x.shape[2]).index_copy(0, rows, x[:, 1:].flatten(0, 1))
        return torch.cat([x[:, :1], back.view(*maps.shape, -1)], dim=1), seen, {}

    @torch.no_grad()
    def save_artifacts(self, folder: Path, images: np.ndarray) -> list[str]:
        """Reconstruct some of the images, uint8 (N, H, W, C); returns the name of the file.

        It holds, uint8 (B, H, W, C) each: images; visible, with the patches grey that the encoder does not see;
        reconstruction, with these patches as predicted; with mixing, mixed (B / sources, H, W, C), the encoder's input.
        """
        backbone, rows = self.encoder.backbone, np.arange(max(SHOWN // self.together, 1) * self.together)
        shown = torch.from_numpy(images[rows % len(images)]).to(self.decoder.unseen.device)
        x = self.encoder.normalised(shown.permute(0, 3, 1, 2).float() / 255)
        draw = seeds.generator(self.seed, "picture")
        maps = mixing_map(len(rows) // self.together, backbone.patch_embed.num_patches, self.params.sources, draw)
        maps = maps.to(x.device)
        predicted, seen, _ = self.predict(x, maps)
        pixels = patches(x, backbone, normalised=False)
        if self.params.normalised:  # by the true mean and deviation, which the method does not predict
            mean, deviation = scale(pixels)
            predicted = predicted * deviation + mean
        filled = self.whole(predicted) * self.encoder.std.flatten() + self.encoder.mean.flatten()
        filled = (255 * filled).round().clamp(0, 255).to(torch.uint8)
        visible = self.whole(seen[:, :, None].expand_as(pixels).float()) > 0
        found = {
            "images": shown,
            "visible": shown.where(visible, _UNSEEN),
            "reconstruction": shown.where(visible, filled),
        }
        if self.params.mixing:  # a place is visible in one image of its group
            found["mixed"] = (shown * visible).unflatten(0, (-1, self.together)).sum(dim=1, dtype=torch.uint8)
        arrays = {name: x.cpu().numpy() for name, x in found.items()}
        shards.write_arrays(Path(folder) / RECONSTRUCTIONS, arrays, {"normalised": self.params.normalised})
        return [RECONSTRUCTIONS]

    @staticmethod
    def pictures(made: dict[str, Path]) -> list[tuple[str, np.ndarray]]:
        """The images, the encoder's input, and the reconstructions."""
        with shards.open_file(made[RECONSTRUCTIONS]) as file:
            found = {name: shards.dataset_of(file, name)[:] for name in file}
            known = " and each unseen patch's own mean and deviation" if file.attrs["normalised"] else ""
        sets = [("images", found["images"])]
        if "mixed" in found:
            together = len(found["images"]) // len(found["mixed"])
            what = f"every {together} of them mixed into one, as the encoder sees it"
            sets.append((what, np.repeat(found["mixed"], together, axis=0)))
        sets.append(("what it sees of each", found["visible"]))
        return [*sets, (f"each, reconstructed from that{known}", found["reconstruction"])]

    @staticmethod
    def outcomes(rows: list[dict], made: dict[str, Path]) -> dict[str, float]:
        """The late reconstruction error, and where images are mixed `top_k`."""
        return {name: late_mean(rows, name) for name in ("reconstruction", "top_k") if name in rows[-1]}

    def whole(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images of patches (B, N, C p p): (B, H, W, C)."""
        grid, (side, _) = self.encoder.backbone.patch_embed.grid_size, self.encoder.backbone.patch_embed.patch_size
        return F.fold(pixels.mT, (side * grid[0], side * grid[1]), side, stride=side).permute(0, 2, 3, 1)


def mixing_map(groups: int, n: int, sources: int, draw: torch.Generator) -> torch.Tensor:
    """Which source each of n places shows, for each group: int64 (groups, n).

    Balanced: each source has n // sources places, and the first n % sources have one more.
    """
    return torch.rand(groups, n, generator=draw).argsort(dim=1) % sources


def complementary(images: torch.Tensor, maps: torch.Tensor, sources: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each group of images (B, ...) `sources` times, with maps (M + s) mod sources of its map M, s = 0, 1, ...

    Together these show every patch of each image once. maps: (G, N).
    """
    images = images.unflatten(0, (-1, sources)).repeat_interleave(sources, dim=0).flatten(0, 1)
    turns = torch.arange(sources, device=maps.device)[:, None]
    return images, ((maps[:, None] + turns) % sources).flatten(0, 1)


def homologous(
    attention: nn.Module, x: torch.Tensor, maps: torch.Tensor, keep: int, restricted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """timm's self-attention where each patch attends only to the `keep` most similar patches: softmax(TopK(q k)) v.

    x: (G, 1 + N, D). The class token comes first; it attends to all patches and all attend to it. The most similar
    patches are chosen head by head. Unless `restricted`, patches attend to all. Also gives the share of the most
    similar patches that come from the same image by maps (G, N), float32 (G,); by chance it is the image's share.
    """
    groups, length, width = x.shape
    q, k, v = attention.qkv(x).view(groups, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # G heads 1+N d
    with torch.autocast(x.device.type, enabled=False):  # bf16 would make ties
        logits = attention.scale * (q.float() @ k.float().mT)
    best = logits.detach()[:, :, 1:, 1:].topk(keep, dim=3).indices  # G heads N keep
    theirs = maps[:, None, None].expand(-1, *best.shape[1:3], -1).gather(3, best)
    share = (theirs == maps[:, None, :, None]).float().mean(dim=(1, 2, 3))
    if restricted:
        closed = torch.ones_like(logits, dtype=torch.bool)
        closed[:, :, 0], closed[:, :, :, 0] = False, False
        closed[:, :, 1:, 1:].scatter_(3, best, False)
        logits = logits.masked_fill(closed, float("-inf"))
    mixed = logits.softmax(dim=3).to(v.dtype) @ v
    return attention.proj(mixed.transpose(1, 2).reshape(groups, length, width)), share


def homologous_contrast(x: torch.Tensor, maps: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean loss of each mixed image, float32 (G,): patches against each other, positive those of the same source.

    -1/|P_l| sum_{p in P_l} log exp(c_lp / t) / sum_{j != l} exp(c_lj / t), c the cosine of tokens x, float32 (G, N, D);
    sources: maps (G, N).
    """
    found, _ = multi_positive(F.normalize(x, dim=2), maps, temperature)
    return found.mean(dim=1)


def patches(images: torch.Tensor, backbone: vit.SmallViT, normalised: bool) -> torch.Tensor:
    """The pixels of each patch, float32 (B, N, C p p), in the order of the tokens: the target of the prediction.

    normalised: by mean and deviation of each patch (MAE, section 4.1).
    """
    side = backbone.patch_embed.patch_size[0]
    x = F.unfold(images.float(), side, stride=side).mT
    if not normalised:
        return x
    mean, deviation = scale(x)
    return (x - mean) / deviation


def scale(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the pixels of each patch of x (B, N, C p p): (B, N, 1) each."""
    return x.mean(dim=2, keepdim=True), (x.var(dim=2, keepdim=True) + EPSILON).sqrt()


def over_unseen(error: torch.Tensor, seen: torch.Tensor, size: int) -> torch.Tensor:
    """Mean error (B, N) of the unseen patches, for every `size` adjacent images: (B / size,)."""
    error, unseen = (part.view(-1, size * part.shape[1]) for part in (error, ~seen))
    return (error * unseen).sum(dim=1) / unseen.sum(dim=1)
