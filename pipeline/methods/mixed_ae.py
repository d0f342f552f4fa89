"""MixedAE (Chen et al., CVPR 2023, arXiv 2303.17152): a masked autoencoder whose gaps are filled with other images.

Patches of several images make one image of as many patches; each of the several is reconstructed where the others
stand. So that these are no hint, a patch attends to those that are most like it alone, which should be those of its own
image, and a contrastive loss sees to it. Without mixing it is MAE (He et al., CVPR 2022). Which details are our reading
is said in docs/methods.md.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.engine import distributed
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View, late
from pipeline.methods.losses import multi_positive
from pipeline.networks import vit
from pipeline.networks.backbones import Encoder
from pipeline.params.methods import MixedAE as Params

EPSILON = 1e-6  # added to a patch's variance, as in MAE's code
RECONSTRUCTIONS = "reconstructions.h5"
SHOWN = 16  # images that are reconstructed for a picture, or a group where that is more
_UNSEEN = 128  # grey


def build(params: Params, encoder: Encoder, seed: int) -> "MixedAE":
    """The method around an encoder, its decoder and segment embeddings freshly initialised."""
    with seeds.scope(seed, "decoder"):
        return MixedAE(params, encoder, seed)


class Decoder(nn.Module):
    """Tokens of the patches seen, and a mask token for the others -> a prediction of all patches' pixels."""

    def __init__(self, params: Params, backbone: vit.SmallViT):
        super().__init__()
        width, (first, weights) = params.decoder_width, (backbone.patch_embed, backbone.patch_embed.proj.weight)
        self.narrow = nn.Linear(backbone.embed_dim, width)
        self.blocks = vit.blocks(width, params.decoder_depth, params.decoder_heads)
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, weights[0].numel())
        vit.initialise(self)
        self.unseen = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.register_buffer("positions", vit.code(first.grid_size, width), persistent=False)

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """tokens: (B, 1 + N, width), narrowed, a class token first; seen: bool (B, N) -> (B, N, pixels of a patch)."""
        patches = torch.where(seen[:, :, None], tokens[:, 1:], self.unseen) + self.positions
        x = vit.through(self.blocks, torch.cat([tokens[:, :1], patches], dim=1))
        return self.pixels(self.norm(x))[:, 1:]


