"""Is a shard folder what was written? Sizes and counts, or every hash and every block."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.commit import check_file
from manifests.errors import TransfersetError
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.index import ShardFolder, contents_id, open_folder
from shards.read import read_shard


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was checked and what was wrong."""

    folder: str
    shards: int
    images: int
    full: bool
    problems: tuple[str, ...]


def verify(path: Path, *, full: bool = True) -> Verdict:
    """Check a transfer set or a store; ``full`` hashes every file and decodes every block.

    Damage is reported in `problems`, all of it; only a folder that cannot be opened at all raises.
    """
    folder = open_folder(path)
    problems = [*_check_files(folder, full=full), *_check_listing(folder)]
    if full:
        problems += _check_blocks(folder)
    return Verdict(
        folder=str(path), shards=len(folder.shards), images=folder.rows(), full=full, problems=tuple(problems)
    )


def _check_files(folder: ShardFolder, *, full: bool) -> Iterator[str]:
    contents = folder.document["contents"]
    if contents_id(contents) != folder.id:
        yield f"{folder.path}: the id {folder.id} does not belong to the contents it lists"
    for shard in folder.shards:
        if contents.get(shard.name) != shard.sha256:
            yield f"{folder.path / shard.name}: the index and the folder's document name different hashes"
        size = (folder.path / shard.name).stat().st_size if (folder.path / shard.name).exists() else None
        if not full and size != shard.bytes:
            yield f"{folder.path / shard.name} holds {size} bytes, {shard.bytes:,} were committed"
    for name, sha256 in contents.items():
        file = folder.path / name
        if not file.exists():
            yield f"{file} is missing"
        elif full:
            try:
                check_file(file, bytes=file.stat().st_size, sha256=sha256)
            except TransfersetError as error:
                yield str(error)


def _check_listing(folder: ShardFolder) -> Iterator[str]:
    """Every tar is in the index, and the manifest places exactly the images that the index counts."""
    known = {shard.name for shard in folder.shards}
    for tar in sorted((folder.path / "shards").glob("*.tar")):
        if (name := tar.relative_to(folder.path).as_posix()) not in known:
            yield f"{tar} is not in the index: a shard of another set, or a copy ({name})"
    try:
        placed = read_manifest(folder.path, SAMPLES, columns=["shard"])["shard"]
    except TransfersetError as error:
        yield str(error)
        return
    if (rows := len(placed) - placed.null_count) != folder.rows():
        yield f"{folder.path}: samples.parquet places {rows:,} images, the shards hold {folder.rows():,}"


def _check_blocks(folder: ShardFolder) -> Iterator[str]:
    """Decode every block and look for each image where the manifest says it is."""
    try:
        samples = read_manifest(folder.path, SAMPLES, columns=["key", "shard", "block", "row"])
    except TransfersetError:
        return  # reported by the listing already
    where = {tuple(p): k.encode() for k, *p in zip(*(c.to_pylist() for c in samples.columns), strict=True)}
    for number, shard in enumerate(folder.shards):
        try:
            for block_number, block in enumerate(read_shard(folder.path, shard)):
                wrong = [i for i, key in enumerate(block.keys) if where.get((number, block_number, i)) != key]
                if wrong:
                    yield f"{folder.path / shard.name}: block {block_number} row {wrong[0]} is another image"
        except (TransfersetError, ValueError) as error:
            yield str(error)
