"""SQL over manifests: the views of a folder, and a guarded DuckDB connection for queries that users type.

The guard is a rail against accidents, not a wall between tenants: one SELECT statement, no files beyond the
registered tables, a locked configuration, limits on time, memory and rows.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from manifests.errors import IntegrityError, ManifestError, QueryRefused
from manifests.schema import TABLES

SEARCH_DEPTH = 3  # a work folder holds stores/<name>/samples.parquet: two levels down, and one to spare
MEMORY_LIMIT = "4GB"


def find_manifests(folder: Path) -> dict[str, list[Path]]:
    """View name -> manifest files of ``folder``, or of the folders below it when it holds none itself.

    Raises `ManifestError` when there is no manifest at all.
    """
    for depth in range(SEARCH_DEPTH + 1):
        pattern = "*/" * depth
        found = {name: sorted(folder.glob(f"{pattern}{table.file}")) for name, table in TABLES.items()}
        if any(found.values()):
            return {name: paths for name, paths in found.items() if paths}
    raise ManifestError(
        f"{folder} holds no manifests ({', '.join(t.file for t in TABLES.values())}); "
        f"give a store, a scores folder or a transfer set, or make one with `curate select`"
    )


@contextlib.contextmanager
def open_views(views: Mapping[str, list[Path]]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A locked-down connection on which only ``views`` can be read; several files of a view gain a `folder` column."""
    with contextlib.closing(duckdb.connect(config={"python_enable_replacements": False})) as connection:
        for name, paths in views.items():
            _register(connection, name, paths)
        for setting in (
            "SET enable_external_access=false",
            "SET allow_community_extensions=false",
            f"SET memory_limit='{MEMORY_LIMIT}'",
            "SET lock_configuration=true",
        ):
            connection.execute(setting).fetchall()  # an unread result would lock the connection
        yield connection


def _register(connection: duckdb.DuckDBPyConnection, name: str, paths: list[Path]) -> None:
    parts = []
    for number, path in enumerate(paths):
        source = name if len(paths) == 1 else f"{name}__{number}"
        try:
            connection.register(source, pads.dataset(path, format="parquet"))
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{path} is damaged or no Parquet file: {str(error).splitlines()[0]}") from error
        folder = path.parent.name.replace("'", "''")
        parts.append(f"SELECT *, '{folder}' AS folder FROM {source}")
    if len(paths) > 1:
        connection.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(parts)}").fetchall()


def run_query(sql: str, folder: Path, *, timeout_s: float = 60.0, max_rows: int = 100_000) -> pa.Table:
    """Run one SELECT over the manifests of ``folder`` and return its rows.

    Raises `QueryRefused` for anything but a single SELECT, for SQL that DuckDB cannot run, for one that takes longer
    than ``timeout_s`` seconds, and for a result of more than ``max_rows`` rows (nothing is cut in silence).
    """
    views = find_manifests(folder)
    with open_views(views) as connection:
        statement = _only_select(connection, sql)
        timer = threading.Timer(timeout_s, connection.interrupt)
        timer.start()
        try:
            return _fetch(connection.execute(statement), max_rows)
        except duckdb.InterruptException:
            raise QueryRefused(f"the query ran longer than {timeout_s:g} s; narrow it, or raise --timeout") from None
        except duckdb.Error as error:
            raise QueryRefused(_explain(error, views, folder)) from None
        finally:
            timer.cancel()


def _only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryRefused(f"SQL not understood: {_first_line(error)}") from None
    if len(statements) != 1:
        raise QueryRefused(f"expected one SELECT statement, got {len(statements)} statements")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryRefused(f"only SELECT is allowed here, this is {kind.name}: manifests are read, never changed")
    return statements[0]


def _fetch(result: duckdb.DuckDBPyConnection, max_rows: int) -> pa.Table:
    reader = result.to_arrow_reader(min(max_rows, 100_000) + 1)
    batches, rows = [], 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        if rows > max_rows:
            raise QueryRefused(f"the result has more than {max_rows:,} rows; add a LIMIT, or raise --max-rows")
    return pa.Table.from_batches(batches, schema=reader.schema)


def _explain(error: duckdb.Error, views: Mapping[str, list[Path]], folder: Path) -> str:
    message = _first_line(error)
    here = f"{folder} has the views {', '.join(sorted(views))}"
    if isinstance(error, duckdb.PermissionException):
        return f"{message}; a query reads only the registered views ({', '.join(sorted(views))})"
    lacking = [t for t in TABLES if t not in views and f"name {t} does not exist" in message]
    if lacking:
        return f"{folder} holds no {lacking[0]} manifest; {here}"
    return f"{message}; {here}" if isinstance(error, duckdb.CatalogException) else message


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("LINE")]
    return " ".join(lines[:2]) if lines else type(error).__name__
