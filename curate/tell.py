"""What the commands of `curate` say: tables, lines, notes, and the exit code when too much could not be used."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from manifests.console import emit_json, note, print_table

if TYPE_CHECKING:
    from curate.ingest import IngestResult
    from curate.run import Curated

WRONG_USAGE = 2
"""exit code: what was asked would be refused"""
TOO_BAD = 3
"""exit code: done, but more samples were quarantined than --max-bad allows, or some could not be read"""


def table(documents: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Documents as rows."""
    print_table([c.replace("_", " ") for c in columns], [[d[c] for c in columns] for d in documents])


def tell_selection(result: "Curated", out: Path, *, json: bool) -> None:
    """What was done, as JSON or as a table and a line."""
    from curate.selection import COUNTS, notes

    document = result.folder.document
    work = {"decoded": result.decoded, "teacher_forwards": result.forwards, "shards_written": result.shards_written}
    if result.moved:
        note(f"the old {out} is now {result.moved}")
    said = [*([result.unread] if result.unread else []), *notes(document)]
    for line in said:
        note(line)
    if json:
        keys = ("id", "counts", "corpora", "rows", "class_histogram", "reasons", "filters", "rule", "teacher", "plan")
        views = document.get("views")
        emit_json({"out": str(out), **{key: document[key] for key in keys}, "views": views, **work, "notes": said})
        return
    table([*document["corpora"], {"corpus": "all", **document["counts"]}], ["corpus", *COUNTS])
    done = "; ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in work.items())
    print(f"{out}: {result.folder.rows():,} images, id {result.folder.id} ({done})")


def _whole(size: float | None) -> int | None:
    """An estimate without decimals that it does not have."""
    return None if size is None else math.ceil(size)


def tell_forecast(steps: Sequence[Mapping[str, Any]], *, json: bool) -> None:
    """What a selection would do; exits as the run would if that would be refused."""
    from curate.forecast import REFUSED

    if json:
        emit_json(list(steps))
    else:
        sizes = ("reads_MB", "writes_MB")
        rows = [{**step, **{name: _whole(step[name]) for name in sizes}} for step in steps]
        rows = [{**row, "state": row["state"].partition(":")[0]} for row in rows]
        table(rows, ["step", "what", "state", "images", *sizes])
    refused = [step["state"] for step in steps if step["state"].startswith(REFUSED)]
    if refused:
        note(f"curate: {refused[0]}")
        raise typer.Exit(WRONG_USAGE)


def tell_modes(*, json: bool) -> None:
    """The selection rules."""
    import importlib

    from curate.select import SELECTORS

    rows = []
    for name, rule in SELECTORS.items():
        module = importlib.import_module(f"curate.select.{name.replace('-', '_')}")
        what = str(module.__doc__).splitlines()[0].partition(": ")[2].rstrip(".")
        rows.append({"mode": name, "what": what, "source": rule.source})
    if json:
        emit_json(rows)
    else:
        table(rows, ["mode", "what", "source"])


def check_unread(results: Sequence["IngestResult"]) -> None:
    """Exit with TOO_BAD, and say why, if some samples could not be read."""
    from curate.ingest import unread

    message = unread(results)
    if message:
        note(f"curate: {message}")
        raise typer.Exit(TOO_BAD)


def check_bad(seen: int, usable: int, max_bad: float, *, where: Path) -> None:
    """Exit with TOO_BAD, and say how to see why, if too many samples could not be used."""
    if seen - usable > max_bad * seen:
        note(
            f"curate: {seen - usable:,} of {seen:,} samples could not be used, more than --max-bad {max_bad:g} allows;"
        )
        note(f'see which: manifests sql "SELECT corpus, uri, error FROM samples WHERE error IS NOT NULL" {where}')
        raise typer.Exit(TOO_BAD)
