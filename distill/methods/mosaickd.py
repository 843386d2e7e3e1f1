"""mosaickd: a generator re-assembles patches of out-of-domain images into samples worth learning from.

Fang et al. 2021, Mosaicking to Distill (supplement, Eq. 1-4, Tables 2-4), and where it is silent the authors' released
code. One step is one outer iteration: a discriminator update, a generator update, and `student_steps` student updates.

- D: (BCE(D(fake), 0) + BCE(D(real), 1)) / 2, summed over the patch map
- G: -adv KL(T || S) + align H(p_T) + local BCE(D(fake), 1) + balance sum pbar log2 pbar; the same z, the D just updated
- S: KL(T || S) at temperature 1 on B synthetic images (fresh z, not augmented) and B fresh real ones (augmented) in one
  batch, so that the student's BN sees the mix

Ours where the sources are silent: D sees real images as they are stored, not augmented; an epoch is the whole batches
of the train split, so 200 epochs on 50,000 images less a held-out 5 % are 37,000 steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from distill.errors import DistillError
from distill.generators.mosaic import Discriminator, Generator, Variant
from distill.losses.entropy import class_balance, sample_entropy
from distill.losses.kl import kl_divergence
from distill.losses.patch_gan import discriminator_loss, generator_loss
from distill.methods.base import Config, Method, RealBatch, Setup, Stateful, descend, no_gradients_for, sgd
from distill.methods.schedules import cosine


@dataclass(frozen=True, kw_only=True)
class MosaicKDConfig(Config):
    """Settings of `mosaickd`; defaults are the published ones for CIFAR-100."""

    batch_size: int = 256
    epochs: int = 200
    """of one outer iteration per batch of the train split; each consumes 1 + student_steps batches"""
    student_steps: int = 5
    """student updates per outer iteration; reports count them"""
    adv: float = 1.0
    """weight of the teacher-student disagreement that the generator seeks"""
    align: float = 1.0
    """weight of the teacher's mean entropy (nats)"""
    local: float = 1.0
    """weight of the patch discriminator, summed over its map"""
    balance: float = 10.0
    """weight of the class balance (bits)"""
    z_dim: int = 100
    """normal noise a sample"""
    gan_lr: float = 1e-3
    """of Adam (0.5, 0.999) for generator and discriminator"""
    networks: str = "code"
    """which published generator and discriminator: code (the printed numbers) or paper (Tables 2 and 3)"""
    stride: int = 1
    """of the discriminator's last layer: larger means less overlap between patches (Table 4)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.networks not in ("code", "paper"):
            raise DistillError(f"networks is {self.networks!r}; expected code or paper")

    @property
    def batches_per_step(self) -> int:
        return 1 + self.student_steps

    @property
    def phases(self) -> dict[str, int]:
        return {"discriminator": 1, "generator": 1, "student": self.student_steps}

    @property
    def queries_per_step(self) -> int:
        return self.batch_size * (1 + 2 * self.student_steps)


class MosaicKD(Method):
    """Generator and patch discriminator beside the student."""

    config_class = MosaicKDConfig
    source = "Fang et al. 2021, supplement Eq. 1-4, Tables 2-4"
    config: MosaicKDConfig

    def __init__(self, setup: Setup, config: MosaicKDConfig) -> None:
        super().__init__(setup, config)
        size, variant = setup.the_teacher.input_size, cast("Variant", config.networks)
        self.generator = Generator(z_dim=config.z_dim, size=size, variant=variant).to(setup.device)
        self.discriminator = Discriminator(stride=config.stride, variant=variant).to(setup.device)
        self.student_optimizer = sgd(setup.student, config)
        self.generator_optimizer = self._adam(self.generator)
        self.discriminator_optimizer = self._adam(self.discriminator)

    def _adam(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.gan_lr, betas=(0.5, 0.999))

    def parts(self) -> dict[str, Stateful]:
        return {
            "student": self.setup.student.net,
            "generator": self.generator,
            "discriminator": self.discriminator,
            "student_optimizer": self.student_optimizer,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        factor = cosine(step, self.setup.steps)
        terms = self._mosaic(real[0], step, lr=self.config.gan_lr * factor)
        losses = [
            self._teach(batch, step * self.config.student_steps + number, lr=self.config.lr * factor)
            for number, batch in enumerate(real[1:])
        ]
        return {**terms, "kl": torch.stack(losses).mean()}

    def _synthetic(self, purpose: str, number: int) -> Tensor:
        images_BCHW: Tensor = self.generator(
            self.setup.noise(purpose, number, (self.config.batch_size, self.config.z_dim))
        )
        return images_BCHW

    def _mosaic(self, real: RealBatch, step: int, *, lr: float) -> dict[str, Tensor]:
        """The discriminator's update, then the generator's."""
        config, student = self.config, self.setup.student
        fake_BCHW = self._synthetic("generator z", step)
        real_BCHW = real.images_BCHW.float() / 255
        critic = discriminator_loss(self.discriminator(fake_BCHW.detach()), self.discriminator(real_BCHW))
        descend(critic, self.discriminator_optimizer, lr=lr)

        with no_gradients_for(student.net, self.discriminator):
            teacher_BK = self.setup.the_teacher(fake_BCHW).logits_BK
            student.net.eval()  # ours: it is only asked here, its BN statistics belong to its own batches
            terms = {
                "adv": -kl_divergence(teacher_BK, student(fake_BCHW)),
                "align": sample_entropy(teacher_BK),
                "local": generator_loss(self.discriminator(fake_BCHW)),
                "balance": class_balance(teacher_BK),
            }
            student.net.train()
            weights = {"adv": config.adv, "align": config.align, "local": config.local, "balance": config.balance}
            loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
            descend(loss, self.generator_optimizer, lr=lr)
        return {"discriminator": critic.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _teach(self, real: RealBatch, number: int, *, lr: float) -> Tensor:
        """One student update on synthetic and real images together."""
        with torch.no_grad():
            synthetic_BCHW = self._synthetic("student z", number)
            images_BCHW = torch.cat([synthetic_BCHW, self.setup.augmented(real).float() / 255])
            teacher_BK = self.setup.the_teacher(images_BCHW).logits_BK
        loss = kl_divergence(teacher_BK, self.setup.student(images_BCHW))
        descend(loss, self.student_optimizer, lr=lr)
        return loss.detach()

    @torch.no_grad()
    def samples(self, count: int) -> Tensor:
        """Synthetic images from the generator in eval mode, always of the same z."""
        self.generator.eval()
        images_BCHW: Tensor = self.generator(self.setup.noise("samples", 0, (count, self.config.z_dim)))
        self.generator.train()
        return images_BCHW
