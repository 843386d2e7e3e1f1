"""Tars of samples as their headers describe them: every member by offset, and whether the tar is whole.

A tar that ends anywhere but at its end marker is refused: tarfile takes a damaged header for the end of the archive.
Plain headers are parsed here, each from one short read, in a third of the time that tarfile takes; whatever is not
plain (long names, sparse files, links, what does not add up) is left to it.

A sample is the members that share a key, the path up to the first dot of the base name, as webdataset has it.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from shards.errors import ShardError, TarDamaged
from shards.names import is_image

_BLOCK = tarfile.BLOCKSIZE
_END_MARKER = bytes(2 * _BLOCK)  # POSIX: two blocks of zeros
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_CHUNK = 1 << 20  # bytes read at once when only looking for zeros


class Member(NamedTuple):
    """One file in a tar."""

    name: str
    offset: int
    """bytes from the start of the tar to the content"""
    size: int
    """bytes"""
    error: str | None
    """why its content cannot be taken as it lies there"""


class Tar(NamedTuple):
    """What the headers of a whole tar say."""

    members: list[Member]
    """all but folders, in the tar's own order"""
    sha256: str
    """of all headers: names, sizes, owners, times; nothing of the contents"""


Sample = dict[str, Member]
"""members of one sample, by extension in lower case"""


def index_tar(path: Path) -> Tar:
    """Read all headers of a tar (some 8 us a member).

    Raises `TarDamaged` unless it ends as a tar must, `ShardError` if it is compressed.
    """
    with path.open("rb") as stream:
        _refuse_compressed(path, stream.read(8))
        return _Walk(path, stream).run()


class _Walk:
    """The walk over one tar from header to header."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream, self._file = path, stream, stream.fileno()
        self._length = os.fstat(self._file).st_size
        self._digest = hashlib.sha256()
        self._tar: tarfile.TarFile | None = None

    def run(self) -> Tar:
        members, offset = [], 0
        while (header := os.pread(self._file, _BLOCK, offset)).strip(b"\0"):
            member, end = self._plain(header, offset) or self._any(offset)
            if end > self._length:
                raise self._damage(offset, "unexpected end of data")
            if member is not None:
                members.append(member)
            offset = end
        self._check_end(offset)
        return Tar(members, self._digest.hexdigest())

    def _plain(self, header: bytes, offset: int) -> tuple[Member, int] | None:
        """A regular file, and where the next header begins; None if there is more to its header than that."""
        if len(header) < _BLOCK or header[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            return None
        if self._tar is not None and self._tar.pax_headers:  # one for all members may say anything
            return None
        try:
            size, checksum = int(header[124:136].rstrip(b" \0"), 8), int(header[148:156].rstrip(b" \0"), 8)
        except ValueError:
            return None
        if sum(header) - sum(header[148:156]) + 8 * 0x20 != checksum or size < 0:  # its own place counts as spaces
            return None
        name = _text(header[:100])
        if name.endswith("/"):  # an old way to write a folder
            return None
        if header[345]:
            name = f"{_text(header[345:500])}/{name}"
        self._digest.update(header)
        start = offset + _BLOCK
        return Member(name.removeprefix("./"), start, size, None), start + size + -size % _BLOCK

    def _any(self, offset: int) -> tuple[Member | None, int]:
        """Any member, as tarfile reads it; None in place of a folder."""
        try:
            if self._tar is None:
                self._stream.seek(0)
                self._tar = tarfile.open(fileobj=self._stream, mode="r:")  # noqa: SIM115  # the stream is what is open
            self._stream.seek(offset)
            self._tar.offset = offset
            info = tarfile.TarInfo.fromtarfile(self._tar)
        except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as wrong:
            raise self._damage(offset, f"expected a member or the end marker, found something else ({wrong})") from None
        end = self._tar.offset
        if end <= offset or info.size < 0:
            raise self._damage(offset, "a member that ends before it begins")
        self._digest.update(os.pread(self._file, info.offset_data - offset, offset))
        if info.isdir():
            return None, end
        readable = info.isreg() and not info.issparse()
        kind = "sparse file" if info.issparse() else "link" if info.issym() or info.islnk() else "special file"
        error = None if readable else f"a {kind} in the tar, not plain content"
        return Member(info.name.removeprefix("./"), info.offset_data, info.size, error), end

    def _check_end(self, offset: int) -> None:
        """Beyond the last member there must be the end marker, and nothing but zeros."""
        chunk = os.pread(self._file, _CHUNK, offset)
        if not chunk.startswith(_END_MARKER) and not any(chunk[: len(_END_MARKER)]):
            raise self._damage(offset + len(chunk), "the file ends without the end marker of a tar")
        while chunk:
            if any(chunk):
                raise self._damage(offset, "expected a member or the end marker, found something else")
            offset += len(chunk)
            chunk = os.pread(self._file, _CHUNK, offset)

    def _damage(self, offset: int, what: str) -> TarDamaged:
        return TarDamaged(
            f"damaged tar {self._path} at byte {offset}: {what}; images may be missing, so fetch or pack it again"
        )


def _refuse_compressed(path: Path, head: bytes) -> None:
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise ShardError(f"{path} is compressed ({kind}); only plain tars can be read, so decompress it first")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def group(members: Iterable[Member]) -> list[tuple[str, Sample]]:
    """Keys and samples in the order of their first members; an extension that comes again begins a new sample."""
    samples: list[tuple[str, Sample]] = []
    by_key: dict[str, Sample] = {}
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:  # no key, or no extension: webdataset skips these too
            continue
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if key not in by_key or extension in by_key[key]:
            by_key[key] = {}
            samples.append((key, by_key[key]))
        by_key[key][extension] = member
    return samples


def images_of(sample: Sample) -> list[Member]:
    """The members named like images, all of them, in the order of their extensions."""
    return [sample[extension] for extension in sorted(sample) if is_image(sample[extension].name)]


def label_text(content: bytes, *, is_json: bool) -> str | None:
    """The label that a member states: its text, or its "label" or else "cls" if it is JSON; None where it has none."""
    text = content.decode("utf-8", "replace").strip()
    if not is_json:
        return text or None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    stated = [value for name in ("label", "cls") if isinstance(value := record.get(name), str | int)]
    return str(stated[0]) if stated else None
