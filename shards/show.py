"""What a set is, at a glance: how many images of what, where from, and what they take."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.query import run_query
from shards.errors import ShardError
from shards.index import ShardFolder
from shards.sources.local import LocalBlocks

TOP = 10
"""classes that a person is shown"""
SECONDS = 600.0
"""that counting may take; a set of a million images takes less than one"""
TILES = 64
"""images of a mosaic"""
TILE = 64
"""px; up to here a mosaic enlarges them"""


def describe(folder: ShardFolder) -> dict[str, Any]:
    """Facts of a transfer set or store, as JSON-ready values; images are those whose pixels it holds."""
    teacher, shards = folder.document.get("teacher"), folder.shards
    images = folder.rows()
    pixels = sum(shard.bytes for shard in shards)
    classes, meaning = _classes(folder)
    return {
        "folder": str(folder.path),
        "kind": folder.document["kind"],
        "id": folder.id,
        "images": images,
        "splits": {split: folder.rows(split) for split in folder.splits},
        "size": folder.size,
        "corpora": _counts(folder, "SELECT corpus AS value FROM samples WHERE shard IS NOT NULL"),
        "classes": classes,
        "classes_are": meaning,
        "teacher": {key: teacher[key] for key in ("name", "sha256")} if teacher else None,
        "views": folder.views,
        "shards": len(shards),
        "blocks": sum(len(shard.blocks) for shard in shards),
        "bytes": pixels,
        "bytes_per_image": pixels / images if images else None,
    }


def _classes(folder: ShardFolder) -> tuple[dict[str, int], str]:
    """How many images of each class, commonest first, and whose word that is."""
    if folder.document["kind"] == "store":
        query = "SELECT source_label AS value FROM samples WHERE shard IS NOT NULL"
        return _counts(folder, query), "the source's own labels"
    counts = _counts(folder, "SELECT pred AS value FROM scores JOIN selection USING (key) WHERE selected")
    names = folder.document.get("classes")
    return {names[n] if names else str(n): count for n, count in counts.items()}, "the teacher's predictions"


def _counts(folder: ShardFolder, query: str) -> dict[Any, int]:
    """How often each value comes in what a query gives, commonest first."""
    counted = (
        f"SELECT value, count(*) AS n FROM ({query}) WHERE value IS NOT NULL GROUP BY value ORDER BY n DESC, value"
    )
    rows = run_query(counted, folder.path, timeout_s=SECONDS)
    return dict(zip(rows["value"].to_pylist(), rows["n"].to_pylist(), strict=True))


def lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts as a person reads them: names and values."""
    yield "id", facts["id"]
    yield "kind", facts["kind"].replace("-", " ")
    splits = ", ".join(f"{name} {rows:,}" for name, rows in facts["splits"].items() if name != "all")
    yield "images", f"{facts['images']:,}" + (f" ({splits})" if splits else "")
    yield "size", f"{facts['size']} px"
    yield "corpora", _most(facts["corpora"])
    known = facts["classes"]
    yield "classes", f"{len(known):,}, {facts['classes_are']}: {_most(known)}" if known else "none known"
    if facts["teacher"]:
        yield "teacher", f"{facts['teacher']['name']} ({facts['teacher']['sha256'][:12]})"
        yield "views", f"{facts['views']} with logits" if facts["views"] else "none: logits are computed in training"
    mean = f", {facts['bytes_per_image']:,.0f} an image" if facts["images"] else ""
    yield "bytes", f"{facts['bytes']:,} in {facts['shards']} shards of {facts['blocks']} blocks{mean}"


def _most(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} ({count:,})" for name, count in itertools.islice(counts.items(), TOP))
    return shown + (f", and {len(counts) - TOP} more" if len(counts) > TOP else "")


def sample(folder: ShardFolder) -> NDArray[np.uint8]:
    """Up to TILES images (N, 3, H, W) from all over the set, the same each time; few blocks are read for them."""
    source = LocalBlocks(folder)
    source.check()
    blocks = np.unique(np.linspace(0, len(source.counts) - 1, TILES // 8).round().astype(int)).tolist()
    found, left = {}, TILES
    for done, number in enumerate(sorted(blocks, key=lambda number: int(source.counts[number]))):
        images_NCHW = source.read(number).images_NCHW
        each = -(-left // (len(blocks) - done))  # more of the fuller ones, which come last
        found[number] = images_NCHW[np.unique(np.linspace(0, len(images_NCHW) - 1, each).round().astype(int))]
        left -= len(found[number])
    return np.concatenate([found[number] for number in blocks])


def write_mosaic(folder: ShardFolder, file: Path) -> int:
    """A PNG of `sample`; returns how many images are on it."""
    from manifests.commit import write_bytes
    from shards.page import mosaic  # here: only a picture needs Pillow

    if file.suffix.lower() != ".png":
        raise ShardError(f"--mosaic is {str(file)!r}; expected a name that ends in .png, which is what is drawn")
    images_NCHW = sample(folder)
    write_bytes(file, mosaic(images_NCHW, scale=max(1, TILE // folder.size)))
    return len(images_NCHW)
