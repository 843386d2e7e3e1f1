"""The `manifests` command: SQL over what the other commands wrote, and what a folder is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.console import emit_json, new_app, note, print_csv, print_table, run

if TYPE_CHECKING:
    import pyarrow as pa

app = new_app("Query and show manifests: the facts about every sample, score, decision and shard.")

DEFAULT_FOLDERS = (Path(), Path("transfer-set"))


def _folder(folder: Path | None) -> Path:
    """The folder given, else the working folder, else `transfer-set` in it: the first that holds manifests itself."""
    from manifests.errors import ManifestError
    from manifests.schema import TABLES

    if folder is not None:
        if not folder.is_dir():
            raise ManifestError(f"{folder} is not a folder; give a store, a scores folder or a transfer set")
        return folder
    for candidate in DEFAULT_FOLDERS:
        if any((candidate / table.file).exists() for table in TABLES.values()):
            return candidate
    return DEFAULT_FOLDERS[0]


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views samples, scores, selection, shards, ...")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="A store, scores folder or transfer set. Default: here, else transfer-set."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as a JSON list.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the rows to this Parquet file.")] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which the query is stopped.", min=0.1, max=86_400)
    ] = 60.0,
    max_rows: Annotated[int, typer.Option(help="Refuse a result with more rows than this.", min=1)] = 100_000,
) -> None:
    """Run one SELECT statement over the manifests of a folder."""
    from manifests.errors import ManifestError
    from manifests.query import run_query
    from manifests.schema import TABLES

    if json + csv + (parquet is not None) > 1:
        raise ManifestError("--json, --csv and --parquet exclude each other; give one")
    if parquet is not None and parquet.name in {table.file for table in TABLES.values()}:
        raise ManifestError(f"{parquet} is what a manifest is called; choose another name, such as result.parquet")
    result = run_query(query, _folder(folder), timeout_s=timeout, max_rows=max_rows)
    rows = list(zip(*(column.to_pylist() for column in result.columns), strict=True))
    if json:
        emit_json([dict(zip(result.column_names, row, strict=True)) for row in rows])
    elif csv:
        print_csv(result.column_names, rows)
    elif parquet is not None:
        _write_parquet(result, parquet)
    else:
        print_table(result.column_names, rows)


def _write_parquet(rows: "pa.Table", path: Path) -> None:
    import pyarrow.parquet as pq

    from manifests.commit import atomic_file
    from manifests.errors import ManifestError

    try:
        with atomic_file(path) as file:
            pq.write_table(rows, file)
    except OSError as error:
        raise ManifestError(f"{path} cannot be written: {error.strerror}; choose another file") from None
    note(f"{rows.num_rows:,} rows written to {path}")


@app.command()
def show(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Default: here, else transfer-set.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show which manifests a folder holds, their rows, and what made them."""
    from manifests.query import find_manifests
    from manifests.show import describe

    folder = _folder(folder)
    found = find_manifests(folder)
    documents: list[dict[str, Any]] = [describe(path, view) for view, paths in found.items() for path in paths]
    if json:
        emit_json(documents)
        return
    print_table(["view", "file", "rows", "bytes", "made by", "teacher"], [_line(d, folder) for d in documents])


def _line(document: dict[str, Any], folder: Path) -> list[Any]:
    file, teacher = Path(document["file"]).relative_to(folder), document["teacher"] or {}
    return [document["view"], file, document["rows"], document["bytes"], document["step"], teacher.get("name")]


def main() -> None:
    """Entry point of the `manifests` command."""
    run(app, "manifests")
