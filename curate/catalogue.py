"""Who a sample is among the samples of its corpus: its key, and whether its pixels came before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.corpora.base import Item
from manifests.keys import content_key, pixel_hash, unreadable_key
from shards.decode import Transform, Undecodable, decode

UNREADABLE = "unreadable"
"""status of a sample whose bytes were not to be had, which may pass: ingest tries it again"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One source item after decoding: pixels, or a status that says why not."""

    item: Item
    content: str | None
    """key of the bytes; None when they could not be read"""
    image_CHW: NDArray[np.uint8] | None = None
    pixels: str | None = None
    """hash of the stored pixels"""
    width: int | None = None
    height: int | None = None
    status: str = "ok"
    error: str | None = None


def decode_item(item: Item, transform: Transform) -> Decoded:
    """Decode and hash one item; never raises for what is wrong with the sample. Runs in threads."""
    if item.data is None:
        status = UNREADABLE if item.unreadable else "decode_error"
        return Decoded(item=item, content=None, status=status, error=item.error)
    content = content_key(item.data)
    try:
        image, width, height = decode(item.data, transform)
    except Undecodable as refusal:
        return Decoded(item=item, content=content, status=refusal.status, error=str(refusal))
    return Decoded(item=item, content=content, image_CHW=image, pixels=pixel_hash(image), width=width, height=height)


class Catalogue:
    """Names samples in uri order; what it must remember is rebuilt from the parts that are committed."""

    def __init__(self, corpus: str) -> None:
        self._corpus = corpus
        self._seen: dict[str, int] = {}  # content key -> occurrences so far
        self._first: dict[str, str] = {}  # pixel hash -> key of the first sample with these pixels
        self._repeats: dict[str, int] = {}

    def name(self, found: Decoded) -> dict[str, Any]:
        """The manifest row of the next sample; where its pixels go is filled in when they are written."""
        key = self._key(found)
        original = None
        if found.pixels and (original := self._first.setdefault(found.pixels, key)) == key:
            original = None
        return {
            "key": key,
            "corpus": self._corpus,
            "uri": found.item.uri,
            "source_label": found.item.label,
            "status": "duplicate" if original else found.status,
            "error": found.error,
            "duplicate_of": original,
            "width": found.width,
            "height": found.height,
            "pixel_hash": found.pixels,
            "shard": None,
            "block": None,
            "row": None,
        }

    def _key(self, found: Decoded) -> str:
        if found.content is None or found.item.data is None:
            return unreadable_key(self._corpus, found.item.uri)
        occurrence = self._seen.get(found.content, 0)
        self._seen[found.content] = occurrence + 1
        if not occurrence:
            return found.content
        self._repeats[found.content] = occurrence + 1
        return content_key(found.item.data, occurrence)

    def take_repeats(self) -> dict[str, int]:
        """Occurrences so far of content that came again since the last call; a part commits it for `remember`."""
        taken, self._repeats = self._repeats, {}
        return taken

    def remember(self, rows: pa.Table, repeats: dict[str, int]) -> None:
        """Take over a committed part: its manifest rows, and the repeats as they stood after it."""
        columns = (rows[name].to_pylist() for name in ("key", "pixel_hash", "duplicate_of"))
        for key, pixels, original in zip(*columns, strict=True):
            self._seen[key] = 1
            if pixels and not original:
                self._first[pixels] = key
        self._seen |= repeats
