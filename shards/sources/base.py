"""What a stream asks of a place that images come from, and no more."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shards.layout import Block


class Source(Protocol):
    """Images in numbered blocks, each checked before it is handed out."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a resumed stream must find again, with `id`: a hash of the contents. JSON-ready."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Resolution in px; images are square."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each block."""

    @property
    def views(self) -> int:
        """Teacher's logits that each image carries, one for each augmented view; 0 for none."""

    @property
    def workers(self) -> int:
        """Threads that are worth reading with."""

    def read(self, block: int) -> Block:
        """One block; several threads ask at once.

        Raises `BlockDamaged`, naming file and block, rather than hand out anything else than was written.
        """


@runtime_checkable
class Checkable(Protocol):
    """A source that sees some damage without reading a block."""

    def check(self) -> None:
        """Look before the first block is wanted; raises `BlockDamaged`. Not asked where damage may be passed over."""
