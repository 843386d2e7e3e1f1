"""What the four commands share at the terminal: running an app, notes, tables, JSON, CSV."""

import contextlib
import csv
import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from manifests.errors import TransfersetError

INTERRUPTED = 130
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""no more room: the disk is full, the quota is used up, the file would be larger than files may be"""
REFUSED = FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
"""what a system answers that is no bug of ours, also where it does not say of which file"""


def new_app(help: str) -> typer.Typer:
    """A typer app as all four commands want it."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer, name: str) -> None:
    """Run an app as the process: a user's error is one or two lines on stderr and its exit code, never a traceback."""
    try:
        try:
            app(prog_name=name)
        finally:
            with _to_stdout():  # what was printed and is not out yet
                pass
    except TransfersetError as error:
        note(f"{name}: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno not in REFUSED:
            raise  # a bug of ours
        full = "; make room, then run the same command again: what was committed is kept"
        what = f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}"
        note(f"{name}: {what}{full if error.errno in FULL else ''}")
        sys.exit(TransfersetError.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer's answer to Ctrl-C, without a word
            note(f"{name}: interrupted; what was committed is kept, run the same command again to go on")
        raise


def note(message: str) -> None:
    """One line for the person at the terminal; on stderr, so that stdout stays data."""
    print(message, file=sys.stderr)


@contextlib.contextmanager
def _to_stdout() -> Iterator[None]:
    """Write to a reader that may leave early, such as `head`: no error, what is left goes nowhere."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python does not try again at its end
        if not isinstance(error, BrokenPipeError):
            error.filename = "stdout"
            raise


def emit_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """The one JSON document on stdout; a number that is not finite is null, since JSON has no word for it."""
    with _to_stdout():
        print(json.dumps(_finite(document), indent=1, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """CSV on stdout (RFC 4180 but for the line ends): NULL is empty, true, false, lists and structs as in JSON."""
    with _to_stdout():
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(header)
        out.writerows([json.dumps(v, default=str) if isinstance(v, bool | list | dict) else v for v in r] for r in rows)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; numbers right-aligned, with separators and 4 decimals, NULL as an empty cell.

    A row is a line; on a terminal that is too narrow for that, a value is.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    with _to_stdout():
        if sys.stdout.isatty() and sum(widths) + 2 * (len(widths) - 1) > shutil.get_terminal_size().columns:
            _print_records(header, cells)
            return
        for line in (header, *cells):
            padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
            print("  ".join(padded).rstrip())


def _print_records(header: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    width = max(map(len, header))
    for number, row in enumerate(cells):
        print(end="\n" if number else "")
        for name, cell in zip(header, row, strict=True):
            print(f"{name:<{width}}  {cell}".rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):  # a small number must not read as 0
        return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)  # from anybody's file names: no line ends, no escape sequences
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
