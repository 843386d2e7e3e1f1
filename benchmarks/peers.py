"""Readers that the stream is compared with, each as its own documentation has it, over the same images.

A reader is made ready once (``prepare``: from images.npy, labels.npy and the PNGs of a folder) and then opened; what it
opens gives, for the number of an epoch, the images in batches as uint8 (B, 3, H, W) tensors on the CPU. No library but
torch is imported here until a reader is used, so that each can be run in an environment of its own.
"""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

BATCH = 256
PER_SHARD = 5_000
"""samples in a webdataset tar"""

Epochs = Callable[[int], Iterator[Tensor]]


class Data(NamedTuple):
    """The images that every reader is given."""

    folder: Path

    @property
    def images_NCHW(self) -> Any:  # noqa: N802  # shapes are part of a name
        return np.load(self.folder / "images.npy", mmap_mode="r")

    @property
    def labels(self) -> Any:
        return np.load(self.folder / "labels.npy")

    @property
    def encoded(self) -> list[bytes]:
        """PNG of each image."""
        with tarfile.open(self.folder / "png.tar") as tar:
            return [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]

    def place(self, name: str) -> Path:
        """Where a reader's own copy lies."""
        return self.folder / name


def save(folder: Path, images_NCHW: Any, labels: Any, encoded: list[bytes]) -> Data:
    """What `Data` reads."""
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images_NCHW)
    np.save(folder / "labels.npy", labels)
    with tarfile.open(folder / "png.tar", "w") as tar:
        for number, data in enumerate(encoded):
            _add(tar, f"{number}.png", data)
    return Data(folder)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _nothing(data: Data) -> None:
    """A reader of what lies there already."""


# ---------------------------------------------------------------------------------------------------------- ours


def _ours(data: Data, *, resident: bool) -> Epochs:
    from shards.index import open_folder
    from shards.sources import LocalBlocks
    from shards.stream import Stream

    stream = Stream(LocalBlocks(open_folder(data.place("ours"))), batch_size=BATCH, resident=resident)

    def epoch(number: int) -> Iterator[Tensor]:
        for batch in range(stream.batches_per_epoch):
            yield torch.from_numpy(stream.read(number, batch).images_BCHW)

    return epoch


# ---------------------------------------------------------------------------------------------------- webdataset


def _write_samples(data: Data) -> None:
    folder = data.place("webdataset")
    folder.mkdir()
    labels, encoded = data.labels.tolist(), data.encoded
    for shard, start in enumerate(range(0, len(encoded), PER_SHARD)):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for number in range(start, min(start + PER_SHARD, len(encoded))):
                _add(tar, f"{number:08d}.png", encoded[number])
                _add(tar, f"{number:08d}.cls", str(labels[number]).encode())


def _samples(data: Data, *, workers: int = 0) -> Epochs:
    import webdataset as wds

    urls = sorted(map(str, data.place("webdataset").glob("*.tar")))

    def epoch(number: int) -> Iterator[Tensor]:
        readers = wds.WebDataset(urls, shardshuffle=len(urls), workersplitter=wds.split_by_worker, seed=number)
        batches = readers.shuffle(1000).decode("rgb8").to_tuple("png", "cls").batched(BATCH)
        for images_BHWC, _ in wds.WebLoader(batches, batch_size=None, num_workers=workers) if workers else batches:
            yield torch.as_tensor(np.asarray(images_BHWC)).permute(0, 3, 1, 2).contiguous()

    return epoch


def _blocks(data: Data) -> Epochs:
    import webdataset as wds

    urls = sorted(map(str, (data.place("ours") / "shards").glob("*.tar")))

    def epoch(number: int) -> Iterator[Tensor]:
        for block in wds.WebDataset(urls, shardshuffle=len(urls), seed=number).decode():
            yield torch.from_numpy(block["images.npy"])

    return epoch


# ----------------------------------------------------------------------------------------------------- the others


def _write_litdata(data: Data) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(data.place("litdata")), chunk_bytes="64MB")
    for number, (image, label) in enumerate(zip(data.images_NCHW, data.labels.tolist(), strict=True)):
        writer[number] = {"image": torch.from_numpy(image.copy()), "label": label}
    writer.done()
    writer.merge()


