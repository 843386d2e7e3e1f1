"""Ingest: foreign images into a corpus store. Decoded once per (corpus, resolution), then fixed-shape and hashed.

A part of the corpus is a unit of work: one block shard, one piece of the samples manifest, one commit record.
What could not be read may be readable the next time, so a store that lacks such samples is never taken as done.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.catalogue import UNREADABLE, Catalogue, Decoded, decode_item
from curate.corpora.base import Corpus, Item, Part
from curate.errors import CorpusDamaged, CorpusEmpty
from manifests.commit import Ledger, Record, exclusive, naming
from manifests.progress import Advance, Progress, silent
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from manifests.write import write_manifest
from shards.decode import Transform, quiet
from shards.index import ShardFacts, ShardFolder, open_folder, seal, write_index
from shards.layout import KEY_DTYPE, UNKNOWN_LABEL, Block, block_rows, shard_name
from shards.write import committed, write_shard

VERSION = 1  # raise it when the same source would give other pixels or other rows
CHUNK = 32  # images that a decoding thread takes at once: enough to hide the hand-over at 32 px
CHUNK_BYTES = 1 << 18  # or fewer that are as many bytes encoded: a few photographs, so that threads share them evenly
NAMED = 3  # samples that could not be read, named in an IngestResult

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """A store, and what was done for it."""

    store: ShardFolder
    decoded: int
    """images decoded in this run; 0 when the store was there already"""
    unreadable: int = 0
    """samples that could not be read; the same call tries them again"""
    reasons: tuple[str, ...] = ()
    """`uri: reason` of the first few of them"""


def unread(results: Sequence[IngestResult]) -> str | None:
    """What a person is told of samples that could not be read, and what to do; None if there are none."""
    first = next((result.reasons[0] for result in results if result.reasons), None)
    if first is None:
        return None
    count = sum(result.unreadable for result in results)
    return (
        f"{count:,} sample{'s' * (count != 1)} could not be read (first: {first}); "
        "mend what is wrong and run the same command again"
    )


def ingest(
    corpus: Corpus,
    *,
    size: int,
    work: Path,
    resize: str = "antialias",
    threads: int | None = None,
    progress: Progress = silent,
) -> IngestResult:
    """Read ``corpus`` into a store of ``size`` px images below ``work``, by the rule ``resize`` of `shards.decode`.

    A store that is there and valid is taken as it is: the corpus is asked who it is and not even listed. Every source
    sample gets a row, damaged ones with a status and a reason; where some could not be read, they are tried again the
    next time. Raises `CorpusEmpty` if there are no samples, `CorpusDamaged` for a broken container, `Busy` if another
    run is at it.
    """
    transform, workers = Transform(size=size, resize=resize), threads or os.cpu_count() or 1
    folder, print_ = place_of_store(corpus, transform, work=work)
    if Ledger(folder).done("store", print_) and not unfinished(store := open_folder(folder)):
        return IngestResult(store=store, decoded=0)
    parts = corpus.parts()
    total = sum(part.count for part in parts)
    if not total:
        raise CorpusEmpty(f"corpus {corpus.name!r} ({corpus.spec}) holds no images")
    with exclusive(folder), quiet(), progress(f"ingest {corpus.name}", total) as advance:
        job = _Job(corpus, transform=transform, folder=folder, fingerprint=print_, workers=workers)
        job.do(parts, advance)
        missed = job.finish()
    return IngestResult(
        store=open_folder(folder), decoded=job.decoded, unreadable=len(missed), reasons=tuple(missed[:NAMED])
    )


def place_of_store(corpus: Corpus, transform: Transform, *, work: Path) -> tuple[Path, str]:
    """The folder of the store that `ingest` makes of a corpus, and the fingerprint of what it depends on."""
    facts = {"corpus": corpus.name, "source": corpus.identity(), "transform": transform.spec, "ingest": VERSION}
    print_ = fingerprint(facts)
    return work / "stores" / f"{corpus.name}-{print_[:12]}", print_


def unfinished(store: ShardFolder) -> bool:
    """Whether some samples of a store could not be read, so that `ingest` tries them again."""
    return UNREADABLE in store.document["statuses"]


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
        self.decoded = 0

    def do(self, parts: Sequence[Part], advance: Advance) -> None:
        """Ingest the parts in order, or take what an earlier run committed of them.

        What is to be decoded is one stream through one pool: its threads go on with the next part while one is sealed.
        """
        records = self._committed(parts)
        todo = [part for part, record in zip(parts, records, strict=True) if record is None]
        with ThreadPoolExecutor(self._workers) as pool:
            chunks = in_order(pool, self._decode, self._chunks(todo), ahead=2 * self._workers)
            decoded = _delivered(chunks, advance)
            for number, (part, record) in enumerate(zip(parts, records, strict=True)):
                if record is None:
                    done = self._write(number, islice(decoded, part.count))
                else:
                    done = record
                    self._catalogue.remember(self._rows(number), done.facts["repeats"])
                    advance(part.count)
                self._shards.append(ShardFacts.from_json(done.facts["shard"]))

    def _committed(self, parts: Sequence[Part]) -> list[Record | None]:
        """What earlier runs committed of each part, as far as it holds.

        From a part on whose unreadable samples have become readable nothing does: names depend on what came before.
        """
        records = [self._ledger.done(_unit(number), self._print) for number in range(len(parts))]
        for number, (part, record) in enumerate(zip(parts, records, strict=True)):
            if record and record.facts.get(UNREADABLE) and self._mended(number, part):
                return [*records[:number], *[None] * (len(parts) - number)]
        return records

    def _mended(self, number: int, part: Part) -> bool:
        """Whether other samples of a part can be read now, or others cannot."""
        before = [f"{row['uri']}: {row['error']}" for row in _missed(self._rows(number)).to_pylist()]
        now = [f"{item.uri}: {item.error}" for item in self._corpus.read(part) if item.unreadable]
        return sorted(before) != sorted(now)

    def _rows(self, number: int) -> pa.Table:
        return read_manifest(self._folder, SAMPLES, name=_piece(number))

    def _write(self, number: int, decoded: Iterator[Decoded]) -> Record:
        rows: list[dict[str, Any]] = []
        first = sum(len(shard.blocks) for shard in self._shards)
        blocks = self._blocks(decoded, number, rows)
        shard = write_shard(self._folder, shard_name(number), blocks, split="all", first_block=first)
        table = pa.Table.from_pylist(rows, schema=SAMPLES.plain_schema())
        samples = write_manifest(self._folder, SAMPLES, table, provenance=self._made, name=_piece(number))
        self.decoded += len(rows)
        missed = _missed(table).num_rows
        return self._ledger.commit(
            _unit(number),
            fingerprint=self._print,
            files=[committed(shard), samples],
            facts={
                "shard": shard.as_json(),
                "repeats": self._catalogue.take_repeats(),
                **({UNREADABLE: missed} if missed else {}),
            },
        )

    def _chunks(self, parts: Iterable[Part]) -> Iterator[list[Item]]:
        """The items of the parts, in pieces for a thread; `CorpusDamaged` if a part is not as long as it said."""
        for part in parts:
            chunk: list[Item] = []
            count = size = 0
            with naming(self._corpus.spec):
                for item in self._corpus.read(part):
                    chunk.append(item)
                    count += 1
                    size += len(item.data) if isinstance(item.data, bytes) else 0
                    if len(chunk) == CHUNK or size >= CHUNK_BYTES:
                        yield chunk
                        chunk, size = [], 0
            yield chunk
            if count != part.count:
                raise CorpusDamaged(
                    f"corpus {self._corpus.name!r} ({self._corpus.spec}) changed while it was read: {count:,} of "
                    f"{part.count:,} samples in {part.name}; run the same command again when it is at rest"
                )

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
            images=np.stack([found.image_CHW for found, _ in group if found.image_CHW is not None]),
            keys=np.array([row["key"] for _, row in group], KEY_DTYPE),
            labels=np.array([self._classes.get(row["source_label"], UNKNOWN_LABEL) for _, row in group], np.int32),
        )

    def finish(self) -> list[str]:
        """Join the pieces, write the index, then the document, then the commit record; say what could not be read."""
        samples = pa.concat_tables(self._rows(number) for number in range(len(self._shards)))
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
        missed = _missed(samples).sort_by("uri").to_pylist()
        return [f"{row['uri']}: {row['error'].removeprefix(f'{UNREADABLE}: ')}" for row in missed]


def _unit(number: int) -> str:
    return f"part-{number:06d}"


def _piece(number: int) -> str:
    return f"parts/samples-{number:06d}.parquet"


def _missed(samples: pa.Table) -> pa.Table:
    """The samples that could not be read."""
    return samples.filter(pc.equal(samples["status"], UNREADABLE)).select(["uri", "error"])


def _delivered(chunks: Iterable[list[Decoded]], advance: Advance) -> Iterator[Decoded]:
    for chunk in chunks:
        advance(len(chunk))
        yield from chunk


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[_In], _Out], inputs: Iterable[_In], *, ahead: int
) -> Iterator[_Out]:
    """``work`` on every input in threads; results in order, at most ``ahead`` under way behind the one waited for.

    An error of ``inputs`` is raised after the results of all that came before it.
    """
    under_way: deque[Future[_Out]] = deque()
    failure: Exception | None = None
    source = iter(inputs)
    while True:
        try:
            item = next(source)
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001  # raised below
            failure = error
            break
        under_way.append(pool.submit(work, item))
        if len(under_way) > ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
    if failure:
        raise failure
