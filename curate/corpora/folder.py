"""Reader of a folder of image files: flat, or one subfolder a class (the ImageFolder layout).

The label is the first-level folder. Names that begin with a dot are skipped, files without an image extension too.
Folders that are symbolic links are never entered; a link to a file that leads out of the corpus is an item with an
error, unless `?links=follow` says that the corpus is made of such links.
A file is as it was listed or it is unreadable: one that has changed since is not of the corpus that has this identity.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from curate.corpora.base import Item, Part, fingerprint, split, split_options
from curate.errors import CorpusEmpty, CorpusNotFound, UnknownCorpus
from shards.names import is_image, printable

FOLLOW = "follow"
"""the one value of the option `links`"""


class _Entry(NamedTuple):
    uri: str
    relative: str  # as the file system spells it
    size: int  # bytes
    mtime_ns: int
    error: str | None
    unreadable: bool  # whether the error may pass


class FolderCorpus:
    """Images as files under one folder."""

    scheme = "folder"
    classes = None  # sorted names are the default order, so the layout states none
    builtin = False

    def __init__(self, name: str, path: str) -> None:
        self.name, self.spec = name, f"folder:{path}"
        path, options = split_options(self.scheme, path, ("links",))
        if options.get("links", FOLLOW) != FOLLOW:
            raise UnknownCorpus(f"corpus {name!r}: links={options['links']}; expected links={FOLLOW}, or nothing")
        self._follow = bool(options)
        self._root = Path(path).expanduser()
        if not self._root.exists():
            raise CorpusNotFound(f"corpus {name!r}: no such folder: {path}")
        if not self._root.is_dir():
            raise UnknownCorpus(f"corpus {name!r}: {path} is a file, and folder: reads a folder of images")
        if not self._entries:
            raise CorpusEmpty(f"corpus {name!r}: no image file (.jpg, .png, .webp, ...) under the folder {path}")

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether an image lies anywhere under the folder."""
        return path.is_dir() and any(True for _ in _scan(path, path))

    @cached_property
    def _entries(self) -> list[_Entry]:
        return sorted(_scan(self._root, self._root, follow=self._follow))

    def identity(self) -> str:
        """Over relative names, sizes and times of change."""
        return fingerprint(self.scheme, *(entry[:-1] for entry in self._entries))

    def parts(self) -> list[Part]:
        """Files in uri order, PART_SIZE a part."""
        return split(self._entries)

    def read(self, part: Part) -> Iterator[Item]:
        """The files' bytes; an unreadable file is an item with an error."""
        return (self._item(entry) for entry in part.where)

    def _item(self, entry: _Entry) -> Item:
        label = entry.uri.split("/", 1)[0] if "/" in entry.uri else None
        data, error, unreadable = None, entry.error, entry.unreadable
        if error is None:
            try:
                data = _content(self._root / entry.relative, entry)
            except OSError as failure:
                error, unreadable = _reason(failure), True
        return Item(uri=entry.uri, data=data, label=label, error=error, unreadable=unreadable)


def _content(path: Path, listed: _Entry) -> bytes:
    """The bytes of a file; OSError if they cannot be read, or are not those of the file that was listed."""
    with path.open("rb") as file:
        data = file.read()
        stat = os.fstat(file.fileno())
    if len(data) != listed.size or (stat.st_size, stat.st_mtime_ns) != (listed.size, listed.mtime_ns):
        raise OSError(f"changed since it was listed, then {listed.size:,} bytes, now {len(data):,}")
    return data


def _scan(folder: Path, root: Path, *, follow: bool = False) -> Iterator[_Entry]:
    try:
        with os.scandir(folder) as listing:
            found = [entry for entry in listing if not entry.name.startswith(".")]
    except OSError as error:
        yield _unreadable(folder, root, error)
        return
    for entry in found:
        path = Path(entry.path)
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _scan(path, root, follow=follow)
            elif entry.is_symlink() and (is_image(entry.name) or entry.is_dir()) and _leads_out(path, root, follow):
                yield _entry(path, root, error="a symbolic link out of the corpus, not followed")
            elif is_image(entry.name) and not entry.is_dir():
                yield _look(path, root)
        except OSError as error:
            if is_image(entry.name):
                yield _unreadable(path, root, error)


def _look(path: Path, root: Path) -> _Entry:
    stat = path.stat()
    problem = None if S_ISREG(stat.st_mode) else "not a regular file"  # opening a pipe would wait for ever
    return _entry(path, root, error=problem, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def _entry(path: Path, root: Path, *, error: str | None, size: int = 0, mtime_ns: int = 0) -> _Entry:
    relative = path.relative_to(root).as_posix()
    return _Entry(printable(relative), relative, size, mtime_ns, error, unreadable=False)


def _unreadable(path: Path, root: Path, error: OSError) -> _Entry:
    return _entry(path, root, error=_reason(error))._replace(unreadable=True)


def _leads_out(path: Path, root: Path, follow: bool) -> bool:
    """Whether a link leads out of the corpus, and is none that was meant to."""
    if follow and path.is_file():
        return False
    try:
        return not path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # a link to itself, before Python 3.13; reading it says so
        return False


def _reason(error: OSError) -> str:
    return f"unreadable: {error.strerror or error}"
