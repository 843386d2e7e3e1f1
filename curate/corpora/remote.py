"""Files that lie elsewhere: any URL that fsspec opens, brought once into a local cache and then read like local files.

A remote file is known by what its server says of it: its size and its ETag, hash or time of change. These make its
identity and its place in the cache (`$TRANSFERSET_CACHE`, or the platform's cache folder), so that one that changed
there is fetched anew, and one that was deleted here and fetched again is the same. Nothing is fetched before it is
read. What lies in the cache under a name is whole: a file gets its name only after its size was compared.
"""

import hashlib
import logging
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import platformdirs
from filelock import FileLock

from curate.corpora.base import SourceFile, expand_braces, printable
from curate.errors import CorpusEmpty, CorpusNotFound, CorpusUnreachable, UnknownCorpus
from manifests.commit import LOCK, PART

# What tells versions of a file apart, the surest first, as fsspec's systems for HTTP, S3, Google, Azure, ... call it.
_STAMPS = (
    *("ETag", "etag", "md5Hash", "blob_id", "sha", "Content-MD5", "Digest"),
    *("Last-Modified", "LastModified", "last_modified", "mtime", "updated", "created"),
)
_STALL = 60  # seconds without a byte after which a server is given up
_MISSING = (404, 410)  # HTTP: not found, gone

# It prints whole tracebacks where nobody listens, and raises besides.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())


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
        url = str(file.url)
        system, path = _open_system(url)
        try:
            _get(system, path, part)
            _check(file, part.stat().st_size, system.info(path))
            part.replace(file.place)
        except Exception as error:  # noqa: BLE001  # each kind of server has a library of its own, with its own errors
            raise _refusal(url, error) from None
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
    if (info.get("size"), _stamp(info)) != (file.size, file.stamp):
        raise CorpusUnreachable(f"{file.url} changed while it was fetched; run the same command again")


def _is_here(file: SourceFile) -> bool:
    return file.place.is_file() and file.place.stat().st_size == file.size


def _look(pattern: str, suffix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """URLs and what their servers say of them."""
    for url in expand_braces(pattern):
        system, path = _open_system(url)
        system.invalidate_cache()
        try:
            if "*" in str(_path(url)) or url.endswith("/"):
                listed = system.glob(f"{path}*{suffix}" if url.endswith("/") else path)
                found = {system.unstrip_protocol(name): system.info(name) for name in listed}
            else:
                found = {url: system.info(path)}
        except Exception as error:  # noqa: BLE001  # as above
            raise _refusal(url, error) from None
        files = {name: info for name, info in found.items() if info.get("type") == "file"}
        if not files:
            raise (CorpusEmpty(f"no *{suffix} file in {url}") if url.endswith("/") else _nothing(url))
        yield from files.items()


def _open_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        import fsspec

        options = _http_options() if url.startswith(("http://", "https://")) else {}
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = str(error).removesuffix(".")
        raise CorpusUnreachable(f"cannot open {url} ({package}): pip install 'transferset[remote]'") from None
    except ValueError as error:
        raise UnknownCorpus(f"cannot open {url}: {error}; expected https://, s3://, gs:// or fsspec's others") from None
    except Exception as error:  # noqa: BLE001  # credentials that do not open, say
        raise _refusal(url, error) from None
    return system, path + "/" * (url.endswith("/") and not path.endswith("/"))


def _http_options() -> dict[str, Any]:
    """No limit on the whole (aiohttp's is five minutes, too short for a shard), but on silence; proxies as set."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_STALL, sock_read=_STALL)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _source_file(url: str, info: dict[str, Any], *, name: str) -> SourceFile:
    size, stamp = info.get("size"), _stamp(info)
    if not isinstance(size, int):
        raise CorpusUnreachable(f"the server of {url} does not say how long it is; fetch it yourself and give its path")
    home = os.environ.get("TRANSFERSET_CACHE", platformdirs.user_cache_dir("transferset"))
    version = hashlib.sha256(repr((url, size, stamp)).encode("utf-8", "backslashreplace")).hexdigest()
    place = Path(home) / "remote" / version[:32] / _path(url).name
    return SourceFile(name=printable(name), place=place, size=size, stamp=stamp, url=url)


def _stamp(info: dict[str, Any]) -> str:
    return next((str(info[key]).removeprefix("W/").strip('"') for key in _STAMPS if info.get(key)), "")


def _path(url: str) -> PurePosixPath:
    """A URL as a path, without its query."""
    return PurePosixPath(url.partition("?")[0])


def _nothing(url: str) -> CorpusNotFound:
    return CorpusNotFound(f"no such file: {url}")


def _refusal(url: str, error: Exception) -> Exception:
    """What a library raised, in our words."""
    if isinstance(error, CorpusUnreachable):
        return error
    cause: BaseException = error
    while cause.__cause__ is not None:  # fsspec calls everything "not found", and says why beneath
        cause = cause.__cause__
    if getattr(cause, "status", None) in _MISSING or (cause is error and isinstance(error, FileNotFoundError)):
        return _nothing(url)
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    remedy = "FSSPEC_S3_ANON=true reads a public bucket" if url.startswith("s3://") else "check the network"
    return CorpusUnreachable(f"cannot fetch {url}: {reason}; check the address and your right to read it; {remedy}")
