"""MosaicKD's generator and discriminators, in both published forms.

`paper`: Tables 2 and 3 of the supplement (Fang et al. 2021, Mosaicking to Distill). `code`: the authors' released code,
which the published numbers come from. Both start from a map of a quarter of the side and upsample twice, and both judge
patches: one logit per position of a map, each seeing only its receptive field.

Ours where the sources are silent: LeakyReLU slope 0.2 and no BN after the discriminator's first convolution in `code`
(both as in DCGAN), nearest-neighbour upsampling, no bias before BN, torch's default initialisation. Images larger than
32 pixels start from a larger map (the paper adds layers that it does not specify).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UnsupportedSize

Variant = Literal["paper", "code"]
SLOPE = 0.2  # of LeakyReLU
_UPSAMPLED = 4  # two upsamplings by 2


class Generator(nn.Module):
    """Images in [0, 1] from normal noise: z_BZ -> (B, channels, size, size).

    | stage                       | `paper` (1.05 M) | `code` (2.03 M)     |
    |-----------------------------|------------------|---------------------|
    | linear to size/4 x size/4 x | 128              | 256                 |
    | after it                    | BN, LeakyReLU    | BN                  |
    | upsample, 3x3 conv to       | 128              | 128                 |
    | upsample, 3x3 conv to       | 64               | 64                  |
    | 3x3 conv to                 | channels         | channels            |

    with BN and LeakyReLU after the first two convolutions and a sigmoid at the end. Of `code`, the start map and the
    total are facts; 256 -> 128 -> 64 is the ladder of widths that gives this total (parameters: 100-d z, 32 pixels).

    Raises UnsupportedSize unless `size` is a multiple of 4.
    """

    def __init__(self, *, z_dim: int = 100, channels: int = 3, size: int = 32, variant: Variant = "code") -> None:
        super().__init__()
        if size < _UPSAMPLED or size % _UPSAMPLED:
            raise UnsupportedSize(f"MosaicKD's generator makes images whose side is a multiple of 4; got {size}")
        width = {"paper": 128, "code": 256}[variant]
        start = size // _UPSAMPLED
        self.z_dim = z_dim
        self.start = nn.Sequential(
            nn.Linear(z_dim, width * start * start),
            nn.Unflatten(1, (width, start, start)),
            nn.BatchNorm2d(width),
            *([nn.LeakyReLU(SLOPE)] if variant == "paper" else []),
        )
        self.body = nn.Sequential(
            nn.Identity(),  # where others upsample: the layers keep their numbers
            UpsampledConv(width, 128),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(SLOPE),
            nn.Identity(),
            UpsampledConv(128, 64),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(64, channels, 3, padding=1),
        )

    def forward(self, z_BZ: Tensor) -> Tensor:
        """Images in [0, 1], images_BCHW, float32, of z_BZ ~ N(0, 1)."""
        u_BCHW: Tensor = self.body(self.start(z_BZ))
        return u_BCHW.float().sigmoid()  # near 1 bfloat16 has fewer levels than pixels do


class UpsampledConv(nn.Conv2d):
    """A 3x3 convolution of the map of twice the side in which every pixel is repeated: (B, C, H, W) -> (B, O, 2H, 2W).

    Under autocast it is the transposed convolution of stride 2 that comes to the same, whose 4x4 kernel is the sum of
    four shifts of the 3x3 one: 4 multiplications an output where the large map takes 9. In float32 the large map is
    made, so that the numbers are those of `nn.Upsample` and `nn.Conv2d` to the bit.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps of twice the side."""
        if not torch.is_autocast_enabled(x_BCHW.device.type):
            return super().forward(F.interpolate(x_BCHW, scale_factor=2))
        kernel_OC44 = F.avg_pool2d(F.pad(self.weight, (1, 1, 1, 1)), 2, stride=1, divisor_override=1)
        kernel_CO44 = kernel_OC44.flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x_BCHW, kernel_CO44, stride=2, padding=1)


class Discriminator(nn.Module):
    """One logit per patch: (B, channels, H, W) in [0, 1] -> (B, 1, h, w), with no sigmoid at its end.

    `paper`: 3x3 stride 2 to 64, 3x3 stride 2 to 128, 3x3 to 1: each logit sees 15 x 15 pixels. `code`: 4x4 stride 2 to
    128, 4x4 stride 2 to 256, 1x1 to 1: each sees 10 x 10. `stride` is that of the last convolution: the larger it is,
    the fewer patches are judged and the less they overlap (h = ceil(H / 4 / stride)). The supplement's Table 4 has, for
    WRN-40-2 to WRN-16-1, 61.01 % at 1 and 59.56 % at 2.
    """

    def __init__(self, *, channels: int = 3, stride: int = 1, variant: Variant = "code") -> None:
        super().__init__()
        if variant == "paper":
            self.layers = nn.Sequential(
                *_conv(channels, 64, kernel=3, stride=2),
                *_conv(64, 128, kernel=3, stride=2),
                nn.Conv2d(128, 1, 3, stride=stride, padding=1),
            )
        else:
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 128, 4, stride=2, padding=1),
                nn.LeakyReLU(SLOPE),
                *_conv(128, 256, kernel=4, stride=2),
                nn.Conv2d(256, 1, 1, stride=stride),
            )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The patch map of logits, map_B1hw; positive means real."""
        map_B1hw: Tensor = self.layers(images_BCHW)
        return map_B1hw


class ImageDiscriminator(nn.Module):
    """One logit for a whole image of `size`: (B, channels, size, size) in [0, 1] -> (B, 1, 1, 1).

    For the comparison in the supplement's Figure 1 (b). Its layers are ours, for no source gives them: those of
    `Discriminator` but the last, then halving convolutions of twice the width each until the side is at most 4 (as in
    DCGAN), and one as large as what is left.
    """

    def __init__(self, *, size: int, channels: int = 3, variant: Variant = "code") -> None:
        super().__init__()
        kernel, width = {"paper": (3, 128), "code": (4, 256)}[variant]
        layers = list(Discriminator(channels=channels, variant=variant).layers[:-1])
        side = size // _UPSAMPLED
        while side > 4:
            layers += _conv(width, 2 * width, kernel=kernel, stride=2)
            width, side = 2 * width, (side + 2 - kernel) // 2 + 1
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, side))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """A map of one position, map_B111; positive means real."""
        map_B111: Tensor = self.layers(images_BCHW)
        return map_B111


def _conv(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> list[nn.Module]:
    """A convolution that keeps (stride 1) or halves (stride 2) the side, BN, LeakyReLU."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(SLOPE),
    ]
