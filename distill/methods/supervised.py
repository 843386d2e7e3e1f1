"""supervised: cross-entropy with labels. How a teacher is made, and a student's from-scratch baseline.

Defaults are a fast one-cycle recipe for CPUs; MosaicKD trains its teachers for 200 epochs of cosine at 0.1, B 256.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from distill.methods.base import Config, Method, RealBatch, Setup, Stateful, descend, sgd
from distill.methods.schedules import one_cycle


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(Config):
    """Settings of `supervised`."""

    epochs: int = 20
    weight_decay: float = 5e-4

    @property
    def queries_per_step(self) -> int:
        return 0


class Supervised(Method):
    """Mean cross-entropy on augmented labelled images."""

    config_class = SupervisedConfig
    source = "He et al. 2016, section 4.2, with the one-cycle schedule of Smith and Topin 2018"
    needs_labels = True
    config: SupervisedConfig

    def __init__(self, setup: Setup, config: SupervisedConfig) -> None:
        super().__init__(setup, config)
        self.optimizer = sgd(setup.student, config)

    def parts(self) -> dict[str, Stateful]:
        return {"student": self.setup.student.net, "optimizer": self.optimizer}

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        if real[0].labels_B is None:
            raise AssertionError("this method needs labels and was given none")
        loss = F.cross_entropy(self.setup.student(self.setup.augmented(real[0])), real[0].labels_B)
        descend(loss, self.optimizer, lr=self.config.lr * one_cycle(step, self.setup.steps))
        return {"cross_entropy": loss.detach()}
