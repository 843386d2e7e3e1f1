"""Names of samples: content keys, repeats in uri order, pixels that came before, and what a committed part leaves."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate.catalogue import Catalogue, decode_item
from curate.corpora.base import Item
from manifests.keys import content_key, pixel_hash, unreadable_key
from manifests.schema import SAMPLES
from shards.decode import Transform
from tests.curate.make import SIZE, encode, picture

TRANSFORM = Transform(size=SIZE)


def item(uri: str, data: Any, **facts: Any) -> Item:
    return Item(uri=uri, data=data, **facts)


def named(items: list[Item], catalogue: Catalogue | None = None) -> list[dict[str, Any]]:
    catalogue = catalogue or Catalogue("c")
    return [catalogue.name(decode_item(i, TRANSFORM)) for i in items]


def test_a_good_sample() -> None:
    image = picture(0)
    found = decode_item(item("a.png", encode(image), label="cat"), TRANSFORM)
    assert found.image_CHW is not None
    np.testing.assert_array_equal(found.image_CHW, image.transpose(2, 0, 1))
    assert Catalogue("c").name(found) == {
        "key": content_key(encode(image)),
        "corpus": "c",
        "uri": "a.png",
        "source_label": "cat",
        "status": "ok",
        "error": None,
        "duplicate_of": None,
        "width": SIZE,
        "height": SIZE,
        "pixel_hash": pixel_hash(image.transpose(2, 0, 1)),
        "shard": None,
        "block": None,
        "row": None,
    }


def test_the_same_bytes_again_have_a_key_of_their_own_by_their_turn() -> None:
    data = encode(picture(0))
    rows = named([item(f"{n}.png", data) for n in range(3)])
    assert [row["key"] for row in rows] == [content_key(data), content_key(data, 1), content_key(data, 2)]
    assert [row["status"] for row in rows] == ["ok", "duplicate", "duplicate"]
    assert [row["duplicate_of"] for row in rows] == [None, rows[0]["key"], rows[0]["key"]]


def test_the_same_pixels_in_other_bytes_are_duplicates() -> None:
    image = picture(0)
    rows = named([item("a.png", encode(image)), item("b.bmp", encode(image, "BMP")), item("c", image)])
    assert len({row["key"] for row in rows}) == 3
    assert rows[2]["key"] == content_key(image)
    assert [row["duplicate_of"] for row in rows] == [None, rows[0]["key"], rows[0]["key"]]


@pytest.mark.parametrize(
    ("sample", "key", "status", "error"),
    [
        (item("x.png", None, error="a link out"), unreadable_key("c", "x.png"), "decode_error", "a link out"),
        (item("x.png", None, error="gone", unreadable=True), unreadable_key("c", "x.png"), "unreadable", "gone"),
        (item("x.png", b"text"), content_key(b"text"), "decode_error", "not an image"),
        (item("x.png", b""), content_key(b""), "decode_error", "empty file"),
        (item("x", np.zeros((2, 9), np.uint8)), content_key(np.zeros((2, 9), np.uint8)), "too_small", "9x2 px"),
    ],
)
def test_what_cannot_be_used_has_a_row_and_a_reason(sample: Item, key: str, status: str, error: str) -> None:
    found = decode_item(sample, TRANSFORM)
    row = Catalogue("c").name(found)
    assert found.image_CHW is None
    assert (row["key"], row["status"]) == (key, status)
    assert error in row["error"]
    assert row["pixel_hash"] is row["duplicate_of"] is row["width"] is None


def test_damaged_bytes_repeat_without_being_duplicates() -> None:
    rows = named([item("a.jpg", b""), item("b.jpg", b"")])
    assert [row["key"] for row in rows] == [content_key(b""), content_key(b"", 1)]
    assert [row["duplicate_of"] for row in rows] == [None, None]


def test_a_committed_part_leaves_the_same_names_to_the_next() -> None:
    image = picture(0)
    same, other, again = encode(image), encode(picture(1)), encode(image, "BMP")
    data = [same, other, same, b"", same, None, b"", again, same, other]
    items = [item(f"{n}", d, error=None if d is not None else "gone") for n, d in enumerate(data)]
    whole = named(items)
    for cut in range(len(items) + 1):
        first = Catalogue("c")
        before = named(items[:cut], first)
        resumed = Catalogue("c")
        resumed.remember(pa.Table.from_pylist(before, schema=SAMPLES.plain_schema()), first.take_repeats())
        assert before + named(items[cut:], resumed) == whole
    assert len({row["key"] for row in whole}) == len(whole)


def test_repeats_are_taken_once() -> None:
    catalogue = Catalogue("c")
    named([item("a", b""), item("b", b""), item("c", b"x")], catalogue)
    assert catalogue.take_repeats() == {content_key(b""): 2}
    assert catalogue.take_repeats() == {}
    named([item("d", b"")], catalogue)
    assert catalogue.take_repeats() == {content_key(b""): 3}
