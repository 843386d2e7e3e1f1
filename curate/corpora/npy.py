"""Reader of uint8 images in NumPy's files: `.npy`, read by range, and `.npz`, whose array is held while it is read.

Images are (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W); `?layout=NHWC` or `NCHW` where a shape fits both. In an
`.npz` they are the one array of such a form, or the one of them with a usual name, or `?images=KEY`. Labels are a
number or text an image, in an array (`.npz`) or a file (`.npy`) named for the images: `labels` with `images`, `y_test`
with `x_test`, `fog_labels.npy` with `fog.npy`; or `?labels=KEY`, `?labels=FILE`; `?labels=` reads none.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.corpora.arrays import ArrayCorpus, Rows, blocks, check_labels, is_folder, texts, the_only
from curate.corpora.base import SourceFile, find_files, is_container
from curate.corpora.batches import is_batch
from curate.corpora.numpy_files import Header, npy_header, npy_rows, npz_array, npz_headers
from curate.errors import CorpusAmbiguous, UnknownCorpus
from shards.names import is_pattern

_ENDINGS = (".npy", ".npz")
_IMAGES = ("images", "image", "x", "X", "data")  # chosen where several arrays could be the images
_LABELS = ("labels", "label", "y", "Y", "targets", "target")  # looked for in an .npz beside those named for the images
_X = r"(?<![^_-])[xX](?![^_-])"  # as a word: x, X_train, test-x
_PARTNERS = (("images", "labels"), ("image", "label"), (_X, "y"), (_X, "Y"), ("^arr_0$", "arr_1"))
_CHANNELS = (1, 3)
_LAYOUTS = {"NHWC": 3, "NCHW": 1}  # where the channels are
_FORMS = "uint8 (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"
_WAY_OUT = "values in [0, 1]: save (images * 255).round().astype('uint8')"


class _Form(NamedTuple):
    """How an array holds images."""

    header: Header
    channels: int | None  # the dimension of the channels; None where there are none

    @property
    def row_bytes(self) -> int:
        return prod(self.header.shape[1:])

    def images(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rows as they lie, as (n, H, W) or (n, H, W, 3)."""
        if self.channels is not None:
            grey = rows.shape[self.channels] == 1
            rows = rows.squeeze(self.channels) if grey else np.moveaxis(rows, self.channels, -1)
        return np.ascontiguousarray(rows)


class NpyCorpus(ArrayCorpus):
    """Images as rows of NumPy arrays."""

    scheme = "npy"
    known = ("images", "labels", "layout")

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is named `*.npy` or `*.npz` and no ImageNet batch, or is a folder or pattern of such."""
        if path.is_dir():
            return any(_is_array(entry.name) and is_container(entry, "") for entry in path.iterdir())
        return _is_array(path.name) and (path.is_file() or is_pattern(str(path)))

    def _find(self, place: str) -> list[SourceFile]:
        files = find_files(place, "")
        if is_folder(place):
            files = [file for file in files if _is_array(file.place.name)]
            return the_only(self.scheme, self._without_labels(files), place=place, what="*.npy or *.npz file")
        return self._without_labels(files) if len(files) > 1 else files

    def _without_labels(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Files but those that are the labels of another one."""
        paths = {file.name: PurePosixPath(file.name) for file in files}
        beside = {path.with_name(f"{name}.npy") for path in paths.values() for name in _label_names(path.stem)}
        if named := self._options.get("labels"):
            beside |= {path.with_name(named) for path in paths.values()}
        return [file for file in files if paths[file.name] not in beside]

    @cached_property
    def _beside(self) -> dict[str, SourceFile | None]:
        """The file of labels of each `.npy` file."""
        return {file.name: self._labels_beside(file) for file in self._files if not _is_npz(file)}

    def _labels_beside(self, file: SourceFile) -> SourceFile | None:
        if "labels" in self._options:
            wanted = self._options["labels"]
            found = file.beside(wanted) if wanted else None
            if wanted and not found:
                raise UnknownCorpus(f"no file of labels {wanted!r} beside {file.place}")
            return found
        names = (f"{name}.npy" for name in _label_names(file.place.stem))
        return next((found for name in names if (found := file.beside(name))), None)

    def _companions(self) -> list[SourceFile]:
        return [file for file in self._beside.values() if file]

    def _open(self, file: SourceFile) -> Rows:
        layout = self._options.get("layout")
        if layout not in (None, *_LAYOUTS):
            raise UnknownCorpus(f"npy: has no layout {layout!r}; expected one of {', '.join(_LAYOUTS)}")
        if _is_npz(file):
            return _open_npz(file, self._options, layout)
        if "images" in self._options:
            raise UnknownCorpus(f"images={self._options['images']} is for .npz files; {file.place} is one array")
        return _NpyRows(file, self._beside[file.name], layout)


