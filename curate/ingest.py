"""Ingest: foreign images into a corpus store. Decoded once per (corpus, resolution), then fixed-shape and hashed.

A part of the corpus is a unit of work: one block shard, one piece of the samples manifest, one commit record.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.catalogue import Catalogue, Decoded, decode_item
from curate.corpora.base import Corpus, Item, Part
from curate.decode import Transform, quiet
from curate.errors import CorpusEmpty
from manifests.commit import Ledger, Record, exclusive
from manifests.progress import Advance, Progress, silent
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from manifests.write import write_manifest
from shards.index import ShardFacts, ShardFolder, open_folder, seal, write_index
from shards.layout import KEY_DTYPE, UNKNOWN_LABEL, Block, block_rows, shard_name
from shards.write import committed, write_shard

VERSION = 1  # raise it when the same source would give other pixels or other rows
CHUNK = 32  # images that a decoding thread takes at once: enough to hide the hand-over at 32 px


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """A store, and what was done for it."""

    store: ShardFolder
    decoded: int
    """images decoded in this run; 0 when the store was there already"""


def ingest(
    corpus: Corpus, *, size: int, work: Path, threads: int | None = None, progress: Progress = silent
) -> IngestResult:
    """Read ``corpus`` into a store of ``size`` px images below ``work``.

    A store that is there and valid is taken as it is: the corpus is asked who it is and not even listed. Every source
    sample gets a row, damaged ones with a status and a reason. Raises `CorpusEmpty` if there are no samples,
    `CorpusDamaged` for a broken container, `Busy` if another run is at it.
    """
    transform, workers = Transform(size=size), threads or os.cpu_count() or 1
    facts = {"corpus": corpus.name, "source": corpus.identity(), "transform": transform.spec, "ingest": VERSION}
    print_ = fingerprint(facts)
    folder = work / "stores" / f"{corpus.name}-{print_[:12]}"
    if Ledger(folder).done("store", print_):
        return IngestResult(store=open_folder(folder), decoded=0)
    parts = corpus.parts()
    total = sum(part.count for part in parts)
    if not total:
        raise CorpusEmpty(f"corpus {corpus.name!r} ({corpus.spec}) holds no images")
    with exclusive(folder), quiet(), progress(f"ingest {corpus.name}", total) as advance:
        job = _Job(corpus, transform=transform, folder=folder, fingerprint=print_, workers=workers)
        for number, part in enumerate(parts):
            job.do(number, part, advance)
        job.finish()
    return IngestResult(store=open_folder(folder), decoded=job.decoded)


class _Job:
    """One corpus on its way into one store."""

    def __init__(self, corpus: Corpus, *, transform: Transform, folder: Path, fingerprint: str, workers: int) -> None:
        self._corpus, self._transform, self._folder = corpus, transform, folder
        self._print, self._workers = fingerprint, workers
        self._ledger = Ledger(folder)
        self._catalogue = Catalogue(corpus.name)
        self._classes = {name: number for number, name in enumerate(corpus.classes or ())}
        self._made = Provenance(step="ingest", config={"corpus": corpus.name}, transform=transform.spec)
        self._shards: list[ShardFacts] = []
        self._pieces: list[str] = []
        self.decoded = 0

    def do(self, number: int, part: Part, advance: Advance) -> None:
        """Ingest one part, or take what an earlier run committed of it."""
        unit, piece = f"part-{number:06d}", f"parts/samples-{number:06d}.parquet"
        record = self._ledger.done(unit, self._print)
        if record is None:
            record = self._write(unit, piece, number, part, advance)
        else:
            self._catalogue.remember(read_manifest(self._folder, SAMPLES, name=piece), record.facts["repeats"])
            advance(part.count)
        self._shards.append(ShardFacts.from_json(record.facts["shard"]))
        self._pieces.append(piece)

    def _write(self, unit: str, piece: str, number: int, part: Part, advance: Advance) -> Record:
        rows: list[dict[str, Any]] = []
        first = sum(len(shard.blocks) for shard in self._shards)
        blocks = self._blocks(self._decoded(part, advance), number, rows)
        shard = write_shard(self._folder, shard_name(number), blocks, split="all", first_block=first)
        table = pa.Table.from_pylist(rows, schema=SAMPLES.plain_schema())
        samples = write_manifest(self._folder, SAMPLES, table, provenance=self._made, name=piece)
        self.decoded += len(rows)
        return self._ledger.commit(
            unit,
            fingerprint=self._print,
            files=[committed(shard), samples],
            facts={"shard": shard.as_json(), "repeats": self._catalogue.take_repeats()},
        )

    def _decoded(self, part: Part, advance: Advance) -> Iterator[Decoded]:
        """The items of a part, decoded in threads, in order, with a bounded number under way."""
        items = self._corpus.read(part)
        under_way: deque[Future[list[Decoded]]] = deque()
        with ThreadPoolExecutor(self._workers) as pool:
            for chunk in iter(lambda: list(islice(items, CHUNK)), []):
                under_way.append(pool.submit(self._decode, chunk))
                if len(under_way) > 2 * self._workers:
                    yield from _deliver(under_way.popleft(), advance)
            while under_way:
                yield from _deliver(under_way.popleft(), advance)

    def _decode(self, items: list[Item]) -> list[Decoded]:
        return [decode_item(item, self._transform) for item in items]

    def _blocks(self, decoded: Iterator[Decoded], shard: int, rows: list[dict[str, Any]]) -> Iterator[Block]:
        """Group usable images into blocks; every sample's manifest row, usable or not, is added to ``rows``."""
        group: list[tuple[Decoded, dict[str, Any]]] = []
        block = 0
        for found in decoded:
            row = self._catalogue.name(found)
            rows.append(row)
            if found.image_CHW is None:
                continue
            row |= {"shard": shard, "block": block, "row": len(group)}
            group.append((found, row))
            if len(group) == block_rows(self._transform.size):
                yield self._block(group)
                group, block = [], block + 1
        if group:
            yield self._block(group)

    def _block(self, group: list[tuple[Decoded, dict[str, Any]]]) -> Block:
        return Block(
            images_NCHW=np.stack([found.image_CHW for found, _ in group if found.image_CHW is not None]),
            keys=np.array([row["key"] for _, row in group], KEY_DTYPE),
            labels=np.array([self._classes.get(row["source_label"], UNKNOWN_LABEL) for _, row in group], np.int32),
        )

    def finish(self) -> None:
        """Join the pieces, write the index, then the document, then the commit record."""
        samples = pa.concat_tables(read_manifest(self._folder, SAMPLES, name=piece) for piece in self._pieces)
        files = [committed(shard) for shard in self._shards]
        files.append(write_manifest(self._folder, SAMPLES, samples, provenance=self._made))
        files.append(write_index(self._folder, self._shards, provenance=self._made))
        about = {
            "corpus": self._corpus.name,
            "builtin": self._corpus.builtin,
            "classes": list(self._corpus.classes) if self._corpus.classes else None,
            "size": self._transform.size,
            "transform": self._transform.spec,
            "seen": samples.num_rows,
            "statuses": dict(sorted(Counter(samples["status"].to_pylist()).items())),
        }
        seal(self._folder, about, kind="store", files=files, fingerprint=self._print)


def _deliver(done: Future[list[Decoded]], advance: Advance) -> list[Decoded]:
    found = done.result()
    advance(len(found))
    return found
