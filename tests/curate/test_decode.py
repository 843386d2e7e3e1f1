"""Decoding: every form a photograph comes in, the resize rule against a naive one, and anything that is no picture."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from curate.decode import FORMATS, MAX_PIXELS, MIN_SIDE, Transform, Undecodable, decode, quiet
from tests.curate.make import encode, picture

HEIGHT, WIDTH = 12, 16
SAME = Transform(size=HEIGHT)  # the middle HEIGHT columns, no pixel changed
MIDDLE = slice((WIDTH - HEIGHT) // 2, (WIDTH + HEIGHT) // 2)
RAMP = np.stack(np.broadcast_arrays(*np.ogrid[0:240:12j, 0:240:16j], 128), -1).astype(
    np.uint8
)  # smooth: codecs keep it
RGB = Image.fromarray(RAMP)
UPRIGHT = {1: 0, 3: 2, 6: 3, 8: 1}  # EXIF orientation -> quarter turns (anticlockwise) that set it upright
ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def cropped(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What SAME makes of an upright HEIGHT x WIDTH picture."""
    return image_HWC[:, MIDDLE].transpose(2, 0, 1)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG whose header is right and whose pixels are not there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------------ every format


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("GIF", {}),
    ],
)
def test_lossless_formats_keep_every_pixel(form: str, options: dict[str, object]) -> None:
    few_colours = RAMP // 64 * 64 if form == "GIF" else RAMP
    pixels, width, height = decode(encode(few_colours, form, **options), SAME)
    assert (width, height) == (WIDTH, HEIGHT)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, cropped(few_colours))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_every_kind(mode: str, options: dict[str, object]) -> None:
    source = RGB.convert(mode)
    pixels, _, _ = decode(encode(source, "JPEG", quality=95, subsampling=0, **options), SAME)
    wanted = cropped(np.asarray(source.convert("RGB")))
    assert np.abs(pixels.astype(int) - wanted).max() <= 8
    assert mode != "L" or (pixels[0] == pixels[1]).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turns"), UPRIGHT.items())
def test_a_picture_is_turned_upright(form: str, orientation: int, turns: int) -> None:
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    pixels, width, height = decode(encode(RGB, form, exif=exif(orientation), **options), Transform(size=HEIGHT))
    turned = np.rot90(RAMP, turns)
    rows, columns = turned.shape[:2]
    assert (width, height) == (columns, rows)
    top, left = (rows - HEIGHT) // 2, (columns - HEIGHT) // 2
    wanted = turned[top : top + HEIGHT, left : left + HEIGHT].transpose(2, 0, 1)
    assert np.abs(pixels.astype(int) - wanted).max() <= (12 if form == "JPEG" else 0)


def test_a_picture_with_damaged_exif_is_still_a_picture() -> None:
    data = encode(RGB, "PNG", exif=b"Exif\0\0no TIFF header at all")
    np.testing.assert_array_equal(decode(data, SAME)[0], cropped(RAMP))


def test_sixteen_bits_keep_their_high_byte() -> None:
    grey = RAMP[..., 0]
    wanted = cropped(np.repeat(grey[..., None], 3, axis=2))
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(encode(deep, form), SAME)[0], wanted)
    pgm = f"P5 {WIDTH} {HEIGHT} 65535 ".encode() + (grey.astype(np.uint16) * 256).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(pgm, SAME)[0], wanted)


def test_one_bit_palettes_and_interlace() -> None:
    bits = RAMP[..., 0] > 100
    one_bit = encode(Image.fromarray(bits))
    np.testing.assert_array_equal(decode(one_bit, SAME)[0], cropped(np.repeat(bits[..., None] * np.uint8(255), 3, 2)))
    palette = RGB.quantize(16)
    np.testing.assert_array_equal(decode(encode(palette), SAME)[0], cropped(np.asarray(palette.convert("RGB"))))
    np.testing.assert_array_equal(decode(adam7(RAMP), SAME)[0], cropped(RAMP))


