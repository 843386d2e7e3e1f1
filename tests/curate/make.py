"""Small corpora in the forms people have them, a teacher that is a linear map of mean colours, manifests of neither."""

import io
import math
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from curate.catalogue import Catalogue, Decoded
from curate.choice import Choice
from curate.corpora.base import Item
from curate.score import score_columns
from curate.select import SELECTORS
from curate.select.base import Picked, Quota
from curate.select.decide import decide
from curate.select.filters import measure
from curate.select.pool import Points, Pool, Scored, open_pool
from manifests.keys import content_key
from manifests.provenance import Provenance
from manifests.read import read_manifest
from manifests.schema import SAMPLES, SCORES, SELECTION

SIZE = 8  # px
CLASSES = ("red", "green", "blue", "grey")
WEIGHTS_DK = np.array([[8.0, -4.0, 0.5, 1.0], [-3.0, 9.0, 0.25, 1.0], [-2.0, -5.0, 6.0, 1.5]], np.float32)


def picture(seed: int, *, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
    """A picture (H, W, 3) in one of many tints, so that a teacher of colours is sure of some and not of others."""
    generator = np.random.default_rng(seed)
    tint = generator.uniform(0.05, 1.0, 3)
    return (generator.integers(0, 256, (height, width, 3)) * tint).astype(np.uint8)


def encode(image: NDArray[np.uint8] | Image.Image, form: str = "PNG", **options: object) -> bytes:
    """An array or a Pillow image as the bytes of a file."""
    buffer = io.BytesIO()
    source = image if isinstance(image, Image.Image) else Image.fromarray(image)
    source.save(buffer, form, **options)
    return buffer.getvalue()


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """A folder tree of files."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A webdataset tar."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, images: list[bytes]) -> Path:
    """A Parquet file in the Hugging Face layout."""
    rows = {"image": [{"bytes": data, "path": None} for data in images], "label": [0] * len(images)}
    pq.write_table(pa.table(rows), path)
    return path


def pictures(count: int, *, first: int = 0) -> dict[str, bytes]:
    """PNG files of different pictures."""
    return {f"{n:03d}.png": encode(picture(n)) for n in range(first, first + count)}


@dataclass(frozen=True, kw_only=True)
class View:
    """What the toy teacher thinks of a batch."""

    logits_BK: torch.Tensor
    features_BD: torch.Tensor


@dataclass(kw_only=True)
class Toy:
    """A teacher of colours (`curate.protocols.Teacher`): features are mean channels, logits a fixed linear map.

    Sums of bytes are exact in float32, so its numbers are the same in any batch. It has no finite answer to a picture
    that is all white. ``seen`` is what went through it.
    """

    name: str = "toy-123456789abc"
    sha256: str = "ab" * 32
    arch: str = "toy"
    input_size: int = SIZE
    num_classes: int = len(CLASSES)
    feature_dim: int = 3
    classes: tuple[str, ...] = CLASSES
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: str = "antialias"
    flip: bool = True
    code: str | None = None
    dtype: str = "float32"
    batches: list[tuple[int, ...]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(self, images_BCHW: torch.Tensor, /) -> View:
        self.batches.append(tuple(images_BCHW.shape))
        self.threads.add(torch.get_num_threads())
        features_BD = images_BCHW.sum(dim=(2, 3)).float() / images_BCHW[0, 0].numel() / 255
        logits_BK = (features_BD[:, :, None] * torch.from_numpy(WEIGHTS_DK)).sum(1)
        white_B = (features_BD == 1).all(1)
        logits_BK[white_B, 1] = float("nan")
        return View(logits_BK=logits_BK, features_BD=features_BD)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks and run.json, which says when; by its path."""
    files = (
        path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith((".lock", "run.json"))
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One source sample as selection sees it: ``picture`` says which pixels (None: damaged), ``form`` which bytes."""

    picture: int | None
    form: int = 0
    entropy: float | None = 0.5
    """a property of the picture; None where its logits are not finite. The other scores are functions of it"""
    pred: int = 0
    vector: tuple[float, ...] | None = None
    """its features and its logits; default: a place on a grid, by picture"""
    logits: tuple[float, ...] | None = None
    """of which scores and prediction are computed as `curate score` does, instead of entropy and pred"""


def scored(corpus: str, samples: Sequence[Sample]) -> Scored:
    """The manifests of a corpus, named as ingest names them."""
    catalogue, rows, scores, vectors = Catalogue(corpus), [], [], []
    for number, sample in enumerate(samples):
        uri, usable = f"{number:06d}", sample.picture is not None
        data = f"picture {sample.picture} as {sample.form}" if usable else f"damaged {sample.form}"
        pixels = content_key(f"pixels {sample.picture}".encode()) if usable else None
        found = Decoded(
            item=Item(uri=uri, data=data.encode()),
            content=content_key(data.encode()),
            pixels=pixels,
            status="ok" if usable else "decode_error",
            error=None if usable else "damaged",
        )
        rows.append(catalogue.name(found))
        if sample.picture is not None:
            scores.append({"key": rows[-1]["key"], **_numbers(sample)})
            place = sample.vector or (float(sample.picture % 3), float(sample.picture // 3))
            vectors.append({"key": rows[-1]["key"], "features": place, "logits": sample.logits or place})
    return Scored(
        name=corpus,
        samples=pa.Table.from_pylist(rows, SAMPLES.plain_schema()),
        scores=pa.Table.from_pylist(scores, SCORES.plain_schema()),
        vectors={name: _vectors(name, vectors) for name in ("features", "logits")},
    )


def _vectors(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    length = len(rows[0][name]) if rows else 2
    schema = pa.schema([("key", pa.string()), (name, pa.list_(pa.float32(), length))])
    kept = [{"key": row["key"], name: row[name]} for row in sorted(rows, key=lambda row: str(row["key"]))]
    return pa.Table.from_pylist(kept, schema)


def rows_of(source: Path | pa.Table) -> pa.Table:
    """A manifest of `scored`, which is in memory."""
    if isinstance(source, Path):
        raise TypeError(source)
    return source


def points(rows: Sequence[Sequence[float]]) -> Points:
    """Vectors (N, 2) of a set that is not chosen from; keys count from zero."""
    keys = np.array([f"{n:032x}" for n in range(len(rows))], "S32")
    rows_ND = np.array(rows, np.float32).reshape(-1, 2)
    return Points(keys=keys, corpus_order=np.zeros(len(rows), np.int64), rows_ND=rows_ND)


def on_disk(corpus: Scored, folder: Path, *, row_group: int) -> Scored:
    """The same corpus in Parquet files, of row groups of some size."""
    folder.mkdir(parents=True)

    def write(name: str, source: Path | pa.Table) -> Path:
        rows = rows_of(source).replace_schema_metadata(Provenance(step="score").footer())
        pq.write_table(rows, folder / f"{name}.parquet", row_group_size=row_group, write_page_checksum=True)
        return folder / f"{name}.parquet"

    return Scored(
        name=corpus.name,
        samples=write("samples", corpus.samples),
        scores=write("scores", corpus.scores),
        vectors={name: write(name, rows) for name, rows in corpus.vectors.items()},
    )


def _numbers(sample: Sample) -> dict[str, object]:
    if sample.logits is not None:
        columns = score_columns(np.array([sample.logits], np.float32))
        return {name: column[0].as_py() for name, column in columns.items()}
    if sample.entropy is None:
        return {"status": "nonfinite"}
    confidence = math.exp(-sample.entropy)
    numbers = {"entropy": sample.entropy, "energy": sample.entropy, "self_ce": sample.entropy}
    return {"status": "ok", "pred": sample.pred, "confidence": confidence, "margin": confidence / 2, **numbers}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a selection wrote, read back."""

    samples: pa.Table
    scores: pa.Table
    selection: pa.Table
    picked: Picked

    def rows(self) -> list[dict[str, Any]]:
        """Samples, with their decision where they have one, in key order."""
        decisions = {row["key"]: row for row in self.selection.to_pylist()}
        return [{**row, **decisions.get(row["key"], {})} for row in self.samples.to_pylist()]


def chosen(
    corpora: Sequence[Scored],
    choice: Choice,
    *,
    budget: int | None = None,
    classes: Sequence[str] = ("even", "odd"),
    reference: Points | None = None,
    threads: int | None = None,
    prepare: Callable[[Pool], object] | None = None,
) -> Outcome:
    """Let a choice decide over some corpora; ``budget`` may be 0, which no choice may, and ``prepare`` filters."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_pool(
            corpora, class_names=classes, spill=folder / "spill", reference=reference, threads=threads
        ) as pool:
            measure(pool, on=choice.on)
            if choice.where is not None:
                pool.restrict(choice.where)
            if prepare is not None:
                prepare(pool)
            picked = SELECTORS[choice.mode].pick(pool, choice, Quota.of(choice, pool.corpora, budget=budget))
            made = Provenance(step="select")
            decide(pool, picked, seed=choice.seed, holdout=choice.holdout, folder=folder, provenance=made)
        samples, scores, selection = (read_manifest(folder, table) for table in (SAMPLES, SCORES, SELECTION))
        return Outcome(samples=samples, scores=scores, selection=selection, picked=picked)
