"""Write a manifest: schema-checked, rows in key order, provenance in the footer, atomic, the same bytes every time."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.commit import FileFacts, HashingFile, atomic_file
from manifests.errors import SchemaMismatch
from manifests.provenance import Provenance
from manifests.schema import Table

ROW_GROUP = 1 << 17  # rows; DuckDB parallelises over row groups and likes about 100k


def write_manifest(
    folder: Path,
    table: Table,
    rows: pa.Table,
    *,
    provenance: Provenance,
    sizes: Mapping[str, int] | None = None,
    name: str | None = None,
) -> FileFacts:
    """Write ``rows`` as ``folder/name`` (default: the table's own file name) and return what a commit record says.

    Rows are put in key order (shards keep theirs: it is the reading order); columns are put in the schema's order and
    cast to it; columns that it lacks are left out. ``sizes`` gives the length of vector columns. Every page has a
    checksum, which `read_manifest` and `run_query` check.

    Raises `SchemaMismatch` for rows that do not fit: a column missing, of another type, NULL where none may be, or NaN,
    which would poison the statistics that filters skip by (NULL is the word for no number).
    """
    with manifest_writer(folder, table, provenance=provenance, sizes=sizes, name=name) as writer:
        writer.write(rows.sort_by("key") if "key" in rows.column_names else rows)
    return writer.facts


@contextlib.contextmanager
def manifest_writer(
    folder: Path,
    table: Table,
    *,
    provenance: Provenance,
    sizes: Mapping[str, int] | None = None,
    name: str | None = None,
) -> Iterator["ManifestWriter"]:
    """Write a manifest piece by piece, in memory that does not grow: as `write_manifest`, for rows in key order.

    The bytes do not depend on how the rows are cut into pieces. ``facts`` is there once the block is left.
    """
    name = name or table.file
    with atomic_file(folder / name) as file:
        writer = ManifestWriter(file, table, provenance=provenance, sizes=sizes)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise
    writer.facts = FileFacts(name=name, bytes=file.bytes, sha256=file.sha256, rows=writer.rows)


class ManifestWriter:
    """A manifest that is being written, in row groups of ROW_GROUP; see `manifest_writer`."""

    facts: FileFacts

    def __init__(
        self, file: HashingFile, table: Table, *, provenance: Provenance, sizes: Mapping[str, int] | None
    ) -> None:
        self._what = f"rows for {table.file}"
        self._plain, self._schema = table.plain_schema(sizes), table.arrow_schema(sizes)
        self._parquet = pq.ParquetWriter(
            file,
            self._schema.with_metadata(provenance.footer()),
            compression="zstd",
            use_dictionary=[f.name for f in self._schema if _repeats(f.type)],
            write_page_checksum=True,
        )
        self._waiting = self._plain.empty_table()
        self._last: str | None = None  # key of the last row
        self.rows = 0

    def write(self, rows: pa.Table) -> None:
        """Add rows, whose keys never descend and follow those before."""
        rows = _fitted(rows, self._plain, what=self._what)
        self._check_order(rows)
        self.rows += rows.num_rows
        waiting = pa.concat_tables([self._waiting, rows])
        whole = len(waiting) - len(waiting) % ROW_GROUP
        for start in range(0, whole, ROW_GROUP):
            self._write_group(waiting.slice(start, ROW_GROUP))
        self._waiting = waiting.slice(whole)

    def close(self) -> None:
        """Write what is left, and the footer."""
        if len(self._waiting) or not self.rows:
            self._write_group(self._waiting)
        self._parquet.close()

    def abandon(self) -> None:
        """Let go of the file, which is about to be removed; pyarrow would write its footer when collected."""
        self._parquet.is_open = False

    def _write_group(self, rows: pa.Table) -> None:
        # Words are numbered in the order of the group's own rows.
        self._parquet.write_table(rows.combine_chunks().cast(self._schema), row_group_size=ROW_GROUP)

    def _check_order(self, rows: pa.Table) -> None:
        if "key" not in rows.column_names or not len(rows):
            return
        keys = rows["key"].combine_chunks()
        first, self._last, before = keys[0].as_py(), keys[-1].as_py(), self._last
        ascending = pc.all(pc.less_equal(keys[:-1], keys[1:]), min_count=0).as_py()
        if not ascending or (before is not None and before > first):
            raise SchemaMismatch(f"{self._what} are not in key order (near {first})")


def _repeats(kind: pa.DataType) -> bool:
    """Whether values of a column come again and again: words and small numbers do, keys, hashes and scores do not."""
    return bool(pa.types.is_dictionary(kind) or pa.types.is_integer(kind))


def _fitted(rows: pa.Table, schema: pa.Schema, *, what: str) -> pa.Table:
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        raise SchemaMismatch(f"{what} lack the column(s) {', '.join(missing)}, have {', '.join(rows.column_names)}")
    try:
        rows = rows.select(schema.names).cast(schema)
    except (ValueError, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(f"{what} do not fit the schema: {error}") from error
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
            raise SchemaMismatch(f"{what} have NaN in {name}; write NULL, and say why in the status")
    return rows
