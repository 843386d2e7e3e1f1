"""What can happen to a transfer set on its way, as data: each damage is done to a copy, by name.

`DAMAGES` says of each which file `shards verify` names, whether `--fast` sees it too (sizes and counts: what changes a
length, removes a file or adds one), and, if it cannot hurt what is streamed, why.
"""

import os
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.index import ShardFolder
from shards.layout import TAR_END

DOCUMENT, RECORD = "transfer-set.json", "commits/transfer-set.json"
NO_RECORD = "no commit record 'transfer-set'"
SHARD = "shards/train-000000.tar"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing that goes wrong."""

    do: Callable[[ShardFolder, ShardFolder], None]
    """damages the first set; the second is sound, another one of the same sizes"""
    named: str = SHARD
    """what `shards verify` says of it contains this"""
    fast: bool | None = False
    """`shards verify --fast` sees it; None: that depends on the set, or on where a bit lies"""
    harmless: str = ""
    """why a stream delivers every image all the same, if it does"""


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit of byte ``at``, counted from the end where negative."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def flip_text(path: Path, after: str) -> None:
    """Flip the lowest bit of the byte after the first match of a pattern: a letter or digit stays one, mostly."""
    found = re.search(after.encode(), path.read_bytes())
    assert found, f"{path} has no {after}"
    flip(path, found.end())


def members(folder: ShardFolder) -> list[tarfile.TarInfo]:
    """The members of the second block of the first shard."""
    block = folder.shards[0].blocks[1]
    with tarfile.open(folder.path / SHARD) as tar:
        return [m for m in tar.getmembers() if block.offset <= m.offset < block.offset + block.bytes]


def _cut(place: Callable[[ShardFolder], int], folder: ShardFolder, _: ShardFolder) -> None:
    os.truncate(folder.path / SHARD, place(folder))


def _flip(place: Callable[[ShardFolder], int], folder: ShardFolder, _: ShardFolder) -> None:
    flip(folder.path / SHARD, place(folder))


def cut(place: Callable[[ShardFolder], int]) -> Damage:
    """The first shard ends early."""
    return Damage(do=partial(_cut, place), fast=True)


def flipped(place: Callable[[ShardFolder], int], *, harmless: str = "") -> Damage:
    """One bit of the first shard is another."""
    return Damage(do=partial(_flip, place), harmless=harmless)


def in_manifest(name: str, part: float, *, named: str = "", fast: bool | None = False) -> Damage:
    """One bit of a manifest is another, at a part of its length."""

    def do(folder: ShardFolder, _: ShardFolder) -> None:
        flip(folder.path / name, int(part * (folder.path / name).stat().st_size))

    return Damage(do=do, named=named or name, fast=fast)


def in_text(name: str, after: str, *, named: str = "", fast: bool = True, harmless: str = "") -> Damage:
    """One bit of a JSON file is another, right after some text."""
    return Damage(
        do=lambda folder, _: flip_text(folder.path / name, after), named=named or name, fast=fast, harmless=harmless
    )


def missing(name: str, *, named: str = "") -> Damage:
    """A file is not there."""
    return Damage(do=lambda folder, _: (folder.path / name).unlink(), named=named or name, fast=True)


def emptied(name: str, *, named: str = "") -> Damage:
    """A file is there and holds nothing."""
    return Damage(do=lambda folder, _: os.truncate(folder.path / name, 0), named=named or name, fast=True)


def foreign(*names: str, named: str = "", fast: bool | None = True) -> Damage:
    """Files of another set."""

    def do(folder: ShardFolder, other: ShardFolder) -> None:
        for name in names:
            shutil.copy(other.path / name, folder.path / name)

    return Damage(do=do, named=named or names[0], fast=fast)


def _swap(folder: ShardFolder, _: ShardFolder) -> None:
    one, two = (folder.path / shard.name for shard in folder.shards[:2])
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)


def _swap_blocks(folder: ShardFolder, _: ShardFolder) -> None:
    one, two = folder.shards[0].blocks[:2]
    path = folder.path / SHARD
    data = path.read_bytes()
    edge, end = two.offset, two.offset + two.bytes
    path.write_bytes(data[:0] + data[edge:end] + data[one.offset : edge] + data[end:])


def _overwrite(folder: ShardFolder, _: ShardFolder) -> None:
    shutil.copy(folder.path / folder.shards[1].name, folder.path / SHARD)


def _copy(folder: ShardFolder, _: ShardFolder) -> None:
    shutil.copy(folder.path / SHARD, folder.path / "shards/train-000999.tar")


def _zero_page(folder: ShardFolder, _: ShardFolder) -> None:
    data = bytearray((folder.path / SHARD).read_bytes())
    start = members(folder)[0].offset_data
    data[start : start + 256] = bytes(256)
    (folder.path / SHARD).write_bytes(data)


def _insert(folder: ShardFolder, _: ShardFolder) -> None:
    data = (folder.path / SHARD).read_bytes()
    at = members(folder)[0].offset_data + 200
    (folder.path / SHARD).write_bytes(data[:at] + b"\n" + data[at:])


def _append(folder: ShardFolder, _: ShardFolder) -> None:
    with (folder.path / SHARD).open("ab") as file:
        file.write((folder.path / folder.shards[1].name).read_bytes())


def _end_early(folder: ShardFolder, _: ShardFolder) -> None:
    data = bytearray((folder.path / SHARD).read_bytes())
    at = folder.shards[0].blocks[1].offset
    data[at : at + len(TAR_END)] = TAR_END
    (folder.path / SHARD).write_bytes(data)


def _dangle(folder: ShardFolder, _: ShardFolder) -> None:
    (folder.path / SHARD).unlink()
    (folder.path / SHARD).symlink_to("nowhere.tar")


def _folder(folder: ShardFolder, _: ShardFolder) -> None:
    (folder.path / SHARD).unlink()
    (folder.path / SHARD).mkdir()


def _middle(member: tarfile.TarInfo) -> int:
    return member.offset_data + member.size // 2


MANIFESTS = ("samples", "scores", "selection", "features", "shards")
FAST = {"shards": True, "samples": None}
"""the index is hashed even then, and the places are read"""

SHARD_DAMAGES = {
    "cut at a block edge": cut(lambda f: f.shards[0].blocks[1].offset),
    "cut in a header": cut(lambda f: members(f)[0].offset + 100),
    "cut between members": cut(lambda f: members(f)[1].offset),
    "cut in a payload": cut(lambda f: _middle(members(f)[0])),
    "cut in the end of the archive": cut(lambda f: f.shards[0].bytes - 100),
    "empty": emptied(SHARD),
    "one byte inserted": Damage(do=_insert, fast=True),
    "another shard appended": Damage(do=_append, fast=True),
    "flipped in a name": flipped(lambda f: members(f)[0].offset + 2),
    "flipped in a size": flipped(lambda f: members(f)[0].offset + 130),
    "flipped in a checksum": flipped(lambda f: members(f)[1].offset + 150),
    "flipped in an array's header": flipped(lambda f: members(f)[0].offset_data + 60),
    "flipped in pixels": flipped(lambda f: _middle(members(f)[0])),
    "flipped in keys": flipped(lambda f: _middle(next(m for m in members(f) if "keys" in m.name))),
    "flipped in labels": flipped(lambda f: members(f)[-1].offset_data + members(f)[-1].size - 1),
    "flipped in padding": flipped(lambda f: f.shards[0].blocks[1].offset + f.shards[0].blocks[1].bytes - 1),
    "flipped in the end of the archive": flipped(
        lambda f: f.shards[0].bytes - 1, harmless="it lies behind the last block, where nothing is read"
    ),
    "zeroed page": Damage(do=_zero_page),
    "an end of the archive within": Damage(do=_end_early),
    "blocks swapped": Damage(do=_swap_blocks),
    "missing": missing(SHARD),
    "a link to nowhere": Damage(do=_dangle, fast=True),
    "a folder in its place": Damage(do=_folder, fast=True),
    "swapped": Damage(do=_swap),
    "overwritten by another": Damage(do=_overwrite),
    "of another set": foreign(SHARD, fast=False),
    "an extra copy": Damage(do=_copy, named="shards/train-000999.tar", fast=True),
}
"""of shards"""

MANIFEST_DAMAGES = {
    **{
        f"{name} flipped at {part}": in_manifest(f"{name}.parquet", part, fast=FAST.get(name, False))
        for name in MANIFESTS
        for part in (0, 0.3, 0.6, 0.999)
    },
    **{f"{name} {what.__name__}": what(f"{name}.parquet") for name in MANIFESTS for what in (missing, emptied)},
    **{f"{name} of another set": foreign(f"{name}.parquet", fast=FAST[name]) for name in ("samples", "shards")},
    "document is no JSON": in_manifest(DOCUMENT, 0, fast=True),
    "document's hash of a shard": in_text(DOCUMENT, f'"{SHARD}": "'),
    "document's id": in_text(DOCUMENT, '\\n "id": "'),
    "document's count": in_text(DOCUMENT, '"train": [0-9]', fast=False),
    "document's size": in_text(DOCUMENT, '\\n "size": ', fast=False),
    "document's teacher": in_text(DOCUMENT, '"arch": "', fast=False),
    "document missing": missing(DOCUMENT),
    "document emptied": emptied(DOCUMENT),
    "document of another set": foreign(DOCUMENT),
    "document and record of another set": foreign(DOCUMENT, RECORD, named="shards.parquet"),
    "record's hash of a shard": in_text(RECORD, f'"name":"{SHARD}","rows":[0-9]*,"sha256":"'),
    "record's rows of a shard": in_text(RECORD, f'"name":"{SHARD}","rows":', harmless="the index says it too"),
    "record's fingerprint": in_text(RECORD, '"fingerprint":"'),
    "record is no JSON": in_manifest(RECORD, 0, named=NO_RECORD, fast=True),
    "record missing": missing(RECORD, named=NO_RECORD),
    "record emptied": emptied(RECORD, named=NO_RECORD),
    "record of another set": foreign(RECORD),
    "all manifests of another set": foreign(
        *(f"{name}.parquet" for name in (*MANIFESTS, "logits")), DOCUMENT, RECORD, named=SHARD, fast=None
    ),
    "a shard's own record": in_text(
        "commits/train-000000.json", '"sha256":"', harmless="only packing again would read it"
    ),
    "plan": in_text("plan.json", '"mode": "', harmless="only packing again would read it"),
}
"""of everything else"""

DAMAGES = {**SHARD_DAMAGES, **MANIFEST_DAMAGES}
