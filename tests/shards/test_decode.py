"""Decoding: every form a photograph comes in, the resize rule against a naive one, and anything that is no picture."""

import io
import resource
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from shards.decode import FORMATS, MAX_PIXELS, MIN_SIDE, Transform, Undecodable, decode, quiet
from tests.curate.make import encode, picture
from tests.shards.by_hand import (
    GREY,
    GREY_ALPHA,
    RGBA,
    adam7,
    bombs,
    chunk,
    png,
    png16,
    png_that_declares,
    tiff,
    tiff16,
    ycck,
)
from tests.shards.by_hand import RGB as TRUECOLOUR

HEIGHT, WIDTH = 12, 16
SAME = Transform(size=HEIGHT)  # the middle HEIGHT columns, no pixel changed
MIDDLE = slice((WIDTH - HEIGHT) // 2, (WIDTH + HEIGHT) // 2)
RAMP = np.stack(np.broadcast_arrays(*np.ogrid[0:240:12j, 0:240:16j], 128), -1).astype(
    np.uint8
)  # smooth: codecs keep it
RGB = Image.fromarray(RAMP)
# EXIF orientation -> whether to mirror left and right first, and quarter turns (anticlockwise), to set it upright
UPRIGHT = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
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


def test_jpeg_of_ink_and_of_plain_rgb() -> None:
    """CMYK as Photoshop writes it (inverted, the Adobe marker says so), YCCK, and RGB that is not luma and chroma."""
    ink = encode(RGB.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    plain = encode(RGB, "JPEG", quality=95, subsampling=0, keep_rgb=True)
    assert b"Adobe" in ink
    assert ycck(RGB) != ink
    assert b"\xff\xc0\x00\x11\x08\x00\x0c\x00\x10\x03R\x11\x00G\x11" in plain  # its components are called R, G, B
    for data in (ink, ycck(RGB), plain):
        assert np.abs(decode(data, SAME)[0].astype(int) - cropped(RAMP)).max() <= 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "steps"), UPRIGHT.items())
def test_a_picture_is_turned_upright(form: str, orientation: int, steps: tuple[int, int]) -> None:
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    pixels, width, height = decode(encode(RGB, form, exif=exif(orientation), **options), Transform(size=HEIGHT))
    mirrored, turns = steps
    turned = np.rot90(RAMP[:, ::-1] if mirrored else RAMP, turns)
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
    depth = np.stack([RAMP[..., n].astype(np.uint16) * 256 + 99 * n for n in range(3)], -1)
    np.testing.assert_array_equal(decode(png16(depth, TRUECOLOUR), SAME)[0], cropped(RAMP))
    np.testing.assert_array_equal(decode(tiff16(depth, 2), SAME)[0], cropped(RAMP))
    ppm = f"P6 {WIDTH} {HEIGHT} 65535 ".encode() + (RAMP * np.uint16(257)).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(ppm, SAME)[0], cropped(RAMP))
    pgm = f"P5 {WIDTH} {HEIGHT} 65535 ".encode() + (grey.astype(np.uint16) * 256).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(pgm, SAME)[0], wanted)


def test_sixteen_bits_and_transparent() -> None:
    """What is transparent is black; a grey image may name one grey of 65,536."""
    clear = np.broadcast_to(np.arange(WIDTH) < 8, (HEIGHT, WIDTH))
    deep, alpha = RAMP.astype(np.uint16) * 257, np.where(clear, 0, 65535).astype(np.uint16)
    wanted = np.where(clear[..., None], 0, RAMP)
    np.testing.assert_array_equal(decode(png16(np.dstack([deep, alpha]), RGBA), SAME)[0], cropped(wanted))
    grey = np.repeat(wanted[..., :1], 3, 2)
    np.testing.assert_array_equal(decode(png16(np.dstack([deep[..., 0], alpha]), GREY_ALPHA), SAME)[0], cropped(grey))
    named = png16(deep[..., :1], GREY, extra=chunk(b"tRNS", deep[3, 7, 0].tobytes()[::-1]))
    wanted = np.where(deep[..., :1] == deep[3, 7, 0], 0, RAMP[..., :1]).repeat(3, 2)
    assert not wanted[3].any()
    assert wanted[4].any()
    np.testing.assert_array_equal(decode(named, SAME)[0], cropped(wanted))


def test_tiff_of_ink_and_of_bits() -> None:
    ink = RGB.convert("CMYK")
    np.testing.assert_array_equal(decode(encode(ink, "TIFF"), SAME)[0], cropped(RAMP))
    np.testing.assert_array_equal(decode(tiff16(np.asarray(ink) * np.uint16(257), 5), SAME)[0], cropped(RAMP))
    bits = RAMP[..., 0] > 100
    wanted = cropped(np.repeat(bits[..., None] * np.uint8(255), 3, 2))
    for packing in ("raw", "group4", "packbits"):
        np.testing.assert_array_equal(
            decode(encode(Image.fromarray(bits), "TIFF", compression=packing), SAME)[0], wanted
        )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM", "GIF", "PNG"])
def test_every_depth_of_the_plain_formats(form: str, mode: str) -> None:
    source = RGB.quantize(16) if mode == "P" else RGB.convert(mode)
    if form == "PPM" and mode == "P":
        source = source.convert("L")
    if form == "GIF" and mode == "RGB":
        source = source.quantize(200)
    np.testing.assert_array_equal(decode(encode(source, form), SAME)[0], cropped(np.asarray(source.convert("RGB"))))


