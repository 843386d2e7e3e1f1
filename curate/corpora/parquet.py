"""Reader of Parquet files with encoded images, in the layout that Hugging Face datasets use.

Images are a struct column with a `bytes` field (`image`, or the only such column) or a binary column `image`; labels a
column `label`, whose class names may stand in the `huggingface` footer key. Rows are read by range, a batch at a time.
Skipping rows inside a row group costs their decoding, so files with one giant row group read slowly.
"""

import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.corpora.base import (
    PART_SIZE,
    Item,
    Part,
    SourceFile,
    files_identity,
    find_files,
    is_container,
    is_pattern,
    part_name,
)
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, UnknownCorpus

_IMAGE, _LABEL, _BYTES = "image", "label", "bytes"  # names in the Hugging Face layout
_BATCH = 256  # rows in memory at once: ~30 MB of ImageNet photographs
_MIN_DIGITS = 8  # of the row number in a uri


class _Layout(NamedTuple):
    file: SourceFile
    rows: int
    column: str  # the image column
    is_struct: bool
    has_label: bool
    names: tuple[str, ...] | None  # class names of integer labels


class _Range(NamedTuple):
    file: str  # name in the corpus
    start: int  # first row
    stop: int  # one past the last row


class ParquetCorpus:
    """Images as rows of Parquet files."""

    scheme = "parquet"
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"parquet:{path}"
        self._layouts = {file.name: _layout(file) for file in find_files(path, ".parquet")}
        if not any(layout.rows for layout in self._layouts.values()):
            raise CorpusEmpty(f"corpus {name!r}: no row in {self.spec}")
        self.classes = _classes(self.spec, [layout.names for layout in self._layouts.values()])

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a Parquet file, a folder of them, or a pattern that ends in `.parquet`."""
        if path.is_dir():
            return any(is_container(entry, ".parquet") for entry in path.iterdir())
        return path.name.lower().endswith(".parquet") and (path.is_file() or is_pattern(str(path)))

    def identity(self) -> str:
        """Over the files' relative names, sizes and times of change."""
        return files_identity(self.scheme, (layout.file for layout in self._layouts.values()))

    def parts(self) -> list[Part]:
        """Rows in file and row order, PART_SIZE a part; a part may cross files."""
        edges = list(accumulate((layout.rows for layout in self._layouts.values()), initial=0))
        spans = list(zip(self._layouts, edges[:-1], edges[1:], strict=True))  # name, first row, end, over all files
        total = edges[-1]
        parts = []
        for number, start in enumerate(range(0, total, PART_SIZE)):
            stop = min(start + PART_SIZE, total)
            where = tuple(
                _Range(name, max(start, first) - first, min(stop, last) - first)
                for name, first, last in spans
                if first < stop and last > start
            )
            parts.append(Part(name=part_name(number), count=stop - start, where=where))
        return parts

    def read(self, part: Part) -> Iterator[Item]:
        """The rows' image bytes and labels; a row without bytes is an item with an error."""
        for where in part.where:
            layout = self._layouts[where.file]
            try:
                yield from _items(layout, where)
            except (pa.ArrowException, OSError) as error:
                raise CorpusDamaged(_damage(layout.file, error)) from None


def _layout(file: SourceFile) -> _Layout:
    try:
        with pq.ParquetFile(file.path) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorpusDamaged(_damage(file, error)) from None
    column, is_struct = _image_column(file, schema)
    names = _class_names(schema.metadata or {})
    return _Layout(file, rows, column, is_struct, _LABEL in schema.names, names)


def _image_column(file: SourceFile, schema: pa.Schema) -> tuple[str, bool]:
    structs = [field.name for field in schema if _holds_bytes(field.type)]
    if _IMAGE in structs:
        return _IMAGE, True
    if _IMAGE in schema.names and _is_binary(schema.field(_IMAGE).type):
        return _IMAGE, False
    if len(structs) == 1:
        return structs[0], True
    if structs:
        raise CorpusAmbiguous(
            f"{file.path}: several columns hold image bytes ({', '.join(structs)}); name the wanted one {_IMAGE!r}"
        )
    raise UnknownCorpus(
        f"{file.path}: no column of encoded images among {', '.join(schema.names)}; "
        f"expected {_IMAGE!r} as struct<bytes, path> or binary"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == _BYTES and _is_binary(field.type) for field in kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """Names of the ClassLabel feature `label`, info.features.label.names in the `huggingface` key."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][_LABEL]
        return tuple(str(name) for name in feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def _classes(spec: str, stated: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    if len(set(stated)) > 1:
        raise CorpusAmbiguous(f"the files of {spec} state different class names; read them as separate corpora")
    return stated[0]


def _items(layout: _Layout, where: _Range) -> Iterator[Item]:
    digits = max(_MIN_DIGITS, len(str(layout.rows - 1)))
    row = where.start
    for batch in _batches(layout, where):
        column = batch.column(layout.column)
        images = pc.struct_field(column, _BYTES) if layout.is_struct else column
        labels = batch.column(_LABEL).to_pylist() if layout.has_label else [None] * batch.num_rows
        for data, value in zip(images.to_pylist(), labels, strict=True):
            uri = f"{layout.file.name}/{row:0{digits}d}"
            error = "no image bytes in the row" if data is None else None
            yield Item(uri=uri, data=data, label=_label(value, layout.names), error=error)
            row += 1


def _batches(layout: _Layout, where: _Range) -> Iterator[pa.RecordBatch]:
    """The rows of a range, and no others, in batches of at most _BATCH."""
    columns = [f"{layout.column}.{_BYTES}" if layout.is_struct else layout.column]
    with pq.ParquetFile(layout.file.path) as parquet:
        ends, groups = 0, []
        position = where.stop  # of the first row that the wanted row groups hold
        for group in range(parquet.num_row_groups):
            begins, ends = ends, ends + parquet.metadata.row_group(group).num_rows
            if begins < where.stop and ends > where.start:
                groups.append(group)
                position = min(position, begins)
        wanted = columns + [_LABEL] * layout.has_label
        for batch in parquet.iter_batches(batch_size=_BATCH, row_groups=groups, columns=wanted):
            first, last = max(where.start - position, 0), min(where.stop - position, batch.num_rows)
            if first < last:
                yield batch.slice(first, last - first)
            position += batch.num_rows
            if position >= where.stop:
                return


def _label(value: Any, names: tuple[str, ...] | None) -> str | None:
    """The class's name where names are stated (an index outside them, such as -1, means unlabelled), else the value."""
    if value is None:
        return None
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return str(value)


def _damage(file: SourceFile, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"damaged Parquet file {file.path}: {reason}; fetch or write it again"