class _NpyRows(Rows):
    """An `.npy` file: rows are read by range."""

    def __init__(self, images: SourceFile, labels: SourceFile | None, layout: str | None) -> None:
        super().__init__(images, labels)
        header = npy_header(images)
        if header.fortran and len(header.shape) > 1:
            raise UnknownCorpus(
                f"{images.place} is in Fortran order, which cannot be read a row at a time; "
                "save np.ascontiguousarray(images)"
            )
        self._form = _form(f"{images.place}", header, layout)
        if labels is not None:
            header = npy_header(labels)
            _check_form(f"labels in {labels.place}", header)
            check_labels(images, len(self), labels, prod(header.shape))
            self._labels = header._replace(shape=(len(self),))

    def __len__(self) -> int:
        return self._form.header.shape[0]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        for first, last in blocks(start, stop, self._form.row_bytes):
            yield self._form.images(npy_rows(self.images, self._form.header, first, last))

    def label(self, start: int, stop: int) -> Sequence[str | None]:
        if self.labels is None:
            return [None] * (stop - start)
        return texts(self.labels, npy_rows(self.labels, self._labels, start, stop))


class _NpzRows(Rows):
    """An array of an `.npz` file, loaded when it is first read."""

    def __init__(self, file: SourceFile, key: str, form: _Form, labels: str | None) -> None:
        super().__init__(file)
        self._key, self._form, self._labels = key, form, labels
        self._held: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return self._form.header.shape[0]

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        if self._held is None:
            self._held = npz_array(self.images, self._key)
        held = self._held
        for first, last in blocks(start, stop, self._form.row_bytes):
            yield self._form.images(held[first:last])

    @cached_property
    def _texts(self) -> list[str] | None:
        return None if self._labels is None else texts(self.images, npz_array(self.images, self._labels).reshape(-1))

    def label(self, start: int, stop: int) -> Sequence[str | None]:
        return [None] * (stop - start) if self._texts is None else self._texts[start:stop]

    def drop(self) -> None:
        self._held = None


def _open_npz(file: SourceFile, options: Mapping[str, str], layout: str | None) -> Rows:
    headers = npz_headers(file)
    key = _image_key(file, headers, options.get("images"))
    form = _form(f"{key!r} in {file.place}", headers[key], layout)
    labels = _label_key(file, headers, key, options.get("labels"))
    if labels is not None:
        check_labels(file, headers[key].shape[0], file, prod(headers[labels].shape))
    return _NpzRows(file, key, form, labels)


def _image_key(file: SourceFile, headers: Mapping[str, Header], wanted: str | None) -> str:
    there = ", ".join(f"{name} ({header})" for name, header in headers.items()) or "nothing"
    if wanted is not None:
        if wanted not in headers:
            raise UnknownCorpus(f"no array {wanted!r} in {file.place}, which holds {there}")
        return wanted
    fitting = [name for name, header in headers.items() if header.dtype == np.uint8 and len(header.shape) in (3, 4)]
    if len(fitting) > 1:
        fitting = [name for name in fitting if name in _IMAGES] or fitting
    if len(fitting) > 1:
        raise CorpusAmbiguous(
            f"several arrays of {file.place} could be the images; say which: "
            + " or ".join(f"?images={name}" for name in fitting)
        )
    if not fitting:
        raise UnknownCorpus(f"no array of images in {file.place}, which holds {there}; expected {_FORMS}; {_WAY_OUT}")
    return fitting[0]


def _label_key(file: SourceFile, headers: Mapping[str, Header], images: str, wanted: str | None) -> str | None:
    if wanted is None:
        names = (name for name in (*_label_names(images), *_LABELS) if name in headers and name != images)
        return next((name for name in names if _is_label(headers[name])), None)
    if wanted and wanted not in headers:
        raise UnknownCorpus(f"no array {wanted!r} in {file.place}; it holds {', '.join(headers)}")
    if wanted:
        _check_form(f"labels {wanted!r} in {file.place}", headers[wanted])
    return wanted or None


def _check_form(where: str, header: Header) -> None:
    if not _is_label(header):
        raise UnknownCorpus(f"{where}: {header}; expected one number or text an image, or labels= to read none")


def _is_label(header: Header) -> bool:
    """Whether an array holds a number or a text for each image: in one dimension, or in others of length 1."""
    return header.dtype.kind in "iubfUS" and len(header.shape) > 0 and sum(side != 1 for side in header.shape) <= 1


def _form(where: str, header: Header, layout: str | None) -> _Form:
    """How an array holds images; raises UnknownCorpus if it holds none, CorpusAmbiguous if it may in two ways."""
    if header.dtype != np.uint8:
        raise UnknownCorpus(f"{where} is {header}; expected {_FORMS}; {_WAY_OUT}")
    if len(header.shape) == 3 and layout is None and min(header.shape[1:]) > 0:
        return _Form(header, None)
    fitting = [name for name, axis in _LAYOUTS.items() if len(header.shape) == 4 and header.shape[axis] in _CHANNELS]
    chosen = [name for name in fitting if layout in (None, name)]
    if not chosen or min(header.shape[1:]) < 1:
        asked = f" for layout={layout}" if layout else ""
        raise UnknownCorpus(f"{where} is {header}; expected {_FORMS}{asked}")
    if len(chosen) > 1:
        raise CorpusAmbiguous(f"{where} is {header}: the channels may be second or last; say ?layout=NHWC or NCHW")
    return _Form(header, _LAYOUTS[chosen[0]])


def _label_names(images: str) -> list[str]:
    """Names that labels have beside images of a name, the likeliest first."""
    named = [re.sub(one, other, images) for one, other in _PARTNERS if re.search(one, images)]
    return [*named, f"{images}-labels", f"{images}_labels"]


def _is_npz(file: SourceFile) -> bool:
    return file.place.name.lower().endswith(".npz")


def _is_array(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not is_batch(name)
