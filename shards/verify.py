"""Is a shard folder what was written? Sizes and counts, or every hash and every block."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.commit import PLAN, FileFacts, Ledger, Record, check_file
from manifests.errors import IntegrityError, TransfersetError
from manifests.progress import Progress, silent
from manifests.provenance import canonical_json, fingerprint
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.errors import BlockDamaged
from shards.index import TRANSFER_SET, ShardFacts, ShardFolder, contents_id, open_folder, read_document
from shards.layout import KEY_DTYPE
from shards.read import read_block
from shards.write import committed

PLACE = ("shard", "block", "row")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was checked and what was wrong."""

    folder: str
    shards: int
    images: int
    """both as the index says; 0 if it cannot be read"""
    full: bool
    bytes: int
    """that were hashed, if ``full``"""
    seconds: float
    problems: tuple[str, ...]


def verify(path: Path, *, full: bool = True, progress: Progress = silent) -> Verdict:
    """Check a transfer set or a store; ``full`` hashes every file and decodes every block, a thread a processor.

    Damage is reported in `problems`, all of it; only a folder without a document to check it by raises.
    """
    began = time.perf_counter()
    document = read_document(path)
    problems = [*record_problems(path, document), *_unit_problems(path, document)]
    shards: dict[str, tuple[int, ShardFacts]] = {}
    images = 0
    places = None
    try:
        folder = open_folder(path)
        shards = {shard.name: (number, shard) for number, shard in enumerate(folder.shards)}
        images = folder.rows()
        problems += [*_index_problems(folder), *stray_problems(folder)]
        samples = read_manifest(path, SAMPLES, columns=["key", *PLACE])
        problems += _count_problems(folder, samples)
        places = _Places(samples) if full else None
    except TransfersetError as error:
        problems.append(str(error))
    record = Ledger(path).read(document["kind"])
    files = record.files if record else [committed(shard) for _, shard in shards.values()]

    def look(facts: FileFacts) -> list[str]:
        found = [*_file_problems(path / facts.name, facts, full=full)]
        if full and facts.name in shards:
            number, shard = shards[facts.name]
            found += _block_problems(path, shard, document["size"], places.of_shard(number) if places else None)
        return found

    total = sum(facts.bytes for facts in files) if full else 0
    mib = sum(facts.bytes >> 20 for facts in files)
    telling = progress if full else silent  # else nothing is read, and no time taken
    with ThreadPoolExecutor(os.cpu_count()) as pool, telling("verify", mib, unit="MiB") as advance:
        for facts, found in zip(files, pool.map(look, files), strict=True):
            problems += found
            advance(facts.bytes >> 20)
    return Verdict(
        folder=str(path),
        shards=len(shards),
        images=images,
        full=full,
        bytes=total,
        seconds=time.perf_counter() - began,
        problems=tuple(dict.fromkeys(problems)),
    )


