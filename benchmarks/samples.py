"""Per-sample tars streamed as they are: images/s beside plain webdataset on the same tars, and the time to open them.

    python benchmarks/samples.py [--data DIR] [--repeats 5] [--out benchmarks/results/samples.json]

What counts is a batch of 256 as a uint8 NCHW array. Ours is a shuffled `Stream` over tars that it opens first;
webdataset reads in stored order and decodes with Pillow (`decode("pil")`), then converts to RGB and resizes by ours.
A side gets one core or two: ours that many threads, webdataset that many worker processes (for one: none, which is
quicker). Both take turns in one process, pinned to the cores; a figure is the median over the repeats, with their
range. Beside it stand images per CPU second, of all threads and processes, which other users of the machine move less.

`index` is the CPU time for the headers of a tar of 100,000 members, by tarfile and by `shards.tars`.
"""

import argparse
import io
import json
import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import webdataset
from numpy.typing import NDArray

from distill.device import hardware
from shards.decode import Transform
from shards.sources import SampleTars
from shards.stream import Stream
from shards.tars import index_tar

BATCH = 256
MEMBERS = 100_000


def ours(tars: Path, size: int, cores: int) -> Iterator[NDArray[np.uint8]]:
    """Batches of one shuffled epoch, tars opened and all."""
    source = SampleTars(tars, size=size)
    source.workers = cores
    for batch in Stream(source, batch_size=BATCH, tail="short").one_epoch():
        yield batch.images_BCHW


def theirs(tars: Path, size: int, cores: int) -> Iterator[NDArray[np.uint8]]:
    """Batches as webdataset's users make them, in stored order."""
    transform = Transform(size=size)

    def pixels(sample: dict[str, Any]) -> NDArray[np.uint8]:
        return transform(sample["jpg"].convert("RGB"))

    urls = sorted(map(str, tars.glob("*.tar")))
    loader = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").map(pixels)
    batches = loader.batched(BATCH, collation_fn=np.stack, partial=True)
    if cores == 1:
        yield from batches
    else:
        yield from torch.utils.data.DataLoader(batches, batch_size=None, num_workers=cores, collate_fn=as_it_is)


def as_it_is(batch: Any) -> Any:
    """No copy into a tensor is asked of anybody."""
    return batch


def cpu_seconds() -> float:
    """Of all threads, and of processes that have ended."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


SIDES: dict[str, Callable[[Path, int, int], Iterator[NDArray[np.uint8]]]] = {"ours": ours, "webdataset": theirs}


def compared(tars: Path, *, size: int, cores: int, repeats: int) -> dict[str, Any]:
    """Both sides in turn, on the first ``cores`` of this process's cores."""
    wall: dict[str, list[float]] = {name: [] for name in SIDES}
    cpu: dict[str, list[float]] = {name: [] for name in SIDES}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        for turn in range(repeats):
            for name in sorted(SIDES, reverse=bool(turn % 2)):
                start, busy = time.perf_counter(), cpu_seconds()
                images = sum(len(images_BCHW) for images_BCHW in SIDES[name](tars, size, cores))
                wall[name].append(images / (time.perf_counter() - start))
                cpu[name].append(images / (cpu_seconds() - busy))
    finally:
        os.sched_setaffinity(0, before)
    found: dict[str, Any] = {
        name: {
            "images_per_s": round(statistics.median(wall[name])),
            "range": [round(min(wall[name])), round(max(wall[name]))],
            "images_per_cpu_s": round(statistics.median(cpu[name])),
        }
        for name in SIDES
    }
    ratios = {"ratio": wall, "ratio_per_cpu_s": cpu}
    for name, rates in ratios.items():
        found[name] = round(statistics.median(a / b for a, b in zip(*rates.values(), strict=True)), 2)
    return found


def by_tarfile(path: Path) -> int:
    """What tarfile finds."""
    with tarfile.open(path, "r:") as tar:
        return sum(1 for _ in tar)


def indexed(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds for all headers of one large tar."""
    path = folder / "large.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(MEMBERS // 2):
            for name, content in ((f"{n:08d}.jpg", bytes(2000)), (f"{n:08d}.cls", b"12")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    ways: dict[str, Callable[[], int]] = {
        "tarfile": lambda: by_tarfile(path),
        "shards.tars": lambda: len(index_tar(path).members),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            assert way() == MEMBERS
            seconds[name].append(time.process_time() - start)
    return {"members": MEMBERS, "cpu_s": {name: round(statistics.median(each), 3) for name, each in seconds.items()}}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tars = options.data / "tiny_imagenet"
    with tempfile.TemporaryDirectory() as name:
        report: dict[str, Any] = {
            "command": f"OMP_NUM_THREADS=1 python benchmarks/samples.py --repeats {options.repeats}",
            "repeats": options.repeats,
            "batch": BATCH,
            **{
                f"{size} px, {cores} core(s)": compared(tars, size=size, cores=cores, repeats=options.repeats)
                for size in (32, 64)
                for cores in (1, 2)
            },
            "index": indexed(Path(name), options.repeats),
        }
    report["versions"] = {"pillow": PIL.__version__, "webdataset": webdataset.__version__}
    report["hardware"] = hardware(torch.device("cpu"))
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
