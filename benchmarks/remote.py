"""What a set that lies elsewhere gives: images/s of the stream from a web server and from the cache, beside the disk.

    python benchmarks/remote.py [--images 65536] [--size 32] [--repeats 5] [--delay 0.02]

One epoch of shuffled batches of 256, blocks checked; the server is another process on this machine, so that the network
is the loopback, once more with every answer held back by ``--delay`` seconds, as from far away. The ways take turns in
one process; figures are medians with the least and the most. Prints JSON.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from distill.device import hardware
from manifests.provenance import Provenance
from shards.index import ShardFolder, open_folder, seal, write_index
from shards.layout import KEY_DTYPE, Block, block_rows, shard_name, shard_rows
from shards.sources import LocalBlocks, Source
from shards.sources.remote import RemoteBlocks
from shards.stream import Stream
from shards.write import committed, write_shard

BATCH = 256

SERVER = """
import asyncio, socket, sys
from aiohttp import web

async def send(request):
    await asyncio.sleep(float(request.query.get("delay", 0)))
    return web.FileResponse(sys.argv[1] + request.path)

app = web.Application()
app.router.add_get("/{name:.*}", send)
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
web.run_app(app, sock=sock, print=None, access_log=None)
"""


def make_store(folder: Path, images: int, size: int) -> ShardFolder:
    """Random images in block shards."""
    random, rows, facts = np.random.default_rng(0), block_rows(size), []
    for number, start in enumerate(range(0, images, shard_rows(size))):
        blocks = [
            Block(
                images=random.integers(0, 256, (count, 3, size, size), np.uint8),
                keys=np.array([f"{first + i:032x}" for i in range(count)], KEY_DTYPE),
                labels=np.full(count, -1, np.int32),
            )
            for first in range(start, min(start + shard_rows(size), images), rows)
            if (count := min(rows, images - first))
        ]
        facts.append(write_shard(folder, shard_name(number), blocks, split="all", first_block=start // rows))
    made = Provenance(step="ingest", config={"corpus": "random"}, transform="none")
    files = [*map(committed, facts), write_index(folder, facts, provenance=made)]
    seal(folder, {"size": size}, kind="store", files=files, fingerprint="benchmark")
    return open_folder(folder)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a folder, served by a process of its own."""
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


def epoch(source: Source, seed: int) -> float:
    """Images/s of one epoch, from a stream that is made to its last batch."""
    start, images = time.perf_counter(), 0
    for batch in Stream(source, batch_size=BATCH, seed=seed).one_epoch():
        images += len(batch.keys)
    return images / (time.perf_counter() - start)


def measured(store: ShardFolder, url: str, cache: Path, *, repeats: int, delay: float) -> dict[str, dict[str, int]]:
    """Images/s of each way."""
    far = f"{url}?delay={delay}"
    ways: dict[str, Callable[[], Source]] = {
        "local": lambda: LocalBlocks(store),
        "http_no_cache": lambda: RemoteBlocks(url, cache_bytes=0),
        "http_cold_cache": lambda: RemoteBlocks(url, cache=cache / "cold"),
        "http_warm_cache": lambda: RemoteBlocks(url, cache=cache / "warm"),
        f"http_cold_cache_{1000 * delay:g}_ms_away": lambda: RemoteBlocks(far, cache=cache / "cold"),
    }
    epoch(ways["http_warm_cache"](), 0)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats):
        for name in sorted(ways, reverse=bool(number % 2)):
            shutil.rmtree(cache / "cold", ignore_errors=True)
            rates[name].append(epoch(ways[name](), number))
    return {
        name: {"median": round(statistics.median(found)), "min": round(min(found)), "max": round(max(found))}
        for name, found in rates.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=65536)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.02)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = make_store(Path(name, "store"), options.images, options.size)
        with serving(store.path) as url:
            found = measured(store, url, Path(name, "cache"), repeats=options.repeats, delay=options.delay)
    report = {
        **vars(options),
        "batch": BATCH,
        "block_rows": block_rows(options.size),
        "images_per_s": found,
        "warm_cache_over_local": round(found["http_warm_cache"]["median"] / found["local"]["median"], 3),
        "versions": {name: version(name) for name in ("aiohttp", "fsspec", "numpy", "transferset")},
        "hardware": hardware(torch.device("cpu")),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
