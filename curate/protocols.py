"""What curation asks of a teacher, and no more: `distill.models.teachers.Classifier` satisfies it."""

from typing import Protocol

import torch


class TeacherView(Protocol):
    """What a teacher thinks of a batch."""

    @property
    def logits_BK(self) -> torch.Tensor:  # noqa: N802  # shape letters
        """float32, before the softmax."""
        ...

    @property
    def features_BD(self) -> torch.Tensor:  # noqa: N802  # shape letters
        """float32, the input of the last linear layer."""
        ...


class Teacher(Protocol):
    """A frozen network with its own normaliser."""

    name: str
    sha256: str
    """of its tensors"""
    arch: str
    input_size: int
    """px"""
    num_classes: int
    feature_dim: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    """its declared rule of `shards.decode.RESIZE`"""
    flip: bool
    """whether a mirrored image is still of its class"""
    code: str | None
    """SHA-256 of the user's file that builds it, if one does"""

    @property
    def dtype(self) -> str:
        """float32 or bfloat16: precision of the forward pass; part of what scores depend on."""
        ...

    def __call__(self, images_BCHW: torch.Tensor, /) -> TeacherView:
        """Logits and features of uint8 images on the teacher's device."""
        ...
