"""What readers notice of damage: webdataset and this package, given the same images and the same damages.

    python benchmarks/damage.py [--data DIR] [--images 2048] [--repeats 7]

The images are written as webdataset's own per-sample tars (PNG + class) and as our block shards, in two shards each.
Each damage is done to a copy of either; then every reader reads all of it. webdataset reads with `reraise_exception`,
its default, and with `warn_and_continue`, which leaves out and goes on; it also reads our block tars. A damage counts
as noticed if an exception is raised (for `warn_and_continue`: if it warns). Of the rest it counts the samples that were
lost, and were delivered with other pixels, without image or label, of another set, or twice. Beside it stands the speed
of `shards verify` against `sha256sum` over the same files in turns. Prints JSON.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image

from distill.device import hardware
from manifests.keys import content_key
from manifests.provenance import VERSION, Provenance
from manifests.schema import SAMPLES
from manifests.write import write_manifest
from shards.index import open_folder, seal, write_index
from shards.layout import Block, block_rows, shard_name
from shards.sources import LocalBlocks
from shards.stream import Stream
from shards.verify import verify
from shards.write import committed, write_shard

webdataset.utils.enforce_security = True  # no pickles, no pipes
SIZE = 32  # px
IMAGE, LABEL = (".png", ".images.npy"), (".cls", ".labels.npy")
Pixels = NDArray[np.uint8]
Harm = Callable[[list[Path], list[Path]], object]
"""damages the first of two tars; the others are those of another set"""
Sample = tuple[str, str | None, int | None]
"""key, hash of the pixels, label"""


def digest(image_CHW: Pixels) -> str:
    """Of pixels."""
    return hashlib.sha256(np.ascontiguousarray(image_CHW).tobytes()).hexdigest()


def write_samples(folder: Path, images_NCHW: Pixels, keys: list[str]) -> list[Path]:
    """Two tars of PNG and class, as people have them."""
    folder.mkdir(parents=True)
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(len(keys)), 2)):
        paths.append(folder / f"{number:06d}.tar")
        with paths[-1].open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
            for row in rows.tolist():
                out = io.BytesIO()
                Image.fromarray(images_NCHW[row].transpose(1, 2, 0)).save(out, "PNG")
                tar.write({"__key__": keys[row], "png": out.getvalue(), "cls": str(row % 10).encode()})
    return paths


def write_blocks(folder: Path, images_NCHW: Pixels, keys: list[str]) -> Path:
    """Our store of the same images, in two shards."""
    facts, rows, first = [], [], 0
    for number, part in enumerate(np.array_split(np.arange(len(keys)), 2)):
        pieces = [part[start : start + block_rows(SIZE)] for start in range(0, len(part), block_rows(SIZE))]
        blocks = [
            Block(images=images_NCHW[p], keys=np.array(keys, "S32")[p], labels=(p % 10).astype(np.int32))
            for p in pieces
        ]
        facts.append(write_shard(folder, shard_name(number), blocks, split="all", first_block=first))
        first += len(blocks)
        places = [(block, row, int(i)) for block, piece in enumerate(pieces) for row, i in enumerate(piece)]
        rows += [
            dict.fromkeys(column.name for column in SAMPLES.columns)
            | {
                "key": keys[i],
                "corpus": "x",
                "uri": str(i),
                "status": "ok",
                "shard": number,
                "block": block,
                "row": row,
            }
            for block, row, i in places
        ]
    made = Provenance(step="ingest")
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["key"])), SAMPLES.plain_schema())
    files = [committed(f) for f in facts]
    files += [write_manifest(folder, SAMPLES, table, provenance=made), write_index(folder, facts, provenance=made)]
    seal(folder, {"size": SIZE}, kind="store", files=files, fingerprint="f")
    return folder


def members(tar: Path) -> list[tarfile.TarInfo]:
    """From the middle of a tar on, beginning with a sample or block."""
    with tarfile.open(tar) as opened:
        found = opened.getmembers()
    stems = [m.name.split(".")[0] for m in found]
    return found[stems.index(stems[len(found) // 2]) :]


def holding(tar: Path, ends: tuple[str, ...]) -> tarfile.TarInfo:
    """The first of them that holds an image, or a label."""
    return next(m for m in members(tar) if m.name.endswith(ends))


def cut(place: Callable[[Path], int]) -> Harm:
    """End the first tar early."""
    return lambda tars, other: os.truncate(tars[0], place(tars[0]))


def flip(place: Callable[[Path], int]) -> Harm:
    """Flip one bit of the first tar."""

    def do(tars: list[Path], other: list[Path]) -> None:  # noqa: ARG001
        data = bytearray(tars[0].read_bytes())
        data[place(tars[0])] ^= 1
        tars[0].write_bytes(data)

    return do


def swap(tars: list[Path], other: list[Path]) -> None:  # noqa: ARG001
    """Either tar under the other's name."""
    held = tars[0].read_bytes()
    tars[0].write_bytes(tars[1].read_bytes())
    tars[1].write_bytes(held)


