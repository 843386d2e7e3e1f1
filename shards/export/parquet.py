"""Parquet as Hugging Face lays it out: `data/SPLIT-00000-of-00003.parquet`, images as files, labels as a ClassLabel.

`datasets.load_dataset(FOLDER)` reads it, as does everything that reads Parquet.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.commit import FileFacts, atomic_file
from shards.export.piece import Piece

GROUP = 256
"""rows that are read at once: readers that want a few rows read a whole group"""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(out: Path, piece: Piece) -> list[FileFacts]:
    """One file of a split."""
    name = f"data/{piece.split}-{piece.number:05d}-of-{piece.of:05d}.parquet"
    images = [{"bytes": s.data, "path": f"{s.key}.{piece.extension}"} for s in piece.samples]
    columns = {"image": pa.array(images, _IMAGE), "label": pa.array([s.number for s in piece.samples], pa.int64())}
    columns |= {f.name: pa.array([s.facts[f.name] for s in piece.samples], f.type) for f in piece.schema}
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": _label(piece)}
    features |= {f.name: {"dtype": _dtype(f.type), "_type": "Value"} for f in piece.schema}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns).replace_schema_metadata(meta)
    words = [field.name for field in piece.schema if pa.types.is_string(field.type)]
    with atomic_file(out / name) as file:
        pq.write_table(
            table, file, row_group_size=GROUP, compression="zstd", use_dictionary=words, write_page_checksum=True
        )
    return [FileFacts(name=name, bytes=file.bytes, sha256=file.sha256, rows=len(table))]


def _label(piece: Piece) -> dict[str, Any]:
    return (
        {"names": list(piece.classes), "_type": "ClassLabel"} if piece.classes else {"dtype": "int64", "_type": "Value"}
    )


def _dtype(kind: pa.DataType) -> str:
    """Hugging Face's word for a type."""
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
