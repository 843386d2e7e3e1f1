"""Read a manifest back: whole, checked against the schema, with its provenance."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import IntegrityError, ManifestError, SchemaMismatch
from manifests.provenance import Provenance
from manifests.schema import Table


def read_provenance(path: Path) -> Provenance:
    """The footer's facts; raises `SchemaMismatch` for a foreign file, `IntegrityError` for a damaged one."""
    return Provenance.from_footer(_open(path).schema_arrow.metadata, where=str(path))


def read_manifest(folder: Path, table: Table, *, columns: list[str] | None = None, name: str | None = None) -> pa.Table:
    """Read ``folder/name`` (default: the table's own file), all columns or some, refusing another schema."""
    path = folder / (name or table.file)
    file = _open_table(path, table)
    with _damage_named(path):
        return file.read(columns=columns)


def read_batches(folder: Path, table: Table, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a manifest piece by piece, in memory that does not grow; as `read_manifest`."""
    path = folder / table.file
    file = _open_table(path, table)
    with _damage_named(path):
        yield from file.iter_batches(columns=columns)


def read_rows(folder: Path, table: Table, keys: NDArray[np.bytes_], *, columns: list[str] | None = None) -> pa.Table:
    """The rows of some ``keys``, which ascend, piece by piece; `IntegrityError` if one is not there."""
    found, taken = [], 0
    wanted = None if columns is None else [*dict.fromkeys(("key", *columns))]
    for batch in read_batches(folder, table, columns=wanted):
        own = np.array(batch["key"].to_pylist(), dtype=keys.dtype)
        end = taken + int(np.searchsorted(keys[taken:], own[-1], side="right"))
        where = np.searchsorted(own, keys[taken:end])
        if not np.array_equal(own[where], keys[taken:end]):
            break
        found.append(batch.take(pa.array(where)))
        taken = end
    if taken < len(keys):
        raise IntegrityError(f"{folder / table.file} lacks the row of {keys[taken].decode()}, and maybe others")
    rows = pa.Table.from_batches(found) if found else read_manifest(folder, table, columns=wanted)
    return rows if columns is None else rows.select(columns)


def _open_table(path: Path, table: Table) -> pq.ParquetFile:
    file = _open(path)
    Provenance.from_footer(file.schema_arrow.metadata, where=str(path))
    missing = [c.name for c in table.columns if c.name not in file.schema_arrow.names]
    if missing:
        raise SchemaMismatch(f"{path} lacks the column(s) {', '.join(missing)} of a {table.name} manifest")
    return file


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():  # a pipe would be waited for
        raise ManifestError(f"{path} does not exist; expected a manifest there")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)  # else all of it is held
        file.schema_arrow.names  # noqa: B018  # decoded here, if they can be
        return file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is damaged or no Parquet file: {str(error).splitlines()[0]}") from error
