"""What a block shard is: names, members, and the bytes of one block.

A shard is a plain webdataset tar whose members are blocks of images, not single images:

    000000.images.npy   uint8 (B, 3, H, W), up to 64 px
    000000.images.bytes.npy, 000000.images.offsets.npy   instead, above 64 px: losslessly encoded images, one blob
    000000.keys.npy     S32 (B,)
    000000.labels.npy   int32 (B,), -1 unknown

`webdataset.WebDataset(urls).decode()` yields the arrays. Blocks are numbered through the whole set. Member metadata
is fixed and members are sorted, so the same images give the same bytes.
"""

import io
import itertools
import os
import tarfile
import tokenize
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RAW_MAX = 64
"""px; up to here raw pixels read faster than any codec, above it they cost too much disk"""
KEY_DTYPE = np.dtype("S32")
UNKNOWN_LABEL = -1
TAR_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Images that are stored, checked and read together."""

    images_NCHW: NDArray[np.uint8]
    keys: NDArray[np.bytes_]
    """(N,) S32"""
    labels: NDArray[np.int32]
    """(N,), -1 unknown"""

    def __len__(self) -> int:
        return len(self.keys)


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


def encode_block(number: int, block: Block) -> bytes:
    """The bytes of a block as they lie in the tar: headers, payloads, padding."""
    members = {"keys.npy": block.keys.astype(KEY_DTYPE), "labels.npy": block.labels.astype(np.int32)}
    if block.images_NCHW.shape[-1] <= RAW_MAX:
        members["images.npy"] = block.images_NCHW
    else:
        members["images.bytes.npy"], members["images.offsets.npy"] = _encode_images(block.images_NCHW)
    out = io.BytesIO()
    for name in sorted(members):
        payload = _npy(members[name])
        info = tarfile.TarInfo(f"{number:06d}.{name}")
        info.size, info.mtime, info.mode = len(payload), 0, 0o444
        out.write(info.tobuf(tarfile.USTAR_FORMAT))
        out.write(payload)
        out.write(bytes(-len(payload) % tarfile.BLOCKSIZE))
    return out.getvalue()


def decode_block(data: bytes) -> Block:
    """Inverse of `encode_block`; raises ValueError for bytes that are no block."""
    members = {}
    try:
        offset = 0
        while offset < len(data):
            info = tarfile.TarInfo.frombuf(data[offset : offset + tarfile.BLOCKSIZE], "utf-8", "strict")
            start = offset + tarfile.BLOCKSIZE
            members[info.name.split(".", 1)[1]] = np.load(
                io.BytesIO(data[start : start + info.size]), allow_pickle=False
            )
            offset = start + info.size + -info.size % tarfile.BLOCKSIZE
        images = members["images.npy"] if "images.npy" in members else _decode_images(members)
        block = Block(images_NCHW=images, keys=members["keys.npy"], labels=members["labels.npy"])
    except (tarfile.HeaderError, KeyError, IndexError, EOFError, OSError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"not a block: {error}") from error  # the last two: NumPy, of a header that is no Python
    if not len(block.images_NCHW) == len(block.keys) == len(block.labels):
        raise ValueError("not a block: images, keys and labels differ in number")
    return block


def _npy(array: NDArray[np.generic]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def _encode_images(images_NCHW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from PIL import Image  # here: sets of small images never need a codec

    def encoded(image_CHW: NDArray[np.uint8]) -> bytes:
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))).save(out, "PNG", compress_level=3)
        return out.getvalue()

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # it costs more than decoding the photograph did
        blobs = list(pool.map(encoded, images_NCHW))
    offsets = np.cumsum([0, *map(len, blobs)], dtype=np.int64)
    return np.frombuffer(b"".join(blobs), dtype=np.uint8), offsets


def _decode_images(members: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    from PIL import Image

    blob, offsets = members["images.bytes.npy"].tobytes(), members["images.offsets.npy"].tolist()
    images = [
        np.asarray(Image.open(io.BytesIO(blob[start:end]))).transpose(2, 0, 1)
        for start, end in itertools.pairwise(offsets)
    ]
    return np.stack(images)
