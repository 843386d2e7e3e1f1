"""How much of the bare speed of decoding `curate ingest` keeps: images/s of the whole step over decode + resize alone.

    python benchmarks/ingest.py [--data DIR] [--repeats 7] [--photographs 1000] [--size 32] [--threads N]

Both sides use Pillow and the same rule, in the same number of threads, which get the same pieces; the bare one has all
bytes in memory and keeps nothing. They take turns in one process; a ratio is the median over the repeats of (bare
seconds / ingest seconds). Beside it stand the ratio of CPU seconds, which a busy machine moves less, and how many cores
were kept busy (CPU seconds over seconds). DIR holds real images (`scenes/*.parquet`, `imagenet_originals/`); without it
they are generated. Prints JSON. The claims: at least 0.6 for 64 px JPEG from Parquet, at least 0.85 for full-size
photographs, of which there must be enough that the few files a store takes, each synced, weigh little. For the same
small images in per-sample tars it says where the time goes: each step alone, in one thread.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from curate.corpora import open_corpus
from curate.ingest import CHUNK, CHUNK_BYTES, in_order, ingest
from distill.device import hardware
from manifests.keys import content_key, pixel_hash
from shards.decode import Transform, decode, quiet

SMALL = 6000  # images, where they are generated


class Clock:
    """Seconds, and CPU seconds of all threads, of pieces of work by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], object]) -> None:
        """Do some work and note how long it took."""
        start, busy = time.perf_counter(), time.process_time()
        work()
        self.wall.setdefault(name, []).append(time.perf_counter() - start)
        self.cpu.setdefault(name, []).append(time.process_time() - busy)

    def seconds(self, name: str) -> float:
        """Median over the repeats."""
        return statistics.median(self.wall[name])

    def cores(self, name: str) -> float:
        """Cores that were busy, median over the repeats."""
        return statistics.median(c / w for c, w in zip(self.cpu[name], self.wall[name], strict=True))

    def ratio(self, one: str, other: str, *, cpu: bool = False) -> float:
        """Median over the repeats of ``one``'s seconds, or CPU seconds, over ``other``'s."""
        seconds = self.cpu if cpu else self.wall
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def jpegs(count: int, *, height: int, width: int) -> Iterator[bytes]:
    """Smooth pictures, each another: sums of a few waves."""
    y, x = np.mgrid[0:height, 0:width] / 64
    for number in range(count):
        a, b, c = np.random.default_rng(number).uniform(0.2, 3, (3, 3))
        waves = np.stack([np.sin(a[n] * y + b[n] * x) + np.cos(c[n] * (x - y)) for n in range(3)], -1)
        out = io.BytesIO()
        Image.fromarray((waves * 60 + 128).astype(np.uint8)).save(out, "JPEG", quality=90)
        yield out.getvalue()


def small_images(data: Path) -> list[bytes]:
    """Encoded images of 64 px."""
    files = sorted((data / "scenes").glob("*.parquet"))
    if not files:
        return list(jpegs(SMALL, height=64, width=64))
    return [item["bytes"] for file in files for item in pq.read_table(file)["image"].to_pylist()]


def photographs(data: Path, count: int) -> list[bytes]:
    """Encoded photographs of full size; where there are too few again from the first, each with another end."""
    files = sorted((data / "imagenet_originals").rglob("*.JPEG"))
    found = [file.read_bytes() for file in files] or list(jpegs(24, height=1000, width=1500))
    return [found[n % len(found)] + n.to_bytes(4, "big") for n in range(count)]


