"""Wide residual networks for small images, under the parameter names of the public CIFAR zoos.

Zagoruyko and Komodakis 2016, Wide Residual Networks (arXiv:1605.07146), Table 1 and Figure 1 (a): a 3x3 stem of 16
channels, three groups of pre-activation blocks (16, 32 and 64 channels times the widening factor, strides 1, 2, 2), BN,
ReLU, global average pooling, one linear layer. Dropout is left out, as the zoos leave it out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two pre-activated 3x3 convolutions and a shortcut: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    Where the shapes differ the shortcut is a 1x1 convolution of the *activated* input, else the input itself.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.convShortcut = (  # the zoos' spelling; absent from the state where the shapes agree
            None
            if channels_in == channels_out and stride == 1
            else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW = F.relu(self.bn1(x_BCHW))
        shortcut_BCHW = x_BCHW if self.convShortcut is None else self.convShortcut(active_BCHW)
        residual_BCHW: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active_BCHW))))
        return residual_BCHW + shortcut_BCHW


class Group(nn.Module):
    """A run of blocks at one width; the first may halve the resolution."""

    def __init__(self, channels_in: int, channels_out: int, *, blocks: int, stride: int) -> None:
        super().__init__()
        first = Block(channels_in, channels_out, stride=stride)
        self.layer = nn.Sequential(first, *(Block(channels_out, channels_out, stride=1) for _ in range(blocks - 1)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.layer(x_BCHW)
        return out_BCHW


class WideResNet(nn.Module):
    """WRN-`depth`-`widen_factor` with a head of `num_classes`, for images of any side >= 8 pixels.

    Raises ValueError unless `depth` is 6 n + 4 with n >= 1 (three groups of n blocks of two convolutions, the stem
    and three shortcuts) and `widen_factor` >= 1. Fresh weights: He normal over the fan-out, BN 1 and 0, head bias 0.
    """

    def __init__(self, depth: int, widen_factor: int, *, num_classes: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1; got {depth}")
        if widen_factor < 1:
            raise ValueError(f"the widening factor must be >= 1; got {widen_factor}")
        widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = Group(widths[0], widths[1], blocks=blocks, stride=1)
        self.block2 = Group(widths[1], widths[2], blocks=blocks, stride=2)
        self.block3 = Group(widths[2], widths[3], blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it would load torch's compiler: 1 s
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = self.block3(self.block2(self.block1(self.conv1(images_BCHW))))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        features_BD = F.relu(self.bn1(maps_BCHW)).mean(dim=(2, 3), dtype=torch.float32)
        logits_BK: Tensor = self.fc(features_BD)
        return logits_BK
