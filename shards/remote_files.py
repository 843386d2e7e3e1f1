"""Files that lie elsewhere, by any URL that fsspec opens: how they are opened, told apart and read, and what fails.

What may pass (a connection that breaks, silence, a server that is overloaded) is tried again after a while; what will
not (no such file, no right to read it) is said at once.
"""

import logging
import os
import posixpath
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import platformdirs

from shards.errors import NotThere, UnknownAddress, Unreachable

STALL = 60
"""seconds without a byte after which a server is given up"""
TRIES = 5
"""of one request: with BACKOFF some 8 seconds, in which a server restarts or a network comes back"""
BACKOFF = 0.5
"""seconds before the second try; twice as long before each later one"""

# What tells versions of a file apart, the surest first, as fsspec's systems for HTTP, S3, Google, Azure, ... call it.
_STAMPS = (
    *("ETag", "etag", "md5Hash", "blob_id", "sha", "Content-MD5", "Digest"),
    *("Last-Modified", "LastModified", "last_modified", "mtime", "updated", "created"),
)
_MISSING = (404, 410)  # HTTP: not found, gone
_NO_SUCH_RANGE = 416
_PASSING = (408, 425, 429)  # HTTP: timeout, too early, too many requests; every other 4xx is ours and stays
_WEB = ("http://", "https://")

_Out = TypeVar("_Out")
_jitter = random.SystemRandom()  # no seed of the user's moves, and no two processes wait alike

# It prints whole tracebacks where nobody listens, and raises besides.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())


def cache_home() -> Path:
    """Where what was fetched is kept: `$TRANSFERSET_CACHE`, or the platform's cache folder."""
    return Path(os.environ.get("TRANSFERSET_CACHE", platformdirs.user_cache_dir("transferset")))


def open_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; raises `UnknownAddress`, `Unreachable`."""
    try:
        import fsspec

        options = _http_options() if url.startswith(_WEB) else {}
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = str(error).removesuffix(".")
        raise Unreachable(f"cannot open {url} ({package}): pip install 'transferset[remote]'") from None
    except ValueError as error:
        raise UnknownAddress(
            f"cannot open {url}: {error}; expected https://, s3://, gs:// or fsspec's others"
        ) from None
    except Exception as error:  # noqa: BLE001  # credentials that do not open, say
        raise refusal(url, error) from None
    return system, path + "/" * (url.endswith("/") and not path.endswith("/"))


def _http_options() -> dict[str, Any]:
    """No limit on the whole (aiohttp's is five minutes, too short for a shard), but on silence; proxies as set.

    Bytes as they lie there: a range of what a server compressed on the way would be another one.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
    client = {"timeout": timeout, "trust_env": True, "headers": {"Accept-Encoding": "identity"}}
    return {"client_kwargs": client}


def stamp(info: Mapping[str, Any]) -> str:
    """What tells this version of a file from others, by what its server says of it; empty if it says nothing."""
    return next((str(info[key]).removeprefix("W/").strip('"') for key in _STAMPS if info.get(key)), "")


def refusal(url: str, error: Exception) -> Unreachable:
    """What a library raised, in our words."""
    if isinstance(error, Unreachable):
        return error
    cause = _root(error)
    if _status(error) in _MISSING or (cause is error and isinstance(error, FileNotFoundError)):
        return NotThere(f"no such file: {url}")
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    remedy = "FSSPEC_S3_ANON=true reads a public bucket" if url.startswith("s3://") else "check the network"
    return Unreachable(f"cannot fetch {url}: {reason}; check the address and your right to read it; {remedy}")


def patiently(url: str, work: Callable[[], _Out]) -> _Out:
    """What ``work`` returns, tried TRIES times while what it raises may pass; else raises `Unreachable`, `NotThere`."""
    for tried in range(1, TRIES + 1):
        try:
            return work()
        except Exception as error:  # noqa: BLE001  # each kind of server has a library of its own, with its own errors
            if not _may_pass(error):
                raise refusal(url, error) from None
            if tried == TRIES:
                raise Unreachable(f"{refusal(url, error)}; tried {TRIES} times") from None
        time.sleep(backoff(tried))
    raise AssertionError("the last try returns or raises")


def backoff(tried: int) -> float:
    """Seconds to wait after that many tries: half to one and a half of twice the time before."""
    return BACKOFF * (1 << tried - 1) * _jitter.uniform(0.5, 1.5)


class RemoteFolder:
    """The files below a URL; several threads and forked processes read at once."""

    def __init__(self, url: str) -> None:
        self._address = url
        self.url = (url.partition("?")[0] if url.startswith(_WEB) else url).rstrip("/")
        """for messages and reports: without a query, which may be an access token"""
        self._opened: tuple[int, Any, str] = (0, None, "")
        self._system()

    def url_of(self, name: str) -> str:
        """The URL of a file, for messages."""
        return _below(self.url, name)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None if its server does not say; raises `NotThere`, `Unreachable`."""
        found = patiently(self.url_of(name), lambda: self._call("info", name)).get("size")
        return found if isinstance(found, int) else None

    def read(self, name: str) -> bytes:
        """A whole file; raises `NotThere`, `Unreachable`."""
        return bytes(patiently(self.url_of(name), lambda: self._call("cat_file", name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """The bytes from ``start`` to ``end``, fewer where the file ends before; raises `NotThere`, `Unreachable`."""

        def get() -> bytes:
            try:
                return bytes(self._call("cat_file", name, start=start, end=end))
            except Exception as error:
                if _status(error) == _NO_SUCH_RANGE:
                    return b""
                raise

        data = patiently(self.url_of(name), get)
        if len(data) > end - start:
            raise Unreachable(
                f"the server of {self.url_of(name)} sent {len(data):,} bytes where {end - start:,} were asked for: it "
                f"does not answer range requests; use one that does (nginx, Apache, S3), or copy the folder here"
            )
        return data

    def _call(self, what: str, name: str, **options: int) -> Any:
        system, path = self._system()
        return getattr(system, what)(_below(path, name), **options)

    def _system(self) -> tuple[Any, str]:
        """The file system of this process: fsspec's run a thread, which a fork leaves behind."""
        if self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *open_system(self._address))
        return self._opened[1:]


def _below(place: str, name: str) -> str:
    """A file of a folder; a URL's query, such as an access token, goes with every file."""
    if not place.startswith(_WEB):
        return posixpath.join(place, name)
    place, mark, query = place.partition("?")
    return f"{posixpath.join(place, quote(name))}{mark}{query}"


def _may_pass(error: Exception) -> bool:
    """Whether another try may help: not for what is not there, not ours to read, or not asked rightly."""
    if isinstance(error, Unreachable):
        return False
    status = _status(error)
    if status is not None:
        return status in _PASSING or status >= 500
    return not isinstance(_root(error), FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)


def _root(error: BaseException) -> BaseException:
    """What was beneath: fsspec calls everything "not found"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: Exception) -> int | None:
    """The HTTP status that a server answered with, as the errors of gcsfs, botocore and aiohttp say it."""
    root = _root(error)
    response = getattr(root, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif hasattr(root, "status"):
        found = root.status
    else:  # not of the root: there aiohttp's parser says 400 of a body that breaks off
        found = getattr(error, "code", None)
    return found if isinstance(found, int) and found else None
