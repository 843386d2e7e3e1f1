"""dfnd: learn from the images of a batch on which the teacher is sure, and from noisy labels on all of them.

Chen et al. 2021, Learning Student Networks in the Wild (DFND), by a port of its code. Per batch of web images:

- T^2 KL(teacher || student) on the half with the smallest cross-entropy between the teacher and its own answer
- the likelihood of the teacher's answers on all, under the student's belief p times a K x K matrix Q of how the teacher
  errs: its diagonal is the teacher's accuracy, the rest is learned

Ours where the sources are silent: the two terms weigh the same; Q begins with errors spread evenly, and its rows stay
distributions by a softmax; it is learned by the student's optimiser without weight decay; of an odd batch the half is
rounded up; images are augmented before the teacher sees them, so what is kept is decided anew each epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import DistillError
from distill.losses.kl import kl_divergence
from distill.losses.noisy_nll import noise_adapted_nll, noise_matrix
from distill.methods.base import Config, Method, Setup, Stateful, descend, one_of, positive, sgd
from distill.methods.schedules import SCHEDULES
from distill.models.teachers import Classifier
from shards.device import RealBatch


@dataclass(frozen=True, kw_only=True)
class DFNDConfig(Config):
    """Settings of `dfnd`; defaults are the published ones for CIFAR-10 (ResNet-34 to ResNet-18: 94.78)."""

    batch_size: int = 256
    epochs: int = 800
    weight_decay: float = 5e-4
    """not in our sources: that of CIFAR ResNets"""
    schedule: str = one_of("step_fifths", SCHEDULES)
    """of the learning rate; a name in `SCHEDULES`"""
    temperature: float = positive(4.0)
    """of both softmaxes on the kept half; the loss is multiplied by its square"""
    noisy: float = 1.0
    """weight of the noise-adapted likelihood on all images"""
    accuracy: float = 0.0
    """of the teacher, the diagonal of Q, below 1; 0: the test accuracy that its weights file states"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accuracy >= 1:
            raise DistillError(f"accuracy is {self.accuracy}; expected a fraction below 1, such as 0.95")


class Noise(nn.Module):
    """Q, of which what is off the diagonal is learned."""

    def __init__(self, classes: int, *, accuracy: float) -> None:
        super().__init__()
        self.accuracy = accuracy
        self.free_KK = nn.Parameter(torch.zeros(classes, classes))

    def forward(self) -> Tensor:
        """log_noise_KK."""
        return noise_matrix(self.free_KK, accuracy=self.accuracy)


class DFND(Method):
    """KD on the surer half, and noise-adapted likelihood on all."""

    config_class = DFNDConfig
    source = "Chen et al. 2021, Learning Student Networks in the Wild; settings of a port of its code"
    config: DFNDConfig

    def __init__(self, setup: Setup, config: DFNDConfig) -> None:
        super().__init__(setup, config)
        teacher = setup.the_teacher
        self.noise = Noise(teacher.num_classes, accuracy=config.accuracy or _stated(teacher)).to(setup.device)
        self.optimizer = sgd(setup.student, config)
        self.optimizer.add_param_group({"params": list(self.noise.parameters()), "weight_decay": 0.0})

    def parts(self) -> dict[str, Stateful]:
        return {"student": self.setup.student.net, "noise": self.noise, "optimizer": self.optimizer}

    def queries(self, steps: int) -> int:
        return 0 if self.setup.views else super().queries(steps)

    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        config = self.config
        images_BCHW, teacher_BK = self.setup.taught(real[0])
        student_BK = self.setup.student(images_BCHW)
        answers_B = teacher_BK.argmax(dim=1)
        kept_H = surest(teacher_BK, answers_B)
        terms = {"kl": kl_divergence(teacher_BK[kept_H], student_BK[kept_H], temperature=config.temperature)}
        if config.noisy:
            terms["noisy"] = noise_adapted_nll(student_BK, answers_B, log_noise_KK=self.noise())
        loss = terms["kl"] + config.noisy * terms["noisy"] if config.noisy else terms["kl"]
        descend(loss, self.optimizer, lr=config.lr * SCHEDULES[config.schedule](step, self.setup.steps))
        return {name: term.detach() for name, term in terms.items()}


def surest(logits_BK: Tensor, answers_B: Tensor) -> Tensor:
    """Rows of the half of a batch whose cross-entropy with the answers is smallest, rounded up.

    >>> sure, unsure = [9.0, 0.0], [0.1, 0.0]
    >>> surest(torch.tensor([unsure, sure, unsure, sure]), torch.zeros(4, dtype=torch.int64)).sort().values.tolist()
    [1, 3]
    """
    cross_entropy_B = F.cross_entropy(logits_BK, answers_B, reduction="none")
    return cross_entropy_B.topk((len(answers_B) + 1) // 2, largest=False).indices


def _stated(teacher: Classifier) -> float:
    """The accuracy that the teacher's weights file states. Raises DistillError if it states none that can be used."""
    stated = teacher.metadata.get("test_accuracy")
    try:
        accuracy = float(stated or "")
    except ValueError:
        accuracy = 0.0
    if not 0 < accuracy < 1:
        says = "states no test_accuracy" if stated is None else f"states a test_accuracy of {stated}"
        raise DistillError(
            f"the weights file of {teacher.name} {says}, and dfnd needs the teacher's accuracy, between 0 and 1;\n"
            f"say it with --set accuracy=0.95, or once for all: distill teachers add FILE --set test_accuracy=0.95"
        )
    return accuracy
