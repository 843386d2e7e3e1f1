"""Export a set: every image of its splits in another form, piece by piece, whole or refused.

Killed at any moment, the same call goes on and ends with the same bytes (of the same release of Pillow and pyarrow).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from manifests.commit import FileFacts, Ledger, claimed, write_json
from manifests.errors import IntegrityError
from manifests.progress import Advance, Progress, silent
from manifests.provenance import fingerprint
from shards.errors import ShardError
from shards.export.encode import LOSSLESS, Encoder
from shards.export.facts import Facts, load_facts
from shards.export.folder import write_metadata
from shards.export.piece import FORMATS, Piece, Sample, Write
from shards.index import EXPORT, ShardFolder, refuse_own
from shards.layout import shard_rows
from shards.sources.local import LocalBlocks

VERSION = 3
"""raised when the same set would give other bytes or records"""
RECORDS = ".commits"
"""hidden: who looks for data files by their split, as `datasets` does, would take `train-000000.json` for one"""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export did."""

    images: dict[str, int]
    """by split, under the name that it has in the export; all that the set holds of it"""
    files: int
    bytes: int
    files_written: int
    """the rest was there already"""
    lossless: bool
    label: str
    """what the classes are"""
    moved: Path | None
    """where an older export went under ``replace``"""


def export(
    folder: ShardFolder,
    out: Path,
    *,
    to: str,
    image: str = "png",
    quality: int | None = None,
    split: str | None = None,
    rows: int | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write the images of one split of a set, or of all, to ``out`` as ``to``: wds, folder or parquet.

    ``image`` is png or webp, without loss, or jpg of a ``quality``. ``rows`` is the number of images in a file, by
    default that of a shard. A store's one split is called `train`. What ``out`` holds of another export is refused.
    """
    if to not in FORMATS:
        raise ShardError(f"--to is {to!r}; expected one of {', '.join(FORMATS)}")
    if rows is not None and (rows < 1 or to == "folder"):
        raise ShardError(f"--shard-rows is {rows}; expected at least 1, and for wds or parquet: a folder has no shards")
    refuse_own(out, folder.path)
    encoder = Encoder(image, quality)
    wanted = [name for name in folder.splits if split in (None, name) and folder.rows(name)]
    if not wanted:
        raise ShardError(f"{folder.path} holds no images of {split or 'any split'}; its splits: {_listed(folder)}")
    sources = {name: LocalBlocks(folder, name) for name in wanted}
    for source in sources.values():
        source.check()
    plan = {"export": VERSION, "set": folder.id, "to": to, "image": image, "quality": encoder.quality}
    plan |= {"splits": list(sources), "shard_rows": rows or shard_rows(folder.size)}
    with claimed(out, plan=plan, replace=replace) as moved:
        job = _Job(folder, out, plan, encoder)
        with progress("export", sum(folder.rows(name) for name in sources)) as advance:
            for name, source in sources.items():
                job.write_split(name, source, advance)
        return job.finish(moved)


def _listed(folder: ShardFolder) -> str:
    return ", ".join(f"{name} ({folder.rows(name):,})" for name in folder.splits) or "none"


class _Job:
    """One export on its way."""

    def __init__(self, folder: ShardFolder, out: Path, plan: Mapping[str, Any], encoder: Encoder) -> None:
        self._folder, self._out, self._plan, self._encoder = folder, out, plan, encoder
        self._ledger = Ledger(out, place=RECORDS)
        self._write: Write = import_module(f"shards.export.{plan['to']}").write
        self._files: list[FileFacts] = []
        self._images: dict[str, int] = {}
        self._written = 0
        self._classes: Mapping[str, Any] = {}

    def write_split(self, name: str, source: LocalBlocks, advance: Advance) -> None:
        """Write the pieces of a split, or take those that are there; one commit record a piece."""
        facts, split = load_facts(self._folder, name), exported_as(name)
        rows = len(facts.rows)
        count = -(-rows // int(self._plan["shard_rows"]))
        pieces = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
        files: list[FileFacts] = []
        for number, piece in enumerate(pieces):
            unit = f"{split}-{number:06d}"
            print_ = fingerprint({"plan": self._plan, "unit": unit})
            record = self._ledger.done(unit, print_)
            if record is None:
                samples = list(self._samples(source, facts, piece))
                made = Piece(
                    split=split,
                    number=number,
                    of=count,
                    extension=self._encoder.kind,
                    samples=samples,
                    classes=facts.classes,
                    schema=facts.rows.schema,
                )
                record = self._ledger.commit(unit, fingerprint=print_, files=self._write(self._out, made))
                self._written += len(record.files)
            files += record.files
            advance(piece.stop - piece.start)
        self._images[split] = sum(file.rows for file in files)
        if self._images[split] != self._folder.rows(name):  # a bug of ours, and never to be passed over
            raise AssertionError(f"{self._images[split]} of {self._folder.rows(name)} images exported of {name}")
        self._files += files
        if self._plan["to"] == "folder":
            self._files.append(write_metadata(self._out, split, facts, pieces, self._encoder.kind))
        self._classes = {"classes": list(facts.classes), "label": facts.meaning}

    def _samples(self, source: LocalBlocks, facts: Facts, piece: slice) -> Iterator[Sample]:
        """The images of a piece, block after block; `IntegrityError` where the manifest says another image."""
        ends = np.cumsum(source.counts)
        start = piece.start
        while start < piece.stop:
            number = int(np.searchsorted(ends, start, side="right"))
            block, first = source.read(number), int(ends[number] - source.counts[number])
            here = slice(start - first, min(piece.stop - first, len(block)))
            stop = first + here.stop
            known = facts[start:stop]
            found = [key.decode() for key in block.keys[here].tolist()]
            if found != [row["key"] for row in known]:
                raise IntegrityError(
                    f"{source.name}: block {number} holds other images than samples.parquet says; "
                    f"`shards verify {self._folder.path}` says which"
                )
            data = self._encoder.encode(block, here)
            yield from map(Sample, found, data, facts.numbers[start:stop], known)
            start = stop

    def finish(self, moved: Path | None) -> Exported:
        """Write what the export is, then the record that it is whole."""
        lossless = LOSSLESS[self._encoder.kind]
        about = {**self._plan, **self._classes, "images": self._images, "lossless": lossless}
        write_json(self._out / EXPORT, about)
        self._ledger.commit("export", fingerprint=fingerprint({"plan": self._plan}), facts=about)
        return Exported(
            images=self._images,
            files=len(self._files),
            bytes=sum(file.bytes for file in self._files),
            files_written=self._written,
            lossless=lossless,
            label=str(self._classes["label"]),
            moved=moved,
        )


def exported_as(split: str) -> str:
    """The name of a split in an export: a store's one split is what others call `train`."""
    return "train" if split == "all" else split
