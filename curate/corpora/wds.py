"""Reader of webdataset tars: samples are members that share a key, the path up to the first dot of the base name.

`?image=EXT[,EXT]` says which members are the images, whatever they are called, and `?label=EXT` which is the label
(`?label=`: none). Otherwise every member named like an image is one, and `.cls` or else `.json` is the label.

Each tar is indexed once by its headers; members are then read by their offsets, so any part can be read alone. A tar
that ends anywhere but at its end marker is refused: tarfile takes a damaged header for the end of the archive.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from curate.corpora.base import (
    Item,
    Part,
    SourceFile,
    files_identity,
    find_files,
    is_container,
    is_image,
    is_pattern,
    printable,
    split,
    split_options,
)
from curate.errors import CorpusDamaged, CorpusEmpty, UnknownCorpus

_END_MARKER = bytes(2 * tarfile.BLOCKSIZE)  # POSIX: two blocks of zeros
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_CHUNK = 1 << 20  # bytes read at once when only looking for zeros
_NO_MEMBER = "the sample has no such member"


class _Member(NamedTuple):
    offset: int  # bytes from the start of the tar to the content
    size: int  # bytes
    error: str | None


class _Wanted(NamedTuple):
    images: tuple[str, ...] | None  # extensions in lower case; None: those of images
    labels: tuple[str, ...]  # the first that a sample has


class _Sample(NamedTuple):
    uri: str
    tar: str  # name of the tar in the corpus
    image: _Member
    label: _Member | None
    label_is_json: bool


class WdsCorpus:
    """Images as members of webdataset tars."""

    scheme = "wds"
    classes = None
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"wds:{path}"
        pattern, self._options = split_options("wds", path, ("image", "label"))
        self._wanted = _wanted(self._options)
        self._files = find_files(pattern, ".tar")
        self._tars = {file.name: file for file in self._files}

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether the path is a tar, a folder of tars, or a pattern that ends in `.tar`."""
        if path.is_dir():
            return any(is_container(entry, ".tar") for entry in path.iterdir())
        return path.name.lower().endswith(".tar") and (path.is_file() or is_pattern(str(path)))

    def identity(self) -> str:
        """Over the tars' relative names, sizes and times of change, and the options."""
        return files_identity(self.scheme, self._files, self._options)

    @cached_property
    def _samples(self) -> list[_Sample]:
        samples = [sample for file in self._files for sample in sorted(_index(file, self._wanted))]
        if all(sample.image.error == _NO_MEMBER for sample in samples):
            examples = ", ".join(f"KEY.{extension}" for extension in self._wanted.images or ("jpg", "png", "..."))
            raise CorpusEmpty(f"corpus {self.name!r}: no image member ({examples}) in {self.spec}")
        return samples

    def parts(self) -> list[Part]:
        """Samples in uri order, PART_SIZE a part. Reads every header of every tar, the first time."""
        return split(self._samples)

    def read(self, part: Part) -> Iterator[Item]:
        """The image members' bytes; labels are a member's text or, if it ends in json, its "label" or "cls"."""
        with ExitStack() as stack:
            opened: dict[str, BinaryIO] = {}
            for sample in part.where:
                if sample.tar not in opened:
                    opened[sample.tar] = stack.enter_context(self._tars[sample.tar].path.open("rb"))
                yield _item(sample, opened[sample.tar])


def _item(sample: _Sample, file: BinaryIO) -> Item:
    label = None if sample.label is None else _label(_content(sample.label, file), sample.label_is_json)
    if sample.image.error:
        return Item(uri=sample.uri, data=None, label=label, error=sample.image.error)
    return Item(uri=sample.uri, data=_content(sample.image, file), label=label)


def _content(member: _Member, file: BinaryIO) -> bytes:
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) != member.size:
        raise CorpusDamaged(
            f"{file.name} changed while it was read: {len(data)} of {member.size} bytes at byte {member.offset}"
        )
    return data


def _label(content: bytes, is_json: bool) -> str | None:
    """The label as text; None where the member states none."""
    text = content.decode("utf-8", "replace").strip()
    if not is_json:
        return text or None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    value = record.get("label", record.get("cls"))
    return str(value) if isinstance(value, str | int) else None


