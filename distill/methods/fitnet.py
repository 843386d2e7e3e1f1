"""fitnet: kd, and a map in the middle of the student drawn to one in the middle of the teacher.

Romero et al. 2015, FitNets: Hints for Thin Deep Nets, section 2: the student's guided layer, through a regressor, is to
predict the teacher's hint layer (Eq. 3); both are the middle layers. Where the maps differ in size the larger is
pooled. The regressor is a 1x1 convolution with BN, without which the weight below diverges at the rate of `kd`.

The paper trains the hint first and distils after, without it (its Algorithm 1): ``hint_first`` is the part of the run
that goes to it. The default is both together, as in Tian et al. 2020, Contrastive Representation Distillation, from
whose code the weight of 100 is, on the mean over elements. KD is the method `kd` with its settings, where Romero et al.
have labels and a decaying weight. Ours: the middle layer is the end of the middle stage, of three that of the second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from distill.errors import DistillError
from distill.losses.hint import hint_distance
from distill.losses.kl import kl_divergence
from distill.methods.base import Config, Method, Setup, Stateful, descend, sgd
from distill.methods.kd import KDConfig
from distill.methods.schedules import cosine
from distill.models import spec
from distill.models.maps import map_shapes, stages
from shards.device import RealBatch


@dataclass(frozen=True, kw_only=True)
class FitNetConfig(KDConfig):
    """Settings of `fitnet`: those of `kd`, and of the hint."""

    hint: float = 100.0
    """weight of the hint's mean squared distance (Tian et al. 2020)"""
    hint_first: float = 0.0
    """part of the run, from its beginning, that trains on the hint alone; the rest has none; 0: both throughout"""
    teacher_layer: str = field(default="", metadata={"free": True})
    """module of the teacher that gives the hint; empty: the end of its middle stage"""
    student_layer: str = field(default="", metadata={"free": True})
    """module of the student that is guided; empty: the end of its middle stage"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hint_first > 1:
            raise DistillError(f"hint_first is {self.hint_first}; expected a number from 0 to 1")


class FitNet(Method):
    """T^2 KL(teacher || student), and the squared distance of their middle maps."""

    config_class = FitNetConfig
    source = "Romero et al. 2015, Eq. 3; weight of Tian et al. 2020"
    recipes: ClassVar[Mapping[str, Config]] = {
        "stagewise": FitNetConfig(hint_first=0.5)  # Romero et al., Algorithm 1; that the parts are halves is ours
    }
    config: FitNetConfig

    def __init__(self, setup: Setup, config: FitNetConfig) -> None:
        super().__init__(setup, config)
        teacher, student = setup.the_teacher, setup.student
        self.teacher_layer, channels = _layer(teacher.net, teacher.arch, config.teacher_layer)
        self.student_layer, own_channels = _layer(student.net, student.arch, config.student_layer)
        teacher.watch(maps=[self.teacher_layer])
        student.watch(maps=[self.student_layer])
        layers = [nn.Conv2d(own_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.regressor = nn.Sequential(*layers).to(setup.device)
        self.optimizer = sgd(student, config, beside=[self.regressor])

    def parts(self) -> dict[str, Stateful]:
        return {"student": self.setup.student.net, "regressor": self.regressor, "optimizer": self.optimizer}

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        config = self.config
        images_BCHW = self.setup.augmented(real[0])
        with torch.no_grad():
            told = self.setup.the_teacher(images_BCHW)
        seen = self.setup.student.view(images_BCHW)
        guiding = not config.hint_first or step < config.hint_first * self.setup.steps
        terms = {}
        if guiding:
            guided_BCHW = self.regressor(seen.maps[self.student_layer].float())
            terms["hint"] = hint_distance(guided_BCHW, told.maps[self.teacher_layer])
        if not (guiding and config.hint_first):
            terms["kl"] = kl_divergence(told.logits_BK, seen.logits_BK, temperature=config.temperature)
        weights = {"hint": config.hint, "kl": 1.0}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        descend(loss, self.optimizer, lr=config.lr * cosine(step, self.setup.steps))
        return {name: term.detach() for name, term in terms.items()}


def _layer(net: nn.Module, arch: str, wanted: str) -> tuple[str, int]:
    """The module of a network to watch, and the channels of its map. Raises DistillError if it gives none."""
    model = spec(arch)
    shapes = map_shapes(net, size=model.input_size, channels=model.channels)
    ends = stages(net, shapes)
    name = wanted or (ends[len(ends) // 2] if ends else "")
    if name not in shapes:
        raise DistillError(
            f"the module {name!r} of {arch} gives no map; expected one that does, such as {', '.join(ends) or 'none'}"
        )
    return name, shapes[name][0]
