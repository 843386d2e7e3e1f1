"""What a corpus is: an ordered list of items, cut into parts that can be read alone.

A reader finds encoded images (or uint8 arrays) and hands them out in ascending `uri` order. It decodes nothing, and it
leaves nothing out in silence: what it cannot read is an item with an error. Only `curate.ingest` opens the bytes.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath, normpath
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

import shards.names
from curate.errors import CorpusEmpty, CorpusNotFound, UnknownCorpus
from shards.names import is_url, printable

# Items in a part: what one commit of ingest covers. 4,096 ImageNet photographs are ~450 MB, a minute or so of decoding.
PART_SIZE = 4096

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
    unreadable: bool = False  # the error may pass (I/O, permission, a file that changed): another run tries again


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
    place: Path  # where it lies, or will lie once it is fetched
    size: int  # bytes
    stamp: int | str  # time of change in ns; of a remote file what its server says, such as an ETag
    url: str | None = None  # of a remote file

    @property
    def path(self) -> Path:
        """Where it lies; a remote file is brought here first. Raises CorpusNotFound, CorpusUnreachable."""
        if self.url is not None:
            from curate.corpora.remote import fetch

            fetch(self)
        return self.place

    def beside(self, name: str) -> "SourceFile | None":
        """The file of that name in the same folder; None where there is none."""
        if self.url is not None:
            from curate.corpora.remote import find_beside

            return find_beside(self, name)
        path = self.place.with_name(name)
        return _source_file(path, _whole(path).parent) if is_container(path, "") else None


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
    place, query = cut_options(path)
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)  # a plus is no space here: root=c++/data
    options = dict(pairs)
    for option in options:
        if option not in known:
            expected = f"expected one of {', '.join(known)}" if known else "it takes none"
            own = "; a query of the URL's own ends in another '?'" if is_url(path) else ""
            raise UnknownCorpus(f"{scheme}: has no option {option!r} (in {path}); {expected}{own}")
    if len(options) < len(pairs):
        raise UnknownCorpus(f"{scheme}:{path} gives an option twice; give each once")
    return place, options


def cut_options(path: str) -> tuple[str, str]:
    """A path and its options as text, empty where it has none; a URL with a query of its own may end in another `?`."""
    if is_url(path) and path.endswith("?"):
        return path[:-1], ""
    match = _OPTIONS.fullmatch(path)
    if match is None or (not is_url(path) and Path(path).expanduser().exists()):
        return path, ""
    return match[1], match[2]


def find_files(pattern: str, suffix: str) -> list[SourceFile]:
    """The files that a path names, ordered for uris: a file, a folder (its `*suffix`), a glob or brace pattern.

    Any of these may be a URL; `@LIST` is a text file of them, one a line, relative to the list; `#` begins a comment.
    Raises CorpusNotFound when a name or a pattern matches nothing, CorpusEmpty when a folder holds no such file or a
    list no line, UnknownCorpus for what is neither.
    """
    patterns = _read_list(Path(pattern[1:]).expanduser()) if is_list(pattern) else [pattern]
    remote = sum(map(is_url, patterns))
    if 0 < remote < len(patterns):
        raise UnknownCorpus(f"{pattern} lists {remote} URLs among {len(patterns)} lines; expected all or none")
    if remote:
        from curate.corpora.remote import find_remote

        files = find_remote(patterns, suffix)
    else:
        paths = {_whole(path): path for each in patterns for path in _find_paths(each, suffix)}
        root = Path(commonpath([whole.parent for whole in paths]))
        files = [_source_file(path, root) for path in paths.values()]
    return sorted(files, key=lambda file: file.name + "/")  # the order of "name/member" uris


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise CorpusNotFound(f"no such list of files: {path}")
    lines = (line.strip() for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise CorpusEmpty(f"no path in the list {path}; expected one a line")
    return [name if is_url(name) else str(path.parent / Path(name).expanduser()) for name in names]


def _find_paths(pattern: str, suffix: str) -> set[Path]:
    path = Path(pattern).expanduser()
    if not path.is_dir():
        return {path} if path.exists() else _expand(pattern)
    paths = {entry for entry in path.iterdir() if is_container(entry, suffix)}
    if not paths:
        raise CorpusEmpty(f"no *{suffix} file in the folder {pattern}")
    return paths


def is_container(path: Path, suffix: str) -> bool:
    """Whether a path is a visible file that ends in the suffix."""
    return path.name.lower().endswith(suffix) and not path.name.startswith(".") and path.is_file()


def is_list(text: str) -> bool:
    """Whether a path is `@` and the name of a list of files."""
    return text.startswith("@") and not Path(text).exists()


def expand_braces(pattern: str) -> list[str]:
    """The names that a brace pattern stands for; UnknownCorpus if its braces are unbalanced."""
    try:
        return shards.names.expand_braces(pattern)
    except ValueError as error:
        raise UnknownCorpus(str(error)) from None


def _expand(pattern: str) -> set[Path]:
    try:
        return shards.names.expand(pattern)
    except ValueError as error:
        raise UnknownCorpus(str(error)) from None
    except FileNotFoundError as error:
        raise CorpusNotFound(str(error)) from None


def _whole(path: Path) -> Path:
    """A path from the root, without `..`: what tells files apart and names them, not what opens them."""
    return Path(normpath(path.absolute()))


def _source_file(path: Path, root: Path) -> SourceFile:
    stat = path.stat()
    name = printable(_whole(path).relative_to(root).as_posix())
    return SourceFile(name=name, place=path, size=stat.st_size, stamp=stat.st_mtime_ns)


def files_identity(scheme: str, files: Iterable[SourceFile], options: Mapping[str, str] | None = None) -> str:
    """Identity of a corpus that lies in files: relative names, sizes and times of change, and the reader's options."""
    facts = ((file.name, file.size, file.stamp) for file in files)
    return fingerprint(scheme, *facts, *sorted((options or {}).items()))


def facts_below(top: Path, root: Path) -> Iterator[tuple[str, int, int]]:
    """Name relative to the root, size and time of change of a file, or of all files below a folder; in no order."""
    for path in (top, *top.rglob("*")):
        if path.is_file():
            stat = path.stat()
            yield printable(path.relative_to(root).as_posix()), stat.st_size, stat.st_mtime_ns


def class_name(value: Any, names: tuple[str, ...] | None) -> str | None:
    """The class's name where names are stated (an index outside them, such as -1, means unlabelled), else the value."""
    if value is None:
        return None
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return str(value)
