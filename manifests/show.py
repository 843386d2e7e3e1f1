"""What one manifest file is: rows, bytes, and the provenance in its footer."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.read import read_provenance


def describe(path: Path, view: str) -> dict[str, Any]:
    """Facts of one manifest file, as JSON-ready values."""
    made = read_provenance(path)
    return {
        "view": view,
        "file": str(path),
        "rows": pq.read_metadata(path).num_rows,
        "bytes": path.stat().st_size,
        "step": made.step,
        "config": dict(made.config),
        "teacher": dict(made.teacher) if made.teacher else None,
        "transform": made.transform,
        "parents": dict(made.parents),
        "schema_version": made.schema_version,
        "tool_version": made.tool_version,
    }