def lay_out(root: Path, small: list[bytes], large: list[bytes]) -> dict[str, str]:
    """The corpora in the forms people have them; spec by name."""
    column = pa.array([{"bytes": image, "path": None} for image in small])
    pq.write_table(pa.table({"image": column, "label": [0] * len(small)}), root / "small.parquet", row_group_size=1000)
    with tarfile.open(root / "small.tar", "w") as tar:
        for number, image in enumerate(small):
            for name, content in ((f"{number:06d}.jpg", image), (f"{number:06d}.cls", b"0")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (root / "large").mkdir()
    for number, image in enumerate(large):
        (root / "large" / f"{number:06d}.jpg").write_bytes(image)
    specs = {"parquet": "small.parquet", "wds": "small.tar", "folder": "large"}
    return {scheme: f"x={scheme}:{root / name}" for scheme, name in specs.items()}


def pieces(images: list[bytes]) -> Iterator[list[bytes]]:
    """What a thread gets at once, as ingest cuts it."""
    rest = iter(images)
    count = max(1, min(CHUNK, CHUNK_BYTES * len(images) // sum(map(len, images))))
    return iter(lambda: list(islice(rest, count)), [])


def bare(images: list[bytes], transform: Transform, threads: int) -> None:
    """Decode and resize, nothing else."""

    def work(piece: list[bytes]) -> int:
        return sum(transform(Image.open(io.BytesIO(image)).convert("RGB"))[0, 0, 0] > 0 for image in piece)

    with quiet(), ThreadPoolExecutor(threads) as pool:
        for _ in in_order(pool, work, pieces(images), ahead=2 * threads):
            pass


def whole(spec: str, size: int, threads: int, root: Path) -> None:
    """`curate ingest` into a folder of its own."""
    work = Path(tempfile.mkdtemp(dir=root))
    ingest(open_corpus(spec), size=size, work=work, threads=threads)
    shutil.rmtree(work)


def where_time_goes(spec: str, size: int, repeats: int, root: Path) -> dict[str, float]:
    """Share of each step of ingest in one thread; the last is what the others leave: naming, blocks, files."""
    clock, transform = Clock(), Transform(size=size)
    corpus = open_corpus(spec)
    items = [item for part in corpus.parts() for item in corpus.read(part)]
    data = [item.data for item in items if item.data is not None]
    pixels = [decode(image, transform)[0] for image in data]
    for _ in range(repeats):
        fresh = open_corpus(spec)
        clock.time("index headers", fresh.parts)
        clock.time("read", lambda: [item for part in fresh.parts() for item in fresh.read(part)])  # noqa: B023
        clock.time("decode and resize", lambda: [decode(image, transform) for image in data])
        clock.time("hash", lambda: [(content_key(d), pixel_hash(p)) for d, p in zip(data, pixels, strict=True)])
        clock.time("whole", lambda: whole(spec, size, 1, root))
    steps = {name: clock.seconds(name) for name in clock.wall if name != "whole"}
    steps["name and write"] = clock.seconds("whole") - sum(steps.values())
    return {name: round(seconds / clock.seconds("whole"), 3) for name, seconds in steps.items()}


def compare(images: list[bytes], spec: str, size: int, *, threads: int, repeats: int, root: Path) -> dict[str, object]:
    """Ingest of ``spec``, which holds ``images``, beside their bare decoding."""
    clock, transform = Clock(), Transform(size=size)
    sides = {"bare": lambda: bare(images, transform, threads), "ingest": lambda: whole(spec, size, threads, root)}
    sides["ingest"]()  # imports and caches
    for number in range(repeats):
        for name in sorted(sides, reverse=bool(number % 2)):
            clock.time(name, sides[name])
    return {
        "images": len(images),
        "images_per_s": {name: round(len(images) / clock.seconds(name), 1) for name in sides},
        "cores_busy": {name: round(clock.cores(name), 2) for name in sides},
        "ratio": round(clock.ratio("bare", "ingest"), 3),
        "ratio_of_cpu_time": round(clock.ratio("bare", "ingest", cpu=True), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--photographs", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    small, large = small_images(options.data), photographs(options.data, options.photographs)
    turns = {"threads": options.threads, "repeats": options.repeats}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        specs = lay_out(root, small, large)
        report = {
            "small_from_parquet": compare(small, specs["parquet"], options.size, **turns, root=root),
            "photographs_from_folder": compare(large, specs["folder"], options.size, **turns, root=root),
            "small_from_tars": {
                **compare(small, specs["wds"], options.size, **turns, root=root),
                "shares_of_one_thread": where_time_goes(specs["wds"], options.size, options.repeats, root),
            },
        }
    facts = {
        **vars(options),
        "data": options.data.is_dir(),
        "bytes_of_a_photograph": sum(map(len, large)) // len(large),
        "pillow": PIL.__version__,
    }
    print(json.dumps({**facts, **report, "hardware": hardware(torch.device("cpu"))}, indent=1))


if __name__ == "__main__":
    main()
