"""ShuffleNet V1 for small images, under the parameter names of the RepDistiller zoo.

Zhang et al. 2018, ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices
(arXiv:1707.01083), Table 1, 1x, 3 groups, with the 3x3 stem of stride 2 and its max-pool replaced by a 1x1
convolution of stride 1, as in RepDistiller (`ShuffleV1`), which also has a ReLU after the depthwise convolution: the
paper has none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 3  # of every 1x1 convolution but the one that reads the stem
STEM = 24  # channels
STAGES = ((240, 4), (480, 8), (960, 4))  # Table 1: channels, blocks; the first block of each halves the resolution


class Bottleneck(nn.Module):
    """Grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    At stride 1 the input is added; at stride 2 its 3x3 average is appended, so that the branch makes C_out - C_in.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = channels_out - channels_in if stride == 2 else channels_out
        middle = branch // 4
        self.groups = 1 if channels_in == STEM else GROUPS  # too few channels to split (Table 1, note)
        self.conv1 = nn.Conv2d(channels_in, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, branch, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shuffled_BCHW = F.channel_shuffle(F.relu(self.bn1(self.conv1(x_BCHW))), self.groups)
        branch_BCHW = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(shuffled_BCHW)))))
        if self.stride == 1:
            return F.relu(branch_BCHW + x_BCHW)
        pooled_BCHW = F.avg_pool2d(x_BCHW, 3, stride=2, padding=1)
        return F.relu(torch.cat([branch_BCHW, pooled_BCHW], dim=1))


def _stage(channels_in: int, channels_out: int, *, blocks: int) -> nn.Sequential:
    """A run of blocks at one width; the first halves the resolution."""
    first = Bottleneck(channels_in, channels_out, stride=2)
    return nn.Sequential(first, *(Bottleneck(channels_out, channels_out, stride=1) for _ in range(blocks - 1)))


class ShuffleNetV1(nn.Module):
    """ShuffleNet V1 (1x, 3 groups) with a head of `num_classes`, for images of any size.

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
        self.linear = nn.Linear(width3, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images_BCHW))))))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.linear(maps_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK
