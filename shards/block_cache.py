"""Blocks of sets that lie elsewhere, kept on this disk: one file a block, never more bytes than allowed.

The cache is a help that may fail at any time: what cannot be kept (no room, no right to write, another process that
holds the lock and sleeps) is not kept, and what was damaged or removed is fetched again. Nothing waits for it for long.
What comes out must be checked as what comes in; a power cut may leave anything.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from manifests.commit import LOCK, PART, write_bytes

ENTRY = ".block"
"""end of the name of a kept block; nothing else is ever removed, but what was left of writing one"""
TOTAL = "total"
"""how many bytes are kept, or more after a kill: counted anew when they reach the limit, which is seldom"""
STRIPES = 256
"""locks for all blocks together: a lock file for each would be as many files again"""
PATIENCE = 1.0
"""seconds that a block waits to be kept; only counting a huge cache takes longer, and others go on without it"""
FETCH_PATIENCE = 10.0
"""seconds to wait for a block that another process is fetching; then it is fetched twice"""
_POLL = 0.003  # seconds
_FAILS = (OSError, NotImplementedError)  # a full or read-only disk, a timeout; a file system without locks


class BlockCache:
    """The blocks of one set in ``folder``; all sets beside it share ``limit`` bytes, least recently used first out.

    Any number of threads and processes may use it at once.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder, self._home, self._limit = folder, folder.parent, limit

    def get(self, block: int, size: int) -> NDArray[np.uint8] | None:
        """The bytes kept for a block, ``size`` at most, or None; they may be damaged."""
        path = self._path(block)
        try:
            data = np.fromfile(path, np.uint8, count=size)
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a cache that one may only read is one all the same
            os.utime(path)
        return data

    def put(self, block: int, data: NDArray[np.uint8]) -> None:
        """Keep the bytes of a block, if there is room or can be made."""
        if len(data) > self._limit:
            return
        with contextlib.suppress(*_FAILS), self._lock(LOCK, PATIENCE):
            total = self._total() - self._remove(self._path(block))
            if total + len(data) > self._limit:
                total = self._shrink(self._limit - max(len(data), self._limit // 16))
            self._note(total + len(data))  # first: a kill may leave it too large, never too small
            write_bytes(self._path(block), data.data, durable=False)

    @contextlib.contextmanager
    def fetching(self, block: int, size: int) -> Iterator[None]:
        """One process fetches a block of ``size`` bytes; others that want it wait, and then `get` it."""
        with contextlib.ExitStack() as held:
            if size <= self._limit:
                with contextlib.suppress(*_FAILS):
                    held.enter_context(self._lock(f"{LOCK}.{block % STRIPES}", FETCH_PATIENCE))
            yield

    def _lock(self, name: str, seconds: float) -> FileLock:
        self._home.mkdir(parents=True, exist_ok=True)
        return FileLock(self._home / name, timeout=seconds, poll_interval=_POLL)

    def _path(self, block: int) -> Path:
        return self._folder / f"{block:06d}{ENTRY}"

    def _total(self) -> int:
        try:
            return int((self._home / TOTAL).read_text())
        except (OSError, ValueError):  # none yet, or killed while it was written
            return sum(size for _, size, _ in self._kept())

    def _note(self, total: int) -> None:
        path = self._home / TOTAL
        path.touch()
        with path.open("r+b") as file:  # in place: to cut a file to nothing first makes ext4 wait for the disk
            file.write(b"%020d" % total)

    def _shrink(self, limit: int) -> int:
        """Remove what was used longest ago; returns how many bytes are left."""
        kept = sorted(self._kept())
        total = sum(size for _, size, _ in kept)
        for _, _, path in kept:
            if total <= limit:
                break
            total -= self._remove(path)
        return total

    def _remove(self, path: Path) -> int:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return 0
        path.unlink(missing_ok=True)
        return size

    def _kept(self) -> Iterator[tuple[int, int, Path]]:
        """When each block was last used, its size and where it is; what kills left goes."""
        for path in self._home.glob(f"*/*{ENTRY}.*{PART}"):  # nobody else is writing: the lock is ours
            path.unlink(missing_ok=True)
        for path in self._home.glob(f"*/*{ENTRY}"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                yield facts.st_mtime_ns, facts.st_size, path
