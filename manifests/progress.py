"""Progress of long work: what library functions report to, silent unless a command hands them a bar."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[int], None]
"""told of every n items done"""


def nothing(n: int) -> None:
    """An `Advance` that tells nobody."""


class Progress(Protocol):
    """Opens the progress of one piece of work: `with progress("score", 16_080) as advance: advance(256)`."""

    def __call__(self, label: str, total: int, *, unit: str = "images") -> contextlib.AbstractContextManager[Advance]:
        """Begin work of ``total`` items, named for a person."""


@contextlib.contextmanager
def silent(label: str, total: int, *, unit: str = "images") -> Iterator[Advance]:  # noqa: ARG001  # says nothing
    """No progress shown: what library functions do unless asked."""
    yield nothing


@contextlib.contextmanager
def bar(label: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
    """A bar with rate and time left, on stderr; silent when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield nothing
        return
    from rich.console import Console  # here: library users need not load it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=total, rate="")

        def advance(n: int) -> None:
            speed = shown.tasks[0].speed
            shown.update(task, advance=n, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield advance
