"""Reader of IDX files, the form of MNIST and its successors: a file of images beside one of labels, gzip or plain.

gzip cannot be sought, so a part cannot be read alone without all bytes before it. The images are therefore decompressed
once, when the parts are first asked for, and kept: 47 MB for MNIST, 0.5 GB for the largest split of EMNIST. Images are
handed out as they lie in the file (EMNIST's lie transposed, as its authors wrote them). IDX states no class names.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from functools import cached_property
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.corpora.base import Item, Part, SourceFile, files_identity, find_files, is_container, split
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusEmpty

_IMAGES = re.compile(r"(.*)images([-.])idx3-ubyte(\.gz)?")
_GZIP = b"\x1f\x8b"  # first bytes; a plain IDX file begins with two zeros
# Element types, the third byte of the magic number (Y. LeCun et al., "The MNIST database", file format).
_TYPES = {0x08: "ubyte", 0x09: "sbyte", 0x0B: "short", 0x0C: "int", 0x0D: "float", 0x0E: "double"}
_UBYTE = 0x08
_MIN_DIGITS = 8  # of the row number in a uri
_CHUNK = 1 << 20  # bytes read at once: a header that promises more than there is costs no memory


class _Content(NamedTuple):
    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.uint8] | None


class IdxCorpus:
    """Grey images in an IDX file, with the labels that lie beside it."""

    scheme = "idx"
    classes = None
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"idx:{path}"
        self._images = _find_images(path)
        self._labels = _find_labels(self._images)

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is named as IDX images are (`*-images-idx3-ubyte[.gz]`), or is a folder with such a file."""
        return any(map(_is_images, path.iterdir())) if path.is_dir() else _is_images(path)

    def identity(self) -> str:
        """Over the names, sizes and times of change of the images and the labels."""
        return files_identity(self.scheme, (file for file in (self._images, self._labels) if file))

    @cached_property
    def _content(self) -> _Content:
        images_NHW = _load(self._images, dimensions=3)
        if not len(images_NHW):
            raise CorpusEmpty(f"corpus {self.name!r}: no image in {self._images.path}")
        labels_N = _load(self._labels, dimensions=1) if self._labels else None
        if self._labels and labels_N is not None and len(labels_N) != len(images_NHW):
            raise CorpusDamaged(
                f"{len(images_NHW):,} images in {self._images.path} but {len(labels_N):,} labels in "
                f"{self._labels.path}; expected one label an image: fetch both again"
            )
        return _Content(images_NHW, labels_N)

    def parts(self) -> list[Part]:
        """Rows in file order, PART_SIZE a part. Decompresses and checks both files, the first time."""
        return split(range(len(self._content.images_NHW)))

    def read(self, part: Part) -> Iterator[Item]:
        """The images as HxW uint8 arrays; labels are the numbers as text, None where there is no file of labels."""
        images_NHW, labels_N = self._content
        digits = max(_MIN_DIGITS, len(str(len(images_NHW) - 1)))
        for row in part.where:
            label = None if labels_N is None else str(labels_N[row])
            yield Item(uri=f"{self._images.name}/{row:0{digits}d}", data=images_NHW[row], label=label)


def _is_images(path: Path) -> bool:
    return _IMAGES.fullmatch(path.name) is not None and is_container(path, "")


def _find_images(path: str) -> SourceFile:
    """The one file of images that a path names: the file itself, or the only one in a folder."""
    place = Path(path).expanduser()
    paths = [str(entry) for entry in sorted(place.iterdir()) if _is_images(entry)] if place.is_dir() else [path]
    found = [file for each in paths for file in find_files(each, "")]
    if not found:
        raise CorpusEmpty(f"no file of IDX images (such as train-images-idx3-ubyte.gz) in the folder {path}")
    if len(found) > 1:
        spellings = " or ".join(f"idx:{file.path}" for file in found)
        raise CorpusAmbiguous(f"{len(found)} files of IDX images lie in {path}; say which: {spellings}")
    return found[0]


def _find_labels(images: SourceFile) -> SourceFile | None:
    """The file beside the images that is named like them, compressed or not; None where there is none."""
    match = _IMAGES.fullmatch(images.place.name)
    if match is None:
        return None
    for ending in dict.fromkeys((match[3] or "", "", ".gz")):
        if labels := images.beside(f"{match[1]}labels{match[2]}idx1-ubyte{ending}"):
            return labels
    return None


def _load(file: SourceFile, *, dimensions: int) -> NDArray[np.uint8]:
    """The whole array of a file, read-only; raises CorpusDamaged unless the file is exactly what its header says."""
    try:
        with _open(file.path) as stream:
            shape = _shape(file, stream.read(4 + 4 * dimensions), dimensions)
            size, data = prod(shape), bytearray()
            while len(data) <= size and (chunk := stream.read(min(_CHUNK, size + 1 - len(data)))):
                data += chunk  # one byte more than the header says is enough to know that there is more
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusDamaged(_damage(file, str(error).splitlines()[0])) from None
    if len(data) != size:
        there = f"only {len(data):,}" if len(data) < size else "more"
        stated = "x".join(map(str, shape))
        raise CorpusDamaged(_damage(file, f"its header says {stated}, that is {size:,} bytes, but there are {there}"))
    array = np.frombuffer(data, np.uint8).reshape(shape)
    array.flags.writeable = False
    return array


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    with path.open("rb") as stream:
        compressed = stream.read(len(_GZIP)) == _GZIP  # whatever the name: downloads are unpacked on the way
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _shape(file: SourceFile, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes((0, 0, _UBYTE, dimensions))
    if len(header) < len(magic) or header[:2] != magic[:2] or header[2] not in _TYPES:
        raise CorpusDamaged(_damage(file, f"it begins with {header[:4].hex() or 'nothing'}, expected {magic.hex()}"))
    if header[2] != _UBYTE:
        raise CorpusDamaged(_damage(file, f"its elements are of type {_TYPES[header[2]]}, expected ubyte"))
    if header[3] != dimensions:
        raise CorpusDamaged(_damage(file, f"its number of dimensions is {header[3]}, expected {dimensions}"))
    if len(header) < 4 + 4 * dimensions:
        raise CorpusDamaged(_damage(file, f"its header ends after {len(header)} bytes"))
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape[1:]:  # no bytes at all would then hold any number of images
        raise CorpusDamaged(_damage(file, f"its images are {shape[1]}x{shape[2]}, without a pixel"))
    return shape


def _damage(file: SourceFile, what: str) -> str:
    return f"damaged IDX file {file.path}: {what}; fetch or write it again"
