"""Is a shard folder what was written? Sizes and counts, or every hash and every block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.commit import Ledger, check_file
from manifests.errors import IntegrityError, TransfersetError
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.errors import BlockDamaged
from shards.index import ShardFolder, contents_id, open_folder, read_document
from shards.read import read_block


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was checked and what was wrong."""

    folder: str
    shards: int
    images: int
    """both as the index says; 0 if it cannot be read"""
    full: bool
    problems: tuple[str, ...]


def verify(path: Path, *, full: bool = True) -> Verdict:
    """Check a transfer set or a store; ``full`` hashes every file and decodes every block.

    Damage is reported in `problems`, all of it; only a folder without a document to check it by raises.
    """
    problems = list(_check_files(path, read_document(path), full=full))
    shards = images = 0
    try:
        folder = open_folder(path)
        shards, images = len(folder.shards), folder.rows()
        samples = read_manifest(path, SAMPLES, columns=["key", "shard", "block", "row"])
    except TransfersetError as error:
        problems.append(str(error))
    else:
        problems += _check_listing(folder, samples)
        if full:
            problems += _check_blocks(folder, samples)
    return Verdict(folder=str(path), shards=shards, images=images, full=full, problems=tuple(problems))


def _check_files(path: Path, document: Mapping[str, Any], *, full: bool) -> Iterator[str]:
    """Every file is as its commit record says, and the id is that of the contents."""
    kind = document["kind"]
    if contents_id(document["contents"]) != document["id"]:
        yield f"{path / kind}.json is damaged: its id {document['id']} is not that of the contents it lists"
    record = Ledger(path).read(kind)
    if record is None:
        yield f"{path} has no commit record {kind!r}: unfinished, or not copied whole; make or copy it again"
        return
    for facts in record.files:
        file = path / facts.name
        if full or not file.is_file() or file.stat().st_size != facts.bytes:
            try:
                check_file(file, bytes=facts.bytes, sha256=facts.sha256)
            except IntegrityError as error:
                yield str(error)


def _check_listing(folder: ShardFolder, samples: pa.Table) -> Iterator[str]:
    """Every tar is in the index, and the manifest places exactly as many images as the index counts."""
    known = {folder.path / shard.name for shard in folder.shards}
    for tar in sorted({*(folder.path / "shards").glob("*.tar")} - known):
        yield f"{tar} is not in the index: a shard of another set, or a copy"
    placed = len(samples) - samples["shard"].null_count
    if placed != folder.rows():
        yield f"{folder.path}: samples.parquet places {placed:,} images, shards.parquet counts {folder.rows():,}"


def _check_blocks(folder: ShardFolder, samples: pa.Table) -> Iterator[str]:
    """Decode every block and look for each image where the manifest says it is."""
    for number, shard in enumerate(folder.shards):
        file = folder.path / shard.name
        mine = samples.filter(pc.equal(samples["shard"], number))
        columns = (mine[name].to_pylist() for name in ("key", "block", "row"))
        where = {(block, row): key.encode() for key, block, row in zip(*columns, strict=True)}
        for position, facts in enumerate(shard.blocks if file.exists() else ()):  # missing: said already
            try:
                block_read = read_block(file, facts)
                keys, _ = block_read.keys, block_read.images_NCHW  # encoded images are decoded here
            except BlockDamaged as error:
                yield str(error) if str(file) in str(error) else f"{file}: block {facts.block}: {error}"
                continue
            wrong = [row for row, key in enumerate(keys) if where.get((position, row)) != key]
            if wrong:
                yield f"{file}: block {position} row {wrong[0]} is another image than samples.parquet says"