def _litdata(data: Data) -> Epochs:
    from litdata import StreamingDataLoader, StreamingDataset

    loader = StreamingDataLoader(StreamingDataset(str(data.place("litdata")), shuffle=True), batch_size=BATCH)

    def epoch(number: int) -> Iterator[Tensor]:  # noqa: ARG001  # it counts them itself
        for batch in loader:
            yield batch["image"]

    return epoch


def _write_mosaic(data: Data) -> None:
    from streaming import MDSWriter

    shape = ",".join(map(str, data.images_NCHW.shape[1:]))
    columns = {"image": f"ndarray:uint8:{shape}", "label": "int"}
    with MDSWriter(out=str(data.place("mosaicml-streaming")), columns=columns) as writer:
        for image, label in zip(data.images_NCHW, data.labels.tolist(), strict=True):
            writer.write({"image": np.array(image), "label": label})


def _mosaic(data: Data) -> Epochs:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    samples = StreamingDataset(local=str(data.place("mosaicml-streaming")), shuffle=True, batch_size=BATCH)
    loader: DataLoader[Any] = DataLoader(samples, batch_size=BATCH)

    def epoch(number: int) -> Iterator[Tensor]:  # noqa: ARG001  # it counts them itself
        for batch in loader:
            yield batch["image"]

    return epoch


def _write_hf(data: Data) -> None:
    from datasets import Array3D, Dataset, Features, Value

    shape = data.images_NCHW.shape[1:]
    features = Features({"image": Array3D(shape=shape, dtype="uint8"), "label": Value("int32")})

    def rows() -> Iterator[dict[str, Any]]:
        for image, label in zip(data.images_NCHW, data.labels.tolist(), strict=True):
            yield {"image": np.array(image), "label": label}

    made = Dataset.from_generator(rows, features=features, cache_dir=str(data.place("hf-cache")))
    made.save_to_disk(str(data.place("datasets")))


def _hf(data: Data) -> Epochs:
    from datasets import load_from_disk

    samples = load_from_disk(str(data.place("datasets"))).with_format("torch", columns=["image"], dtype=torch.uint8)

    def epoch(number: int) -> Iterator[Tensor]:
        for batch in samples.shuffle(seed=number, keep_in_memory=True).iter(BATCH):
            yield batch["image"]

    return epoch


def _array(data: Data) -> Epochs:
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    held = TensorDataset(torch.from_numpy(np.array(data.images_NCHW)))
    sampler = BatchSampler(RandomSampler(held), BATCH, drop_last=False)
    loader: DataLoader[Any] = DataLoader(held, sampler=sampler, batch_size=None)

    def epoch(number: int) -> Iterator[Tensor]:  # noqa: ARG001  # the sampler draws anew
        for (images_BCHW,) in loader:
            yield images_BCHW

    return epoch


class Reader(NamedTuple):
    """One row of the table."""

    package: str
    """whose version is reported"""
    modules: Sequence[str]
    """imported before time is taken"""
    prepare: Callable[[Data], None]
    open: Callable[[Data], Epochs]
    what: str


OURS = ("transferset", ("shards.sources", "shards.stream"), _nothing)
WEBDATASET = ("webdataset", ("webdataset", "PIL.Image"))
READERS = {
    "window": Reader(*OURS, partial(_ours, resident=False), "block shards, in windows: checked, shuffled"),
    "resident": Reader(*OURS, partial(_ours, resident=True), "block shards, held in memory: checked, shuffled"),
    "webdataset": Reader(*WEBDATASET, _write_samples, _samples, "a PNG a sample: decoded, shuffled in 1,000"),
    "webdataset-2": Reader(*WEBDATASET, _nothing, partial(_samples, workers=2), "the same, in two worker processes"),
    "webdataset-blocks": Reader(*WEBDATASET, _nothing, _blocks, "our block shards: neither checked nor shuffled"),
    "litdata": Reader("litdata", ("litdata",), _write_litdata, _litdata, "a tensor a sample, shuffled"),
    "mosaicml-streaming": Reader(
        "mosaicml-streaming", ("streaming",), _write_mosaic, _mosaic, "an array a sample, shuffled"
    ),
    "datasets": Reader("datasets", ("datasets",), _write_hf, _hf, "an array a sample, shuffled"),
    "array": Reader("torch", (), _nothing, _array, "DataLoader, batches of an array in memory: the bare limit"),
}
