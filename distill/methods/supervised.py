"""supervised: cross-entropy with labels. How a teacher is made, and a student's from-scratch baseline.

Defaults are a fast one-cycle recipe for CPUs; the papers' recipes for their teachers are in distill/recipes.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from distill.errors import DistillError
from distill.methods.base import Config, Method, Setup, Stateful, descend, one_of, sgd
from distill.methods.schedules import SCHEDULES, warmed
from shards.augment import PAD
from shards.device import RealBatch


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(Config):
    """Settings of `supervised`."""

    epochs: int = 20
    weight_decay: float = 5e-4
    nesterov: bool = True
    """look ahead along the momentum"""
    schedule: str = one_of("one_cycle", SCHEDULES)
    """of the learning rate; a name in `SCHEDULES`"""
    warm_up: int = field(default=0, metadata={"least": 0})
    """epochs over which the learning rate rises from 0, before the schedule"""
    flip: bool = True
    """whether mirrored images keep their class; stored with the weights, so that distillation does the same"""
    pad: int = field(default=PAD, metadata={"least": 0})
    """px of zeros on every side before a crop to the old size; 0: no crop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_up >= self.epochs:
            raise DistillError(f"warm_up is {self.warm_up} epochs of {self.epochs}; expected fewer than there are")

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
        self.optimizer = sgd(setup.student, config, nesterov=config.nesterov)

    def parts(self) -> dict[str, Stateful]:
        return {"student": self.setup.student.net, "optimizer": self.optimizer}

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        batch, config = real[0], self.config
        if batch.labels_B is None:
            raise AssertionError("this method needs labels and was given none")
        loss = F.cross_entropy(self.setup.student(self.setup.augmented(batch, pad=config.pad)), batch.labels_B)
        warm_steps = self.setup.steps * config.warm_up // config.epochs
        descend(loss, self.optimizer, lr=config.lr * warmed(config.schedule, step, self.setup.steps, warm=warm_steps))
        return {"cross_entropy": loss.detach()}
