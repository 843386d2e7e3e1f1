"""dfkd-mem: past synthetic images are replayed beside new ones, so that the student does not forget them.

Binici et al. 2022, Preventing Catastrophic Forgetting and Distribution Mismatch in Knowledge Distillation via
Synthetic Data, as Do et al. 2022, Momentum Adversarial Distillation, train it as their baseline (section 5.2.2 and
appendix B.2; Table 2: 92.09 on CIFAR-10, 61.25 on CIFAR-100): 8,192 images, all else as in `mad`.

- S: KL(T || S) on B new images + replay KL(T || S) on B of the memory, drawn evenly, in one batch, and hinges on both

Ours where they are silent: a stage leaves its last batch in the memory (all of its 7,680 images and more would fill
it, with nothing past in it), so that 32 stages are in it, much as the 20 that MAD's momentum of 0.95 spans; images are
kept in 256 levels; the teacher is asked about a remembered image again, so that it answers what the student is shown;
there is no replay in the first stage, when nothing is past.
"""

from dataclasses import dataclass

from torch import Tensor

from distill.methods.adversarial import Adversarial
from distill.methods.adversarial_config import AdversarialConfig, published
from distill.methods.base import Setup, Stateful
from distill.methods.memory import Memory


@dataclass(frozen=True, kw_only=True)
class DFKDMemConfig(AdversarialConfig):
    """Settings of `dfkd-mem`."""

    memory_size: int = 8192
    """past images kept (section 5.2.2)"""
    replay: float = 1.0
    """weight of the loss on remembered images, beside 1 on new ones"""

    @property
    def images_per_update(self) -> int:
        return 2 * self.batch_size

    def queries(self, steps: int) -> int:
        return super().queries(steps) - (self.batch_size * self.student_steps if steps else 0)


class DFKDMem(Adversarial):
    """The student learns from the generator and from a ring of its past images."""

    config_class = DFKDMemConfig
    source = "Binici et al. 2022, as in MAD (Do et al. 2022), section 5.2.2 and Tables 5-7"
    recipes = published(DFKDMemConfig)
    config: DFKDMemConfig

    def __init__(self, setup: Setup, config: DFKDMemConfig) -> None:
        super().__init__(setup, config)
        shape = (3, self.image_size, self.image_size)
        self.memory = Memory(shape, capacity=config.memory_size, device=setup.device)

    def parts(self) -> dict[str, Stateful]:
        return {**super().parts(), "memory": self.memory}

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "kl_memory": self.config.replay}

    def material(self, first: int, updates: int) -> dict[str, Tensor]:
        config, images = self.config, super().material(first, updates)
        if len(self.memory):
            count = updates * config.batch_size
            rows_N = self.setup.integers("memory", first, count, below=len(self.memory), updates=updates)
            images = {**images, "kl_memory": self.memory.images(rows_N)}
        if (first + updates) % config.student_steps == 0:
            last_BCHW = images["kl"][-(len(images["kl"]) // updates) :]
            self.memory.keep(self.setup.ranks.gather(last_BCHW))  # every rank has the same memory
        return images
