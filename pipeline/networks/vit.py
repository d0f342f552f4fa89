"""A vision Transformer for small images: timm's, with MAE's fixed positions and first weights (He et al., CVPR 2022).

Apart from backbones.py because timm is slow to import: only who builds one imports this.
"""

from collections.abc import Callable

import torch
from timm.layers.attention import Attention
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

Attend = Callable[[Attention, torch.Tensor], torch.Tensor]


class SmallViT(VisionTransformer):
    """ViT with a class token, whose features are the mean of the patches' tokens: (N, C, H, W) -> (N, width).

    Made for images of `size` pixels a side; of others, whose sides are multiples of `patch`, it has the positions, too.
    Its state is that of timm's `VisionTransformer(..., global_pool="avg", fc_norm=False)`, and so are its features.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int, size: int, channels: int):
        shape = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "img_size": size}
        super().__init__(**shape, in_chans=channels, num_classes=0, global_pool="avg", fc_norm=False)
        self.patch_embed.strict_img_size = False  # or small views would be refused
        positions = self.pos_embed
        del self.pos_embed  # a parameter there, and learnt
        self.register_buffer("pos_embed", torch.zeros_like(positions))
        self.pos_embed[:, 1:] = code(self.patch_embed.grid_size, width)
        initialise(self)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (n, C, H, W) -> a token a patch, row by row, with its position: (n, N, width)."""
        grid = tuple(side // patch for side, patch in zip(x.shape[2:], self.patch_embed.patch_size, strict=True))
        own = grid == self.patch_embed.grid_size
        positions = self.pos_embed[:, 1:] if own else code(grid, self.embed_dim, self.pos_embed.device)
        return self.patch_embed(x) + positions

    def encode(self, tokens: torch.Tensor, attend: Attend | None = None) -> torch.Tensor:
        """Tokens (n, N, width) with positions -> those of the last layer, normalised, the class token first.

        attend(its attention, x), in place of each block's attention: (n, 1 + N, width) -> (n, 1 + N, width).
        """
        n = tokens.shape[0]  # len() is a fixed number to torch.export
        first = (self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1)
        x = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            if attend is None:
                x = block(x)
            else:
                x = x + attend(block.attn, block.norm1(x))
                x = x + block.mlp(block.norm2(x))
        return self.norm(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encode(self.embed(x))[:, 1:].mean(dim=1)


def code(grid: tuple[int, int], width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sines and cosines of the two coordinates of each place of a grid, row by row: float32 (N, width) on the device.

    MAE's, up to the order of the features; timm's function.
    """
    return build_sincos2d_pos_embed(list(grid), width, device=device)


def initialise(module: nn.Module) -> None:
    """Weights as in MAE's code: Xavier's uniform for linear layers and patches, which are one, and no biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.flatten(1))  # a view
            nn.init.zeros_(layer.bias)
