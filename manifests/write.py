"""Write a manifest: schema-checked, rows in key order, provenance in the footer, atomic, the same bytes every time."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.commit import FileFacts, atomic_file
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

    Rows are put in key order (shards keep theirs: it is the reading order); columns are cast to the schema.
    ``sizes`` gives the length of vector columns.
    """
    schema = table.arrow_schema(sizes)
    rows = rows.select(schema.names)
    if "key" in schema.names:
        rows = rows.sort_by("key")
    rows = rows.cast(schema).replace_schema_metadata(provenance.footer())
    name = name or table.file
    with atomic_file(folder / name) as file:
        pq.write_table(rows, file, row_group_size=ROW_GROUP, compression="zstd", store_schema=True)
    return FileFacts(name=name, bytes=file.bytes, sha256=file.sha256, rows=rows.num_rows)
