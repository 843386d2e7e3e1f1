"""Read a manifest back: whole, checked against the schema, with its provenance."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import IntegrityError, ManifestError, SchemaMismatch
from manifests.provenance import Provenance
from manifests.schema import Table


def read_provenance(path: Path) -> Provenance:
    """The footer's facts; raises `SchemaMismatch` for a foreign file, `IntegrityError` for a damaged one."""
    return Provenance.from_footer(_open(path).schema_arrow.metadata, where=str(path))


def read_manifest(folder: Path, table: Table, *, columns: list[str] | None = None, name: str | None = None) -> pa.Table:
    """Read ``folder/name`` (default: the table's own file), all columns or some, refusing another schema."""
    path = folder / (name or table.file)
    file = _open(path)
    Provenance.from_footer(file.schema_arrow.metadata, where=str(path))
    missing = [c.name for c in table.columns if c.name not in file.schema_arrow.names]
    if missing:
        raise SchemaMismatch(f"{path} lacks the column(s) {', '.join(missing)} of a {table.name} manifest")
    try:
        return file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ManifestError(f"{path} does not exist; expected a manifest there") from None
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is damaged or no Parquet file: {str(error).splitlines()[0]}") from error
