"""The index of a folder of block shards: `shards.parquet`, and the JSON document that names the folder.

Two kinds of folder hold block shards: a corpus store (`store.json`) and a transfer set (`transfer-set.json`).
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.commit import PLAN, FileFacts, Ledger, write_json
from manifests.errors import IntegrityError, OutputConflict
from manifests.provenance import Provenance, fingerprint
from manifests.read import read_manifest
from manifests.schema import SHARDS
from manifests.write import write_manifest
from shards.codec import DEFLATE_MAX
from shards.errors import NotAShardFolder

TRANSFER_SET = "transfer-set.json"
STORE = "store.json"
DOCUMENTS = (TRANSFER_SET, STORE)
EXPORT = "export.json"
"""what an export is, written last: a folder that holds it holds all the export's files"""
FIELDS = {"kind", "id", "size", "contents"}
"""what every document has; the rest is its writer's"""
DOCUMENT_MAX = 64 << 20
"""bytes; the document of a set of a thousand million images has some ten million"""
SIZE_MAX = 1 << 14  # px
_URL_AS_A_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of its two slashes a path keeps one


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """Where one block lies in its tar."""

    block: int
    rows: int
    offset: int
    bytes: int
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """One row of the index."""

    name: str
    split: str
    bytes: int
    sha256: str
    rows: int
    blocks: tuple[BlockFacts, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a commit record or a table row."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Inverse of `as_json`."""
        return cls(**{**facts, "blocks": tuple(BlockFacts(**b) for b in facts["blocks"])})


def write_index(folder: Path, shards: Sequence[ShardFacts], *, provenance: Provenance) -> FileFacts:
    """Write `shards.parquet`."""
    rows = pa.Table.from_pylist([s.as_json() for s in shards], schema=SHARDS.plain_schema())
    return write_manifest(folder, SHARDS, rows, provenance=provenance)


def contents_id(contents: Mapping[str, str]) -> str:
    """Id of a shard folder: 32 hex digits over the name and SHA-256 of each of its files."""
    return fingerprint({"contents": contents})[:32]


def seal(
    folder: Path,
    facts: Mapping[str, Any],
    *,
    kind: str,
    files: Sequence[FileFacts],
    fingerprint: str,
    beside: Sequence[FileFacts] = (),
) -> None:
    """Finish a folder: its document (``facts``, kind, id and contents), then the commit record of it and ``files``.

    ``kind`` is `transfer-set` or `store`, ``fingerprint`` what the folder was made from. Files ``beside`` them are in
    the commit record alone, so that they may name the id.
    """
    contents = {f.name: f.sha256 for f in files}
    document = {**facts, "kind": kind, "id": contents_id(contents), "contents": contents}
    path = folder / f"{kind}.json"
    write_json(path, document)
    written = path.read_bytes()
    own = FileFacts(name=path.name, bytes=len(written), sha256=hashlib.sha256(written).hexdigest(), rows=0)
    Ledger(folder).commit(kind, fingerprint=fingerprint, files=[*files, *beside, own])


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """A finished folder of block shards, opened for reading."""

    path: Path
    id: str
    """Hash of the folder's contents."""
    document: Mapping[str, Any]
    """`transfer-set.json` or `store.json`."""
    shards: tuple[ShardFacts, ...]

    @property
    def size(self) -> int:
        """Resolution in px; images are square."""
        return int(self.document["size"])

    @property
    def views(self) -> int:
        """Augmented views of each image whose logits the blocks carry; 0 for none."""
        return int((self.document.get("views") or {}).get("count", 0))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in reading order."""
        return tuple(dict.fromkeys(s.split for s in self.shards))

    def of_split(self, split: str | None) -> tuple[ShardFacts, ...]:
        """The shards of a split, or all of them."""
        return tuple(s for s in self.shards if split in (None, s.split))

    def rows(self, split: str | None = None) -> int:
        """Images in a split, or in all."""
        return sum(s.rows for s in self.of_split(split))


def load_document(file: Path, *, fields: Set[str]) -> dict[str, Any]:
    """A JSON document of ours; FileNotFoundError if there is none, `IntegrityError` if it lacks one of ``fields``."""
    with file.open("rb") as opened:
        text = opened.read() if os.fstat(opened.fileno()).st_size <= DOCUMENT_MAX else b""
    with contextlib.suppress(ValueError, RecursionError):  # of deeply nested text
        document = json.loads(text)
        if isinstance(document, dict) and document.keys() >= fields:
            return document
    raise IntegrityError(f"{file} is damaged: not the document that was written; make it again")


def read_document(path: Path) -> dict[str, Any]:
    """`transfer-set.json` or `store.json` of a folder; raises `NotAShardFolder` if it has neither.

    `IntegrityError` for one that is damaged, or that a finished folder lacks.
    """
    for name in DOCUMENTS:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _sane(load_document(path / name, fields=FIELDS), path / name)
        if (path / "commits" / name).is_file():
            raise IntegrityError(f"{path / name} is missing, though the folder was finished; make or copy it again")
    if (path / EXPORT).exists():
        raise NotAShardFolder(f"{path} is an export of a set, not a set; `curate ingest` reads it as any images")
    if (path / PLAN).exists():
        raise NotAShardFolder(f"{path} is unfinished: run the command that makes it again, it goes on where it was")
    if _URL_AS_A_PATH.match(str(path)):
        raise NotAShardFolder(f"{path} is a URL, and this reads a folder on this machine: copy the set here")
    what = f"no transfer set (no {TRANSFER_SET} in it)" if path.is_dir() else "no folder"
    raise NotAShardFolder(f"{path} is {what}; make one with `curate select`")


def open_folder(path: Path | str) -> ShardFolder:
    """Open a transfer set or a corpus store; raises `NotAShardFolder` for anything else."""
    path = Path(path)
    document = read_document(path)
    check_index(path, document)
    shards = _read_index(path, document)
    return ShardFolder(path=path, id=document["id"], document=document, shards=shards)


def check_index(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse an index that is not the one the document names (`IntegrityError`): missing, foreign, or damaged."""
    file = path / SHARDS.file
    if not file.is_file():
        raise IntegrityError(f"{file} is missing; make the folder again, or copy it again")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != document["contents"].get(SHARDS.file):
        raise IntegrityError(f"{file} is not the index that {path} was finished with: of another set, or damaged")


def _sane(document: dict[str, Any], file: Path) -> dict[str, Any]:
    """The document, if its fields are of the kinds that we write (`IntegrityError`)."""
    kind, size, contents = document["kind"], document["size"], document["contents"]
    sound = kind == file.stem and isinstance(document["id"], str)
    sound = sound and type(size) is int and 0 < size <= SIZE_MAX and isinstance(contents, dict)
    if not sound or not all(isinstance(text, str) and not _leads_out(name) for name, text in contents.items()):
        raise IntegrityError(f"{file} is damaged: kind, id, size or contents is not what was written; make it again")
    return document


def _read_index(path: Path, document: Mapping[str, Any]) -> tuple[ShardFacts, ...]:
    """The rows of the index, if they can be true (`IntegrityError`): what is read by them fits in memory."""
    file, shards = path / SHARDS.file, tuple[ShardFacts, ...]()
    _refuse_a_bomb(file)
    rows = read_manifest(path, SHARDS)
    try:
        shards = tuple(ShardFacts.from_json(row) for row in rows.to_pylist())
        problem = next(_impossible(shards, document["size"]), None)
    except (ValueError, TypeError, ArithmeticError) as error:  # no text, or nothing where a number belongs
        problem = f"it does not hold what an index holds ({error})"
    if problem:
        raise IntegrityError(f"{file} is damaged: {problem}; make the folder again")
    return shards


def _refuse_a_bomb(file: Path) -> None:
    """Refuse an index of more rows than it has bytes, for each holds a hash of its own, before they fill the memory."""
    with contextlib.suppress(
        pa.ArrowException, OSError, UnicodeDecodeError
    ):  # what cannot be read is refused in words when it is
        if (rows := pq.read_metadata(file).num_rows) > file.stat().st_size:
            raise IntegrityError(f"{file} is damaged: it says it holds {rows:,} rows; make the folder again")


def _impossible(shards: Sequence[ShardFacts], size: int) -> Iterator[str]:
    for shard in shards:
        if _leads_out(shard.name):
            yield f"the shard name {shard.name!r} leads out of the folder, expected one as 'shards/000000.tar'"
        for block in shard.blocks:
            if min(block.offset, block.rows - 1, block.bytes) < 0 or block.offset + block.bytes > shard.bytes:
                yield f"block {block.block} would not lie inside {shard.name!r}"
            elif 3 * size**2 * block.rows > DEFLATE_MAX * block.bytes:
                yield f"block {block.block} of {shard.name!r} cannot hold {block.rows:,} images of {size} px"


def _leads_out(name: str) -> bool:
    """Whether a name is anything but that of a file below its folder, on whichever system the set is opened."""
    path = PureWindowsPath(name)  # takes / and \\ both, and knows drives
    odd = not path.parts or len(name.encode()) > 255 or "\\" in name or "\0" in name
    return odd or bool(path.anchor) or ".." in path.parts


def refuse_own(out: Path, *inputs: Path) -> None:
    """Refuse (`OutputConflict`) to write where an input lies: moved aside, it could not be read."""
    for path in inputs:
        if path.resolve().is_relative_to(out.resolve()):
            raise OutputConflict(f"{out} is, or holds, {path}, which is to be read; choose another folder")


def open_store(path: Path) -> ShardFolder:
    """Open a corpus store; raises `NotAShardFolder` for anything else."""
    folder = open_folder(path)
    if folder.document["kind"] != "store":
        raise NotAShardFolder(f"{path} is a {folder.document['kind']}, not a corpus store; `curate ingest` makes one")
    return folder