def test_netpbm_in_letters_and_in_bytes() -> None:
    letters = f"P3 # a comment\n{WIDTH} {HEIGHT}\n255\n{' '.join(map(str, RAMP.ravel().tolist()))}\n".encode()
    np.testing.assert_array_equal(decode(letters, SAME)[0], cropped(RAMP))
    grey = f"P2\n{WIDTH} {HEIGHT}\n255\n{' '.join(map(str, RAMP[..., 0].ravel().tolist()))}\n".encode()
    np.testing.assert_array_equal(decode(grey, SAME)[0], cropped(RAMP[..., :1].repeat(3, 2)))


def test_webp_with_and_without_loss() -> None:
    clear = np.broadcast_to(np.arange(WIDTH) < 8, (HEIGHT, WIDTH))
    layered = Image.fromarray(np.dstack([RAMP, np.where(clear, 0, 255).astype(np.uint8)]))
    wanted = cropped(np.where(clear[..., None], 0, RAMP))
    np.testing.assert_array_equal(decode(encode(layered, "WEBP", lossless=True), SAME)[0], wanted)
    far = np.abs(np.arange(HEIGHT) + MIDDLE.start - 7.5) > 2  # px of the edge: chroma is halved
    for image, hoped in ((RGB, cropped(RAMP)), (layered, wanted)):
        pixels = decode(encode(image, "WEBP", quality=100), SAME)[0].astype(int)
        assert np.abs(pixels - hoped)[:, :, far].max() <= 12


def test_one_bit_palettes_and_interlace() -> None:
    bits = RAMP[..., 0] > 100
    one_bit = encode(Image.fromarray(bits))
    np.testing.assert_array_equal(decode(one_bit, SAME)[0], cropped(np.repeat(bits[..., None] * np.uint8(255), 3, 2)))
    palette = RGB.quantize(16)
    np.testing.assert_array_equal(decode(encode(palette), SAME)[0], cropped(np.asarray(palette.convert("RGB"))))
    np.testing.assert_array_equal(decode(adam7(RAMP), SAME)[0], cropped(RAMP))


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
    for form in ("GIF", "TIFF", "PNG", "WEBP"):
        more = {"lossless": True} if form == "WEBP" else {}
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], **more)
        with Image.open(io.BytesIO(data)) as film:
            assert film.n_frames == 2  # type: ignore[attr-defined]  # of those formats alone
        assert np.unique(decode(data, SAME)[0]).tolist() == [40], form
    stereo = encode(frames[0].convert("RGB"), "MPO", save_all=True, append_images=[frames[1].convert("RGB")])
    assert np.abs(decode(stereo, SAME)[0].astype(int) - 40).max() <= 1


def test_arrays_are_pictures_too() -> None:
    np.testing.assert_array_equal(decode(RAMP, SAME)[0], cropped(RAMP))
    grey, width, height = decode(RAMP[..., 0], SAME)
    np.testing.assert_array_equal(grey, cropped(np.repeat(RAMP[..., :1], 3, axis=2)))
    assert (width, height) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(decode(RAMP[:, ::-1], SAME)[0], cropped(RAMP[:, ::-1]))  # not contiguous


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


@pytest.mark.parametrize(("form", "data"), bombs().items(), ids=str)
def test_a_small_file_that_declares_a_huge_picture(form: str, data: bytes) -> None:
    assert len(data) < 2048
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Undecodable, match="more than 89,478,485 px declared") as refusal:
        decode(data, SAME)
    assert refusal.value.status == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB; its pixels take 10 GB and more


@pytest.mark.parametrize(
    ("part", "late"),
    [(b"zTXtk\0\0", False), (b"zTXtk\0\0", True), (b"iTXtk\0\1\0\0\0", False), (b"iCCPk\0\0", False)],
    ids=["text", "text after the pixels", "international text", "colour profile"],
)
def test_a_chunk_that_unpacks_to_a_thousand_times_its_size(part: bytes, late: bool) -> None:
    bomb = chunk(part[:4], part[4:] + zlib.compress(bytes(64 << 20), 9))
    plain = encode(RAMP)
    where = len(plain) - 12 if late else 33  # before IEND, or after IHDR
    data = plain[:where] + bomb + plain[where:]
    assert len(data) < 100_000
    with pytest.raises(Undecodable, match=r"too large for PngImagePlugin\.MAX_TEXT_CHUNK") as refusal:
        decode(data, SAME)
    assert refusal.value.status == "decode_error"


def test_more_pixels_than_declared_are_not_unpacked() -> None:
    line = b"\0" + bytes([7] * 3 * WIDTH)
    longer = png(WIDTH, HEIGHT, depth=8, colour=TRUECOLOUR, lines=line * (HEIGHT + 1_000_000))
    assert (decode(longer, SAME)[0] == 7).all()
    tile = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 65_536, 323: 65_536, 325: 9}
    with pytest.raises(Undecodable, match="decoder error"):  # a tile of 4 GB for a picture of 16 px
        decode(tiff(tile, zlib.compress(bytes(99))), SAME)


def test_the_name_is_not_asked() -> None:
    """A file is what its bytes say; formats that Pillow would hand to other programs are not opened."""
    for form in FORMATS:
        assert decode(encode(RGB.convert("P"), form) if form == "GIF" else encode(RGB, form), SAME)[1:] == (
            WIDTH,
            HEIGHT,
        )
    for foreign in ("PDF", "EPS", "ICO", "TGA", "PCX"):
        with pytest.raises(Undecodable, match="not an image of a known format"):
            decode(encode(RGB, foreign), SAME)


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
