"""A small backbone, a projector, and the last layer of a wider network: what sharing a classifier deploys.

`projected:ARCH:WIDTH` is a network of the zoo whose last map a projector turns into one of WIDTH channels, and a linear
layer for features of that width: `projected:wrn16_1:128` ends in the head of a WRN-40-2. ARCH's own head is left out.

The projector is KD3's (Tang et al. 2023, Distribution Shift Matters for Knowledge Distillation with Webly Collected
Images; from its code): 1x1 to WIDTH / 2, 3x3, 1x1 to WIDTH, each with BN and ReLU. Ours: no bias before BN; WIDTH / 2
rounded down; a backbone whose features are not the mean of a map gives them as a map of 1x1.
"""

import threading

import torch
from torch import Tensor, nn

from distill.models.maps import FeatureMap

PREFIX = "projected:"


class Projected(nn.Module):
    """``backbone`` without its ``head``, then `projector` and `classifier`; logits_BK of normalised images."""

    def __init__(
        self, backbone: nn.Module, *, head: str, feature_map: FeatureMap, width: int, num_classes: int
    ) -> None:
        super().__init__()
        parent, _, last = head.rpartition(".")
        setattr(backbone.get_submodule(parent), last, nn.Identity())
        self.backbone = backbone
        self.projector = nn.Sequential(
            *_conv(feature_map.channels, width // 2, side=1),
            *_conv(width // 2, width // 2, side=3),
            *_conv(width // 2, width, side=1),
        )
        self.classifier = nn.Linear(width, num_classes)
        self._feature_map = feature_map
        self._seen = _Seen()
        for name in feature_map.watched:
            backbone.get_submodule(name).register_forward_hook(self._keep)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images."""
        features_BD = self.backbone(images_BCHW)
        map_BCHW, self._seen.map_BCHW = self._seen.map_BCHW, None
        projected_BCHW = self.projector(self._feature_map.of(map_BCHW, features_BD))
        # in float32 even under autocast: rounding the mean to bfloat16 would undo what averaging gains
        logits_BK: Tensor = self.classifier(projected_BCHW.mean(dim=(2, 3), dtype=torch.float32))
        return logits_BK

    def _keep(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.map_BCHW = output.clone()  # the next layer may work in place


class _Seen(threading.local):
    """The backbone's map of the forward that is under way in this thread."""

    map_BCHW: Tensor | None = None

    def __reduce__(self) -> tuple[type["_Seen"], tuple[()]]:
        """A copy of the network begins with nothing seen."""
        return _Seen, ()


def _conv(channels_in: int, channels_out: int, *, side: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, side, padding=side // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


def name_of(arch: str, *, width: int) -> str:
    """The architecture's name."""
    return f"{PREFIX}{arch}:{width}"


def parse(name: str) -> tuple[str, int] | None:
    """The backbone's architecture and the width, or None if the name is of another kind.

    >>> parse("projected:timm:resnet18:512")
    ('timm:resnet18', 512)
    """
    arch, _, width = name.removeprefix(PREFIX).rpartition(":")
    return (arch, int(width)) if name.startswith(PREFIX) and arch and width.isascii() and width.isdigit() else None
