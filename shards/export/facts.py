"""What is known of every image that a folder holds: its manifests' columns, in the order in which it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import IntegrityError
from manifests.read import read_batches, read_rows
from manifests.schema import SAMPLES, SCORES
from shards.index import ShardFolder
from shards.layout import KEY_DTYPE
from shards.sample_index import NUMBER

PLACE = ("shard", "block", "row")
LEFT_OUT = {"status", "error", *PLACE}
"""columns that say where an image lies here, or what became of one that was not usable"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Rows of all images of some splits, in stored order."""

    rows: pa.Table
    classes: Sequence[str]
    """names of the classes, by number; empty where nobody has named them"""
    numbers: Sequence[int | None]
    """class of each row; None unknown"""
    meaning: str
    """what those classes are"""

    def __getitem__(self, rows: slice) -> list[dict[str, Any]]:
        """The columns of some rows, with the class's name as `label`."""
        found = self.rows.slice(rows.start, rows.stop - rows.start).to_pylist()
        return [{**row, "label": self._name(n)} for row, n in zip(found, self.numbers[rows], strict=True)]

    def _name(self, number: int | None) -> str | None:
        return None if number is None else self.classes[number] if self.classes else str(number)


def load_facts(folder: ShardFolder, split: str | None) -> Facts:
    """The facts of a split, or of all; `IntegrityError` unless the manifest places just what the index counts."""
    wanted = [n for n, shard in enumerate(folder.shards) if split in (None, shard.split)]
    columns = [c.name for c in SAMPLES.columns if c.name not in LEFT_OUT]
    batches = read_batches(folder.path, SAMPLES, columns=[*columns, *PLACE])
    placed = [batch.filter(pc.is_in(batch["shard"], value_set=pa.array(wanted, pa.int32()))) for batch in batches]
    rows = _plain(pa.Table.from_batches(placed))
    if (folder.path / SCORES.file).exists():
        keys = np.array(rows["key"].to_pylist(), KEY_DTYPE)  # ascending, as in every manifest
        names = [c.name for c in SCORES.columns if c.name not in {"key", "status"}]
        for name, column in zip(names, read_rows(folder.path, SCORES, keys, columns=names).columns, strict=True):
            rows = rows.append_column(name, column)
    rows = rows.sort_by([(name, "ascending") for name in PLACE])
    if len(rows) != folder.rows(split):
        raise IntegrityError(
            f"{folder.path / SAMPLES.file} places {len(rows):,} images, the index counts {folder.rows(split):,}; "
            f"`shards verify` says more"
        )
    return _classed(folder, rows.drop_columns(list(PLACE)))


def _plain(rows: pa.Table) -> pa.Table:
    """Words as strings: everybody reads those."""
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in rows.schema]
    return rows.cast(pa.schema(fields))


def _classed(folder: ShardFolder, rows: pa.Table) -> Facts:
    stated: Sequence[str] = folder.document.get("classes") or ()
    if "pred" in rows.column_names:
        return Facts(rows=rows, classes=stated, numbers=rows["pred"].to_pylist(), meaning="the teacher's prediction")
    labels, meaning = rows["source_label"].to_pylist(), "the source's own label"
    words = {label for label in labels if label is not None}
    if not stated and all(NUMBER.fullmatch(word) and word == str(int(word)) for word in words):  # as MNIST's
        return Facts(rows=rows, classes=(), numbers=[n if n is None else int(n) for n in labels], meaning=meaning)
    classes = stated or sorted(words)
    number_of = {name: number for number, name in enumerate(classes)}
    return Facts(rows=rows, classes=classes, numbers=[number_of.get(label) for label in labels], meaning=meaning)
