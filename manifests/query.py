"""SQL over manifests: the views of a folder, and a guarded DuckDB connection for queries that users type.

The guard is a rail against accidents, not a wall between tenants: one SELECT statement, no files beyond the
registered tables, a locked configuration, limits on time, memory and rows.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs
import pyarrow.parquet as pq

from manifests.errors import IntegrityError, ManifestError, QueryRefused
from manifests.schema import SELECTION, TABLES

SEARCH_DEPTH = 3  # a work folder holds stores/<name>/samples.parquet: two levels down, and one to spare
LOCKED: dict[str, str | int | float | list[str]] = {
    "python_enable_replacements": False,  # a table is never a Python variable
    "enable_external_access": False,
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": "4GB",
    "lock_configuration": True,
}
PARQUET = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def find_manifests(folder: Path) -> dict[str, list[Path]]:
    """View name -> manifest files of ``folder``, or of the folders below it when it holds none itself.

    Raises `ManifestError` when there is no manifest at all.
    """
    for depth in range(SEARCH_DEPTH + 1):
        pattern = "*/" * depth
        found = {name: sorted(folder.glob(f"{pattern}{table.file}")) for name, table in TABLES.items()}
        if any(found.values()):
            return {name: _originals(paths) for name, paths in found.items() if paths}
    raise ManifestError(
        f"{folder} holds no manifests ({', '.join(t.file for t in TABLES.values())}); "
        f"give a store, a scores folder or a transfer set, or make one with `curate select`"
    )


def _originals(paths: list[Path]) -> list[Path]:
    """Of a work folder the stores and scores, not the copies that its selections hold; else no row came once."""
    return [path for path in paths if not (path.parent / SELECTION.file).exists()] or paths


@contextlib.contextmanager
def open_views(views: Mapping[str, Sequence[Path]], folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A locked-down connection on which only ``views`` can be read, as `find_manifests` found them in ``folder``.

    Manifests of folders below it gain a column `folder`: the path from ``folder`` to each.
    """
    with (
        tempfile.TemporaryDirectory(prefix="manifests-") as spill,  # DuckDB's own choice is the working folder
        contextlib.closing(duckdb.connect(config={**LOCKED, "temp_directory": spill})) as connection,
    ):
        for name, paths in views.items():
            connection.register(name, _dataset(paths, folder))
        yield connection


def _dataset(paths: Sequence[Path], folder: Path) -> pads.Dataset:
    """One table of several files; where they differ, columns are matched by name and missing ones are NULL."""
    local = pyarrow.fs.LocalFileSystem()
    fragments, schemas = [], []
    for path in paths:
        below = path.parent.relative_to(folder).as_posix()
        origin = None if below == "." else pc.field("folder") == below
        fragment = PARQUET.make_fragment(str(path), local, origin)
        try:
            schemas.append(_lists_of_any_length(fragment.physical_schema))
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{path} is damaged or no Parquet file: {error_words(error)}") from error
        if origin is not None:
            schemas.append(pa.schema([("folder", pa.string())]))
        fragments.append(fragment)
    return pads.FileSystemDataset(fragments, pa.unify_schemas(schemas), PARQUET, local)


def _lists_of_any_length(schema: pa.Schema) -> pa.Schema:
    """So that the features of two teachers are one column."""
    fixed = pa.types.is_fixed_size_list
    return pa.schema([f.with_type(pa.list_(f.type.value_type)) if fixed(f.type) else f for f in schema])


