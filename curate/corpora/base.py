"""What a corpus is: an ordered list of items, cut into parts that can be read alone.

A reader finds encoded images (or uint8 arrays) and hands them out in ascending `uri` order. It decodes nothing, and it
leaves nothing out in silence: what it cannot read is an item with an error. Only `curate.ingest` opens the bytes.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from os.path import commonpath
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
from braceexpand import braceexpand
from numpy.typing import NDArray

from curate.errors import CorpusEmpty, CorpusNotFound, UnknownCorpus

# Items in a part: what one commit of ingest covers. 4,096 ImageNet photographs are ~450 MB, a minute or so of decoding.
PART_SIZE = 4096

IMAGE_EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
        *(".avif", ".heic", ".heif", ".jp2", ".jxl"),  # not decoded here: counted and quarantined, not passed over
    )
)  # compared in lower case

# `?` is also a wildcard: only what reads as options after the last one is taken for options.
_OPTIONS = re.compile(r"(.*)\?(\w+=[^?]*)", re.DOTALL)

# Part of every identity; raised when a reader's answer to the same source changes.
_READER_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One source sample, as it lies in the corpus."""

    uri: str  # where it came from, relative to the corpus; unique and ascending over the whole corpus
    data: bytes | NDArray[np.uint8] | None  # encoded image, or HxWx3 / HxW array; None when it could not be read
    label: str | None = None  # the corpus's own label, its name if the corpus states names
    error: str | None = None  # one line, when data is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece of a corpus that can be read alone, also by another process that opened the same corpus."""

    name: str  # unique in the corpus, ascending
    count: int  # items in it, exact
    where: tuple[Any, ...]  # private to the reader that made it


class Corpus(Protocol):
    """A readable source of images. Readers satisfy it by shape; they inherit nothing."""

    @property
    def name(self) -> str:
        """The name the user gave it."""

    @property
    def spec(self) -> str:
        """Canonical `scheme:path`."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class order if the corpus states one."""

    @property
    def builtin(self) -> bool:
        """Whether the images come with the program."""

    def identity(self) -> str:
        """Hex SHA-256 that changes whenever the source changes; reads no pixels."""

    def parts(self) -> list[Part]:
        """Pieces of PART_SIZE items (the last may be shorter), in ascending uri order."""

    def read(self, part: Part) -> Iterator[Item]:
        """The items of one part, in ascending uri order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file of a corpus and what tells that it changed."""

    name: str  # posix, relative to the corpus
    path: Path
    size: int  # bytes
    mtime_ns: int


def split(entries: Sequence[Any]) -> list[Part]:
    """Cut entries, already in uri order, into parts of PART_SIZE."""
    starts = range(0, len(entries), PART_SIZE)
    pieces = (tuple(entries[start : start + PART_SIZE]) for start in starts)
    return [Part(name=part_name(n), count=len(piece), where=piece) for n, piece in enumerate(pieces)]


def part_name(number: int) -> str:
    """Name of the number-th part of a corpus."""
    return f"part-{number:06d}"


def fingerprint(*facts: object) -> str:
    """Hex SHA-256 over the facts' representations, one a line."""
    lines = (repr(fact) for fact in (_READER_VERSION, *facts))
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def split_options(scheme: str, path: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """`PATH?key=value&key=value` as the path and its options; a file that is really named so has none.

    Raises UnknownCorpus for an option that is not among those known, or that is given twice.
    """
    match = _OPTIONS.fullmatch(path)
    if match is None or Path(path).expanduser().exists():
        return path, {}
    pairs = parse_qsl(match[2], keep_blank_values=True)
    options = dict(pairs)
    for option in options:
        if option not in known:
            expected = f"expected one of {', '.join(known)}" if known else "it takes none"
            raise UnknownCorpus(f"{scheme}: has no option {option!r} (in {path}); {expected}")
    if len(options) < len(pairs):
        raise UnknownCorpus(f"{scheme}:{path} gives an option twice; give each once")
    return match[1], options


def is_image(name: str) -> bool:
    """Whether a file name ends as an encoded image does."""
    return Path(name).suffix.lower() in IMAGE_EXTENSIONS


def printable(name: str) -> str:
    """A name from a file system or tar as valid Unicode (bytes that are not UTF-8 become escapes)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_files(pattern: str, suffix: str) -> list[SourceFile]:
    """The files that a path names: a file, a folder (its `*suffix`), or a glob or brace pattern; ordered for uris.

    Raises CorpusNotFound when a name or a pattern matches nothing, CorpusEmpty when a folder holds no such file.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        paths = {p for p in path.iterdir() if is_container(p, suffix)}
        if not paths:
            raise CorpusEmpty(f"no *{suffix} file in the folder {pattern}")
    else:
        paths = {path} if path.exists() else _expand(pattern)
    root = Path(commonpath([p.parent.absolute() for p in paths]))
    files = [_source_file(p, root) for p in paths]
    return sorted(files, key=lambda file: file.name + "/")  # the order of "name/member" uris


def is_container(path: Path, suffix: str) -> bool:
    """Whether a path is a visible file that ends in the suffix."""
    return path.name.lower().endswith(suffix) and not path.name.startswith(".") and path.is_file()


def is_pattern(text: str) -> bool:
    """Whether a path that does not exist is meant as a glob or brace pattern."""
    return has_magic(text) or "{" in text


def _expand(pattern: str) -> set[Path]:
    try:
        names = list(braceexpand(str(Path(pattern).expanduser())))
    except ValueError:
        raise UnknownCorpus(f"unbalanced braces in {pattern!r}; expected e.g. train-{{000..146}}.tar") from None
    found: set[Path] = set()
    for name in names:
        # Not Path.glob: it takes no absolute pattern, and its * matches hidden files.
        matches = glob(name, recursive=True) if has_magic(name) else [name]  # noqa: PTH207
        files = {Path(match) for match in matches if Path(match).is_file()}
        if not files:
            origin = f" (from the pattern {pattern})" if name != pattern else ""
            raise CorpusNotFound(f"no such file: {name}{origin}")
        found |= files
    return found


def _source_file(path: Path, root: Path) -> SourceFile:
    stat = path.stat()
    name = printable(path.absolute().relative_to(root).as_posix())
    return SourceFile(name=name, path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def files_identity(scheme: str, files: Iterable[SourceFile]) -> str:
    """Identity of a corpus that lies in files: relative names, sizes and times of change."""
    return fingerprint(scheme, *((file.name, file.size, file.mtime_ns) for file in files))
