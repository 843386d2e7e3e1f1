"""What a block shard is: names, members, and the bytes of one block.

A shard is a plain webdataset tar whose members are blocks of images, not single images:

    000000.images.npy   uint8 (B, 3, H, W), up to 64 px
    000000.images.bytes.npy, 000000.images.offsets.npy   instead, above 64 px: losslessly encoded images, one blob
    000000.keys.npy     S32 (B,)
    000000.labels.npy   int32 (B,), -1 unknown
    000000.logits.npy   float16 (B, V, K), optional: the teacher's, of V augmented views of each image

`webdataset.WebDataset(urls).decode()` yields the arrays. Blocks are numbered through the whole set. Member metadata
is fixed and members are sorted, so the same images give the same bytes.
"""

import contextlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.codec import Encoded

RAW_MAX = 64
"""px; up to here raw pixels read faster than any codec, above it they cost too much disk"""
KEY_DTYPE = np.dtype("S32")
UNKNOWN_LABEL = -1
TAR_END = bytes(2 * tarfile.BLOCKSIZE)
_HEADER_MAX = 4096  # bytes of a .npy header; ours have 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Images that are stored, checked and read together."""

    images: NDArray[np.uint8] | Encoded
    """(N, 3, H, W), or encoded: then pixels are made when they are asked for"""
    keys: NDArray[np.bytes_]
    """(N,) S32"""
    labels: NDArray[np.int32]
    """(N,), -1 unknown"""
    logits_NVK: NDArray[np.float16] | None = None
    """the teacher's answers to V views of each image, or None"""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """Resolution in px; images are square."""
        return self.images.size if isinstance(self.images, Encoded) else int(self.images.shape[-1])

    @property
    def images_NCHW(self) -> NDArray[np.uint8]:  # noqa: N802  # shapes are part of a name
        """Pixels of all images."""
        return self.images.pixels() if isinstance(self.images, Encoded) else self.images


def block_rows(size: int) -> int:
    """Images in a block at this resolution (px): 0.8 MB raw at 32 px; fewer where one image is large."""
    return 256 if size <= RAW_MAX else 64


def shard_rows(size: int) -> int:
    """Images in a shard: whole blocks, about 64 MB of raw pixels, read in sequence."""
    rows = block_rows(size)
    return rows * max(1, (64 << 20) // (3 * size * size * rows))


def shard_name(number: int, split: str | None = None) -> str:
    """Path of a shard below its folder."""
    return f"shards/{split}-{number:06d}.tar" if split else f"shards/{number:06d}.tar"


def encode_block(number: int, block: Block) -> list[memoryview]:
    """The bytes of a block as they lie in the tar, in pieces: headers, payloads, padding; pixels are not copied."""
    images = block.images
    if not isinstance(images, Encoded) and images.shape[-1] > RAW_MAX:
        images = Encoded.of(images)
    members: dict[str, NDArray[Any]] = {
        "keys.npy": block.keys.astype(KEY_DTYPE, copy=False),
        "labels.npy": block.labels.astype(np.int32, copy=False),
    }
    if isinstance(images, Encoded):
        members |= {"images.bytes.npy": images.blob, "images.offsets.npy": images.offsets}
    else:
        members["images.npy"] = images
    if block.logits_NVK is not None:
        members["logits.npy"] = block.logits_NVK.astype(np.float16, copy=False)
    return [piece for name in sorted(members) for piece in _member(f"{number:06d}.{name}", members[name])]


def _member(name: str, array: NDArray[Any]) -> Iterator[memoryview]:
    """A tar member that holds an array in NumPy's format."""
    array = np.ascontiguousarray(array)
    described = np.lib.format.header_data_from_array_1_0(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, described)
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = header.tell() + array.nbytes, 0, 0o444
    yield memoryview(info.tobuf(tarfile.USTAR_FORMAT) + header.getvalue())
    yield array.reshape(-1).view(np.uint8).data
    yield memoryview(bytes(-info.size % tarfile.BLOCKSIZE))


def decode_block(data: bytes | NDArray[np.uint8]) -> Block:
    """Inverse of `encode_block`; raises ValueError for bytes that are no block. The arrays are views of ``data``."""
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    members: dict[str, NDArray[Any]] = {}
    try:
        offset = 0
        while offset < len(view):
            name, size = _tar_header(bytes(view[offset : offset + tarfile.BLOCKSIZE]))
            start = offset + tarfile.BLOCKSIZE
            if not 0 <= size <= len(view) - start:
                raise ValueError(f"not a block: {name!r} would hold {size:,} bytes, {len(view) - start:,} are left")
            members[name.split(".", 1)[1]] = _array(view[start : start + size])
            offset = start + size + -size % tarfile.BLOCKSIZE
        images: NDArray[np.uint8] | Encoded = (
            members["images.npy"]
            if "images.npy" in members
            else Encoded(members["images.bytes.npy"], members["images.offsets.npy"])
        )
        keys, labels, logits = members["keys.npy"], members["labels.npy"], members.get("logits.npy")
    except (KeyError, IndexError) as error:
        raise ValueError(f"not a block: {error}") from error
    if not len(images) == len(keys) == len(labels) == len(keys if logits is None else logits):
        raise ValueError("not a block: images, keys, labels and logits differ in number")
    if keys.dtype != KEY_DTYPE or labels.dtype != np.int32 or not keys.ndim == labels.ndim == 1:
        raise ValueError(f"not a block: keys are {keys.dtype} {keys.shape} and labels {labels.dtype} {labels.shape}")
    if not isinstance(images, Encoded) and (
        images.dtype != np.uint8 or images.shape[1:] != (3, *images.shape[2:3] * 2)
    ):
        raise ValueError(f"not a block: images are {images.dtype} {images.shape}")
    if logits is not None and (logits.dtype != np.float16 or logits.ndim != 3):
        raise ValueError(f"not a block: logits are {logits.dtype} {logits.shape}")
    return Block(images=images, keys=keys, labels=labels, logits_NVK=logits)


@lru_cache(maxsize=256)  # as in the block before, but for the number
def _npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape that the header of an array states; ValueError if it states none that we wrote."""
    try:
        stream = io.BytesIO(header)
        np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # NumPy parses it as Python, and of damaged Python anything may be raised
        raise ValueError(f"not a block: {error}") from error
    if fortran_order or dtype.hasobject or len(shape) < 1:
        raise ValueError(f"not a block: an array of {dtype}, {shape}")
    return dtype, shape


def _array(data: memoryview) -> NDArray[Any]:
    length = 10 + int.from_bytes(data[8:10], "little")  # magic, version, length, header
    if length > min(_HEADER_MAX, len(data)):
        raise ValueError("not a block: an array without a header")
    dtype, shape = _npy_header(bytes(data[:length]))
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data) - length:
        raise ValueError("not a block: an array of another length than its header says")
    try:
        return np.frombuffer(data, dtype, offset=length).reshape(shape)
    except (ValueError, OverflowError) as error:  # a negative number of rows, or none of more than can be counted
        raise ValueError(f"not a block: {error}") from error


def _tar_header(header: bytes) -> tuple[str, int]:
    """Name and size of a member, from where USTAR has them: `tarfile` takes longer for it than reading the block."""
    with contextlib.suppress(ValueError):
        stated = int(header[148:156].rstrip(b"\0 "), 8)
        if stated == sum(header) - sum(header[148:156]) + 8 * ord(" "):
            return header[:100].rstrip(b"\0").decode(), int(header[124:136].rstrip(b"\0 "), 8)
    raise ValueError("not a block: a member's header is damaged")
