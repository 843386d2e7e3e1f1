"""ResNet-18, 34 and 50 for small images (3x3 stem, no max-pool), under the names of the data-free distillation zoos.

He et al. 2016, Deep Residual Learning for Image Recognition (arXiv:1512.03385), Table 1, with the 7x7 stem and its
max-pool replaced by one 3x3 convolution of stride 1, as in DAFL, CMI, MosaicKD and RepDistiller. A bottleneck's stride
sits on its 3x3 convolution, as there (the paper has it on the first 1x1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _shortcut(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    """A projection where the shapes differ, else the identity, which has no name in the state."""
    if channels_in == channels_out and stride == 1:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum.

    (B, C_in, H, W) -> (B, width, H / stride, W / stride), rounded up.
    """

    expansion = 1  # output channels per unit of width

    def __init__(self, channels_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels_in, width, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        residual_BCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        return F.relu(residual_BCHW + self.shortcut(x_BCHW))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, ReLU after the sum.

    (B, C_in, H, W) -> (B, 4 width, H / stride, W / stride), rounded up.
    """

    expansion = 4  # output channels per unit of width

    def __init__(self, channels_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)
        self.shortcut = _shortcut(channels_in, self.expansion * width, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW))))))
        return F.relu(self.bn3(self.conv3(active_BCHW)) + self.shortcut(x_BCHW))


# depth: its block, and how many of them at each of the four resolutions (Table 1 of the paper)
PLANS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def _group(
    block: type[BasicBlock] | type[Bottleneck], channels_in: int, width: int, *, blocks: int, stride: int
) -> nn.Sequential:
    """A run of blocks at one width; the first may halve the resolution."""
    first = block(channels_in, width, stride=stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, stride=1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """ResNet-`depth` with a head of `num_classes`, for images of any size.

    Raises ValueError unless `depth` is one of `PLANS`. Fresh weights: He normal over the fan-out, BN 1 and 0, the head
    as torch makes it.
    """

    def __init__(self, depth: int, *, num_classes: int) -> None:
        super().__init__()
        if depth not in PLANS:
            raise ValueError(f"depth must be one of {', '.join(map(str, PLANS))}; got {depth}")
        block, (blocks1, blocks2, blocks3, blocks4) = PLANS[depth]
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _group(block, 64, 64, blocks=blocks1, stride=1)
        self.layer2 = _group(block, 64 * block.expansion, 128, blocks=blocks2, stride=2)
        self.layer3 = _group(block, 128 * block.expansion, 256, blocks=blocks3, stride=2)
        self.layer4 = _group(block, 256 * block.expansion, 512, blocks=blocks4, stride=2)
        self.linear = nn.Linear(512 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it would load torch's compiler: 1 s
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = F.relu(self.bn1(self.conv1(images_BCHW)))
        maps_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(maps_BCHW))))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.linear(maps_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK
