"""A memory of past images: a ring in which the newest take the place of the oldest."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Memory:
    """The last ``capacity`` images that it was given, as uint8, on the device; a part of a method's state.

    >>> memory = Memory((1, 1, 1), capacity=2, device=torch.device("cpu"))
    >>> memory.keep(torch.tensor([0.0, 0.2, 1.0]).view(3, 1, 1, 1))
    >>> len(memory), memory.images(torch.tensor([0, 1])).flatten().tolist()
    (2, [1.0, 0.20000000298023224])
    """

    def __init__(self, shape: Sequence[int], *, capacity: int, device: torch.device) -> None:
        self._images_NCHW = torch.zeros(capacity, *shape, dtype=torch.uint8, device=device)
        self._seen = 0

    def __len__(self) -> int:
        """Images in it now."""
        return min(self._seen, len(self._images_NCHW))

    def keep(self, images_BCHW: Tensor) -> None:
        """Put images in [0, 1] in, rounded to 256 levels; of more than it can hold, the last."""
        capacity = len(self._images_NCHW)
        self._seen += max(0, len(images_BCHW) - capacity)  # these would be written over at once
        coming_BCHW = (images_BCHW.detach()[-capacity:] * 255).round().to(torch.uint8)
        at = self._seen % capacity
        before_wrap = min(len(coming_BCHW), capacity - at)
        self._images_NCHW[at : at + before_wrap] = coming_BCHW[:before_wrap]
        self._images_NCHW[: len(coming_BCHW) - before_wrap] = coming_BCHW[before_wrap:]
        self._seen += len(coming_BCHW)

    def images(self, rows_B: Tensor) -> Tensor:
        """Images in [0, 1] (B, C, H, W) of these rows, each below ``len``."""
        return self._images_NCHW.index_select(0, rows_B).float() / 255

    def state_dict(self) -> dict[str, Any]:
        """The images, and how many it was given in all."""
        return {"images": self._images_NCHW, "seen": self._seen}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raises ValueError for a state of another size."""
        images_NCHW = state_dict["images"]
        if images_NCHW.shape != self._images_NCHW.shape:
            raise ValueError(f"a memory of {tuple(images_NCHW.shape)} is no {tuple(self._images_NCHW.shape)}")
        self._images_NCHW.copy_(images_NCHW)
        self._seen = state_dict["seen"]
