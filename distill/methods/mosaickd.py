"""mosaickd: a generator re-assembles patches of out-of-domain images into samples worth learning from.

Fang et al. 2021, Mosaicking to Distill (supplement, Eq. 1-4, Tables 2-4), and where it is silent the authors' released
code. One step is one outer iteration: a discriminator update, a generator update, and `student_steps` student updates.

- D: (BCE(D(fake), 0) + BCE(D(real), 1)) / 2, summed over the patch map
- G: -adv KL(T || S) + align H(p_T) + local BCE(D(fake), 1) + balance sum pbar log2 pbar; the same z, the D just updated
- S: KL(T || S) at temperature 1 on B synthetic images (fresh z, not augmented) and B fresh real ones (augmented) in one
  batch, so that the student's BN sees the mix

A term whose weight is 0 is not computed; without `local` there is no discriminator, and the teacher is asked about the
generator's images for the other three alone. The ablations of Figure 1 and Table 4 are recipes.

Ours where the sources are silent: D sees real images as they are stored, not augmented; an epoch is the whole batches
of the train split, so 200 epochs on 50,000 images less a held-out 5 % are 37,000 steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from distill.errors import DistillError
from distill.generators.mosaic import Discriminator, Generator, ImageDiscriminator, Variant
from distill.losses.entropy import class_balance, sample_entropy
from distill.losses.kl import kl_divergence
from distill.losses.patch_gan import discriminator_loss, generator_loss
from distill.methods.base import Config, Method, Setup, Stateful, descend, no_gradients_for, one_of, sgd
from distill.methods.schedules import cosine
from shards.device import RealBatch

NETWORKS = ("code", "paper")
DISCRIMINATORS = ("patch", "image", "none")
STUDENT_IMAGES = ("mixed", "synthetic")


@dataclass(frozen=True, kw_only=True)
class MosaicKDConfig(Config):
    """Settings of `mosaickd`; defaults are the published ones for CIFAR-100."""

    batch_size: int = 256
    epochs: int = 200
    """of one outer iteration per batch of the train split; each consumes up to 1 + student_steps batches"""
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
    networks: str = one_of("code", NETWORKS)
    """which published generator and discriminator: code (the printed numbers) or paper (Tables 2 and 3)"""
    discriminator: str = one_of("patch", DISCRIMINATORS)
    """what it judges: every patch, the whole image (Figure 1 b), or none: nothing is, as where `local` is 0"""
    stride: int = 1
    """of the patch discriminator's last layer: larger means less overlap between patches (Table 4)"""
    student_images: str = one_of("mixed", STUDENT_IMAGES)
    """what the student learns from: mixed (a batch of synthetic and a batch of real images) or synthetic alone"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > 1 and self.discriminator != "patch":
            raise DistillError(
                f"stride is {self.stride}; expected 1 where discriminator is {self.discriminator}, which has no patches"
            )

    @property
    def generator_weights(self) -> dict[str, float]:
        """Of the generator's terms, by name, without those of which nothing is asked."""
        local = 0.0 if self.discriminator == "none" else self.local
        weights = {"adv": self.adv, "align": self.align, "local": local, "balance": self.balance}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def batches_per_step(self) -> int:
        judged = "local" in self.generator_weights
        return judged + (self.student_steps if self.student_images == "mixed" else 0)

    @property
    def phases(self) -> dict[str, int]:
        judged, made = "local" in self.generator_weights, bool(self.generator_weights)
        counts = {"discriminator": int(judged), "generator": int(made), "student": self.student_steps}
        return {name: count for name, count in counts.items() if count}

    @property
    def queries_per_step(self) -> int:
        """The generator's images where its terms ask the teacher, and all that the student learns from."""
        asked = not self.generator_weights.keys() <= {"local"}
        return self.batch_size * (asked + (2 if self.student_images == "mixed" else 1) * self.student_steps)


