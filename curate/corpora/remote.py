"""Files that lie elsewhere: any URL that fsspec opens, brought once into a local cache and then read like local files.

A remote file is known by what its server says of it: its size and its ETag, hash or time of change. These make its
identity and its place in the cache (`$TRANSFERSET_CACHE`, or the platform's cache folder), so that one that changed
there is fetched anew, and one that was deleted here and fetched again is the same. Nothing is fetched before it is
read. What lies in the cache under a name is whole: a file gets its name only after its size was compared.
"""

import contextlib
import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from curate.corpora.base import SourceFile, expand_braces
from curate.errors import CorpusEmpty, CorpusNotFound, CorpusUnreachable, CurateError, UnknownCorpus
from manifests.commit import LOCK, PART
from shards.errors import NotThere, UnknownAddress, Unreachable
from shards.names import printable
from shards.remote_files import cache_home, open_system, refusal, stamp

_OURS: dict[type[Unreachable], type[CurateError]] = {
    Unreachable: CorpusUnreachable,
    NotThere: CorpusNotFound,
    UnknownAddress: UnknownCorpus,
}


def find_remote(patterns: list[str], suffix: str) -> list[SourceFile]:
    """The remote files that URLs name: a file, a brace pattern, with `*` a glob, or with `/` at the end a folder.

    Raises CorpusNotFound and CorpusEmpty as for local files, CorpusUnreachable when a server does not answer.
    """
    found = {url: info for pattern in patterns for url, info in _look(pattern, suffix)}
    root = posixpath.commonpath([_path(url).parent for url in found])
    return [_source_file(url, info, name=_path(url).relative_to(root).as_posix()) for url, info in found.items()]


def find_beside(file: SourceFile, name: str) -> SourceFile | None:
    """The remote file of that name in the same remote folder."""
    url = f"{str(file.url).partition('?')[0].rpartition('/')[0]}/{name}"
    try:
        ((url, info),) = _look(url, "")
    except CorpusNotFound:
        return None
    return _source_file(url, info, name=name)


def fetch(file: SourceFile) -> None:
    """Bring a remote file to its place, unless it is there: whole, or not at all.

    Raises CorpusNotFound if it is gone, CorpusUnreachable if it cannot be fetched whole or changed meanwhile. A second
    process that wants the same file waits for the first.
    """
    if _is_here(file):
        return
    file.place.parent.mkdir(parents=True, exist_ok=True)
    part = file.place.with_name(file.place.name + PART)
    with FileLock(file.place.with_name(LOCK)):
        if _is_here(file):
            return
        try:
            with _in_words(url := str(file.url)):
                system, path = open_system(url)
                _get(system, path, part)
                _check(file, part.stat().st_size, system.info(path))
                part.replace(file.place)
        finally:
            part.unlink(missing_ok=True)


def _get(system: Any, path: str, part: Path) -> None:
    system.get_file(path, str(part))
    with part.open("rb") as written:
        os.fsync(written.fileno())
    system.invalidate_cache()  # of listings, so that the file is looked at once more


def _check(file: SourceFile, size: int, info: dict[str, Any]) -> None:
    if size != file.size:
        raise CorpusUnreachable(f"{file.url} ended after {size:,} of {file.size:,} bytes; run the same command again")
    if (info.get("size"), stamp(info)) != (file.size, file.stamp):
        raise CorpusUnreachable(f"{file.url} changed while it was fetched; run the same command again")


def _is_here(file: SourceFile) -> bool:
    return file.place.is_file() and file.place.stat().st_size == file.size


def _look(pattern: str, suffix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """URLs and what their servers say of them."""
    for url in expand_braces(pattern):
        with _in_words(url):
            system, path = open_system(url)
            system.invalidate_cache()
            if "*" in str(_path(url)) or url.endswith("/"):
                listed = system.glob(f"{path}*{suffix}" if url.endswith("/") else path)
                found = {system.unstrip_protocol(name): system.info(name) for name in listed}
            else:
                found = {url: system.info(path)}
        files = {name: info for name, info in found.items() if info.get("type") == "file"}
        if not files:
            raise (CorpusEmpty(f"no *{suffix} file in {url}") if url.endswith("/") else _nothing(url))
        yield from files.items()


@contextlib.contextmanager
def _in_words(url: str) -> Iterator[None]:
    """Raise what a library raised as an error of this room."""
    try:
        yield
    except CurateError:
        raise
    except Exception as error:  # noqa: BLE001  # each kind of server has a library of its own, with its own errors
        told = refusal(url, error)
        raise _OURS[type(told)](str(told)) from None


def _source_file(url: str, info: dict[str, Any], *, name: str) -> SourceFile:
    size, version = info.get("size"), stamp(info)
    if not isinstance(size, int):
        raise CorpusUnreachable(f"the server of {url} does not say how long it is; fetch it yourself and give its path")
    known_by = hashlib.sha256(repr((url, size, version)).encode("utf-8", "backslashreplace")).hexdigest()
    place = cache_home() / "remote" / known_by[:32] / _path(url).name
    return SourceFile(name=printable(name), place=place, size=size, stamp=version, url=url)


def _path(url: str) -> PurePosixPath:
    """A URL as a path, without its query."""
    return PurePosixPath(url.partition("?")[0])


def _nothing(url: str) -> CorpusNotFound:
    return CorpusNotFound(f"no such file: {url}")
