"""Pack: copy the selected rows of corpus stores into a transfer set, shuffled, with the manifests beside them."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.commit import FileFacts, Ledger, atomic_file, claimed
from manifests.keys import content_key, draw
from manifests.progress import Advance, nothing
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_batches, read_rows
from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES, SELECTION, Table
from manifests.write import manifest_writer
from shards.index import ShardFacts, ShardFolder, open_folder, seal, write_index
from shards.layout import KEY_DTYPE, UNKNOWN_LABEL, Block, block_rows, shard_name, shard_rows
from shards.read import read_block
from shards.selection import SelectionFolder
from shards.write import committed, write_shard

SPLITS = ("train", "holdout")
COPIED = (SELECTION, SCORES, FEATURES, LOGITS)
PLACE = ("shard", "block", "row")


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
    replace: bool = False,
    advance: Advance = nothing,
) -> PackResult:
    """Write the transfer set of ``selection`` to ``out``; what an earlier run of the same plan wrote is kept.

    ``stores`` gives the corpus store of each corpus name; one whose id differs from the selection's is refused.
    The same selection gives the same bytes and the same id. ``advance(n)`` is told of every n images written.
    """
    selection.check_stores({name: store.id for name, store in stores.items()})
    Ledger(selection.path).verify()  # its manifests are copied unread
    with claimed(out, plan=selection.plan, replace=replace) as moved:
        packing = _Packing(selection, stores, out)
        shards = [facts for split in SPLITS for facts in packing.write_split(split, advance)]
        _finish(out, selection, shards, packing)
    written = packing.written
    return PackResult(folder=open_folder(out), shards_written=written, shards_reused=len(shards) - written, moved=moved)


class _Packing:
    """The selected rows, in the order in which they are packed."""

    def __init__(self, selection: SelectionFolder, stores: Mapping[str, ShardFolder], out: Path) -> None:
        self._out, self._size, self._plan, self._ledger = out, selection.size, selection.plan, Ledger(out)
        batches = read_batches(selection.path, SELECTION, columns=["key", "split"])
        picked = pa.Table.from_batches([batch.filter(pc.is_valid(batch["split"])) for batch in batches])
        keys = np.array(picked["key"].to_pylist(), dtype=KEY_DTYPE)
        rows = read_rows(selection.path, SAMPLES, keys, columns=["corpus", *PLACE])
        order = np.lexsort((keys, draw(keys, "pack", self._plan["seed"])))  # shuffled, ties by key
        self.keys = keys[order]
        self._split = np.array(picked["split"].to_pylist(), dtype=str)[order]
        names, self._store = np.unique(np.array(rows["corpus"].to_pylist(), dtype=str)[order], return_inverse=True)
        self._stores = [stores[name] for name in names]
        self._source = np.column_stack([rows[c].to_numpy()[order] for c in PLACE]).astype(np.int64)
        self.placed = np.empty((len(keys), len(PLACE)), np.int32)
        self.written = self._shards = self._blocks = 0

    def write_split(self, split: str, advance: Advance) -> list[ShardFacts]:
        """Write the shards of a split, or take those that are there; one commit record a shard."""
        mine = np.flatnonzero(self._split == split)
        step = block_rows(self._size)
        count = -(-len(mine) // shard_rows(self._size))
        blocks = -(-len(mine) // step)
        edges = [step * (blocks * i // count) for i in range(1, count)]  # whole blocks, as even as they get
        pieces = np.split(mine, edges) if count else []
        return [self._take_shard(shard_name(i, split), split, rows, advance) for i, rows in enumerate(pieces)]

    def _take_shard(self, name: str, split: str, rows: NDArray[np.intp], advance: Advance) -> ShardFacts:
        unit, step = Path(name).stem, block_rows(self._size)
        holds = {"first_block": self._blocks, "block_rows": step, "keys": content_key(self.keys[rows])}
        print_ = fingerprint({"plan": self._plan, **holds})
        if record := self._ledger.done(unit, print_):
            facts = ShardFacts.from_json(record.facts)
        else:
            facts = write_shard(self._out, name, self._cut(rows), split=split, first_block=self._blocks)
            self._ledger.commit(unit, fingerprint=print_, files=[committed(facts)], facts=facts.as_json())
            self.written += 1
        block, row = np.divmod(np.arange(len(rows)), step)
        self.placed[rows] = np.column_stack([np.full(len(rows), self._shards), block, row])
        self._shards += 1
        self._blocks += len(facts.blocks)
        advance(len(rows))
        return facts

    def _cut(self, rows: NDArray[np.intp]) -> Iterator[Block]:
        """``rows`` as blocks, the last one with what is left."""
        images = self._gather(rows)
        step = block_rows(self._size)
        for start in range(0, len(rows), step):
            keys = self.keys[rows[start : start + step]]
            labels = np.full(len(keys), UNKNOWN_LABEL, np.int32)
            yield Block(images=images[start : start + step], keys=keys, labels=labels)

    def _gather(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Pixels of ``rows``, reading every source block once."""
        images = np.empty((len(rows), 3, self._size, self._size), np.uint8)
        source = np.column_stack([self._store[rows], self._source[rows, :2]])
        blocks, which = np.unique(source, axis=0, return_inverse=True)
        for number, (store, shard, block) in enumerate(blocks.tolist()):
            wanted = np.flatnonzero(which == number)
            folder = self._stores[store]
            facts = folder.shards[shard]
            found = read_block(folder.path / facts.name, facts.blocks[block])
            images[wanted] = found.images_NCHW[self._source[rows[wanted], 2]]
        return images


def _finish(out: Path, selection: SelectionFolder, shards: list[ShardFacts], packing: _Packing) -> None:
    """Write the manifests, then `transfer-set.json`, then the commit record."""
    made = Provenance(
        step="pack",
        config=selection.plan,
        parents=selection.parents,
        teacher=selection.document["teacher"],
        transform=selection.document["transform"],
    )
    files = [committed(facts) for facts in shards]
    files.append(write_index(out, shards, provenance=made))
    files.append(_place(selection, packing, out, provenance=made))
    files += [_copy(selection, table, out) for table in COPIED]
    rows = {split: sum(s.rows for s in shards if s.split == split) for split in SPLITS}
    made_from = fingerprint({"plan": selection.plan})
    seal(out, {**selection.document, "rows": rows}, kind="transfer-set", files=files, fingerprint=made_from)


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
