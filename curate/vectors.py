"""Vectors from wherever they lie: features or logits of a transfer set or a scores folder, or of a file of one's own.

What lies beside them comes along: keys, the teacher that made them, and the shards that hold the pictures.
"""

import contextlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.corpora.base import split_options
from curate.errors import DistanceError
from manifests.errors import IntegrityError, TransfersetError
from manifests.provenance import Provenance
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.index import read_document

Kind = Literal["features", "logits"]
Rows = NDArray[np.floating[Any]]

EXPECTED = "a transfer set, a scores folder of `curate score`, or a .npy, .npz or .parquet file"
PLACE = ("shard", "block", "row")
BATCH = 8192  # Parquet rows in memory beside the result


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Who a row is, as far as it is known."""

    row: int
    """of the vectors, from 0"""
    key: str | None = None
    corpus: str | None = None
    uri: str | None = None
    place: tuple[int, int, int] | None = None
    """shard, block and row of its pixels in the home's shards"""

    def __str__(self) -> str:
        return f"{self.corpus}/{self.uri}" if self.uri is not None else self.key or f"row {self.row:,}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """A set of vectors, and what is known of their samples."""

    name: str
    """as the user called it"""
    rows_ND: Rows
    """C-contiguous; float32, or float64 where float32 cannot hold the file's numbers"""
    keys: pa.ChunkedArray | None = None
    """of each row; None where the file has none"""
    left_out: int = 0
    """rows of ours that are not finite: `curate score` gave them the status nonfinite"""
    teacher: Mapping[str, str] | None = None
    """name and sha256 of the teacher that made them, where the file tells it"""
    home: Path | None = None
    """the transfer set or store that holds the samples and their pixels, where it is there"""

    def samples(self, rows: Sequence[int]) -> list[Sample]:
        """What is known of some rows, by their keys, in the home's samples manifest."""
        if self.keys is None:
            return [Sample(row=row) for row in rows]
        keys = [self.keys[row].as_py() for row in rows]
        known: dict[str, dict[str, Any]] = {}
        if self.home is not None:
            table = read_manifest(self.home, SAMPLES, columns=["key", "corpus", "uri", *PLACE])
            table = table.filter(pc.is_in(table["key"], value_set=pa.array(keys, pa.string())))
            known = {sample["key"]: sample for sample in table.to_pylist()}
        return [_sample(row, key, known.get(key)) for row, key in zip(rows, keys, strict=True)]


def _sample(row: int, key: str, known: Mapping[str, Any] | None) -> Sample:
    if known is None:
        return Sample(row=row, key=key)
    shard, block, within = (known[column] for column in PLACE)
    place = None if shard is None else (shard, block, within)
    return Sample(row=row, key=key, corpus=known["corpus"], uri=known["uri"], place=place)


def open_vectors(path: Path | str, kind: Kind) -> Vectors:
    """Read the vectors at ``path``: a folder of ours, or a `.npy`, `.npz` (also `FILE.npz?key=NAME`) or Parquet file.

    A Parquet file has a column ``kind`` of lists of one length, and perhaps a column `key`. Rows of ours that are not
    finite are left out and counted. Raises `DistanceError` for what holds no such vectors, `IntegrityError` for a
    damaged Parquet file.
    """
    name = str(path)
    place, options = split_options("npz", name, {"key"})
    file = Path(place).expanduser()
    if options and file.suffix != ".npz":
        raise DistanceError(f"{name}: only a .npz file takes ?key=NAME")
    if file.is_dir():
        return _parquet(name, _in_folder(file, kind), kind)
    if not file.exists():
        raise DistanceError(f"no such file or folder: {name}; expected {EXPECTED}")
    if file.suffix == ".parquet":
        return _parquet(name, file, kind)
    if file.suffix in {".npy", ".npz"}:
        return Vectors(name=name, rows_ND=_numpy(name, file, options.get("key"), kind))
    raise DistanceError(f"{name} is neither .npy, .npz nor .parquet; expected {EXPECTED}")


def check_same_teacher(a: Vectors, b: Vectors) -> None:
    """Refuse vectors that two teachers made (`DistanceError`): between their spaces there is no distance."""
    if a.teacher and b.teacher and a.teacher["sha256"] != b.teacher["sha256"]:
        raise DistanceError(
            f"{a.name} was scored by the teacher {a.teacher['name']}, {b.name} by {b.teacher['name']}: "
            "distances between their vectors mean nothing; score both with one teacher"
        )


def _in_folder(folder: Path, kind: Kind) -> Path:
    file = folder / f"{kind}.parquet"
    if file.exists():
        return file
    other = "logits" if kind == "features" else "features"
    if (folder / f"{other}.parquet").exists():
        raise DistanceError(
            f"{folder} holds {other} and no {kind}.parquet; ask for --on {other}, or make it again with this release"
        )
    raise DistanceError(f"{folder} holds no {kind}.parquet; expected {EXPECTED}")