class MosaicKD(Method):
    """Generator and patch discriminator beside the student."""

    config_class = MosaicKDConfig
    source = "Fang et al. 2021, supplement Eq. 1-4, Tables 2-4"
    recipes: ClassVar[Mapping[str, Config]] = {
        **{f"stride-{stride}": MosaicKDConfig(stride=stride) for stride in (2, 3, 4)},  # Table 4
        "image": MosaicKDConfig(discriminator="image"),  # Figure 1 (b)
        "unregularised": MosaicKDConfig(align=0, local=0, balance=0),  # Figure 1 (a); that balance is 0 too is ours
    }
    config: MosaicKDConfig

    def __init__(self, setup: Setup, config: MosaicKDConfig) -> None:
        super().__init__(setup, config)
        size, variant = setup.the_teacher.input_size, cast("Variant", config.networks)
        self.generator = setup.housed(Generator(z_dim=config.z_dim, size=size, variant=variant))
        self.student_optimizer = sgd(setup.student, config)
        self.generator_optimizer = self._adam(self.generator)
        self.discriminator: nn.Module | None = None
        if "local" in config.generator_weights:
            patches = config.discriminator == "patch"
            self.discriminator = setup.housed(
                Discriminator(stride=config.stride, variant=variant)
                if patches
                else ImageDiscriminator(size=size, variant=variant)
            )
            self.discriminator_optimizer = self._adam(self.discriminator)

    def _adam(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.gan_lr, betas=(0.5, 0.999))

    def parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"student": self.setup.student.net, "student_optimizer": self.student_optimizer}
        parts |= {"generator": self.generator, "generator_optimizer": self.generator_optimizer}
        if self.discriminator is not None:
            parts |= {"discriminator": self.discriminator, "discriminator_optimizer": self.discriminator_optimizer}
        return parts

    def compile(self) -> None:
        super().compile()
        self.generator.compile()
        if self.discriminator is not None:
            self.discriminator.compile()

    def queries(self, steps: int) -> int:
        """Without those for real images whose logits the transfer set carries."""
        mixed = self.setup.views is not None and self.config.student_images == "mixed"
        return super().queries(steps) - mixed * steps * self.config.student_steps * self.config.batch_size

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        factor, rest = cosine(step, self.setup.steps), iter(real)
        lr, student_lr = self.config.gan_lr * factor, self.config.lr * factor
        terms = {}
        if self.config.generator_weights:
            fake_BCHW = self._synthetic("generator z", step)
            if self.discriminator is not None:
                terms["discriminator"] = self._judge(self.discriminator, fake_BCHW, next(rest), lr=lr)
            terms |= self._mosaic(fake_BCHW, lr=lr)
        first = step * self.config.student_steps
        losses = [
            self._teach(next(rest, None), first + number, lr=student_lr) for number in range(self.config.student_steps)
        ]
        return {**terms, "kl": torch.stack(losses).mean()}

    def _synthetic(self, purpose: str, number: int) -> Tensor:
        z_BZ = self.setup.noise(purpose, number, (self.config.batch_size, self.config.z_dim))
        with self.setup.autocast():
            images_BCHW: Tensor = self.generator(z_BZ)
        return images_BCHW

    def _judge(self, discriminator: nn.Module, fake_BCHW: Tensor, real: RealBatch, *, lr: float) -> Tensor:
        """The discriminator's update."""
        real_BCHW = real.images_BCHW.float() / 255
        with self.setup.autocast():
            maps = discriminator(fake_BCHW.detach()), discriminator(real_BCHW)
        critic = discriminator_loss(*maps)
        descend(critic, self.discriminator_optimizer, lr=lr)
        return critic.detach()

    def _mosaic(self, fake_BCHW: Tensor, *, lr: float) -> dict[str, Tensor]:
        """The generator's update; only what has a weight is computed."""
        net, discriminator = self.setup.student.net, self.discriminator
        weights = self.config.generator_weights
        with no_gradients_for(net, *([] if discriminator is None else [discriminator])):
            terms = self._of_the_teacher(fake_BCHW, weights) if weights.keys() - {"local"} else {}
            if discriminator is not None:
                with self.setup.autocast():
                    map_B1hw = discriminator(fake_BCHW)
                terms["local"] = generator_loss(map_B1hw)
            loss = torch.stack([weights[name] * terms[name] for name in weights]).sum()
            descend(loss, self.generator_optimizer, lr=lr)
        return {name: terms[name].detach() for name in weights}

    def _of_the_teacher(self, fake_BCHW: Tensor, wanted: Mapping[str, float]) -> dict[str, Tensor]:
        """The generator's terms for which the teacher is asked."""
        student, terms = self.setup.student, {}
        teacher_BK = self.setup.the_teacher(fake_BCHW).logits_BK
        if "adv" in wanted:
            student.net.eval()  # ours: it is only asked here, its BN statistics belong to its own batches
            terms["adv"] = -kl_divergence(teacher_BK, student(fake_BCHW))
            student.net.train()
        if "align" in wanted:
            terms["align"] = sample_entropy(teacher_BK)
        if "balance" in wanted:
            terms["balance"] = class_balance(teacher_BK)
        return terms

    def _teach(self, real: RealBatch | None, number: int, *, lr: float) -> Tensor:
        """One student update, on synthetic and real images together where there are any."""
        images_BCHW, teacher_BK = self._lesson(real, number)
        loss = kl_divergence(teacher_BK, self.setup.student(images_BCHW))
        descend(loss, self.student_optimizer, lr=lr)
        return loss.detach()

    @torch.no_grad()
    def _lesson(self, real: RealBatch | None, number: int) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and the teacher's logits, which real images may have with them."""
        images_BCHW = synthetic_BCHW = self._synthetic("student z", number)
        if real is not None and self.setup.views is not None:
            real_BCHW, real_BK = self.setup.taught(real)
            synthetic_BK = self.setup.the_teacher(synthetic_BCHW).logits_BK
            return torch.cat([synthetic_BCHW, real_BCHW.float() / 255]), torch.cat([synthetic_BK, real_BK])
        if real is not None:
            images_BCHW = torch.cat([synthetic_BCHW, self.setup.augmented(real).float() / 255])
        return images_BCHW, self.setup.the_teacher(images_BCHW).logits_BK

    @torch.no_grad()
    def samples(self, count: int, *, number: int = 0) -> Tensor:
        """Synthetic images from the generator in eval mode."""
        self.generator.eval()
        z_BZ = self.setup.noise("samples", number, (count, self.config.z_dim), whole=True)
        with self.setup.autocast():
            images_BCHW: Tensor = self.generator(z_BZ)
        self.generator.train()
        return images_BCHW
