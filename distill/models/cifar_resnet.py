"""The 6 n + 2 residual networks for CIFAR, under the parameter names of the RepDistiller zoo.

He et al. 2016, Deep Residual Learning for Image Recognition (arXiv:1512.03385), section 4.2: a 3x3 stem, three groups
of n post-activated blocks (strides 1, 2, 2), global average pooling, one linear layer. Where the paper pads a shortcut
with zeros, the zoo projects it (the paper's option B), and so do we. The paper's widths are (16, 16, 32, 64); "x2"
networks have (16, 32, 64, 128) and "x4" ones (32, 64, 128, 256): their first group is twice as wide as the stem.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum.

    (B, C_in, H, W) -> (B, C_out, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = (  # absent from the state where the shapes agree
            None
            if channels_in == channels_out and stride == 1
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        residual_BCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        return F.relu(residual_BCHW + shortcut_BCHW)


def _group(channels_in: int, channels_out: int, *, blocks: int, stride: int) -> nn.Sequential:
    """A run of blocks at one width; the first may halve the resolution."""
    first = BasicBlock(channels_in, channels_out, stride=stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, stride=1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """ResNet-`depth` whose stem and three groups have `widths` channels, for images of any size.

    Raises ValueError unless `depth` is 6 n + 2 with n >= 1: three groups of n blocks of two convolutions, the stem and
    the head. Fresh weights: He normal over the fan-out, BN 1 and 0, the head as torch makes it.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], *, num_classes: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 2 with n >= 1; got {depth}")
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _group(widths[0], widths[1], blocks=blocks, stride=1)
        self.layer2 = _group(widths[1], widths[2], blocks=blocks, stride=2)
        self.layer3 = _group(widths[2], widths[3], blocks=blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it would load torch's compiler: 1 s
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images_BCHW))))))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.fc(maps_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK
