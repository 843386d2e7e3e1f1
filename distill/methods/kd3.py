"""kd3: choose each epoch the images that teacher and student can name, and learn the teacher's maps under its own head.

Tang et al. 2023, Distribution Shift Matters for Knowledge Distillation with Webly Collected Images, by its code; of the
paper we have the supplement alone (networks in its Table 2). Four ideas:

- classifier sharing: the student is its backbone phi_s, a projector P and the teacher's last layer, which stays as it
  is; that whole is what is deployed, see distill/models/projected.py
- dynamic selection, once an epoch, by both networks' combined logits: see dynamic_selection.py
- weighted alignment: mean of sigmoid(||S - T||_2) (P(phi_s) - phi_t)^2, phi_t the map behind the teacher's features
- MixDistribution: x' is x in a mixture of its own style and another image's; 0.001 (NT-Xent_s + NT-Xent_t) at
  temperature 0.3 between x and x', through a head of 128 for each network

No cross-entropy and no KL. Ours where the sources are silent: a head is one linear layer on the features, the student's
being the mean of P(phi_s); x and x' go through the student in one batch, so that its BN sees both; alignment is of x
alone; the constants of a_e are parts of ``epochs``, so that fewer of them go the same course, where --updates cuts it.
As written the teacher's NT-Xent trains nothing but the teacher's head, at the cost of a second forward of the teacher:
``contrast_teacher`` false leaves it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.errors import DistillError
from distill.losses.alignment import weighted_alignment
from distill.losses.mix_style import mix_style
from distill.losses.nt_xent import nt_xent
from distill.methods.base import Choice, Config, Look, Method, Setup, Stateful, descend, one_of, positive, sgd
from distill.methods.dynamic_selection import chosen, teacher_share
from distill.methods.schedules import SCHEDULES
from distill.models import spec
from distill.models.maps import feature_map
from distill.models.sharing import sharing_student
from shards.device import RealBatch


@dataclass(frozen=True, kw_only=True)
class KD3Config(Config):
    """Settings of `kd3`; defaults are the published ones."""

    batch_size: int = 1024
    epochs: int = 240
    lr: float = 0.05
    weight_decay: float = 5e-4
    schedule: str = one_of("step_eighths", SCHEDULES)
    """of the learning rate; a name in `SCHEDULES`"""
    threshold: float = 0.95
    """confidence asked for in the class that most images fall in; 0 keeps all"""
    teacher_fall: float = 5.0
    """how fast the teacher's share of the combined logits falls"""
    teacher_span: float = positive(160 / 240)
    """part of the run over which it would come to 0"""
    teacher_until: float = 120 / 240
    """part of the run from which on it is 0"""
    contrast: float = 1e-3
    """weight of both contrasts; 0 makes no restyled images"""
    contrast_temperature: float = positive(0.3)
    """of both NT-Xent losses"""
    contrast_dim: int = 128
    """length of the embeddings that are contrasted"""
    contrast_teacher: bool = True
    """whether the teacher's head is trained on the teacher's own contrast, as published; the student has none of it"""
    mix_alpha: float = positive(0.1)
    """of the Beta distribution of the mixing of styles"""

    @property
    def queries_per_step(self) -> int:
        return self.batch_size * (2 if self.contrast and self.contrast_teacher else 1)

    def queries_to_choose(self, rows: int) -> int:
        return self.looks(self.epochs) * rows

    def looks(self, epochs: int) -> int:
        """Times in the first ``epochs`` that the teacher helps to choose."""
        return sum(self.teacher_share(epoch) > 0 for epoch in range(epochs)) if self.threshold else 0

    def teacher_share(self, epoch: int) -> float:
        """Weight a_e of the teacher in the combined logits."""
        span, until = self.teacher_span * self.epochs, self.teacher_until * self.epochs
        return teacher_share(epoch, fall=self.teacher_fall, span=span, until=until)


class KD3(Method):
    """Weighted alignment and contrast on the images chosen for the epoch, under the teacher's classifier."""

    config_class = KD3Config
    source = "Tang et al. 2023, supplement (Table 2) and code"
    config: KD3Config

    def __init__(self, setup: Setup, config: KD3Config) -> None:
        super().__init__(replace(setup, student=sharing_student(setup.student, setup.the_teacher)), config)
        teacher = setup.the_teacher
        model = spec(teacher.arch)
        self.teacher_map = feature_map(teacher.net, head=model.head, size=model.input_size, channels=model.channels)
        teacher.watch(maps=self.teacher_map.watched)
        self.setup.student.watch(maps=["projector"])
        self.heads = nn.ModuleDict(
            {name: nn.Linear(teacher.feature_dim, config.contrast_dim) for name in ("student", "teacher")}
        ).to(setup.device)
        self.optimizer = sgd(self.setup.student, config, beside=[self.heads])
        self.choice = Choice()

    def parts(self) -> dict[str, Stateful]:
        return {
            "student": self.setup.student.net,
            "heads": self.heads,
            "optimizer": self.optimizer,
            "choice": self.choice,
        }

    def queries(self, steps: int) -> int:
        return super().queries(steps) + self.config.looks(self.choice.epoch + 1) * len(self.choice.rows_N)

    @torch.no_grad()
    def choose(self, epoch: int, look: Look) -> NDArray[np.bool_] | None:
        if not self.config.threshold:
            return None
        if self.choice.epoch != epoch:
            share, net, found = self.config.teacher_share(epoch), self.setup.student.net.eval(), []
            for batch in look():
                logits_BK = self.setup.student(batch.images_BCHW)
                if share:
                    teacher_BK = self.setup.the_teacher(batch.images_BCHW).logits_BK
                    logits_BK = share * teacher_BK + (1 - share) * logits_BK
                found.append(logits_BK.softmax(dim=1).max(dim=1))
            net.train()
            confidence_N, class_N = (
                torch.cat([getattr(part, name) for part in found]) for name in ("values", "indices")
            )
            kept_N = chosen(confidence_N, class_N, threshold=self.config.threshold).cpu().numpy()
            self._check_enough(kept_N, epoch)
            self.choice.epoch, self.choice.rows_N = epoch, kept_N
        return self.choice.rows_N

    def _check_enough(self, kept_N: NDArray[np.bool_], epoch: int) -> None:
        config, left = self.config, int(kept_N.sum())
        if left < config.batch_size:
            raise DistillError(
                f"in epoch {epoch + 1} of {config.epochs} kd3 is sure enough of {left:,} of {len(kept_N):,} images "
                f"(threshold {config.threshold}), fewer than a batch of {config.batch_size:,}; start a new run with a "
                f"lower --set threshold= (0 takes all images), or with a smaller --batch-size"
            )

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        config, teacher = self.config, self.setup.the_teacher
        images_BCHW = self.setup.augmented(real[0]).float() / 255
        count = len(images_BCHW)
        both_NCHW = torch.cat([images_BCHW, self._restyled(images_BCHW, step)]) if config.contrast else images_BCHW
        with torch.no_grad():
            told = teacher(both_NCHW if config.contrast_teacher else images_BCHW)
        seen = self.setup.student.view(both_NCHW)
        terms = {
            "align": weighted_alignment(
                seen.maps["projector"][:count],
                self.teacher_map(told)[:count],
                student_logits_BK=seen.logits_BK[:count],
                teacher_logits_BK=told.logits_BK[:count],
            )
        }
        loss = terms["align"]
        views = {"student": seen, "teacher": told} if config.contrast_teacher else {"student": seen}
        for name, view in views.items() if config.contrast else ():
            z_BD, z_other_BD = self.heads[name](view.features_BD).split(count)
            terms[f"contrast_{name}"] = nt_xent(z_BD, z_other_BD, temperature=config.contrast_temperature)
            loss = loss + config.contrast * terms[f"contrast_{name}"]
        # an epoch is as short as what was chosen for it: the rate goes by whichever comes first, epochs or steps
        at = max(step, self.setup.steps * real[0].epoch // config.epochs)
        descend(loss, self.optimizer, lr=config.lr * SCHEDULES[config.schedule](at, self.setup.steps))
        return {name: term.detach() for name, term in terms.items()}

    def _restyled(self, images_BCHW: Tensor, step: int) -> Tensor:
        """x': each image partly in the style of another of the batch."""
        draws, count, alpha = self.setup.draws("restyle", step), len(images_BCHW), self.config.mix_alpha
        partners_B, mixing_B = draws.permutation(count), draws.beta(alpha, alpha, count).astype(np.float32)
        return mix_style(images_BCHW, self.setup.send(partners_B), mixing_B=self.setup.send(mixing_B))
