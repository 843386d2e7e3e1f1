"""mad: the student also learns from a slow copy of the generator, which still makes what the generator made before.

Do et al. 2022, Momentum Adversarial Distillation: Handling Large Distribution Shifts in Data-Free Knowledge
Distillation, Eq. 4, 5, 10 and 11 (Table 2: 92.64 on CIFAR-10, 64.05 on CIFAR-100, 62.32 on TinyImageNet, 45.48 on
ImageNet).

- G, E: as in `distill/methods/adversarial.py`
- G~: theta~ = alpha theta~ + (1 - alpha) theta, once a stage, after the updates of G and before those of S
- S: live KL(T || S) on G(z, e_y) + ema KL(T || S) on G~(z', e_y'), in one batch, and hinges on both

Both generators fill the buffer of which the paper's section 6 speaks. `budget` says with how much: `published` is B
from each, 2B an update, as Eq. 4 is written; `equal` is B / 2 from each, as many images an update as `abm` has.

Ours where the paper is silent: G~ begins as the generator of the first stage (after pretraining); the embeddings are
those of G (Figure 1), and G~ is normalised by its batches as G is.
"""

from dataclasses import dataclass

from torch import Tensor

from distill.errors import DistillError
from distill.losses.kl import kl_divergence
from distill.methods.adversarial import Adversarial
from distill.methods.adversarial_config import AdversarialConfig, published
from distill.methods.base import Setup, Stateful, one_of
from distill.methods.ema import follow, follower

BUDGETS = ("published", "equal")
WATCHED = 256  # synthetic images a look


@dataclass(frozen=True, kw_only=True)
class MADConfig(AdversarialConfig):
    """Settings of `mad`; defaults are the published ones for CIFAR with wide ResNets."""

    live: float = 1.0
    """weight lambda_0 of the loss on the generator's images (Table 7)"""
    ema: float = 1.0
    """weight lambda_1 of the loss on the slow copy's images (Table 7)"""
    ema_momentum: float = 0.95
    """alpha of the slow copy, a stage (Eq. 5, Table 6)"""
    budget: str = one_of("published", BUDGETS)
    """images of an update: published (a batch from each generator) or equal (half a batch from each)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_momentum > 1:
            raise DistillError(f"ema_momentum is {self.ema_momentum}; expected a number from 0 to 1")
        if self.budget == "equal" and self.batch_size % 2:
            raise DistillError(f"batch_size is {self.batch_size}; expected an even number where budget is equal")

    @property
    def images_per_source(self) -> int:
        """Images from each generator in one update of the student."""
        return self.batch_size // 2 if self.budget == "equal" else self.batch_size

    @property
    def images_per_update(self) -> int:
        return 2 * self.images_per_source


class MAD(Adversarial):
    """The student learns from the generator and from its exponential moving average."""

    config_class = MADConfig
    source = "Do et al. 2022, Eq. 4-11, Tables 5-8"
    recipes = published(MADConfig)
    config: MADConfig

    def __init__(self, setup: Setup, config: MADConfig) -> None:
        super().__init__(setup, config)
        self.average = follower(self.synthesis.generator)

    def parts(self) -> dict[str, Stateful]:
        return {**super().parts(), "average": self.average}

    def compile(self) -> None:
        super().compile()
        self.average.compile()

    def weights(self) -> dict[str, float]:
        return {"kl": self.config.live, "kl_ema": self.config.ema}

    def seek(self, step: int) -> dict[str, Tensor]:
        terms = super().seek(step)
        follow(self.average, self.synthesis.generator, momentum=self.config.ema_momentum if step else 0.0)
        return terms

    def watched(self) -> dict[str, Tensor]:
        """How far apart the teacher finds what the two generators make of the same noise: KL(T(G(z)) || T(G~(z)))."""
        pair = (self.synthesis.samples(WATCHED, by=net) for net in (self.synthesis.generator, self.average))
        live_BK, slow_BK = (self.setup.the_teacher(images_BCHW).logits_BK for images_BCHW in pair)
        return {"kl_live_ema": kl_divergence(live_BK, slow_BK)}

    def material(self, first: int, updates: int) -> dict[str, Tensor]:
        count, make = updates * self.config.images_per_source, self.synthesis.make
        slow = make("student of the average", first, count, updates=updates, by=self.average)
        return {"kl": make("student", first, count, updates=updates).images_BCHW, "kl_ema": slow.images_BCHW}