def adam7(image_HWC: NDArray[np.uint8]) -> bytes:
    """An interlaced PNG, which Pillow reads but does not write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b"".join(
        b"\0" + row.tobytes() for top, left, down, across in passes for row in image_HWC[top::down, left::across]
    )
    plain = encode(image_HWC)
    header = bytearray(plain[16:29])
    header[12] = 1  # interlace method

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return plain[:8] + chunk(b"IHDR", bytes(header)) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_is_black(mode: str) -> None:
    """Alpha channels, palettes with alpha, and the one colour that a tRNS chunk names."""
    clear = np.zeros((HEIGHT, WIDTH), bool)
    clear[:, :8] = True
    solid = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    solid[clear] = 90
    options: dict[str, object] = {}
    if mode.endswith("A"):
        image = Image.fromarray(np.dstack([solid, np.where(clear, 0, 255).astype(np.uint8)])).convert(mode)
    elif mode == "P":
        image = Image.fromarray((~clear).astype(np.uint8))
        image.putpalette([90, 90, 90, 200, 200, 200])
        options["transparency"] = b"\0\xff"
    else:
        image = Image.fromarray(solid).convert(mode)
        options["transparency"] = (90, 90, 90) if mode == "RGB" else 90
    wanted = np.where(clear[..., None], 0, solid).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(image, "PNG", **options), SAME)[0], cropped(wanted))


def test_a_film_is_its_first_frame() -> None:
    frames = [Image.new("L", (WIDTH, HEIGHT), grey) for grey in (40, 200)]
    for form in ("GIF", "TIFF", "PNG"):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.unique(decode(data, SAME)[0]).tolist() == [40], form
    stereo = encode(frames[0].convert("RGB"), "MPO", save_all=True, append_images=[frames[1].convert("RGB")])
    assert np.abs(decode(stereo, SAME)[0].astype(int) - 40).max() <= 1


def test_arrays_are_pictures_too() -> None:
    np.testing.assert_array_equal(decode(RAMP, SAME)[0], cropped(RAMP))
    grey, width, height = decode(RAMP[..., 0], SAME)
    np.testing.assert_array_equal(grey, cropped(np.repeat(RAMP[..., :1], 3, axis=2)))
    assert (width, height) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(decode(RAMP[:, ::-1], SAME)[0], cropped(RAMP[:, ::-1]))  # not contiguous


# ------------------------------------------------------------------------------------------------------- resize rule


def naive(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Centre square, then each output pixel a triangle-weighted mean over its support, straight from the definition."""
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    rows, columns = (weights(length, size, side) for length in (height, width))
    return np.asarray(np.einsum("yh,xw,hwc->cyx", rows, columns, image_HWC.astype(np.float64)))


def weights(length: int, size: int, side: int) -> NDArray[np.float64]:
    """(size, length): how much of each source pixel lies in each output pixel."""
    start, scale = (length - side) / 2, side / size
    support = max(scale, 1.0)
    table = np.zeros((size, length))
    for i in range(size):
        centre = start + (i + 0.5) * scale
        for j in range(length):
            if int(centre - support + 0.5) <= j < int(centre + support + 0.5):
                table[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / support)
    return np.asarray(table / table.sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (16, 16), (11, 11), (24, 37), (37, 24), (5, 9), (9, 200), (33, 8)]
)
def test_resize_is_the_rule_that_manifests_record(height: int, width: int) -> None:
    image = picture(7, height=height, width=width)
    transform = Transform(size=8)
    pixels, *size = decode(encode(image), transform)
    assert (pixels.shape, size) == ((3, 8, 8), [width, height])
    assert np.abs(pixels - naive(image, 8)).max() <= 1.01  # Pillow rounds once a direction
    assert transform.spec == "rgb; short side to 8 px (Pillow bilinear, antialiased); centre crop 8x8"
    assert pixels.flags.c_contiguous


