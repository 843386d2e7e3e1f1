"""ShuffleNet V2 for small images, under the parameter names of the RepDistiller zoo.

Ma et al. 2018, ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design (arXiv:1807.11164), Table 5,
1x, with the 3x3 stem of stride 2 and its max-pool replaced by a 1x1 convolution of stride 1, as in RepDistiller
(`ShuffleV2`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEM = 24  # channels
STAGES = ((116, 4), (232, 8), (464, 4))  # Table 5: channels, blocks; the first block of each halves the resolution
LAST_CHANNELS = 1024  # of the 1x1 convolution before the head


class BasicBlock(nn.Module):
    """Half of the channels pass, half go through 1x1, 3x3 depthwise, 1x1; then a shuffle: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept_BCHW, branch_BCHW = x_BCHW.chunk(2, dim=1)
        branch_BCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(branch_BCHW)))))
        branch_BCHW = F.relu(self.bn3(self.conv3(branch_BCHW)))
        return F.channel_shuffle(torch.cat([kept_BCHW, branch_BCHW], dim=1), 2)


class DownBlock(nn.Module):
    """Two branches that both halve the resolution, then a shuffle: (B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, stride=2, padding=1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv2 = nn.Conv2d(channels_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(channels_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        left_BCHW = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x_BCHW)))))
        right_BCHW = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x_BCHW)))))
        right_BCHW = F.relu(self.bn5(self.conv5(right_BCHW)))
        return F.channel_shuffle(torch.cat([left_BCHW, right_BCHW], dim=1), 2)


def _stage(channels_in: int, channels_out: int, *, blocks: int) -> nn.Sequential:
    """A run of blocks at one width; the first halves the resolution."""
    return nn.Sequential(DownBlock(channels_in, channels_out), *(BasicBlock(channels_out) for _ in range(blocks - 1)))


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 (1x) with a head of `num_classes`, for images of any size.

    Fresh weights as torch makes them, as in the zoo.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        (width1, blocks1), (width2, blocks2), (width3, blocks3) = STAGES
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, width1, blocks=blocks1)
        self.layer2 = _stage(width1, width2, blocks=blocks2)
        self.layer3 = _stage(width2, width3, blocks=blocks3)
        self.conv2 = nn.Conv2d(width3, LAST_CHANNELS, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST_CHANNELS)
        self.linear = nn.Linear(LAST_CHANNELS, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images_BCHW))))))
        maps_BCHW = F.relu(self.bn2(self.conv2(maps_BCHW)))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.linear(maps_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK
