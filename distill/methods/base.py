"""What a method is: named state, and one step on real batches. The loop in `distill/train.py` knows no more."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.errors import DistillError
from distill.material import Views
from distill.models.student import Student
from distill.models.teachers import Classifier
from distill.ranks import ALONE, Ranks, average_gradients
from manifests.keys import address
from shards.augment import PAD, crop_and_flip
from shards.device import RealBatch

M = TypeVar("M", bound=nn.Module)


def one_of(default: str, known: Iterable[str]) -> Any:
    """A setting that is one of the ``known`` words."""
    return field(default=default, metadata={"one_of": tuple(known)})


def positive(default: float) -> Any:
    """A setting that may not be 0, such as a temperature."""
    return field(default=default, metadata={"positive": True})


class Stateful(Protocol):
    """Anything whose state a checkpoint keeps: networks, optimisers, memories."""

    def state_dict(self) -> Any:
        """State as nested dicts and lists of tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take a state back."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every method's config has; each adds its own, with its paper's defaults."""

    batch_size: int = 128
    """images from the stream in a batch"""
    epochs: int = 200
    """passes over the train split, which set the number of steps"""
    lr: float = 0.1
    """of the student's SGD, at the start of the schedule"""
    momentum: float = 0.9
    """of the student's SGD"""
    weight_decay: float = 1e-4
    """of the student's SGD, on every parameter"""

    def __post_init__(self) -> None:
        for setting in fields(self):  # counts are from 1; rates and weights of losses from 0
            value, known = getattr(self, setting.name), setting.metadata.get("one_of")
            least = setting.metadata.get("least", 1 if setting.type is int else 0)
            if known and value not in known:
                raise DistillError(f"{setting.name} is {value!r}; expected one of {', '.join(known)}")
            if setting.type is bool:
                if not isinstance(value, bool):
                    raise DistillError(f"{setting.name} is {value}; expected True or False")
            elif not isinstance(value, str) and not least <= value < math.inf:  # NaN too fails this
                raise DistillError(f"{setting.name} is {value}; expected a number of at least {least}")
            elif setting.metadata.get("positive") and not value:
                raise DistillError(f"{setting.name} is {value}; expected more than 0")

    @property
    def batches_per_step(self) -> int:
        """Stream batches that one step consumes."""
        return 1

    @property
    def phases(self) -> dict[str, int]:
        """Optimiser updates of each network that a step trains, in the order in which it trains them."""
        return {"student": 1}

    @property
    def updates_per_step(self) -> int:
        """Optimiser updates of the student in one step."""
        return self.phases["student"]

    @property
    def queries_per_step(self) -> int:
        """Images that one step puts through the teacher."""
        return self.batch_size

    def queries_to_choose(self, rows: int) -> int:  # noqa: ARG002  # most take the whole stream
        """Images that `Method.choose` puts through the teacher in a whole run at most, of a train split of ``rows``."""
        return 0

    def steps(self, batches_per_epoch: int) -> int:
        """Steps of the whole schedule, given the batches of an epoch of the train split (0 without a stream)."""
        return self.epochs * batches_per_epoch

    def queries(self, steps: int) -> int:
        """Images that the first ``steps`` steps put through the teacher."""
        return steps * self.queries_per_step


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method is given: networks, and the facts of the run."""

    teacher: Classifier | None
    """None only for methods that learn from labels"""
    student: Student
    device: torch.device
    steps: int
    """of the whole run: schedules are functions of step / steps"""
    seed: int
    flip: bool
    """whether mirrored images are still of the same class"""
    ranks: Ranks = ALONE
    """the processes that train together; batch sizes count all of them, noise is drawn for all and shared out"""
    views: Views | None = None
    """the augmented views whose logits the transfer set carries: then `taught` asks no teacher"""

    @property
    def the_teacher(self) -> Classifier:
        """The teacher, for methods that cannot do without."""
        if self.teacher is None:
            raise AssertionError("this method needs a teacher and was built without one")
        return self.teacher

    def housed(self, net: M) -> M:
        """A network of the method's own on the device, in channels-last where the run is in bfloat16."""
        low = self.student.dtype == "bfloat16"
        net.to(self.device, memory_format=torch.channels_last if low else torch.preserve_format)  # type: ignore[call-overload]
        return net

    def autocast(self) -> torch.autocast:
        """What such a network runs under; student and teacher see to it themselves."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.student.dtype == "bfloat16")

    def layer_seed(self, step: int) -> int:
        """Seed of what layers themselves draw in a step, such as dropout; each rank has its own."""
        own = [self.ranks.rank] if self.ranks.rank else []
        return address(self.seed, "layers", step, *own) >> 1  # torch takes 63 bits

    def augmented(self, batch: RealBatch, *, pad: int = PAD) -> Tensor:
        """The batch's images, cropped and flipped as addressed by (seed, key, epoch); uint8."""
        return crop_and_flip(batch.images_BCHW, batch.keys, seed=self.seed, view=batch.epoch, flip=self.flip, pad=pad)

    def taught(self, batch: RealBatch) -> tuple[Tensor, Tensor]:
        """Augmented images of a batch, uint8, and the teacher's logits of them: those that came with it, or asked for.

        The set's views are numbered as its epochs are, modulo their count.
        """
        if self.views is not None and batch.logits_BK is not None:
            views = self.views
            images_BCHW = crop_and_flip(
                batch.images_BCHW,
                batch.keys,
                seed=views.seed,
                view=batch.epoch % views.count,
                flip=views.flip,
                pad=views.pad,
            )
            return images_BCHW, batch.logits_BK.float()
        images_BCHW = self.augmented(batch)
        with torch.no_grad():
            return images_BCHW, self.the_teacher(images_BCHW).logits_BK

    def draws(self, purpose: str, step: int) -> np.random.Generator:
        """Numbers of any distribution, on the host, addressed by (seed, purpose, step); `send` takes them over.

        Each rank has its own.
        """
        own = [self.ranks.rank] if self.ranks.rank else []
        return np.random.Generator(np.random.Philox(address(self.seed, purpose, step, *own)))

    def send(self, numbers: NDArray[Any]) -> Tensor:
        """To the device without waiting for it, as a copy from memory that is not pinned would."""
        tensor = torch.from_numpy(numbers)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def noise(self, purpose: str, step: int, shape: Sequence[int], *, updates: int = 1, whole: bool = False) -> Tensor:
        """Standard normal numbers on the device, addressed by (seed, purpose, step); this rank's share or all.

        Of rows for several ``updates``, one's after another's, the share is of each.
        """
        generator = torch.Generator(self.device).manual_seed(address(self.seed, purpose, step) >> 1)
        drawn = torch.randn(*shape, device=self.device, generator=generator)
        return drawn if whole else self.ranks.slice(drawn, parts=updates)

    def integers(self, purpose: str, step: int, count: int, *, below: int, updates: int = 1) -> Tensor:
        """``count`` evenly drawn int64 in [0, ``below``) on the device, addressed likewise: classes, or rows."""
        generator = torch.Generator(self.device).manual_seed(address(self.seed, purpose, step) >> 1)
        drawn = torch.randint(below, (count,), device=self.device, generator=generator)
        return self.ranks.slice(drawn, parts=updates)