def _numpy(name: str, file: Path, key: str | None, kind: Kind) -> Rows:
    """The array of a .npy file, or the one of a .npz file: by its key, by what it is called, or as the only one."""
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return _floats(name, loaded)
        with loaded:
            wanted = key or (kind if kind in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None)
            if wanted in loaded.files:
                return _floats(name, loaded[wanted])
            names = ", ".join(loaded.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DistanceError(f"{name} cannot be read as numbers: {str(error).splitlines()[0]}") from None
    raise DistanceError(
        f"{name} holds the arrays {names}" + (f" and no {key!r}" if key else "") + "; name one with ?key=NAME"
    )


def _floats(name: str, array: NDArray[Any]) -> Rows:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DistanceError(
            f"{name}: {array.dtype} of shape {array.shape}; expected numbers, a row for each sample (N, D)"
        )
    return np.array(array, dtype=_float_type(array.dtype), order="C")


def _float_type(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    return np.float32 if np.can_cast(dtype, np.float32) else np.float64


def _parquet(name: str, path: Path, kind: Kind) -> Vectors:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            footer = file.schema_arrow.metadata or {}
            made = Provenance.from_footer(footer, where=str(path)) if b"transferset" in footer else None
            rows_ND, keys = _batches(name, file, kind, only_finite=made is not None)
            total = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is damaged or no Parquet file: {str(error).splitlines()[0]}") from None
    return Vectors(
        name=name,
        rows_ND=rows_ND,
        keys=keys,
        left_out=total - len(rows_ND),
        teacher=made.teacher if made else None,
        home=_home(path.parent, made) if made else None,
    )


def _batches(name: str, file: pq.ParquetFile, kind: Kind, *, only_finite: bool) -> tuple[Rows, pa.ChunkedArray | None]:
    """The column as an array, filled batch by batch, and the keys; ``only_finite`` leaves out the other rows."""
    schema = file.schema_arrow
    if kind not in schema.names:
        raise DistanceError(f"{name} has no column {kind!r}, only {', '.join(schema.names)}")
    form = schema.field(kind).type
    if not (_is_list(form) and (pa.types.is_floating(form.value_type) or pa.types.is_integer(form.value_type))):
        raise DistanceError(f"{name}: the column {kind!r} holds {form}; expected lists of numbers, of one length")
    has_keys = "key" in schema.names and pa.types.is_string(schema.field("key").type)
    dtype = _float_type(np.dtype(form.value_type.to_pandas_dtype()))
    rows_ND, keys, end = np.empty((file.metadata.num_rows, 0), dtype), [], 0
    for batch in file.iter_batches(batch_size=BATCH, columns=[kind, *(["key"] if has_keys else [])]):
        rows_BD = _rows(name, batch.column(kind), kind)
        if not end and not rows_ND.shape[1]:
            rows_ND = np.empty((len(rows_ND), rows_BD.shape[1]), dtype)
        if rows_BD.shape[1] != rows_ND.shape[1]:
            raise DistanceError(_ragged(name, kind, {rows_ND.shape[1], rows_BD.shape[1]}))
        kept_B = np.isfinite(rows_BD).all(axis=1) if only_finite else np.ones(len(rows_BD), np.bool_)
        begin, end = end, end + int(np.count_nonzero(kept_B))
        rows_ND[begin:end] = rows_BD[kept_B]
        if has_keys:
            keys.append(batch.column("key").filter(pa.array(kept_B)))
    return rows_ND[:end], pa.chunked_array(keys, pa.string()) if has_keys else None


def _rows(name: str, column: pa.Array, kind: Kind) -> NDArray[Any]:
    """Lists of one length as an array."""
    if column.null_count:
        raise DistanceError(f"{name}: {column.null_count:,} rows without {kind}; leave them out of the file")
    lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
    if len(lengths) > 1:
        raise DistanceError(_ragged(name, kind, lengths))
    width = lengths.pop() if lengths else 0
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), width)


def _ragged(name: str, kind: Kind, lengths: set[int]) -> str:
    return f"{name}: {kind} of {' and '.join(map(str, sorted(lengths)[:2]))} numbers; expected lists of one length"


def _is_list(form: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(form) or pa.types.is_list(form) or pa.types.is_large_list(form))


def _home(folder: Path, made: Provenance) -> Path | None:
    """Where samples and pixels lie: in the transfer set itself, or in the store that was scored, in the same work."""
    stores = (folder.parent.parent / "stores").glob("*/") if "store" in made.parents else ()
    for place in (folder, *sorted(stores)):
        with contextlib.suppress(TransfersetError, OSError):
            document = read_document(place)
            if place == folder or document["id"] == made.parents["store"]:
                return place
    return None
