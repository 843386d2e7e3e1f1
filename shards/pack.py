"""Pack: copy the selected rows of corpus stores into a transfer set, shuffled, with the manifests beside them.

Every source block is read once; images that a store holds encoded are copied as they are.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.commit import FileFacts, Ledger, atomic_file, claimed, write_bytes
from manifests.keys import content_key, draw
from manifests.progress import Advance, Progress, silent
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_batches, read_rows
from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES, SELECTION, Table
from manifests.write import manifest_writer
from shards.card import CARD, card
from shards.codec import Encoded
from shards.croissant import CROISSANT, croissant
from shards.index import ShardFacts, ShardFolder, contents_id, open_folder, refuse_own, seal, write_index
from shards.layout import KEY_DTYPE, UNKNOWN_LABEL, Block, block_rows, shard_name, shard_rows
from shards.read import read_block
from shards.selection import SelectionFolder
from shards.spool import Spool
from shards.write import committed, write_shard

SPLITS = ("train", "holdout")
COPIED = (SELECTION, SCORES, FEATURES, LOGITS)
PLACE = ("shard", "block", "row")


class Views(Protocol):
    """Who knows the teacher's answers to augmented views of an image; this room knows no teacher."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """count, seed, flip and pad: with `crop_and_flip` they give the same pixels again."""

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks in the same order, with logits."""


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """What packing did."""

    folder: ShardFolder
    shards_written: int
    shards_reused: int
    moved: Path | None
    """where an older set went under ``replace``"""


def pack(
    selection: SelectionFolder,
    stores: Mapping[str, ShardFolder],
    out: Path,
    *,
    views: Views | None = None,
    licence: str | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> PackResult:
    """Write the transfer set of ``selection`` to ``out``; what an earlier run of the same plan wrote is kept.

    ``stores`` gives the corpus store of each corpus name; one whose id differs from the selection's is refused. With
    ``views`` the blocks carry logits. ``licence`` is what the cards beside the set say of its images. The same
    selection and views give the same bytes and the same id.
    """
    refuse_own(out, selection.path, *(store.path for store in stores.values()))
    selection.check_stores({name: store.id for name, store in stores.items()})
    Ledger(selection.path).verify()  # its manifests are copied unread
    plan = plan_of(selection.plan, views)
    with claimed(out, plan=plan, replace=replace) as moved:
        packing = _Packing(selection, stores, out, plan=plan)
        shards = packing.write(views, progress)
        document = {**selection.document, "plan": plan}
        document |= {"views": dict(views.facts)} if views else {}
        document |= {"licence": licence} if licence else {}
        _finish(out, selection, shards, packing, document=document)
    written = packing.written
    return PackResult(folder=open_folder(out), shards_written=written, shards_reused=len(shards) - written, moved=moved)


def plan_of(selection: Mapping[str, Any], views: Views | None) -> dict[str, Any]:
    """What a transfer set is made from: the selection's plan, and the views that its blocks carry."""
    return {**selection, **({"views": dict(views.facts)} if views else {})}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shard:
    """A shard that is to be there."""

    name: str
    split: str
    rows: NDArray[np.intp]
    """of the rows to be packed, in order"""
    first_block: int
    blocks: int
    fingerprint: str

    @property
    def unit(self) -> str:
        """Of its commit record."""
        return Path(self.name).stem


