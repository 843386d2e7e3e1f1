"""MAD's generators: Table 8 of Do et al. 2022, Momentum Adversarial Distillation, at any size.

`conv` is Table 8 (a) and (b), which differ in their start alone (4 x 4 for 32 px, 8 x 8 for 64 px); `residual` is (c).
Both begin with a linear layer to a small map and then double its side block by block.

Ours where the table is silent or cannot be meant:

- ConvBlockX (Table 9 is a picture) is conv 3x3, BN, LeakyReLU 0.2; ResNetBlockY is (BN, ReLU, conv 3x3) twice beside a
  1x1 convolution;
- (a) reshapes its 4,096 numbers to 256 x 4 x 4 (printed: 16,384 to 256 x 8 x 8, which is (b)'s); the last convolution
  of (c) takes 16 channels (printed: 32, after a block that gives 16);
- `BatchNorm2d(256, 0.1)` is read as the momentum, which is torch's default, `Conv2d(32, 3, 1, 0, 1)` as kernel 1,
  padding 0 and stride 1;
- other sizes: the first blocks do not double where the start would become smaller than 4 x 4 (224 px: 7 x 7, five
  doublings), and the start is larger where all blocks do;
- no bias before BN, torch's default initialisation.
"""

import itertools
from typing import Any, Literal

from torch import Tensor, nn

from distill.errors import UnsupportedSize

Network = Literal["conv", "residual"]
SLOPE = 0.2  # of LeakyReLU
LEAST, MOST = 4, 16  # px a side of the map that the linear layer makes; a larger one would be all of the weights
WIDTHS: dict[Network, tuple[int, ...]] = {
    "conv": (256, 128, 64, 32),
    "residual": (512, 512, 256, 128, 64, 32, 16, 16),
}


def suited(size: int) -> Network:
    """The network that the paper takes for images of that size: (a) and (b) up to 64 px, (c) above."""
    return "conv" if size <= 64 else "residual"


class Generator(nn.Module):
    """Images in [0, 1] from normal noise: input_BZ -> (B, channels, size, size).

    | stage                        | `conv`                   | `residual`                           |
    |------------------------------|--------------------------|--------------------------------------|
    | linear to s x s x            | 256                      | 512                                  |
    | after it                     | ReLU, BN                 |                                      |
    | blocks, bilinear doublings   | before blocks 1, 2 and 3 | before blocks 2 to 7                 |
    | to                           | 128, 64, 32              | 512, 256, 128, 64, 32, 16, 16        |
    | last convolution to channels | 1x1                      | 3x3                                  |
    | parameters                   | 1.4 M (32 px), 4.6 (64)  | 9.6 M (256 px)                       |

    Raises UnsupportedSize for sizes that doublings of a map of 4 to 16 px do not give.
    """

    def __init__(self, *, z_dim: int = 256, channels: int = 3, size: int = 32, network: Network | None = None) -> None:
        super().__init__()
        network = network or suited(size)
        widths = WIDTHS[network]
        steps = list(itertools.pairwise(widths))
        doubling = len(steps) - (network == "residual")  # (c) does not double before its first block
        start, doublings = _start(size, most=doubling)
        self.start = nn.Sequential(
            nn.Linear(z_dim, widths[0] * start * start),
            nn.Unflatten(1, (widths[0], start, start)),
            *([nn.ReLU(), nn.BatchNorm2d(widths[0])] if network == "conv" else []),
        )
        block = _conv_block if network == "conv" else _ResidualBlock
        layers: list[nn.Module] = []
        for number, (width_in, width_out) in enumerate(steps):
            if number >= len(steps) - doublings:
                layers.append(nn.UpsamplingBilinear2d(scale_factor=2))
            layers.append(block(width_in, width_out))
        kernel = 1 if network == "conv" else 3
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, kernel, padding=kernel // 2))

    def logits(self, input_BZ: Tensor) -> Tensor:
        """The images before their sigmoid, u_BCHW: what MAD's hinge bounds (Eq. 11)."""
        u_BCHW: Tensor = self.body(self.start(input_BZ))
        return u_BCHW

    def forward(self, input_BZ: Tensor) -> Tensor:
        """Images in [0, 1], images_BCHW, of z ~ N(0, 1), with its class's embedding for a conditional generator."""
        return self.logits(input_BZ).sigmoid()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Answer through torch.compile from now on, by `forward` and by `logits` alike."""
        self.start.compile(*args, **kwargs)
        self.body.compile(*args, **kwargs)


def _start(size: int, *, most: int) -> tuple[int, int]:
    """Side of the first map and doublings from it to ``size``: as many as leave a start of at least 4 px."""
    start, doublings = size, 0
    while doublings < most and start % 2 == 0 and start // 2 >= LEAST:
        start, doublings = start // 2, doublings + 1
    if not LEAST <= start <= MOST:
        raise UnsupportedSize(
            f"MAD's generator cannot make images of {size} px: expected a side of {LEAST} to {MOST} px doubled up to "
            f"{most} times, such as 28, 32, 64 or 224; set image_size to one that teacher and student take"
        )
    return start, doublings


def _conv_block(width_in: int, width_out: int) -> nn.Module:
    """ConvBlockX."""
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), nn.BatchNorm2d(width_out), nn.LeakyReLU(SLOPE)
    )


class _ResidualBlock(nn.Module):
    """ResNetBlockY."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(width_in, width_out, 1)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.ReLU(),
            nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
            nn.Conv2d(width_out, width_out, 3, padding=1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.skip(x_BCHW) + self.body(x_BCHW)
        return y_BCHW
