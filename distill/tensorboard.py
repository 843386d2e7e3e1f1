"""The lines of metrics.jsonl once more, as TensorBoard reads them (extra `tensorboard`), in the same folder."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from distill.errors import DistillError
from distill.run_manifest import numbers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_there() -> None:
    """Raises `DistillError` where the package is missing: before the training, not in it."""
    if find_spec("tensorboard") is None:
        raise DistillError("--tensorboard needs a package that is not here: pip install 'transferset[tensorboard]'")


class Board:
    """Called with a line, adds its numbers; what it wrote before for that step and later ones no longer counts.

    So a resumed run's curves go on where its checkpoint was, whatever a killed one had written beyond.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, line: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:  # at the first line, for its step is what tells
            self._writer = SummaryWriter(str(self._folder), purge_step=line["step"], flush_secs=10)
        for name, value in numbers(line).items():
            self._writer.add_scalar(name, value, line["step"])