Look = Callable[[], Iterator[RealBatch]]
"""the whole train split once, in stored order and as it is stored, on the device"""


class Choice:
    """The rows that a method chose for an epoch, as a part whose state a checkpoint keeps."""

    def __init__(self) -> None:
        self.epoch, self.rows_N = -1, np.empty(0, np.bool_)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "rows_N": torch.from_numpy(self.rows_N.astype(np.uint8))}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.epoch, self.rows_N = state_dict["epoch"], state_dict["rows_N"].numpy().astype(np.bool_)


class Method(ABC):
    """One way of training a student. Subclasses set the class variables and implement `parts` and `step`."""

    config_class: ClassVar[type[Config]]
    source: ClassVar[str]
    """paper and place"""
    recipes: ClassVar[Mapping[str, Config]] = {}
    """published settings other than the defaults, by name; where each is from is said beside it"""
    needs_labels: ClassVar[bool] = False
    needs_stream: ClassVar[bool] = True
    """False for those that train on what a generator makes alone; their ``batches_per_step`` is 0"""

    def __init__(self, setup: Setup, config: Config) -> None:
        self.setup, self.config = setup, config

    @abstractmethod
    def parts(self) -> dict[str, Stateful]:
        """Every stateful object by name; the loop saves, restores and moves exactly these."""

    @abstractmethod
    def step(self, real: Sequence[RealBatch], step: int) -> dict[str, Tensor]:
        """Learn from ``batches_per_step`` batches; return each loss term, detached, on the device."""

    def compile(self) -> None:
        """Run the networks through torch.compile from now on; a method with more of them than these adds its own."""
        self.deployed().compile()
        self.setup.the_teacher.compile()

    def choose(self, epoch: int, look: Look) -> NDArray[np.bool_] | None:  # noqa: ARG002  # most take the whole stream
        """Which rows of the train split, in stored order, the stream of this epoch has; None: all.

        The loop asks at the start of each epoch and where it resumes within one; asked again for the epoch of its last
        answer, a method gives the same without looking, from its `parts` (see `Choice`). What it puts through the
        teacher `queries` counts as well.
        """
        return None

    def deployed(self) -> Student:
        """What is judged, saved and exported: its network, and the architecture by which that loads again."""
        return self.setup.student

    def queries(self, steps: int) -> int:
        """Images that the first ``steps`` steps put through the teacher."""
        return self.config.queries(steps)

    @property
    def has_generator(self) -> bool:
        """Whether there are synthetic images to look at."""
        return type(self).samples is not Method.samples

    def watched(self) -> dict[str, Tensor]:
        """What else tells of a generator's health when the student is judged, by name; see `distill/telemetry.py`."""
        return {}

    def samples(self, count: int, *, number: int = 0) -> Tensor | None:  # noqa: ARG002  # those with a generator do
        """Synthetic images in [0, 1] (count, C, H, W), of the noise of that number; None without a generator."""
        return None


def sgd(
    student: Student, config: Config, *, beside: Sequence[nn.Module] = (), nesterov: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of the student, and of what is trained ``beside`` it."""
    return torch.optim.SGD(
        [parameter for net in (student.net, *beside) for parameter in net.parameters()],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=nesterov,
    )


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, *, lr: float) -> None:
    """One update at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
    average_gradients(optimizer)
    optimizer.step()


@contextmanager
def no_gradients_for(*networks: nn.Module) -> Iterator[None]:
    """Let gradients pass through these networks without computing those of their own weights."""
    learning = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
