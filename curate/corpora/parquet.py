"""Reader of Parquet files with encoded images, in the layout that Hugging Face datasets use.

Images are a struct column with a `bytes` field (`image`, or the only such column) or a binary column `image`; labels a
column `label`, whose class names may stand in the `huggingface` footer key. `?image=COLUMN&label=COLUMN` names others,
also fields of structs (`?image=views.left.bytes`); `?label=` reads none. Rows are read by range, a batch at a time.
Skipping rows inside a row group costs their decoding, so files with one giant row group read slowly.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from itertools import accumulate
from operator import getitem
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
    class_name,
    files_identity,
    find_files,
    is_container,
    part_name,
    split_options,
)
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty, UnknownCorpus
from shards.names import is_pattern

_IMAGE, _LABEL, _BYTES = "image", "label", "bytes"  # names in the Hugging Face layout
_BATCH = 256  # rows in memory at once: ~30 MB of ImageNet photographs
_MIN_DIGITS = 8  # of the row number in a uri

_Place = tuple[str, ...]  # a column, and the fields to go down from there


class _Layout(NamedTuple):
    file: SourceFile
    rows: int
    image: _Place
    label: _Place | None
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
        pattern, self._options = split_options("parquet", path, ("image", "label"))
        self._files = find_files(pattern, ".parquet")
        if not any(file.url for file in self._files):
            _ = self.classes  # what is wrong with files that are here is told at once

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a Parquet file, a folder of them, or a pattern that ends in `.parquet`."""
        if path.is_dir():
            return any(is_container(entry, ".parquet") for entry in path.iterdir())
        return path.name.lower().endswith(".parquet") and (path.is_file() or is_pattern(str(path)))

    def identity(self) -> str:
        """Over the files' relative names, sizes and times of change, and the options."""
        return files_identity(self.scheme, self._files, self._options)

    @cached_property
    def _layouts(self) -> dict[str, _Layout]:
        layouts = {file.name: _layout(file, self._options) for file in self._files}
        if not any(layout.rows for layout in layouts.values()):
            raise CorpusEmpty(f"corpus {self.name!r}: no row in {self.spec}")
        return layouts

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label column, where its footer states them."""
        stated = {layout.names for layout in self._layouts.values()}
        if len(stated) > 1:
            raise CorpusAmbiguous(
                f"the files of {self.spec} state different class names; read them as separate corpora"
            )
        return stated.pop()

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


def _layout(file: SourceFile, options: Mapping[str, str]) -> _Layout:
    try:
        with pq.ParquetFile(file.path) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorpusDamaged(_damage(file, error)) from None
    image = _named_images(file, schema, options[_IMAGE]) if _IMAGE in options else _images(file, schema)
    label: _Place | None = (_LABEL,) if _LABEL in schema.names else None
    if _LABEL in options:
        label = _find(file, schema, options[_LABEL]) if options[_LABEL] else None
    return _Layout(file, rows, image, label, _class_names(schema.metadata or {}, label) if label else None)


def _images(file: SourceFile, schema: pa.Schema) -> _Place:
    structs = [field.name for field in schema if _holds_bytes(field.type)]
    if _IMAGE in structs:
        return _IMAGE, _BYTES
    if _IMAGE in schema.names and _is_binary(schema.field(_IMAGE).type):
        return (_IMAGE,)
    if len(structs) == 1:
        return structs[0], _BYTES
    if structs:
        raise CorpusAmbiguous(
            f"{file.path}: several columns hold image bytes ({', '.join(structs)}); say which: ?image={structs[0]}"
        )
    raise UnknownCorpus(
        f"{file.path}: no column of encoded images among {', '.join(schema.names)}; "
        f"expected {_IMAGE!r} as struct<bytes, path> or binary, or ?image=COLUMN"
    )


def _named_images(file: SourceFile, schema: pa.Schema, name: str) -> _Place:
    place = _find(file, schema, name)
    kind = _kind(schema, place)
    if _holds_bytes(kind):
        return *place, _BYTES
    if _is_binary(kind):
        return place
    raise UnknownCorpus(f"{file.path}: {name!r} is {kind}; expected a column of binary or struct<bytes, path>")


def _find(file: SourceFile, schema: pa.Schema, name: str) -> _Place:
    """The column of that name, else the field that a dotted name leads to."""
    if name in schema.names:
        return (name,)
    place = tuple(name.split("."))
    if _kind(schema, place) is None:
        raise UnknownCorpus(f"{file.path}: no column {name!r}; expected one of {', '.join(schema.names)}")
    return place


def _kind(schema: pa.Schema, place: _Place) -> pa.DataType | None:
    """The type at a place; None where there is none."""
    fields: Any = schema
    for name in place:
        index = fields.get_field_index(name) if isinstance(fields, pa.Schema | pa.StructType) else -1
        if index < 0:
            return None
        fields = fields.field(index).type
    return fields


def _holds_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == _BYTES and _is_binary(field.type) for field in kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _class_names(metadata: dict[bytes, bytes], label: _Place) -> tuple[str, ...] | None:
    """Names of the labels' ClassLabel feature, such as info.features.label.names in the `huggingface` key."""
    try:
        feature = reduce(getitem, label, json.loads(metadata[b"huggingface"])["info"]["features"])
        return tuple(str(name) for name in feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def _items(layout: _Layout, where: _Range) -> Iterator[Item]:
    digits = max(_MIN_DIGITS, len(str(layout.rows - 1)))
    row = where.start
    for batch in _batches(layout, where):
        labels = _values(batch, layout.label) if layout.label else [None] * batch.num_rows
        for data, value in zip(_values(batch, layout.image), labels, strict=True):
            uri = f"{layout.file.name}/{row:0{digits}d}"
            error = "no image bytes in the row" if data is None else None
            yield Item(uri=uri, data=data, label=class_name(value, layout.names), error=error)
            row += 1


def _values(batch: pa.RecordBatch, place: _Place) -> list[Any]:
    column = batch.column(place[0])
    values: list[Any] = (pc.struct_field(column, place[1:]) if place[1:] else column).to_pylist()
    return values


def _batches(layout: _Layout, where: _Range) -> Iterator[pa.RecordBatch]:
    """The rows of a range, and no others, in batches of at most _BATCH."""
    columns = [".".join(place) for place in (layout.image, layout.label) if place]
    with pq.ParquetFile(layout.file.path) as parquet:
        ends, groups = 0, []
        position = where.stop  # of the first row that the wanted row groups hold
        for group in range(parquet.num_row_groups):
            begins, ends = ends, ends + parquet.metadata.row_group(group).num_rows
            if begins < where.stop and ends > where.start:
                groups.append(group)
                position = min(position, begins)
        for batch in parquet.iter_batches(batch_size=_BATCH, row_groups=groups, columns=columns):
            first, last = max(where.start - position, 0), min(where.stop - position, batch.num_rows)
            if first < last:
                yield batch.slice(first, last - first)
            position += batch.num_rows
            if position >= where.stop:
                return


def _damage(file: SourceFile, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"damaged Parquet file {file.path}: {reason}; fetch or write it again"