class _Packing:
    """The selected rows, in the order in which they are packed."""

    def __init__(
        self, selection: SelectionFolder, stores: Mapping[str, ShardFolder], out: Path, *, plan: Mapping[str, Any]
    ) -> None:
        self._out, self._size, self._plan, self._ledger = out, selection.size, plan, Ledger(out)
        self._step = block_rows(self._size)
        batches = read_batches(selection.path, SELECTION, columns=["key", "split"])
        picked = pa.Table.from_batches([batch.filter(pc.is_valid(batch["split"])) for batch in batches])
        keys = np.array(picked["key"].to_pylist(), dtype=KEY_DTYPE)
        rows = read_rows(selection.path, SAMPLES, keys, columns=["corpus", *PLACE])
        order = np.lexsort((keys, draw(keys, "pack", plan["seed"])))  # shuffled, ties by key
        self.keys = keys[order]
        self._split = np.array(picked["split"].to_pylist(), dtype=str)[order]
        names, store = np.unique(np.array(rows["corpus"].to_pylist(), dtype=str)[order], return_inverse=True)
        self._stores = [stores[name] for name in names]
        self._source = np.column_stack([store, *(rows[c].to_numpy()[order] for c in PLACE)]).astype(np.int64)
        self._shards = list(self._planned())
        self.placed = np.empty((len(keys), len(PLACE)), np.int32)
        for number, shard in enumerate(self._shards):
            block, row = np.divmod(np.arange(len(shard.rows)), self._step)
            self.placed[shard.rows] = np.column_stack([np.full(len(row), number), block, row])
        self.written = 0

    def write(self, views: Views | None, progress: Progress) -> list[ShardFacts]:
        """Write the shards, or take those that are there; one commit record a shard."""
        there = {shard.unit: self._ledger.done(shard.unit, shard.fingerprint) for shard in self._shards}
        missing = [shard for shard in self._shards if there[shard.unit] is None]
        with Spool(len(self.keys), size=self._size, folder=self._out) as spool:
            if missing:
                self._gather(np.concatenate([shard.rows for shard in missing]), spool, progress)
            blocks: Iterator[Block] = (block for shard in missing for block in self._cut(shard.rows, spool))
            if views:
                blocks = views(blocks)  # of all shards at once: it may look ahead
            found = []
            with progress("ask for views, pack" if views else "pack", len(self.keys)) as advance:
                for shard in self._shards:
                    if record := there[shard.unit]:
                        found.append(ShardFacts.from_json(record.facts))
                        advance(len(shard.rows))
                    else:
                        found.append(self._write_shard(shard, _told(islice(blocks, shard.blocks), advance)))
        return found

    def _planned(self) -> Iterator[_Shard]:
        """The shards of each split: whole blocks, as even as they get."""
        first = 0
        for split in SPLITS:
            mine = np.flatnonzero(self._split == split)
            count, blocks = -(-len(mine) // shard_rows(self._size)), -(-len(mine) // self._step)
            edges = [self._step * (blocks * i // count) for i in range(1, count)]
            for number, rows in enumerate(np.split(mine, edges) if count else []):
                holds = {"first_block": first, "block_rows": self._step, "keys": content_key(self.keys[rows])}
                shard = _Shard(
                    name=shard_name(number, split),
                    split=split,
                    rows=rows,
                    first_block=first,
                    blocks=-(-len(rows) // self._step),
                    fingerprint=fingerprint({"plan": self._plan, **holds}),
                )
                yield shard
                first += shard.blocks

    def _gather(self, rows: NDArray[np.intp], spool: Spool, progress: Progress) -> None:
        """Put the images of ``rows`` into the spool, reading every source block once."""
        rows = rows[np.lexsort(self._source[rows].T[::-1])]
        edges = np.flatnonzero(np.diff(self._source[rows, :3], axis=0).any(axis=1)) + 1
        with progress("gather", len(rows)) as advance:
            for wanted in np.split(rows, edges):
                store, shard, block, _ = self._source[wanted[0]].tolist()
                folder = self._stores[store]
                facts = folder.shards[shard]
                images = read_block(folder.path / facts.name, facts.blocks[block]).images
                chosen = self._source[wanted, 3]
                spool.put(wanted, images.take(chosen) if isinstance(images, Encoded) else images[chosen])
                advance(len(wanted))

    def _cut(self, rows: NDArray[np.intp], spool: Spool) -> Iterator[Block]:
        """``rows`` as blocks, the last one with what is left."""
        for start in range(0, len(rows), self._step):
            mine = rows[start : start + self._step]
            labels = np.full(len(mine), UNKNOWN_LABEL, np.int32)
            yield Block(images=spool.take(mine), keys=self.keys[mine], labels=labels)

    def _write_shard(self, shard: _Shard, blocks: Iterable[Block]) -> ShardFacts:
        facts = write_shard(self._out, shard.name, blocks, split=shard.split, first_block=shard.first_block)
        if facts.rows != len(shard.rows):
            raise AssertionError(f"{shard.name} has {facts.rows} images, {len(shard.rows)} were to be written")
        made_from = shard.fingerprint
        self._ledger.commit(shard.unit, fingerprint=made_from, files=[committed(facts)], facts=facts.as_json())
        self.written += 1
        return facts


def _told(blocks: Iterable[Block], advance: Advance) -> Iterator[Block]:
    """Blocks, each told of once it is written."""
    for block in blocks:
        yield block
        advance(len(block))


def _finish(
    out: Path,
    selection: SelectionFolder,
    shards: list[ShardFacts],
    packing: _Packing,
    *,
    document: dict[str, Any],
) -> None:
    """Write the manifests and the cards, then `transfer-set.json`, then the commit record."""
    made = Provenance(
        step="pack",
        config=document["plan"],
        parents=selection.parents,
        teacher=document["teacher"],
        transform=document["transform"],
    )
    files = [committed(facts) for facts in shards]
    files.append(write_index(out, shards, provenance=made))
    files.append(_place(selection, packing, out, provenance=made))
    files += [_copy(selection, table, out) for table in COPIED]
    document["rows"] = {split: sum(s.rows for s in shards if s.split == split) for split in SPLITS}
    about = {**document, "id": contents_id({f.name: f.sha256 for f in files})}
    beside = [_beside(out, CARD, card(about)), _beside(out, CROISSANT, croissant(about, files))]
    made_from = fingerprint({"plan": document["plan"]})
    seal(out, document, kind="transfer-set", files=files, fingerprint=made_from, beside=beside)


def _beside(out: Path, name: str, text: str) -> FileFacts:
    """A file that is not part of the set's contents."""
    data = text.encode()
    write_bytes(out / name, data)
    return FileFacts(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=0)


def _place(selection: SelectionFolder, packing: _Packing, out: Path, *, provenance: Provenance) -> FileFacts:
    """The samples manifest with shard, block and row as they are in the transfer set, NULL for what it left out."""
    order = np.argsort(packing.keys)
    packed, placed = packing.keys[order], packing.placed[order]
    with manifest_writer(out, SAMPLES, provenance=provenance) as writer:
        for batch in read_batches(selection.path, SAMPLES):  # in key order, as every manifest
            keys = np.array(batch["key"].to_pylist(), dtype=KEY_DTYPE)
            first, last = np.searchsorted(packed, keys[0]), np.searchsorted(packed, keys[-1], side="right")
            where = np.searchsorted(keys, packed[first:last])
            rows = pa.Table.from_batches([batch])
            for name, places in zip(PLACE, placed[first:last].T, strict=True):
                column = np.full(len(keys), -1, np.int32)
                column[where] = places
                rows = rows.set_column(rows.column_names.index(name), name, pa.array(column, mask=column < 0))
            writer.write(rows)
    return writer.facts


def _copy(selection: SelectionFolder, table: Table, out: Path) -> FileFacts:
    """The selection's own manifest, byte for byte."""
    with atomic_file(out / table.file) as file, (selection.path / table.file).open("rb") as source:
        shutil.copyfileobj(source, file)
    rows = pq.read_metadata(out / table.file).num_rows
    return FileFacts(name=table.file, bytes=file.bytes, sha256=file.sha256, rows=rows)