def zero(tars: list[Path], other: list[Path]) -> None:  # noqa: ARG001
    """A page that never reached the disk."""
    data = bytearray(tars[0].read_bytes())
    at = members(tars[0])[0].offset
    data[at : at + 4096] = bytes(4096)
    tars[0].write_bytes(data)


DAMAGES: dict[str, Harm] = {
    "cut at the edge of a sample or block": cut(lambda tar: members(tar)[0].offset),
    "cut in a header": cut(lambda tar: members(tar)[0].offset + 100),
    "cut between members": cut(lambda tar: members(tar)[1].offset),
    "cut in a payload": cut(lambda tar: holding(tar, IMAGE).offset_data + holding(tar, IMAGE).size // 2),
    "empty file": lambda tars, other: os.truncate(tars[0], 0),
    "bit flipped in a header": flip(lambda tar: members(tar)[0].offset + 3),
    "bit flipped in an image": flip(lambda tar: holding(tar, IMAGE).offset_data + holding(tar, IMAGE).size // 2),
    "bit flipped in a label": flip(lambda tar: holding(tar, LABEL).offset_data + holding(tar, LABEL).size - 1),
    "4 kB of zeros": zero,
    "tar missing": lambda tars, other: tars[0].unlink(),
    "two tars swapped": swap,
    "overwritten by the other": lambda tars, other: shutil.copy(tars[1], tars[0]),
    "an extra copy": lambda tars, other: shutil.copy(tars[0], tars[0].with_name("000009.tar")),
    "of another set": lambda tars, other: shutil.copy(other[0], tars[0]),
}


def of_samples(tars: list[Path], handler: Callable[[Exception], bool]) -> Iterator[Sample]:
    """Samples of per-sample tars, by webdataset."""
    data = webdataset.WebDataset(urls(tars), shardshuffle=False, handler=handler).decode("rgb8", handler=handler)
    for sample in data:
        image = sample.get("png")
        yield sample["__key__"], None if image is None else digest(image.transpose(2, 0, 1)), sample.get("cls")


def of_blocks(tars: list[Path], handler: Callable[[Exception], bool]) -> Iterator[Sample]:
    """Samples of our block tars, by webdataset."""
    for block in webdataset.WebDataset(urls(tars), shardshuffle=False, handler=handler).decode(handler=handler):
        images, keys, labels = (block.get(f"{name}.npy") for name in ("images", "keys", "labels"))
        for row in range(max(len(a) for a in (images, keys, labels) if a is not None)):
            key = "" if keys is None else keys[row].decode("latin-1")
            pixels = None if images is None else digest(images[row])
            yield key, pixels, None if labels is None else int(labels[row])


def ours(tars: list[Path], handler: object) -> Iterator[Sample]:  # noqa: ARG001
    """This package's stream."""
    stream = Stream(LocalBlocks(open_folder(tars[0].parent.parent)), batch_size=256, tail="short")
    for batch in stream.one_epoch():
        for key, image, label in zip(batch.keys.tolist(), batch.images_BCHW, batch.labels.tolist(), strict=True):
            yield key.decode(), digest(image), label


def urls(tars: list[Path]) -> list[str]:
    """Two names, as one would write `{000000..000001}.tar`; and what a glob would find beside them."""
    return [*map(str, tars), *(str(path) for path in sorted(tars[0].parent.glob("*.tar")) if path not in tars)]


def outcome(read: Iterator[Sample], expected: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """Whether a reader notices; if not, or if it goes on, what became of the samples."""
    found: list[Sample] = []
    error = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found += read
        except Exception as raised:  # noqa: BLE001  # whatever it is, it is noticed
            error = f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}"
    told = [str(w.message).splitlines()[0] for w in warned if not issubclass(w.category, ResourceWarning)]
    noticed = bool(error or told)
    if error:
        return {"noticed": noticed, "says": error[:160]}
    whole = {key for key, pixels, label in found if expected.get(key) == (pixels, label)}
    garbled = sum(expected.get(key) != (pixels, label) for key, pixels, label in found)
    return {
        "noticed": noticed,
        "lost": len(expected) - len(whole),
        "garbled_or_foreign": garbled,
        "twice": len(found) - garbled - len(whole),
    }


def compare(root: Path, images: int, data: Path) -> dict[str, Any]:
    """Every damage under every reader."""
    pixels, keys = load(data, 2 * images)
    names = {"": slice(0, images), "other": slice(images, 2 * images)}
    for name, rows in names.items():
        write_samples(root / f"samples{name}", pixels[rows], keys[rows])
        write_blocks(root / f"blocks{name}", pixels[rows], keys[rows])
    expected = {
        key: (digest(image), row % 10) for row, (key, image) in enumerate(zip(keys[:images], pixels, strict=False))
    }
    strict, lenient = webdataset.reraise_exception, webdataset.warn_and_continue
    readers: dict[str, tuple[str, str, Any, Any]] = {
        "webdataset, per-sample tars": ("samples", "", of_samples, strict),
        "webdataset that warns and continues, per-sample tars": ("samples", "", of_samples, lenient),
        "webdataset, our block tars": ("blocks", "shards", of_blocks, strict),
        "transferset, our block tars": ("blocks", "shards", ours, None),
    }
    report: dict[str, Any] = {}
    for reader, (kind, below, read, handler) in readers.items():
        report[reader] = {}
        for name, harm in {"none": lambda tars, other: None, **DAMAGES}.items():
            shutil.copytree(root / kind, root / "copy")
            tars, other = (sorted((root / folder / below).glob("*.tar")) for folder in ("copy", f"{kind}other"))
            harm(tars, other)
            report[reader][name] = outcome(read(tars, handler), expected)
            shutil.rmtree(root / "copy")
        assert report[reader].pop("none") == {"noticed": False, "lost": 0, "garbled_or_foreign": 0, "twice": 0}, reader
    return report


def totals(report: dict[str, Any]) -> dict[str, Any]:
    """Of each reader: damages noticed, and what the unnoticed ones cost."""
    return {
        reader: {
            "damages": len(found),
            "noticed": sum(one["noticed"] for one in found.values()),
            **{
                what: sum(one[what] for one in found.values() if not one["noticed"])
                for what in ("lost", "garbled_or_foreign", "twice")
                if any(not one["noticed"] for one in found.values())
            },
        }
        for reader, found in report.items()
    }


def load(data: Path, count: int) -> tuple[Pixels, list[str]]:
    """Real images where they are there, else noise; and their keys."""
    file = data / "cifar10" / "test.parquet"
    if file.exists():
        encoded = pq.read_table(file, columns=["image"]).slice(0, count)["image"].to_pylist()
        images = np.stack([np.asarray(Image.open(io.BytesIO(i["bytes"])).convert("RGB")) for i in encoded])
        images_NCHW = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    else:
        images_NCHW = np.random.default_rng(0).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)
    return images_NCHW, [content_key(row.to_bytes(4, "big") + image.tobytes()) for row, image in enumerate(images_NCHW)]


def speed(root: Path, repeats: int) -> dict[str, Any]:
    """MB/s of `shards verify` and of `sha256sum` over the files of one set, in turns, and their ratio."""
    count = 60_000
    noise = np.random.default_rng(1).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)
    folder = write_blocks(root / "large", noise, [f"{row:032x}" for row in range(count)])
    files = [str(path) for path in folder.rglob("*") if path.is_file()]
    size = sum(os.path.getsize(file) for file in files)  # noqa: PTH202
    times: dict[str, list[float]] = {"verify": [], "sha256sum": []}
    for _ in range(repeats + 1):
        began = time.perf_counter()
        assert not verify(folder).problems
        middle = time.perf_counter()
        subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
        times["verify"].append(middle - began)
        times["sha256sum"].append(time.perf_counter() - middle)
    ratios = [b / a for a, b in zip(times["verify"][1:], times["sha256sum"][1:], strict=True)]  # the first fills caches
    return {
        "bytes": size,
        "repeats": repeats,
        "MB_per_s": {name: round(size / 1e6 / statistics.median(found[1:])) for name, found in times.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):  # messages then name no folder of this machine
        report = compare(Path(), options.images, options.data)
        verified = speed(Path(), options.repeats)
    facts: dict[str, Any] = {
        "command": "python benchmarks/damage.py",
        "images": options.images,
        "data": options.data.is_dir(),
        "webdataset": version("webdataset"),
    }
    facts |= {"transferset": VERSION, "pillow": PIL.__version__}
    document = {**facts, "totals": totals(report), "damages": report, "verify": verified}
    print(json.dumps({**document, "hardware": hardware(torch.device("cpu"))}, indent=1))


if __name__ == "__main__":
    main()
