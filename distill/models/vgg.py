"""VGG-8, 11 and 13 with batch normalisation for small images, under the parameter names of the RepDistiller zoo.

Simonyan and Zisserman 2015, Very Deep Convolutional Networks (arXiv:1409.1556), Table 1, columns A (11) and B (13);
VGG-8 ("S") is the distillation literature's. The fully connected layers give way to global average pooling and one
linear layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# depth: how many 3x3 convolutions of each width a block has (RepDistiller models/vgg.py, cfg S, A and B)
PLANS: dict[int, tuple[int, int, int, int, int]] = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2)}
WIDTHS = (64, 128, 256, 512, 512)


def _block(channels_in: int, channels_out: int, *, convolutions: int) -> nn.Sequential:
    """Convolution, BN, ReLU, repeated, without the last ReLU: the numbers of its members are part of the names."""
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers.append(nn.Conv2d(channels_out if index else channels_in, channels_out, 3, padding=1))
        layers.append(nn.BatchNorm2d(channels_out))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])


class VGG(nn.Module):
    """VGG-`depth` with BN and a head of `num_classes`, for images of any side >= 8 pixels.

    Max-pooling follows the first three blocks, and the fourth as well where the image is 64 pixels or more a side: the
    zoo pools there at 64, and not at 32, so that the last block sees 4x4 maps at both. Raises ValueError unless `depth`
    is one of `PLANS`. Fresh weights: convolutions He normal over the fan-out with bias 0, BN 1 and 0, head normal of
    deviation 0.01 with bias 0.
    """

    def __init__(self, depth: int, *, num_classes: int) -> None:
        super().__init__()
        if depth not in PLANS:
            raise ValueError(f"depth must be one of {', '.join(map(str, PLANS))}; got {depth}")
        plan = PLANS[depth]
        self.block0 = _block(3, WIDTHS[0], convolutions=plan[0])
        self.block1 = _block(WIDTHS[0], WIDTHS[1], convolutions=plan[1])
        self.block2 = _block(WIDTHS[1], WIDTHS[2], convolutions=plan[2])
        self.block3 = _block(WIDTHS[2], WIDTHS[3], convolutions=plan[3])
        self.block4 = _block(WIDTHS[3], WIDTHS[4], convolutions=plan[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        if not self.classifier.weight.is_meta:  # there it would load torch's compiler: 1 s
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        maps_BCHW = images_BCHW
        for block in (self.block0, self.block1, self.block2):
            maps_BCHW = F.max_pool2d(F.relu(block(maps_BCHW)), 2)
        maps_BCHW = F.relu(self.block3(maps_BCHW))
        if min(images_BCHW.shape[2:]) >= 64:
            maps_BCHW = F.max_pool2d(maps_BCHW, 2)
        maps_BCHW = F.relu(self.block4(maps_BCHW))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.classifier(maps_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK
