"""ResNets of torchvision's blocks and any width, with its keys, first weights and values."""

from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


@dataclass(frozen=True)
class Stem:
    """How a ResNet begins: kernel, stride and padding of its first convolution, and whether max-pooling follows."""

    kernel: int
    stride: int
    padding: int
    pool: bool


STEMS = {
    "3x3": Stem(3, 1, 1, pool=False),  # keeps the size (CLSP on CIFAR)
    "3x3-pad2": Stem(3, 1, 2, pool=False),  # H + 2 (solo-learn and AdaInf on CIFAR)
    "3x3-pool": Stem(3, 1, 1, pool=True),  # H / 2 (CLSP on STL-10)
    "7x7": Stem(7, 2, 3, pool=True),  # H / 4 (He et al., CVPR 2016, on ImageNet)
}


class ResNet(nn.Module):
    """ResNet: (N, C, H, W) -> (N, 8 width) with basic blocks, (N, 32 width) with bottlenecks.

    Modules and first weights are in the order of torchvision's `ResNet`, which builds width 64 only.
    """

    def __init__(self, width: int, blocks: list[int], channels: int, block: str, stem: str):
        super().__init__()
        kind, first = BLOCKS[block], STEMS[stem]
        self.conv1 = nn.Conv2d(channels, width, first.kernel, first.stride, first.padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if first.pool else nn.Identity()
        self.layer1 = _stage(kind, width, width, blocks[0], stride=1)
        self.layer2 = _stage(kind, kind.expansion * width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(kind, kind.expansion * 2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(kind, kind.expansion * 4 * width, 8 * width, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_features = 8 * kind.expansion * width  # timm's name
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)


def _stage(kind: type[BasicBlock | Bottleneck], fan_in: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution, the first with a projection of its input where the shapes differ."""
    fan_out, projection = kind.expansion * planes, None
    if stride != 1 or fan_in != fan_out:
        projection = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))
    first = kind(fan_in, planes, stride, projection)
    return nn.Sequential(first, *[kind(fan_out, planes) for _ in range(blocks - 1)])