def run_query(sql: str, folder: Path, *, timeout_s: float = 60.0, max_rows: int = 100_000) -> pa.Table:
    """Run one SELECT over the manifests of ``folder`` and return its rows.

    Column names are made unique (`status`, `status_1`); DECIMAL and HUGEINT, which sums of integers are, come as
    int64 or float64.

    Raises `QueryRefused` for anything but a single SELECT, for SQL that DuckDB cannot run, for one that takes longer
    than ``timeout_s`` seconds, and for a result of more than ``max_rows`` rows (nothing is cut in silence);
    `IntegrityError` for a damaged manifest.
    """
    views = find_manifests(folder)
    with open_views(views, folder) as connection:
        statement = _only_select(connection, sql)
        try:
            return _within(timeout_s, connection, lambda: _fetch(connection.sql(statement), max_rows))
        except (duckdb.Error, pa.ArrowException, OSError) as error:  # the last two: while rows stream
            if "INTERRUPT Error" in str(error):
                message = f"the query ran longer than {timeout_s:g} s; narrow it, or raise --timeout"
                raise QueryRefused(message) from None
            if "stream registered as" in str(error):  # a file that cannot be read; which one, it does not say
                _check_readable(views)
            raise QueryRefused(_explain(error, views, folder)) from None


def _only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryRefused(f"SQL not understood: {error_words(error)}") from None
    if len(statements) != 1:
        raise QueryRefused(f"expected one SELECT statement, got {len(statements)} statements")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        name = "a PIVOT without IN (values)" if kind == duckdb.StatementType.MULTI else kind.name
        raise QueryRefused(f"only SELECT is allowed here, this is {name}: manifests are read, never changed")
    return statements[0]


def _within(seconds: float, connection: duckdb.DuckDBPyConnection, work: Callable[[], pa.Table]) -> pa.Table:
    """What ``work`` returns; interrupted after ``seconds`` or by Ctrl-C, to which DuckDB itself is deaf for long."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        try:
            wait([running], timeout=seconds)
        finally:
            while not running.done():  # again and again: an interrupt before the query begins is lost
                connection.interrupt()
                wait([running], timeout=0.1)
        return running.result()


def _fetch(result: duckdb.DuckDBPyRelation, max_rows: int) -> pa.Table:
    reader = result.to_arrow_reader(min(max_rows, 100_000) + 1)
    batches, rows = [], 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        if rows > max_rows:
            raise QueryRefused(f"the result has more than {max_rows:,} rows; add a LIMIT, or raise --max-rows")
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return pa.table([_plain(column) for column in table.columns], names=_unique(table.column_names))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_decimal(column.type):
        return column
    try:
        return column.cast(pa.int64() if column.type.scale == 0 else pa.float64())
    except pa.ArrowInvalid:  # beyond 64 bits
        return column


def _unique(names: Sequence[str]) -> list[str]:
    unique: list[str] = []
    for name in names:
        free, number = name, 0
        while free in unique:
            number += 1
            free = f"{name}_{number}"
        unique.append(free)
    return unique


def _check_readable(views: Mapping[str, Sequence[Path]]) -> None:
    """Read everything; raises `IntegrityError` naming the first damaged file."""
    for path in (path for paths in views.values() for path in paths):
        try:
            for _ in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
                pass
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{path} is damaged: {error_words(error)}") from error


def _explain(error: Exception, views: Mapping[str, Sequence[Path]], folder: Path) -> str:
    if "Out of Memory Error" in str(error):
        return f"the query needs more memory than {LOCKED['memory_limit']}; narrow it, such as by fewer columns"
    message, known = error_words(error), ", ".join(sorted(views))
    if isinstance(error, duckdb.PermissionException):
        return f"{message}; a query reads only the registered views ({known})"
    if "Table with name" not in message:
        return message
    lacking = [t for t in TABLES if f"name {t} does not exist" in message]
    what = f"{folder} holds no {lacking[0]} manifest" if lacking else re.sub("!( Did you mean .*)?$", "", message)
    return f"{what}; views of {folder}: {known}"


def error_words(error: Exception) -> str:
    """What an error says, in one line, without its kind and the line of SQL that it points at."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^") and not line.startswith("LINE")]
    return re.sub(r"^[A-Z]\w*( \w+)* Error: ", "", " ".join(lines[:2])) or type(error).__name__