class MixedAE(nn.Module):
    """Encoder, a ViT; an embedding a segment, if they are told; decoder."""

    views = (View(recipe=0),)

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__()
        self.params, self.encoder, self.seed = params, encoder, seed
        # A pass of all patches for so many images; with full mixing one for each.
        self.passes = (3.0 if params.mix == "full" else 3 / params.sources,)
        self.together = params.sources if params.mixing else 1  # images that one map is of
        self.decoder = Decoder(params, encoder.backbone)
        if params.segments:
            drawn = torch.empty(params.sources, encoder.width)
            self.segments = nn.Parameter(nn.init.trunc_normal_(drawn, std=0.02))

    def phases(self) -> list[Phase]:
        """One player: all parameters."""
        return [Phase(groups_of(self), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def after_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: one view, float (B, C, H, W). Neighbours in the batch are mixed, by a map of (seed, step).

        Gives the terms that there are beside "loss", and how well attention finds a patch's own image ("top_k").
        """
        params = self.params
        images = self.encoder.normalised(batch[0])
        if len(images) % self.together:
            what = f"{len(images)} images a process are no whole groups of mixed_ae.sources {self.together}"
            raise UserError(what, "PIPELINE_LAUNCH", "start fewer processes")
        maps = self.maps(len(images) // self.together, self.encoder.backbone.patch_embed.num_patches, step)
        maps = maps.to(images.device)
        if params.mix == "full":
            images, maps = complementary(images, maps, params.sources)
        predicted, seen, terms = self.predict(images, maps)
        error = (predicted - patches(images, self.encoder.backbone, params.normalised)).square().mean(dim=2)  # B N
        terms = {"reconstruction": over_unseen(error, seen, self.together), **terms}
        # A value a group, or an image, of equally many numbers each: the mean of all is that of the whole batch.
        (together,) = distributed.gather([torch.stack(list(terms.values()), dim=1)])
        found = dict(zip(terms, together.mean(dim=0), strict=True))
        loss = found["reconstruction"] + params.contrast * found.get("contrast", 0)
        return {"loss": loss, **{name: value.detach() for name, value in found.items()}}

    def maps(self, groups: int, n: int, step: int) -> torch.Tensor:
        """int64 (groups, N), of this process's groups: `mixing_map` of the whole batch's, drawn from (seed, step)."""
        draw = seeds.generator(self.seed, "mix", step)
        every = mixing_map(groups * distributed.size(), n, self.params.sources, draw)
        return every[distributed.share(len(every))]

    def predict(self, images: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Every patch's pixels as predicted, float32 (B, N, C p p), which patches were seen, bool (B, N), terms.

        images: normalised, float (B, C, H, W), neighbours of which maps, int64 (B / together, N), are.
        """
        tokens = self.encoder.backbone.embed(images)  # B N D
        encode = self.mixed if self.params.mixing else self.masked
        tokens, seen, terms = encode(tokens, maps)
        return self.decoder(tokens, seen).float(), seen, terms

    def mixed(self, tokens: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """(B, N, D) of which maps (G, N) make G mixed images -> tokens of each image, bool (B, N), terms a group."""
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
        back = self.decoder.narrow(x)[:, None].expand(
            -1, params.sources, -1, -1
        )  # the same to each: it looks at `seen`
        return back.flatten(0, 1), seen.flatten(0, 1), terms

    def masked(self, tokens: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """MAE: of (B, N, D) the patches where maps (B, N) are largest go through the encoder, N / sources an image."""
        keep = maps.shape[1] // self.params.sources
        places = (maps == self.params.sources - 1).nonzero()[:, 1].view(len(maps), keep, 1)
        x = tokens.gather(1, places.expand(-1, -1, tokens.shape[2]))
        x = self.decoder.narrow(self.encoder.backbone.encode(x))  # B 1+keep width
        wide = places.expand(-1, -1, x.shape[2])
        back = x.new_zeros(len(maps), maps.shape[1], x.shape[2]).scatter(1, wide, x[:, 1:])
        return torch.cat([x[:, :1], back], dim=1), maps == self.params.sources - 1, {}

    @torch.no_grad()
    def leave(self, folder: Path, images: np.ndarray) -> list[str]:
        """Reconstruct some of the images, uint8 (N, H, W, C), and write what is seen; returns the file's name.

        uint8 (B, H, W, C) each: images; visible, their patches that the encoder sees, the others grey; reconstruction,
        these and the others as predicted; mixed, (B / sources, H, W, C), what it is shown, where there is mixing.
        """
        backbone, rows = self.encoder.backbone, np.arange(max(SHOWN // self.together, 1) * self.together)
        shown = torch.from_numpy(images[rows % len(images)]).to(self.decoder.unseen.device)
        x = self.encoder.normalised(shown.permute(0, 3, 1, 2).float() / 255)
        draw = seeds.generator(self.seed, "picture")
        maps = mixing_map(len(rows) // self.together, backbone.patch_embed.num_patches, self.params.sources, draw)
        maps = maps.to(x.device)
        predicted, seen, _ = self.predict(x, maps)
        pixels = patches(x, backbone, normalised=False)
        if self.params.normalised:  # by the true patch's own numbers, which the method does not predict
            mean, deviation = scale(pixels)
            predicted = predicted * deviation + mean
        seen = seen[:, :, None]
        found = {
            "images": self.picture(pixels),
            "visible": self.picture(pixels).where(self.whole(seen.expand_as(pixels).float()) > 0, _UNSEEN),
            "reconstruction": self.picture(pixels.where(seen, predicted)),
        }
        if self.params.mixing:
            each = pixels.unflatten(0, (-1, self.together))  # groups sources N C p p
            place = maps[:, None, :, None].expand(-1, -1, -1, each.shape[3])
            found["mixed"] = self.picture(each.gather(1, place)[:, 0])
        arrays = {name: x.cpu().numpy() for name, x in found.items()}
        shards.write_arrays(Path(folder) / RECONSTRUCTIONS, arrays, {"normalised": self.params.normalised})
        return [RECONSTRUCTIONS]

    def whole(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches, (B, N, C p p), put together: (B, H, W, C)."""
        grid, (side, _) = self.encoder.backbone.patch_embed.grid_size, self.encoder.backbone.patch_embed.patch_size
        return F.fold(pixels.mT, (side * grid[0], side * grid[1]), side, stride=side).permute(0, 2, 3, 1)

    def picture(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels of patches, (B, N, C p p), as images: uint8 (B, H, W, C)."""
        x = self.whole(pixels) * self.encoder.std.flatten() + self.encoder.mean.flatten()
        return (255 * x).round().clamp(0, 255).to(torch.uint8)


def pictures(made: dict[str, Path]) -> list[tuple[str, np.ndarray]]:
    """What the encoder is shown of images of validation, and what the decoder makes of it."""
    with shards.open_file(made[RECONSTRUCTIONS]) as file:
        images, visible, filled = (shards.dataset_of(file, name)[:] for name in ("images", "visible", "reconstruction"))
        mixed = shards.dataset_of(file, "mixed")[:] if "mixed" in file else []
        told = " and each unseen patch's own mean and deviation" if file.attrs["normalised"] else ""
    sets = [("validation images", images)]
    if len(mixed):
        together = len(images) // len(mixed)
        what = f"every {together} of them mixed into one, as the encoder sees it"
        sets.append((what, np.repeat(mixed, together, axis=0)))
    return [*sets, ("what it sees of each", visible), (f"each, reconstructed from that{told}", filled)]


def outcomes(rows: list[dict], made: dict[str, Path]) -> dict[str, float]:
    """The late reconstruction error, and where images are mixed `top_k`."""
    return {name: late(rows, name) for name in ("reconstruction", "top_k") if name in rows[-1]}


def mixing_map(groups: int, n: int, sources: int, draw: torch.Generator) -> torch.Tensor:
    """Which of the sources stands at each of n places, for each group, int64 (groups, n); balanced.

    Each has n // sources places, and the first n % sources ones one more.
    """
    return torch.rand(groups, n, generator=draw).argsort(dim=1) % sources


def complementary(images: torch.Tensor, maps: torch.Tensor, sources: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each group, images (B, ...) and its map (G, N), `sources` times: with maps (M + s) mod sources, s = 0, 1, ...

    Together these show every patch of each image once.
    """
    images = images.unflatten(0, (-1, sources)).repeat_interleave(sources, dim=0).flatten(0, 1)
    turns = torch.arange(sources, device=maps.device)[:, None]
    return images, ((maps[:, None] + turns) % sources).flatten(0, 1)


def homologous(
    attention: nn.Module, x: torch.Tensor, maps: torch.Tensor, keep: int, alone: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-attention, timm's, in which a patch attends to the `keep` patches most like it: softmax(TopK(q k)) v.

    x: (G, 1 + N, D), a class token first, which attends to all and which all attend to. Each head has its own most
    alike. Without `alone` patches attend to all. Also gives the share of those most alike that are of the patch's own
    image, as maps (G, N) has it: float32 (G,), by chance the image's share of the patches.
    """
    groups, length, width = x.shape
    q, k, v = attention.qkv(x).view(groups, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # G heads 1+N d
    with torch.autocast(x.device.type, enabled=False):  # ties of rounded similarities would be told by their place
        logits = attention.scale * (q.float() @ k.float().mT)
    best = logits.detach()[:, :, 1:, 1:].topk(keep, dim=3).indices  # G heads N keep
    theirs = maps[:, None, None].expand(-1, *best.shape[1:3], -1).gather(3, best)
    share = (theirs == maps[:, None, :, None]).float().mean(dim=(1, 2, 3))
    if alone:
        closed = torch.ones_like(logits, dtype=torch.bool)
        closed[:, :, 0], closed[:, :, :, 0] = False, False
        closed[:, :, 1:, 1:].scatter_(3, best, False)
        logits = logits.masked_fill(closed, float("-inf"))
    mixed = logits.softmax(dim=3).to(v.dtype) @ v
    return attention.proj(mixed.transpose(1, 2).reshape(groups, length, width)), share


def homologous_contrast(x: torch.Tensor, maps: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each patch against the others of its mixed image, positive those of the same source: float32 (G,), a mean each.

    -1/|P_l| sum_{p in P_l} log exp(c_lp / t) / sum_{j != l} exp(c_lj / t), c the cosine of tokens, x float32 (G, N, D),
    of source maps (G, N).
    """
    found, _ = multi_positive(F.normalize(x, dim=2), maps, temperature)
    return found.mean(dim=1)


def patches(images: torch.Tensor, backbone: vit.SmallViT, normalised: bool) -> torch.Tensor:
    """What is to be predicted: each patch's pixels, float32 (B, N, C p p), row by row as the tokens are.

    normalised: less their mean and over their deviation (MAE, section 4.1), patch by patch.
    """
    side = backbone.patch_embed.patch_size[0]
    x = F.unfold(images.float(), side, stride=side).mT
    if not normalised:
        return x
    mean, deviation = scale(x)
    return (x - mean) / deviation


def scale(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each patch's pixels, x (B, N, C p p): (B, N, 1) each."""
    return x.mean(dim=2, keepdim=True), (x.var(dim=2, keepdim=True) + EPSILON).sqrt()


def over_unseen(error: torch.Tensor, seen: torch.Tensor, size: int) -> torch.Tensor:
    """The mean of the error, (B, N), over the patches that were not seen, for each `size` images of the batch."""
    error, unseen = (part.view(-1, size * part.shape[1]) for part in (error, ~seen))
    return (error * unseen).sum(dim=1) / unseen.sum(dim=1)
