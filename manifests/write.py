"""Write a manifest: schema-checked, rows in key order, provenance in the footer, atomic, the same bytes every time."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.commit import FileFacts, atomic_file
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
    rows = _fitted(rows, table.plain_schema(sizes), what=f"rows for {table.file}")
    if "key" in rows.column_names:
        rows = rows.sort_by("key")
    rows = rows.combine_chunks().cast(table.arrow_schema(sizes))  # words are numbered in the order of the rows
    name = name or table.file
    with atomic_file(folder / name) as file:
        pq.write_table(
            rows.replace_schema_metadata(provenance.footer()),
            file,
            row_group_size=ROW_GROUP,
            compression="zstd",
            write_page_checksum=True,
        )
    return FileFacts(name=name, bytes=file.bytes, sha256=file.sha256, rows=rows.num_rows)


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