# ----------------------------------------------------------------------------------------------------- no picture


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", "decode_error", "empty file"),
        (b"this is a text\n" * 9, "decode_error", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "decode_error", "not an image of a known format"),
        (encode(RAMP, "JPEG")[:400], "decode_error", "(?i)truncated"),
        (encode(picture(1))[:90], "decode_error", "(?i)truncated"),
        (encode(RAMP)[:20], "decode_error", "."),
        (encode(picture(1, height=3, width=40)), "too_small", "40x3 px, less than 4 a side"),
        (encode(np.zeros((1, 1), np.uint8)), "too_small", "1x1 px, less than 4 a side"),
        (png_that_declares(10_000, 9_000), "too_large", "more than 89,478,485 px declared"),  # Pillow would warn
        (png_that_declares(60_000, 60_000), "too_large", "more than 89,478,485 px declared"),  # Pillow would raise
        (png_that_declares(2, 2**30), "too_large", "more than 89,478,485 px declared"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_refused_in_a_line(data: bytes, status: str, words: str) -> None:
    with pytest.raises(Undecodable, match=words) as refusal:
        decode(data, SAME)
    assert refusal.value.status == status
    assert len(str(refusal.value).splitlines()) == 1


def test_a_bomb_is_refused_before_its_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = ImageFile.ImageFile.load

    def spy(self: ImageFile.ImageFile) -> object:
        loaded.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", spy)
    for data in (png_that_declares(20_000, 20_000), png_that_declares(9_500, 9_500), png_that_declares(3, 9)):
        with pytest.raises(Undecodable):
            decode(data, SAME)
    assert not loaded
    decode(encode(RAMP), SAME)
    assert loaded  # the spy sees what is decoded


def test_a_picture_at_the_bounds_is_taken() -> None:
    assert decode(encode(picture(1, height=MIN_SIDE, width=MIN_SIDE)), SAME)[1:] == (MIN_SIDE, MIN_SIDE)
    with pytest.raises(Undecodable, match="truncated") as refusal:  # not too large
        decode(png_that_declares(5, MAX_PIXELS // 5), SAME)
    assert refusal.value.status == "decode_error"


def test_no_warning_of_pillow_gets_out() -> None:
    noisy = [
        encode(RGB.quantize(4), "PNG", transparency=b"\0\x80"),
        png_that_declares(10_000, 9_000),
        encode(RAMP, "TIFF", compression="jpeg")[:-20],
    ]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet(), ThreadPoolExecutor(3) as pool:
            list(pool.map(outcome, noisy * 20))
    assert [str(w.message) for w in seen] == []


def outcome(data: bytes) -> bytes | str:
    """Pixels, or the refusal in words; anything else raised is a failure."""
    try:
        pixels, _, _ = decode(data, SAME)
    except Undecodable as refusal:
        return f"{refusal.status}: {refusal}"
    assert pixels.shape == (3, SAME.size, SAME.size)
    assert pixels.dtype == np.uint8
    return pixels.tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_are_pixels_or_refused_and_always_the_same(form: str) -> None:
    whole = encode(RAMP, form, **({"compression": "tiff_adobe_deflate"} if form == "TIFF" else {}))
    generator = np.random.default_rng(FORMATS.index(form))
    refused = 0
    for number in range(300):
        data = np.frombuffer(whole, np.uint8).copy()
        reach = len(data) if number % 2 else min(len(data), 64)  # every other one in the header
        where = generator.integers(0, reach, generator.integers(1, 9))
        data[where] = generator.integers(0, 256, len(where))
        cut = generator.integers(1, len(data) + 1) if number % 5 == 0 else len(data)
        damaged = data[:cut].tobytes()
        found = outcome(damaged)
        assert found == outcome(damaged)
        assert isinstance(found, bytes) or found.startswith(("decode_error: ", "too_small: ", "too_large: "))
        refused += isinstance(found, str)
    assert refused > 10  # the damage is real


def test_quiet_is_about_pillow_alone_and_ends() -> None:
    before = warnings.filters[:]
    with quiet():
        warnings.warn_explicit("of Pillow", UserWarning, "x.py", 1, module="PIL.Image")
        with pytest.raises(UserWarning, match="of another"):
            warnings.warn_explicit("of another", UserWarning, "x.py", 1, module="numpy")
    assert warnings.filters == before
