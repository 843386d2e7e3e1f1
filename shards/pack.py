"""Pack: copy the selected rows of corpus stores into a transfer set, shuffled, with the manifests beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.commit import FileFacts, Ledger, atomic_file, claimed, write_json
from manifests.keys import draw
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import FEATURES, SAMPLES, SCORES, SELECTION, Table
from manifests.write import write_manifest
from shards.index import TRANSFER_SET, ShardFacts, ShardFolder, contents_id, open_folder, write_index
from shards.layout import KEY_DTYPE, UNKNOWN_LABEL, Block, block_rows, shard_name, shard_rows
from shards.read import read_block
from shards.selection import SelectionFolder
from shards.write import committed, write_shard

SPLITS = ("train", "holdout")
COPIED = (SELECTION, SCORES, FEATURES)


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
    advance: Callable[[int], None] = lambda n: None,
) -> PackResult:
    """Write the transfer set of ``selection`` to ``out``; what an earlier run of the same plan wrote is kept.

    ``stores`` gives the corpus store of each corpus name; one whose id differs from the selection's is refused.
    The same selection gives the same bytes and the same id. ``advance(n)`` is told of every n images written.
    """
    selection.check_stores({name: store.id for name, store in stores.items()})
    with claimed(out, plan=selection.plan, replace=replace) as moved:
        units = _Packing(selection, stores, out)
        shards = [facts for split in SPLITS for facts in units.write_split(split, advance)]
        _finish(out, selection, shards, units)
    return PackResult(
        folder=open_folder(out), shards_written=units.written, shards_reused=len(shards) - units.written, moved=moved
    )


class _Packing:
    """The selected rows, in the order in which they are packed."""

    def __init__(self, selection: SelectionFolder, stores: Mapping[str, ShardFolder], out: Path) -> None:
        self.out, self.size, self.written = out, selection.size, 0
        self._ledger, self._plan = Ledger(out), selection.plan
        self._stores = [stores[name] for name in sorted(stores)]
        samples = read_manifest(selection.path, SAMPLES)
        picked = read_manifest(selection.path, SELECTION, columns=["key", "split"])
        rows = samples.join(picked.filter(pc.is_valid(picked["split"])), "key", join_type="inner")
        keys = np.array(rows["key"].to_pylist(), dtype=KEY_DTYPE)
        order = np.lexsort((keys, draw(keys, "pack", self._plan["seed"])))  # shuffled, ties by key
        self.keys = keys[order]
        self.split = np.array(rows["split"].to_pylist())[order]
        corpus = np.array(rows["corpus"].to_pylist())[order]
        self._store = np.searchsorted(np.array(sorted(stores)), corpus)
        self._place = np.stack([rows[c].to_numpy()[order] for c in ("shard", "block", "row")], axis=1).astype(np.int64)
        self._first_block = 0
        self.placed: dict[bytes, tuple[int, int, int]] = {}
        self._shards = 0

    def write_split(self, split: str, advance: Callable[[int], None]) -> list[ShardFacts]:
        """Write the shards of a split, or take those that are there; one commit record a shard."""
        mine = np.flatnonzero(self.split == split)
        count = -(-len(mine) // shard_rows(self.size))
        blocks = -(-len(mine) // block_rows(self.size))
        edges = [block_rows(self.size) * (blocks * i // max(count, 1)) for i in range(count)] + [len(mine)]
        return [
            self._write_shard(shard_name(number, split), split, mine[edges[number] : edges[number + 1]], advance)
            for number in range(count)
        ]

    def _write_shard(self, name: str, split: str, rows: NDArray[np.intp], advance: Callable[[int], None]) -> ShardFacts:
        unit = Path(name).stem
        print_ = fingerprint({"plan": self._plan, "unit": unit, "first_block": self._first_block})
        if record := self._ledger.done(unit, print_):
            facts = ShardFacts.from_json(record.facts)
        else:
            step = block_rows(self.size)
            images = self._gather(rows)
            blocks = (
                Block(
                    images_NCHW=images[i : i + step],
                    keys=self.keys[rows[i : i + step]],
                    labels=np.full(len(rows[i : i + step]), UNKNOWN_LABEL, np.int32),
                )
                for i in range(0, len(rows), step)
            )
            facts = write_shard(self.out, name, blocks, split=split, first_block=self._first_block)
            self._ledger.commit(unit, fingerprint=print_, files=[committed(facts)], facts=facts.as_json())
            self.written += 1
        for i, row in enumerate(rows):
            self.placed[self.keys[row]] = (self._shards, *divmod(i, block_rows(self.size)))
        self._first_block += len(facts.blocks)
        self._shards += 1
        advance(len(rows))
        return facts

    def _gather(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Pixels of ``rows``, reading every source block once."""
        images = np.empty((len(rows), 3, self.size, self.size), np.uint8)
        source = np.column_stack([self._store[rows], self._place[rows, :2]])
        blocks, which = np.unique(source, axis=0, return_inverse=True)
        for number, (store, shard, block) in enumerate(blocks.tolist()):
            wanted = np.flatnonzero(which == number)
            folder = self._stores[store]
            facts = folder.shards[shard]
            found = read_block(folder.path / facts.name, facts.blocks[block])
            images[wanted] = found.images_NCHW[self._place[rows[wanted], 2]]
        return images


def _finish(out: Path, selection: SelectionFolder, shards: list[ShardFacts], units: _Packing) -> None:
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
    files.append(write_manifest(out, SAMPLES, _place(selection, units.placed), provenance=made))
    files += [_copy(selection, table, out) for table in COPIED]
    contents = {f.name: f.sha256 for f in files}
    identity = contents_id(contents)
    rows = {split: sum(s.rows for s in shards if s.split == split) for split in SPLITS}
    document = {**selection.document, "kind": "transfer-set", "id": identity, "rows": rows, "contents": contents}
    write_json(out / TRANSFER_SET, document)
    Ledger(out).commit("transfer-set", fingerprint=identity, files=files)


def _place(selection: SelectionFolder, placed: Mapping[bytes, tuple[int, int, int]]) -> pa.Table:
    """The samples manifest with shard, block and row as they are in the transfer set, NULL for what it left out."""
    samples = read_manifest(selection.path, SAMPLES)
    places: list[tuple[Any, Any, Any]] = [
        placed.get(key.encode(), (None, None, None)) for key in samples["key"].to_pylist()
    ]
    for i, name in enumerate(("shard", "block", "row")):
        column = pa.array([place[i] for place in places], pa.int32())
        samples = samples.set_column(samples.column_names.index(name), name, column)
    return samples


def _copy(selection: SelectionFolder, table: Table, out: Path) -> FileFacts:
    """The selection's own manifest, byte for byte."""
    with atomic_file(out / table.file) as file:
        file.write((selection.path / table.file).read_bytes())
    rows = read_manifest(selection.path, table, columns=["key"]).num_rows
    return FileFacts(name=table.file, bytes=file.bytes, sha256=file.sha256, rows=rows)
