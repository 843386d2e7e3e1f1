"""Other people's per-sample webdataset tars as they lie there: decoded and resized whenever they are read.

Opening reads every header and every label, but no image (shards/sample_index.py): damage to a tar is found then, damage
to an image when it is read. A block is a run of images of one tar.
"""

import os
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from manifests.keys import address, content_key
from manifests.progress import Progress, silent
from shards.decode import Transform, Undecodable, decode
from shards.errors import BlockDamaged, RowsDamaged, ShardError
from shards.layout import KEY_DTYPE, Block, block_rows
from shards.sample_index import SampleIndex, Tars, index_samples

HOLDOUT = 0.05
"""share of the images that is held out, as in a transfer set"""
SPLITS = ("train", "holdout")


class SampleTars:
    """Every image of per-sample tars (jpg, png, webp, ... beside cls or json), as ``size`` px by a rule of `RESIZE`.

    Images come in the order of the tars' names and of the members in each. A sample of two images gives both; members
    that are neither image nor label (text, a tar, a pickle) are never opened. A key is that of the encoded bytes, as
    `curate ingest` gives it, but byte-identical images share theirs: that they are is known only once all were read.

    A label is the text of `.cls`, or else `label` or `cls` in `.json`; -1 where none is stated. If all of a set are
    integers (of up to nine digits), they are the class numbers; otherwise all are names, numbered in sorted order.

    ``split`` is `train` or `holdout`, a seeded draw of the share ``holdout`` of the images by the set's id and their
    numbers, or None for all. Identical images may fall on both sides; a set made by `curate select` has none.

    `identity["id"]` is over the tars' names and sizes, all headers (names, sizes, times) and all labels: a set whose
    folder was renamed is the same, one with another member is not. It does not notice an image whose bytes changed
    under the same header; if they still decode they are handed out, where `curate ingest` hashes every byte.

    Several splits may share an index (`index_samples`). Raises `TarDamaged` if a tar is not whole, `ShardError` for
    what cannot be read so. Where images of a block cannot be decoded, reading it raises `RowsDamaged`, which holds the
    others.
    """

    views = 0
    workers = os.cpu_count() or 1

    def __init__(
        self,
        tars: Tars | SampleIndex,
        *,
        size: int,
        resize: str = "antialias",
        split: str | None = None,
        holdout: float = HOLDOUT,
        progress: Progress = silent,
    ) -> None:
        if split not in (None, *SPLITS):
            raise ShardError(f"tars of samples have no split {split!r}; expected {' or '.join(SPLITS)}")
        if not 0 < holdout < 1:
            raise ShardError(f"holdout is {holdout}; expected a share between 0 and 1, such as {HOLDOUT}")
        if size < 1:
            raise ShardError(f"size is {size} px; expected at least 1")
        self.size, self._transform = size, Transform(size=size, resize=resize)
        index = tars if isinstance(tars, SampleIndex) else index_samples(tars, progress=progress)
        self._index = index
        self.classes = index.classes
        """the classes' names in the order of their numbers, if labels are names"""
        self.name = f"split {split!r} of {index.name}" if split else index.name
        self.identity = {"id": index.id, "split": split, "holdout": holdout if split else None}
        self.identity |= {"size": size, "resize": resize}
        rows = _drawn(index.id, len(index.labels), split=split, share=holdout)
        if not len(rows):
            raise ShardError(f"{self.name} holds no images: there is but one, and it is in the other split")
        self._blocks = _cut(rows, index.tars[rows], block_rows(size))
        self._refusals: dict[int, str] = {}
        self.counts = np.array([len(block) for block in self._blocks], np.int64)
        # For good: filters belong to the process, and blocks are read in threads for as long as this lives.
        warnings.filterwarnings("ignore", module=r"PIL\.")

    def read(self, block: int) -> Block:
        rows = self._blocks[block]
        tar = int(self._index.tars[rows[0]])
        images_NCHW, keys = np.empty((len(rows), 3, self.size, self.size), np.uint8), np.empty(len(rows), KEY_DTYPE)
        bad: dict[int, str] = {}
        try:
            with self._index.paths[tar].open("rb", buffering=0) as file:
                self._index.check(tar, file.fileno())
                for place, row in enumerate(rows.tolist()):
                    try:
                        images_NCHW[place], keys[place] = self._image(file.fileno(), row)
                    except Undecodable as refusal:
                        bad[place] = str(refusal)
            if not bad:
                return Block(images=images_NCHW, keys=keys, labels=self._index.labels[rows])
            message = self._refusal(block, bad)
        except OSError as error:
            raise BlockDamaged(f"{self._index.paths[tar]} cannot be read: {error.strerror}") from None
        good = np.delete(np.arange(len(rows)), [*bad])
        if not len(good):
            raise BlockDamaged(message)
        others = Block(images=images_NCHW[good], keys=keys[good], labels=self._index.labels[rows[good]])
        raise RowsDamaged(message, good=others, rows=good)

    def _image(self, file: int, row: int) -> tuple[NDArray[np.uint8], str]:
        """Pixels (3, size, size) of one image, and its key; raises `Undecodable`."""
        if row in self._index.errors:
            raise Undecodable("decode_error", self._index.errors[row])
        data = os.pread(file, int(self._index.sizes[row]), int(self._index.offsets[row]))
        return decode(data, self._transform)[0], content_key(data)

    def _refusal(self, block: int, bad: Mapping[int, str]) -> str:
        """What is wrong with a block; it may be read in every epoch, and to find a name takes a while."""
        if block not in self._refusals:
            place, reason = next(iter(bad.items()))
            more = (
                f" (nor can {len(bad) - 1:,} of the {len(self._blocks[block]) - 1:,} beside it)" if len(bad) > 1 else ""
            )
            name = self._index.name_of(int(self._blocks[block][place]))
            self._refusals[block] = f"{name} cannot be used: {reason}{more}; pass over it, or pack the tar again"
        return self._refusals[block]


def _drawn(identity: str, images: int, *, split: str | None, share: float) -> NDArray[np.int64]:
    """The images of a split, in stored order: of several images each split has one at least."""
    if split is None:
        return np.arange(images)
    held = np.zeros(images, bool)
    count = min(max(1, round(share * images)), images - 1)
    held[np.argsort(np.random.Philox(address(identity, "holdout")).random_raw(images), kind="stable")[:count]] = True
    return np.flatnonzero(held == (split == "holdout"))


def _cut(rows: NDArray[np.int64], tars: NDArray[np.int32], step: int) -> list[NDArray[np.int64]]:
    """Runs of at most ``step`` images of one tar."""
    each = np.split(rows, np.flatnonzero(np.diff(tars)) + 1)
    return [mine[start : start + step] for mine in each for start in range(0, len(mine), step)]
