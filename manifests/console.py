"""What the four commands share at the terminal: running an app, notes, tables, JSON, progress."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import typer

from manifests.errors import TransfersetError

INTERRUPTED = 130


def new_app(help: str) -> typer.Typer:
    """A typer app as all four commands want it."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer, name: str) -> None:
    """Run an app as the process: a user's error is one or two lines on stderr and its exit code, never a traceback."""
    try:
        app(prog_name=name)
    except TransfersetError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; what was committed is kept, run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe (such as `head`) has gone
        sys.stderr.close()
        sys.exit(0)


def note(message: str) -> None:
    """One line for the person at the terminal; on stderr, so that stdout stays data."""
    print(message, file=sys.stderr)


def emit_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """The one JSON document on stdout."""
    print(json.dumps(document, indent=1, ensure_ascii=False, default=str))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; numbers right-aligned and rounded to 4 significant decimals, NULL as an empty cell."""
    from rich.console import Console  # here: `--help` need not pay for rich's tables
    from rich.table import Table
    from rich.text import Text

    numeric = [all(isinstance(row[i], int | float | None) for row in rows) and bool(rows) for i in range(len(header))]
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name, right in zip(header, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:  # a pipe has no width: fold nothing
        console = Console(width=max(console.width, 20 + sum(_width(header, rows))))
    console.print(table)


def _width(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
    return [max(len(_cell(v)) for v in (h, *(r[i] for r in rows))) + 2 for i, h in enumerate(header)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@contextlib.contextmanager
def progress(label: str, total: int, *, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left, on stderr; silent when stderr is no terminal.

    Yields ``advance(n)``.
    """
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, rate="")

        def advance(n: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=n, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield advance
