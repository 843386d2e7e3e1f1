"""The student: a network in training behind the teacher's normaliser."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.models import spec
from distill.models.card import fit_normaliser
from distill.models.view import Precision, Probe, TeacherView, Watch
from manifests.keys import address


class Student(nn.Module):
    """uint8 or [0, 1] images -> float32 logits; in bfloat16 the backbone runs under autocast in channels-last."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        arch: str,
        head: str,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: Precision = "float32",
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last) if dtype == "bfloat16" else net
        self.arch = arch  # by which `spec` and a weights file know the network
        self.dtype: Precision = dtype
        self.mean, self.std = tuple(mean), tuple(std)
        self._probe = Probe(self.net, head=head)
        self._ask: Callable[..., TeacherView] = self._probe
        self.register_buffer("mean_C", torch.tensor(self.mean), persistent=False)
        self.register_buffer("std_C", torch.tensor(self.std), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """logits_BK."""
        return self.view(images_BCHW).logits_BK

    def view(self, images_BCHW: Tensor) -> TeacherView:
        """Logits, features, and what is being watched, with gradients to the weights."""
        return self._ask(images_BCHW, mean_C=self.mean_C, std_C=self.std_C, dtype=self.dtype)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Answer through torch.compile from now on, by `forward` and by `view` alike."""
        self._ask = torch.compile(self._probe.__call__, *args, **kwargs)

    def watch(self, *, maps: Sequence[str]) -> Watch:
        """Show in every view also the outputs of the modules named; as `Classifier.watch`."""
        return self._probe.watch(maps=maps)


def fresh_student(
    arch: str,
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    dtype: Precision,
    device: torch.device,
) -> Student:
    """A student in training mode whose weights depend on architecture, classes and seed alone; raises UnknownModel.

    The normaliser is the teacher's, fitted to the student where one of them is grey and the other is not.
    """
    model = spec(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(seed, "student", arch) >> 1)  # torch takes 63 bits
        net = model.build(num_classes)
    mean, std = fit_normaliser(mean, std, channels=model.channels)
    return Student(net, arch=model.name, head=model.head, mean=mean, std=std, dtype=dtype).to(device)
