"""The teacher's logits of augmented views of each packed image: with them a student learns without teacher forwards.

View v of an image is `shards.augment.crop_and_flip(..., seed=, view=v, flip=, pad=)`; seed, flip and pad stand in
transfer-set.json, so that a trainer makes the same pixels again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curate.errors import CurateError
from curate.forwards import look_at
from curate.protocols import Teacher
from shards.augment import PAD, crop_and_flip
from shards.layout import Block

LARGEST = float(np.finfo(np.float16).max)


@dataclass(kw_only=True)
class TeacherViews:
    """Adds logits to blocks (`shards.pack.Views`)."""

    teacher: Teacher
    count: int
    """views of each image"""
    seed: int
    device: torch.device
    threads: int | None = None
    forwards: int = field(default=0, init=False)
    """images that went through the teacher"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise CurateError(f"--views is {self.count}; expected at least 1 view of each image, or no --views")

    @property
    def facts(self) -> dict[str, Any]:
        """What makes the same pixels again; a teacher says whether a mirrored image is still of its class."""
        return {"count": self.count, "seed": self.seed, "flip": self.teacher.flip, "pad": PAD}

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks with logits (N, V, K).

        Raises `CurateError` for a logit that float16 cannot hold: cut off, it would be another answer.
        """
        size, device, threads = self.teacher.input_size, self.device, self.threads
        for block, logits_VNK in look_at(blocks, self._look, size=size, device=device, threads=threads):
            self._check(block, logits_VNK)
            self.forwards += self.count * len(block)
            yield replace(block, logits_NVK=logits_VNK.swapaxes(0, 1).astype(np.float16))

    def _look(self, images_BCHW: torch.Tensor, block: Block) -> NDArray[np.float32]:
        keys = np.resize(block.keys, len(images_BCHW))  # what pads a batch is cropped too, as whatever image
        facts = {name: self.facts[name] for name in ("seed", "flip", "pad")}
        views = [
            self.teacher(crop_and_flip(images_BCHW, keys, view=view, **facts)).logits_BK[: len(block)]
            for view in range(self.count)
        ]
        return torch.stack(views).float().cpu().numpy()

    def _check(self, block: Block, logits_VNK: NDArray[np.float32]) -> None:
        bad = np.argwhere(~(np.abs(logits_VNK) <= LARGEST))  # nan too
        if len(bad):
            view, row, label = bad[0].tolist()
            key = block.keys[row].decode()
            raise CurateError(
                f"--views: the teacher's logit for {self.teacher.classes[label]!r} in view {view} of image {key} is "
                f"{logits_VNK[view, row, label]:g}; expected a number that float16 holds, up to {LARGEST:,.0f}; "
                f"leave the image out with --where \"key <> '{key}'\", or select without --views"
            )
