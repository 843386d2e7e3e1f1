"""Files that Pillow reads and does not write: 16 bit and interlaced PNG, 16 bit TIFF, YCCK JPEG, headers that lie."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.curate.make import encode

RGB, GREY, GREY_ALPHA, RGBA = 2, 0, 4, 6  # PNG's colour types
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, depth: int, colour: int, lines: bytes, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """A PNG of filtered ``lines``; ``extra`` chunks stand before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(image_HWC: NDArray[np.uint16], colour: int, *, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel."""
    lines = b"".join(b"\0" + row.tobytes() for row in image_HWC.astype(">u2"))
    return png(image_HWC.shape[1], image_HWC.shape[0], depth=16, colour=colour, lines=lines, extra=extra)


def adam7(image_HWC: NDArray[np.uint8]) -> bytes:
    """An interlaced PNG."""
    passes = [image_HWC[top::down, left::across] for top, left, down, across in ADAM7]
    lines = b"".join(b"\0" + row.tobytes() for found in passes for row in found)
    return png(image_HWC.shape[1], image_HWC.shape[0], depth=8, colour=RGB, lines=lines, interlaced=True)


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG whose header is right and whose pixels are not there."""
    return png(width, height, depth=8, colour=RGB, lines=bytes(9))


def tiff(tags: Mapping[int, int | list[int]], data: bytes) -> bytes:
    """A little-endian TIFF of one image; ``tags`` are numbers or lists of them; where ``data`` lies is added."""
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    lists, entries = b"", b""
    place = 324 if 322 in tags else 273  # tiles or strips
    for tag, value in sorted(
        {**tags, place: start + sum(2 * len(v) for v in tags.values() if isinstance(v, list))}.items()
    ):
        if isinstance(value, list):
            entries += struct.pack("<HHII", tag, 3, len(value), start + len(lists))
            lists += struct.pack(f"<{len(value)}H", *value)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4) + lists + data


def tiff16(image_HWC: NDArray[np.uint16], photometric: int) -> bytes:
    """An uncompressed TIFF of 16 bits a channel; photometric 2 is RGB, 5 is CMYK."""
    height, width, channels = image_HWC.shape
    data = image_HWC.astype("<u2").tobytes()
    bits = {256: width, 257: height, 258: [16] * channels, 262: photometric, 277: channels, 278: height, 279: len(data)}
    return tiff({**bits, 259: 1}, data)


def ycck(image: Image.Image) -> bytes:
    """An RGB image as Photoshop writes CMYK: ink inverted, its colours as luma and chroma, the marker says so."""
    planes = Image.fromarray(255 - np.asarray(image)).convert("YCbCr").split()
    ink = [Image.fromarray(255 - np.asarray(plane)) for plane in (*planes, Image.new("L", image.size, 255))]
    data = encode(Image.merge("CMYK", ink), "JPEG", quality=95, subsampling=0)
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\2" + data[transform + 1 :]


def patched(data: bytes, where: int, form: str, *numbers: int) -> bytes:
    """``data`` with numbers written over what was at ``where``."""
    changed = bytearray(data)
    struct.pack_into(form, changed, where, *numbers)
    return bytes(changed)


def bombs() -> dict[str, bytes]:
    """Small files that declare 3.6 thousand million pixels or more, in every format."""
    small = np.zeros((8, 8, 3), np.uint8)
    jpeg, side = encode(small, "JPEG"), 60_000
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes([16, 0, 0, 0, 255, 255, 255, 255, 255, 0])  # 2^24 x 2^16
    webp = b"WEBP" + canvas + encode(small, "WEBP", lossless=True)[12:]
    frame = b"\0\0\0" + struct.pack("<BHHHH", 44, 0, 0, 65535, 65535) + b"\0\2\2D\1\0;"
    return {
        "PNG": png_that_declares(side, side),
        "JPEG": patched(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", 65_500, 65_500),
        "WEBP": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        "BMP": patched(encode(small, "BMP"), 18, "<ii", side, side),
        "GIF screen": b"GIF89a" + struct.pack("<HH", 65535, 65535) + frame,
        "GIF frame": b"GIF89a" + struct.pack("<HH", 8, 8) + frame,
        "TIFF": tiff({256: side, 257: side, 258: [8, 8, 8], 259: 1, 262: 2, 277: 3, 278: side, 279: 9}, bytes(9)),
        "TIFF bits": tiff({256: side, 257: side, 258: 1, 259: 4, 262: 0, 277: 1, 278: side, 279: 9}, bytes(9)),
        "PPM": b"P6 %d %d 255 " % (side, side),
        "PGM": b"P2 %d %d 255 0 0 0" % (side, side),
    }
