"""Small folders of the kinds that this room reads and writes: a corpus store, a selection, a set with any blocks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.commit import Ledger, write_json
from manifests.keys import content_key, pixel_hash
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES, SELECTION, Table
from manifests.write import write_manifest
from shards.index import ShardFolder, open_folder, seal, write_index
from shards.layout import KEY_DTYPE, Block, shard_name
from shards.selection import SELECTION_DOCUMENT, SelectionFolder, open_selection
from shards.write import committed, write_shard

SIZE = 4  # px
CLASSES = 4
FEATURE_DIM = 3
TRANSFORM = "as it is"
TEACHER: dict[str, Any] = {
    "name": "toy",
    "sha256": "ab" * 32,
    "arch": "wrn16_1",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}
MADE = Provenance(step="ingest", config={"corpus": "test"}, transform=TRANSFORM)


def images(count: int, *, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels (count, 3, size, size)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def block(count: int, *, size: int = SIZE, seed: int = 0) -> Block:
    """Random images under their content keys, labelled 0, 1, ..."""
    images_NCHW = images(count, size=size, seed=seed)
    keys = np.array([content_key(image) for image in images_NCHW], KEY_DTYPE)
    return Block(images=images_NCHW, keys=keys, labels=np.arange(count, dtype=np.int32))


def write_store(
    folder: Path, shards: Sequence[Sequence[int]], *, corpus: str = "one", size: int = SIZE, seed: int = 0
) -> ShardFolder:
    """A store as `curate.ingest` leaves it: ``shards`` gives the rows of each block of each shard.

    There is one more sample that could not be decoded.
    """
    facts, rows = [], [sample(content_key(f"{corpus} broken".encode()), corpus, status="decode_error")]
    first = 0
    for number, counts in enumerate(shards):
        blocks = [block(count, size=size, seed=1000 * seed + first + i) for i, count in enumerate(counts)]
        facts.append(write_shard(folder, shard_name(number), blocks, split="all", first_block=first))
        first += len(blocks)
        rows += [
            sample(key.decode(), corpus, image_CHW=b.images_NCHW[row], shard=number, block=i, row=row)
            for i, b in enumerate(blocks)
            for row, key in enumerate(b.keys)
        ]
    files = [committed(f) for f in facts]
    files.append(write_rows(folder, SAMPLES, rows, made=MADE))
    files.append(write_index(folder, facts, provenance=MADE))
    about = {"corpus": corpus, "builtin": False, "classes": None, "size": size, "transform": TRANSFORM}
    about |= {"seen": len(rows), "statuses": {"decode_error": 1, "ok": len(rows) - 1}}
    seal(folder, about, kind="store", files=files, fingerprint=fingerprint({"corpus": corpus}))
    return open_folder(folder)


def sample(
    key: str, corpus: str, *, image_CHW: NDArray[np.uint8] | None = None, status: str = "ok", **place: int
) -> dict[str, Any]:
    """One row of a samples manifest."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in SAMPLES.columns)
    row |= {"key": key, "corpus": corpus, "uri": f"{key}.png", "status": status, **place}
    if image_CHW is None:
        return row | {"error": "not an image"}
    return row | {"width": image_CHW.shape[2], "height": image_CHW.shape[1], "pixel_hash": pixel_hash(image_CHW)}


def write_rows(
    folder: Path, table: Table, rows: list[dict[str, Any]], *, made: Provenance, sizes: dict[str, int] | None = None
) -> Any:
    """Rows of Python values as a manifest."""
    return write_manifest(folder, table, pa.Table.from_pylist(rows, table.plain_schema()), provenance=made, sizes=sizes)


def write_selection(
    folder: Path, stores: Sequence[ShardFolder], *, budget: int = 10, holdout: int = 2, seed: int = 0
) -> SelectionFolder:
    """A selection as `curate.selection` leaves it: of all images in key order the first ``budget``, some held out."""
    parents = {str(store.document["corpus"]): store.id for store in stores}
    plan = {"mode": "entropy-topk", "budget": budget, "seed": seed, "holdout": holdout, "select": 1}
    plan |= {"corpora": [{"name": name, "store": identity} for name, identity in parents.items()]}
    who = {name: TEACHER[name] for name in ("name", "sha256")}
    made = Provenance(step="select", config=plan, parents=parents, teacher=who, transform=TRANSFORM)
    samples = pa.concat_tables(read_manifest(store.path, SAMPLES) for store in stores).sort_by("key")
    keys = [row["key"] for row in samples.to_pylist() if row["status"] == "ok"]
    chosen, picked = keys[:budget], [{"key": key, **_decision(i, budget, holdout)} for i, key in enumerate(keys)]
    features = [{"key": key, "features": [0.5] * FEATURE_DIM} for key in chosen]
    logits = [{"key": key, "logits": [0.25] * CLASSES} for key in chosen]
    files = [
        write_manifest(folder, SAMPLES, samples, provenance=made),
        write_rows(folder, SCORES, [_score(key, i, len(keys)) for i, key in enumerate(keys)], made=made),
        write_rows(folder, SELECTION, picked, made=made),
        write_rows(folder, FEATURES, features, made=made, sizes={"features": FEATURE_DIM}),
        write_rows(folder, LOGITS, logits, made=made, sizes={"logits": CLASSES}),
    ]
    counts = {"seen": len(samples), "selected": len(chosen), "left_out": len(keys) - len(chosen), "duplicates": 0}
    counts["quarantined"] = len(samples) - len(keys)
    document = {"plan": plan, "stores": parents, "builtin": False, "size": stores[0].size, "transform": TRANSFORM}
    document |= {"teacher": TEACHER, "classes": [f"class {i}" for i in range(CLASSES)], "counts": counts}
    document |= {"corpora": [{"corpus": name, **counts} for name in parents], "class_histogram": {}}
    write_json(folder / SELECTION_DOCUMENT, document)
    Ledger(folder).commit("selection", fingerprint=fingerprint(plan), files=files)
    return open_selection(folder)


def _decision(rank: int, budget: int, holdout: int) -> dict[str, Any]:
    selected = rank < budget
    split = ("holdout" if rank < holdout else "train") if selected else None
    reason = "top-k" if selected else "below cut"
    return {"selected": selected, "split": split, "reason": reason, "rank": rank + 1 if selected else None}


TIED = {"energy": -2.0, "self_ce": 0.7}


def _score(key: str, rank: int, count: int) -> dict[str, Any]:
    """Entropy falls with the rank from ln K; the last one is no number."""
    if rank == count - 1:
        return {"key": key, "status": "nonfinite"}
    entropy = float(np.log(CLASSES)) * (1 - rank / count)
    return {"key": key, "status": "ok", "pred": 0, "confidence": 0.5, "entropy": entropy, "margin": 0.1, **TIED}
