"""Settings of MAD and of the baselines that it trains "using exactly the same settings", and their published values.

Tables 5-7 of Do et al. 2022, Momentum Adversarial Distillation, as read from a text whose cells have lost their
borders. Ours where that leaves a choice: zeta_0 is 0.01 on the small sets and 0.1 on the large; 200 and 50 are
pretraining steps, 200 on ImageNet and 50 on Places365 and Food101, and delta = nu = 20; TinyImageNet has CIFAR's 300
epochs.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from distill.errors import DistillError
from distill.generators.conditioning import CONDITIONINGS
from distill.generators.mad import WIDTHS
from distill.methods.base import Config, one_of
from distill.methods.schedules import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(Config):
    """Settings that the three methods share; defaults are MAD's for CIFAR with wide ResNets (Tables 5-7)."""

    batch_size: int = 256
    """synthetic images a batch (bs, Table 6)"""
    epochs: int = 300
    """of `steps_per_epoch` stages (ep, Table 6)"""
    steps_per_epoch: int = 50
    """stages an epoch (spe, Table 6)"""
    generator_steps: int = 3
    """n_G: generator updates a stage (Table 5)"""
    student_steps: int = 60
    """n_S: student updates a stage (Table 5); 30 for ResNets"""
    fill: int = 5
    """student updates whose images are made at once; more is faster and takes more memory (ours)"""
    lr: float = 1e-2
    """of the student's optimiser, at the start of the schedule (Table 5)"""
    weight_decay: float = 5e-4
    """of the student's optimiser (Table 5)"""
    optimizer: str = one_of("sgd", ("sgd", "adam"))
    """the student's: sgd, or adam, which knows no momentum (Table 5)"""
    schedule: str = one_of("step_thirds", SCHEDULES)
    """of the student's rate; a name in `SCHEDULES`: step_thirds is x0.1 at epochs 100 and 200 of 300 (Table 6)"""
    gan_lr: float = 1e-3
    """of the generator's Adam, throughout (Table 5)"""
    gan_weight_decay: float = 5e-4
    """of the generator's Adam (Table 5)"""
    z_dim: int = 256
    """normal noise an image, and the dimension of a class embedding (Table 6)"""
    conditioning: str = one_of("none", CONDITIONINGS)
    """how the class enters the generator: none, sum (of embedding and noise) or cat (section 3.2, appendix B.3)"""
    network: str = one_of("auto", ("auto", *WIDTHS))
    """the generator: conv (Table 8 a, b), residual (c), or auto: conv up to 64 px, residual above"""
    image_size: int = field(default=0, metadata={"least": 0})
    """px a side of synthetic images; 0: the teacher's input size"""
    pretrain_steps: int = field(default=0, metadata={"least": 0})
    """generator updates without the adversarial term, before all others (pgs, Table 6)"""
    adv: float = 1.0
    """weight lambda_2 of the teacher-student disagreement that the generator seeks (Table 7)"""
    nll: float = 0.0
    """weight lambda_3 of the teacher's surprise at the class asked for, nats (Table 7)"""
    norm: float = 0.0
    """weight lambda_4 of the embeddings' excess norm (Table 7)"""
    bn: float = 1.0
    """weight lambda_5 of batch norm moment matching (Table 7); 0 for a teacher without batch norms"""
    student_hinge: float = 0.01
    """weight zeta_0 of the student's excess logits (Table 7)"""
    teacher_hinge: float = 0.1
    """weight zeta_1 of the teacher's excess logits (Table 7)"""
    pixel_hinge: float = 0.1
    """weight zeta_2 of the excess of pixels before their sigmoid (Table 7)"""
    gamma: float = field(default=1.1, metadata={"least": 1})
    """an embedding's norm may be this often the root of its dimension (Eq. 8, Table 6)"""
    delta: float = 20.0
    """bound of logits (Table 6)"""
    nu: float = 20.0
    """bound of pixels before their sigmoid (Table 6)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditioning == "none" and (self.nll or self.norm):
            raise DistillError(
                f"nll is {self.nll} and norm {self.norm}, but conditioning is 'none'; expected 0 and 0 without classes "
                f"(or conditioning sum)"
            )
        weights = self.generator_weights
        if not any(weights.values()):
            raise DistillError(f"every weight of the generator's objective is 0; expected one of {', '.join(weights)}")
        if self.pretrain_steps and not any(weight for name, weight in weights.items() if name != "adv"):
            raise DistillError(f"pretrain_steps is {self.pretrain_steps}; expected 0 where adv is the only term")

    @property
    def generator_weights(self) -> dict[str, float]:
        """Of each term of its objective."""
        names = ("adv", "nll", "norm", "bn", "teacher_hinge", "pixel_hinge")
        return {name: getattr(self, name) for name in names}

    @property
    def batches_per_step(self) -> int:
        return 0

    @property
    def phases(self) -> dict[str, int]:
        return {"generator": self.generator_steps, "student": self.student_steps}

    @property
    def images_per_update(self) -> int:
        """Images in one update of the student."""
        return self.batch_size

    @property
    def queries_per_step(self) -> int:
        return self.batch_size * self.generator_steps + self.images_per_update * self.student_steps

    def queries(self, steps: int) -> int:
        return super().queries(steps) + (self.batch_size * self.pretrain_steps if steps else 0)

    def steps(self, batches_per_epoch: int) -> int:  # noqa: ARG002  # there is no stream to count
        return self.epochs * self.steps_per_epoch


C = TypeVar("C", bound=AdversarialConfig)
_LARGE: dict[str, Any] = {
    "batch_size": 512,
    "steps_per_epoch": 1,
    "student_steps": 150,
    "fill": 1,  # 512 images of 256 px are 400 MB
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "optimizer": "adam",
    "schedule": "constant",
    "gan_lr": 1e-4,
    "conditioning": "sum",
    "image_size": 256,
    "nll": 0.1,
    "norm": 0.1,
    "bn": 0.0,
    "student_hinge": 0.1,
}
_PUBLISHED: dict[str, dict[str, Any]] = {
    # by data set and architecture, as changes of the defaults, which are those of CIFAR with wide ResNets
    "cifar-resnet": {"student_steps": 30},
    "tiny-imagenet": {"student_steps": 90},
    "imagenet": {**_LARGE, "epochs": 6000, "generator_steps": 20, "pretrain_steps": 200},
    "places365": {**_LARGE, "epochs": 6000, "generator_steps": 10, "pretrain_steps": 50},
    "food101": {**_LARGE, "epochs": 4000, "generator_steps": 5, "pretrain_steps": 50},
}


def published(kind: type[C]) -> dict[str, C]:
    """The settings of Tables 5, 6 and 7 for a method whose config is of that kind, by data set."""
    return {f"mad-{name}": kind(**changes) for name, changes in _PUBLISHED.items()}
