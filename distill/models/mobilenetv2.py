"""MobileNetV2 for small images, under the parameter names of the RepDistiller zoo.

Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks (arXiv:1801.04381), Table 2, as
RepDistiller cuts it down for CIFAR: four halvings of the resolution in place of five (the second stage keeps it),
ReLU in place of ReLU6, no dropout, a 1x1 expansion also in the first block, whose factor is 1, and channels that are
the plan's times the width multiplier, cut to whole numbers where the paper's code rounds to multiples of 8.
"""

import torch
from torch import Tensor, nn

# Table 2 of the paper, strides as in RepDistiller: expansion, channels before the multiplier, blocks, stride
PLAN = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST_CHANNELS = 1280  # of the 1x1 convolution before the head; multipliers below 1 do not shrink it (section 4)


class InvertedResidual(nn.Module):
    """Expand, 3x3 depthwise, project without a ReLU: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    The input is added where the shapes agree.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        self.shortcut = stride == 1 and channels_in == channels_out
        hidden = channels_in * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        projected_BCHW: Tensor = self.conv(x_BCHW)
        return x_BCHW + projected_BCHW if self.shortcut else projected_BCHW


def _conv_bn_relu(channels_in: int, channels_out: int, *, side: int, stride: int) -> nn.Sequential:
    """A `side` x `side` convolution, padded to keep the resolution but for its stride, BN and ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, side, stride=stride, padding=side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class MobileNetV2(nn.Module):
    """MobileNetV2 with `width` times the paper's channels and a head of `num_classes`, for images of any size.

    RepDistiller's `mobile_half` is width 0.5. Fresh weights: convolutions He normal over the fan-out, BN 1 and 0, head
    normal of deviation 0.01 with bias 0.
    """

    def __init__(self, width: float, *, num_classes: int) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = _conv_bn_relu(3, channels, side=3, stride=2)
        stages: list[nn.Module] = []
        for expansion, plan_channels, blocks, stride in PLAN:
            channels_in, channels = channels, int(plan_channels * width)
            first = InvertedResidual(channels_in, channels, stride=stride, expansion=expansion)
            rest = (InvertedResidual(channels, channels, stride=1, expansion=expansion) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *rest))
        self.blocks = nn.Sequential(*stages)
        last = int(LAST_CHANNELS * max(width, 1.0))
        self.conv2 = _conv_bn_relu(channels, last, side=1, stride=1)
        head = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(head)  # of one member: the zoo's name is classifier.0
        if not head.weight.is_meta:  # there initialising would load torch's compiler: 1 s
            self._initialise(head)

    def _initialise(self, head: nn.Linear) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = self.conv2(self.blocks(self.conv1(images_BCHW)))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.classifier(maps_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK
