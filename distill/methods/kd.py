"""kd: match the teacher's softened answers on real images (Hinton, Vinyals and Dean 2015).

Defaults are MosaicKD's baseline: SGD 0.1, momentum 0.9, weight decay 1e-4, batches of 128, temperature 5, 200 epochs,
cosine per iteration. Class-balanced transfer sets (Nayak et al. 2021) are this method on another selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from distill.losses.kl import kl_divergence
from distill.methods.base import Config, Method, Setup, Stateful, descend, positive, sgd
from distill.methods.schedules import cosine
from shards.device import RealBatch


@dataclass(frozen=True, kw_only=True)
class KDConfig(Config):
    """Settings of `kd`."""

    temperature: float = positive(5.0)
    """of both softmaxes; the loss is multiplied by its square"""


class KD(Method):
    """T^2 KL(teacher || student) on augmented real images."""

    config_class = KDConfig
    source = "Hinton et al. 2015; settings of MosaicKD's baseline"
    config: KDConfig

    def __init__(self, setup: Setup, config: KDConfig) -> None:
        super().__init__(setup, config)
        self.optimizer = sgd(setup.student, config)

    def parts(self) -> dict[str, Stateful]:
        return {"student": self.setup.student.net, "optimizer": self.optimizer}

    def queries(self, steps: int) -> int:
        return 0 if self.setup.views else super().queries(steps)

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        images_BCHW, teacher_BK = self.setup.taught(real[0])
        loss = kl_divergence(teacher_BK, self.setup.student(images_BCHW), temperature=self.config.temperature)
        descend(loss, self.optimizer, lr=self.config.lr * cosine(step, self.setup.steps))
        return {"kl": loss.detach()}