def record_problems(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """The document and the commit record are of one set, and the set's id is that of the contents they list."""
    kind = document["kind"]
    if contents_id(document["contents"]) != document["id"]:
        yield f"{path / kind}.json is damaged: its id {document['id']} is not that of the contents it lists"
    record = Ledger(path).read(kind)
    if record is None or not _as_written(path, record, unit=kind):
        yield f"{path} has no commit record {kind!r}: unfinished, or not copied whole; make or copy it again"
        return
    if not document["contents"].items() <= {f.name: f.sha256 for f in record.files}.items():
        yield f"{_record(path, kind)} lists other files than {kind}.json: of another set, or damaged"
    plan = document.get("plan")
    if plan is not None and record.fingerprint != fingerprint({"plan": plan}):
        yield f"{_record(path, kind)} is of another plan than {kind}.json: of another set, or damaged"


def stray_problems(folder: ShardFolder) -> Iterator[str]:
    """Every tar is in the index."""
    known = {folder.path / shard.name for shard in folder.shards}
    for tar in sorted({*(folder.path / "shards").glob("*.tar")} - known):
        yield f"{tar} is not in the index: a shard of another set, or a copy"


def _record(path: Path, unit: str) -> Path:
    return path / "commits" / f"{unit}.json"


def _as_written(path: Path, record: Record, *, unit: str) -> bool:
    """Whether the record's file holds what `Ledger.commit` writes of it, to the byte."""
    return record.unit == unit and _record(path, unit).read_text() == canonical_json(asdict(record)) + "\n"


def _unit_problems(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """What the folder would be made again from: the records of its parts, and its plan."""
    ledger = Ledger(path)
    for file in sorted((path / "commits").glob("*.json")):
        record = ledger.read(file.stem)
        if file.stem == document["kind"]:
            continue
        if record is None or not _as_written(path, record, unit=file.stem):
            yield f"{file} is damaged: not the commit record that was written; delete it"
        elif any(f.sha256 != document["contents"].get(f.name, f.sha256) for f in record.files):
            yield f"{file} is of another file than the set holds; delete it"
    plan = document.get("plan")
    if plan is not None and (path / PLAN).exists():
        try:
            same = json.loads((path / PLAN).read_bytes()) == plan
        except (ValueError, RecursionError):
            same = False
        if not same:
            yield f"{path / PLAN} is damaged: another plan than {TRANSFER_SET} holds; copy it again"


def _file_problems(file: Path, facts: FileFacts, *, full: bool) -> Iterator[str]:
    """The file is as its commit record says."""
    if full or not file.is_file() or file.stat().st_size != facts.bytes:
        try:
            check_file(file, bytes=facts.bytes, sha256=facts.sha256)
        except IntegrityError as error:
            yield str(error)


def _index_problems(folder: ShardFolder) -> Iterator[str]:
    """The commit records and the index say the same of every shard."""
    ledger, kind = Ledger(folder.path), folder.document["kind"]
    record = ledger.read(kind)
    listed = {f.name: f for f in record.files} if record else {}
    for shard in folder.shards:
        if shard.name in listed and listed[shard.name] != committed(shard):
            yield f"{_record(folder.path, kind)} says another thing of {shard.name} than the index"
        own = ledger.read(unit := Path(shard.name).stem) if kind == "transfer-set" else None
        if own and canonical_json(own.facts) != canonical_json(shard.as_json()):
            yield f"{_record(folder.path, unit)} says another thing of {shard.name} than the index; delete it"


def _count_problems(folder: ShardFolder, samples: pa.Table) -> Iterator[str]:
    """The manifest places exactly as many images as the index counts."""
    placed = len(samples) - samples["shard"].null_count
    if placed != folder.rows():
        yield f"{folder.path}: samples.parquet places {placed:,} images, shards.parquet counts {folder.rows():,}"


class _Places:
    """The key at every place of a set, as its samples manifest says."""

    def __init__(self, samples: pa.Table) -> None:
        placed = samples.filter(pc.is_valid(samples["shard"])).sort_by([(name, "ascending") for name in PLACE])
        self._shards, self._blocks, self._rows = (placed[name].to_numpy() for name in PLACE)
        self._keys = np.array([key.encode() for key in placed["key"].to_pylist()], KEY_DTYPE)

    def of_shard(self, number: int) -> "Sequence[tuple[NDArray[np.int32], NDArray[np.bytes_]]]":
        """Rows and keys of each block of a shard."""
        first, last = np.searchsorted(self._shards, [number, number + 1])
        blocks = self._blocks[first:last]
        edges = first + np.searchsorted(blocks, np.arange(blocks.max(initial=-1) + 2))
        return [
            (self._rows[a:b], self._keys[a:b]) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]


def _block_problems(
    path: Path, shard: ShardFacts, size: int, places: "Sequence[tuple[NDArray[np.int32], NDArray[np.bytes_]]] | None"
) -> Iterator[str]:
    """Every block can be decoded, and each image is where the manifest says, if that could be read."""
    file = path / shard.name
    for position, facts in enumerate(shard.blocks if file.exists() else ()):  # missing: said already
        try:
            block = read_block(file, facts, size=size)
            keys, _ = block.keys, block.images_NCHW  # encoded images are decoded here
        except BlockDamaged as error:
            yield str(error) if str(file) in str(error) else f"{file}: block {facts.block}: {error}"
            continue
        if places is None:
            continue
        rows, expected = places[position] if position < len(places) else (np.array([]), keys[:0])
        known = np.zeros_like(keys)
        inside = rows < len(keys)
        known[rows[inside]] = expected[inside]
        wrong = np.flatnonzero(known != keys)
        if len(wrong):
            yield f"{file}: block {position} row {wrong[0]} is another image than samples.parquet says"