def _wanted(options: Mapping[str, str]) -> _Wanted:
    images = tuple(dict.fromkeys(options["image"].lower().split(","))) if "image" in options else None
    labels = tuple(options["label"].lower().split()) if "label" in options else ("cls", "json")
    if "" in (images or ()):
        raise UnknownCorpus("wds: image= names no extension; expected e.g. image=jpg or image=left.png,right.png")
    return _Wanted(images, labels)


def _index(file: SourceFile, wanted: _Wanted) -> Iterator[_Sample]:
    """Samples of one tar, in its own order. A member whose extension its sample already has begins a new sample."""
    samples: list[tuple[str, dict[str, tuple[str, _Member]]]] = []
    by_key: dict[str, dict[str, tuple[str, _Member]]] = {}
    for name, member in _members(file):
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:  # no key, or no extension: webdataset skips these too
            continue
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if key not in by_key or extension in by_key[key]:
            by_key[key] = {}
            samples.append((key, by_key[key]))
        by_key[key][extension] = (name, member)
    seen: dict[str, int] = {}
    for key, members in samples:
        label = next((extension for extension in wanted.labels if extension in members), None)
        for name, image in _images(key, members, wanted.images):
            seen[name] = seen.get(name, 0) + 1
            uri = f"{file.name}/{printable(name)}" + (f"#{seen[name]}" if seen[name] > 1 else "")
            is_json = label is not None and label.endswith("json")
            yield _Sample(uri, file.name, image, members[label][1] if label is not None else None, is_json)


def _images(
    key: str, members: dict[str, tuple[str, _Member]], wanted: tuple[str, ...] | None
) -> list[tuple[str, _Member]]:
    """The images of a sample, all of them: it may be a stereo pair. One that lacks those wanted is not passed over."""
    if wanted is None:
        return [members[extension] for extension in sorted(members) if is_image(members[extension][0])]
    found = [members[extension] for extension in wanted if extension in members]
    return found or [(f"{key}.{wanted[0]}", _Member(0, 0, _NO_MEMBER))]


def _members(file: SourceFile) -> Iterator[tuple[str, _Member]]:
    """Names and places of everything in a tar but folders; CorpusDamaged unless it ends as a tar must."""
    with file.path.open("rb") as stream:
        _refuse_compressed(file, stream)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for info in tar:
                    if not info.isdir():
                        yield info.name.removeprefix("./"), _member(info)
                end = tar.offset
        except tarfile.TarError as error:
            raise CorpusDamaged(_damage(file, stream.tell(), str(error).splitlines()[0])) from None
        _check_end(file, stream, end)


def _member(info: tarfile.TarInfo) -> _Member:
    readable = info.isreg() and not info.issparse()
    kind = "sparse file" if info.issparse() else "link" if info.issym() or info.islnk() else "special file"
    return _Member(info.offset_data, info.size, None if readable else f"a {kind} in the tar, not plain content")


def _refuse_compressed(file: SourceFile, stream: BinaryIO) -> None:
    head = stream.read(8)
    stream.seek(0)
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise UnknownCorpus(f"{file.path} is compressed ({kind}); wds: reads plain tars, so decompress it first")


def _check_end(file: SourceFile, stream: BinaryIO, end: int) -> None:
    """Beyond the last member there must be the end marker, and nothing but zeros."""
    stream.seek(end)
    chunk = stream.read(_CHUNK)
    if not chunk.startswith(_END_MARKER) and not any(chunk[: len(_END_MARKER)]):
        raise CorpusDamaged(_damage(file, end + len(chunk), "the file ends without the end marker of a tar"))
    while chunk:
        if any(chunk):
            raise CorpusDamaged(_damage(file, end, "expected a member or the end marker, found something else"))
        chunk = stream.read(_CHUNK)


def _damage(file: SourceFile, offset: int, what: str) -> str:
    return f"damaged tar {file.path} at byte {offset}: {what}; images may be missing, so fetch or pack it again"
