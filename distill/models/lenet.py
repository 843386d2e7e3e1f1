"""LeNet-5 and its half for grey images of 32 pixels a side or more, under the names of the DAFL and DFAD zoos.

LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, section II.B, as the data-free papers
build it: ReLU for tanh, max-pooling for trained subsampling, and every map of the first layer read by the second. The
layer of 120 is, as in DAFL (Chen et al. 2019, arXiv:1904.01186) and as LeCun's C5, a 5x5 convolution, which at 32
pixels sees the whole map; on larger images its outputs are averaged.

Widths: (6, 16, 120, 84), and for the half of ZSKD (Nayak et al. 2019, arXiv:1905.08114), which halves filters and not
neurons, (3, 8, 120, 84): the 61,706 and 35,820 parameters that ZSKD prints. DAFL's half is (3, 8, 60, 42), with
15,738.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """LeNet-5 with `widths` channels in its three convolutions and hidden layer, for grey images of any side >= 32.

    Fresh weights as torch makes them, as in DAFL.
    """

    def __init__(self, widths: tuple[int, int, int, int], *, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 5)
        self.fc1 = nn.Linear(widths[2], widths[3])
        self.fc2 = nn.Linear(widths[3], num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images with one channel, (B, 1, H, W)."""
        maps_BCHW = F.max_pool2d(F.relu(self.conv1(images_BCHW)), 2)
        maps_BCHW = F.max_pool2d(F.relu(self.conv2(maps_BCHW)), 2)
        maps_BCHW = F.relu(self.conv3(maps_BCHW))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        pooled_BC = maps_BCHW.mean(dim=(2, 3), dtype=torch.float32)
        logits_BK: Tensor = self.fc2(F.relu(self.fc1(pooled_BC)))
        return logits_BK
