"""What a disk and a machine give: reading, hashing, streaming and writing blocks, each for a moment, in turn.

A set is read as it is; in any other folder a set of noise is written, read and removed. The stream is measured on
images that the system has in memory already: what the disk gives is the figure for reading from it.
"""

import contextlib
import hashlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from manifests.progress import Advance, nothing
from manifests.provenance import Provenance, fingerprint
from shards.errors import NotAShardFolder
from shards.hold import fits_in_memory
from shards.index import ShardFolder, open_folder, seal, write_index
from shards.layout import KEY_DTYPE, UNKNOWN_LABEL, Block, block_rows, shard_name, shard_rows
from shards.sources.local import LocalBlocks
from shards.stream import Stream
from shards.write import committed, write_shard

SECONDS = 1.5  # for each figure
REPEATS = 3  # of those that are of a whole file
SAMPLE = 100 << 20  # bytes of a set that are read, of pixels that are streamed and written
CHUNK = 1 << 20  # bytes
BATCH = 256  # images
STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table."""

    what: str
    mb_per_s: float | None
    """None where this system has no way to measure it"""
    images_per_s: float | None = None


def write_noise(folder: Path, *, images: int, size: int) -> ShardFolder:
    """A store of random images, for measurements: as `curate ingest` would leave it, but for the samples manifest."""
    step, per_shard = block_rows(size), shard_rows(size)
    shards = [
        write_shard(
            folder,
            shard_name(number),
            _noise(start, min(start + per_shard, images), size=size),
            split="all",
            first_block=start // step,
        )
        for number, start in enumerate(range(0, images, per_shard))
    ]
    about = {"corpus": "noise", "size": size, "seen": images}
    index = write_index(folder, shards, provenance=Provenance(step="ingest", config=about))
    seal(folder, about, kind="store", files=[*map(committed, shards), index], fingerprint=fingerprint(about))
    return open_folder(folder)


def _noise(start: int, stop: int, *, size: int) -> Iterator[Block]:
    """Blocks of the images numbered start, ..., stop - 1."""
    rng, step = np.random.default_rng(start), block_rows(size)
    for first in range(start, stop, step):
        rows = range(first, min(first + step, stop))
        yield Block(
            images=rng.integers(0, 256, (len(rows), 3, size, size), dtype=np.uint8),
            keys=np.array([f"{row:032x}" for row in rows], KEY_DTYPE),
            labels=np.full(len(rows), UNKNOWN_LABEL, np.int32),
        )


def bench(folder: Path, *, advance: Advance = nothing) -> list[Measured]:
    """Measure, in some twenty seconds; ``advance(1)`` is told of every one of `STEPS`."""
    found: list[Measured] = []
    with contextlib.ExitStack() as stack:
        try:
            opened = open_folder(folder)
        except NotAShardFolder:
            if not folder.is_dir():
                raise
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=folder)))
            found += _writing(folder)
            opened = write_noise(folder / "set", images=SAMPLE // (3 * 32**2), size=32)
        source = LocalBlocks(opened)
        source.check()
        advance(1)
        found += _reading(opened)
        advance(1)
        for resident in (False, True) if fits_in_memory(source) else (False,):
            for cores in sorted({1, len(_cores())}):
                found.append(_streaming(opened, resident=resident, cores=cores))
            advance(1)
    return found


def _writing(folder: Path) -> list[Measured]:
    """Blocks into a shard, and the same bytes hashed and written with nothing else."""
    blocks = [*_noise(0, SAMPLE // (3 * 32**2), size=32)]
    shard = folder / "blocks.tar"
    rates = {"write: blocks": list[float](), "write: the same bytes, hashed": list[float]()}

    def bare() -> None:
        digest = hashlib.sha256()
        with (folder / "bare").open("wb", buffering=0) as file:
            for start in range(0, len(data), CHUNK):
                digest.update(data[start : start + CHUNK])
                file.write(data[start : start + CHUNK])
            os.fsync(file.fileno())

    for _ in range(REPEATS):
        seconds = _seconds(partial(write_shard, folder, shard.name, blocks, split="all", first_block=0))
        data = memoryview(shard.read_bytes())
        for name, taken in zip(rates, (seconds, _seconds(bare)), strict=True):
            rates[name].append(len(data) / taken)
    return [Measured(what=name, mb_per_s=statistics.median(each) / 1e6) for name, each in rates.items()]


def _reading(opened: ShardFolder) -> Iterator[Measured]:
    """The first shards as files, from the disk and from memory, and hashes of what was read."""
    ends = itertools.accumulate(shard.bytes for shard in opened.shards)
    paths = [
        opened.path / shard.name for shard, end in zip(opened.shards, ends, strict=True) if end - shard.bytes < SAMPLE
    ]
    cold = None
    if hasattr(os, "posix_fadvise"):  # Linux: elsewhere nobody can be asked to forget a file
        for path in paths:
            _forget(path)
        cold = _rate(_chunks(paths))
    yield Measured(what="read: from the disk", mb_per_s=cold)
    data = [*_chunks(paths)]
    yield Measured(what="read: from memory", mb_per_s=_rate(_chunks(paths)))
    yield Measured(what="hash: sha256", mb_per_s=_rate(data, hashlib.sha256))
    yield Measured(what="hash: xxh3", mb_per_s=_rate(data, xxhash.xxh3_64))


def _forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet cannot be forgotten
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _chunks(paths: Sequence[Path]) -> Iterator[bytes]:
    left = SAMPLE
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while left > 0 and (chunk := file.read(CHUNK)):
                left -= len(chunk)
                yield chunk


def _rate(chunks: Iterable[bytes], work: Callable[[bytes], object] = len) -> float:
    """MB per second, for at most SECONDS."""
    done, start = 0, time.perf_counter()
    for chunk in chunks:
        work(chunk)
        done += len(chunk)
        if time.perf_counter() - start > SECONDS:
            break
    return done / (time.perf_counter() - start) / 1e6


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _streaming(opened: ShardFolder, *, resident: bool, cores: int) -> Measured:
    """Images per second of as many ranks as there are cores, each a process that is held to its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=context.Barrier(cores).wait) as pool:
        rank = partial(_rank, opened.path, world=cores, resident=resident, seconds=SECONDS)
        rate = sum(pool.map(rank, range(cores)))
    where = "held in memory" if resident else "in windows"
    return Measured(
        what=f"stream: {where}, {cores} core{'s' * (cores > 1)}",
        mb_per_s=rate * 3 * opened.size**2 / 1e6,
        images_per_s=rate,
    )


def _rank(path: Path, rank: int, *, world: int, resident: bool, seconds: float) -> float:
    """Images per second of one rank, after it has seen its images once."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {_cores()[rank]})
    source = LocalBlocks(open_folder(path))
    stream = Stream(source, batch_size=world * BATCH, tail="wrap", rank=rank, world=world, resident=resident)
    stream.narrow(np.arange(stream.rows) < max(1, SAMPLE // (3 * source.size**2)))
    for _ in stream.one_epoch():
        pass
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        images += len(next(stream).keys)
    return images / (time.perf_counter() - start)


def _cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
