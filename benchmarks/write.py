"""How fast raw blocks are written, beside the least that any writer of hashed files does.

    python benchmarks/write.py [--megabytes 500] [--repeats 7] [--folder DIR] [--out benchmarks/results/write.json]

`write_shard` lays out, hashes (XXH3 each block, SHA-256 the shard), writes, syncs, renames and syncs the folder; bare
is one SHA-256, sequential writes and a sync of the same bytes, already laid out. Both write the same shards of 32 px,
in turns, each into files of its own; MB/s are of the fastest turn, for what slows one down is somebody else's work.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distill.device import hardware
from shards.layout import KEY_DTYPE, Block, block_rows, shard_name, shard_rows
from shards.write import write_shard

SIZE = 32  # px


def blocks_of(megabytes: int) -> list[list[Block]]:
    """Random images in shards as `shards pack` cuts them."""
    generator, step = np.random.default_rng(0), block_rows(SIZE)
    per_shard = shard_rows(SIZE) // step
    count = max(1, round(megabytes * 1e6 / (3 * SIZE**2 * step * per_shard)))
    keys = np.array([f"{n:032x}" for n in range(step)], KEY_DTYPE)
    labels = np.full(step, -1, np.int32)
    return [
        [
            Block(images=generator.integers(0, 256, (step, 3, SIZE, SIZE), np.uint8), keys=keys, labels=labels)
            for _ in range(per_shard)
        ]
        for _ in range(count)
    ]


def ours(folder: Path, shards: list[list[Block]]) -> None:
    """Write them as shards."""
    first = 0
    for number, blocks in enumerate(shards):
        write_shard(folder, shard_name(number, "train"), blocks, split="train", first_block=first)
        first += len(blocks)


def bare(folder: Path, pieces: list[list[bytes]]) -> None:
    """Hash, write and sync bytes that are there already."""
    for number, shard in enumerate(pieces):
        digest = hashlib.sha256()
        with (folder / str(number)).open("wb", buffering=0) as file:
            for piece in shard:
                digest.update(piece)
                file.write(piece)
            os.fsync(file.fileno())


def seconds(work: Callable[[Path], None], folder: Path) -> float:
    """Of one turn, in a folder that is new and gone afterwards."""
    place = Path(tempfile.mkdtemp(dir=folder))
    start = time.perf_counter()
    work(place)
    took = time.perf_counter() - start
    shutil.rmtree(place)
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    shards = blocks_of(options.megabytes)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        ours(folder / "laid out", shards)
        files = sorted((folder / "laid out").rglob("*.tar"))
        block = files[0].stat().st_size // len(shards[0])  # about one: a bare writer's pieces are as long as ours
        pieces = [[data[at : at + block] for at in range(0, len(data), block)] for data in map(Path.read_bytes, files)]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        turns = []
        for number in range(options.repeats + 1):
            turn = (seconds(lambda f: ours(f, shards), folder), seconds(lambda f: bare(f, pieces), folder))
            if number:  # the first warms up
                turns.append(turn)
    own, least = (min(took) for took in zip(*turns, strict=True))
    report = {
        "megabytes": round(megabytes, 1),
        "shards": len(shards),
        "repeats": options.repeats,
        "write_shard_MB_per_s": round(megabytes / own, 1),
        "bare_MB_per_s": round(megabytes / least, 1),
        "ratio": round(least / own, 3),
        "turns_MB_per_s": [[round(megabytes / took, 1) for took in turn] for turn in turns],
        "hardware": hardware(torch.device("cpu")),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
