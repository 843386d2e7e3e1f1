"""Every column of every manifest, once: name, Arrow type, unit, meaning, and the step that writes it.

Code builds its tables from here, `docs/manifests.md` is generated from here, and readers refuse anything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 2

_WORD = pa.dictionary(pa.int32(), pa.string())
_VECTOR = pa.list_(pa.float32())  # on disk: fixed size, known only when a teacher is
_BLOCKS = pa.list_(
    pa.struct(
        [
            pa.field("block", pa.int32(), nullable=False),
            pa.field("rows", pa.int32(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("xxh3", pa.string(), nullable=False),
        ]
    )
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a manifest."""

    name: str
    type: pa.DataType
    meaning: str
    written_by: str
    nullable: bool = False
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One manifest file; `name` is also its SQL view and the stem of its file name."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def file(self) -> str:
        """File name of this manifest in any folder."""
        return f"{self.name}.parquet"

    def arrow_schema(self, sizes: Mapping[str, int] | None = None) -> pa.Schema:
        """Arrow schema; ``sizes`` gives the length of each vector column."""
        sizes = sizes or {}
        return pa.schema(
            [
                pa.field(c.name, pa.list_(c.type.value_type, sizes[c.name]) if c.name in sizes else c.type, c.nullable)
                for c in self.columns
            ]
        )

    def plain_schema(self, sizes: Mapping[str, int] | None = None) -> pa.Schema:
        """The schema without dictionary types: what rows of Python values convert to."""
        schema = self.arrow_schema(sizes)
        return pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema])


def _key(step: str) -> Column:
    return Column(
        name="key",
        type=pa.string(),
        meaning="32 hex digits, SHA-256 of the source's bytes; unique, and the total order of everything",
        written_by=step,
    )


SAMPLES = Table(
    name="samples",
    meaning="one row per source sample, including those that could not be used",
    columns=(
        _key("ingest"),
        Column(name="corpus", type=_WORD, meaning="the name the user gave the corpus", written_by="ingest"),
        Column(
            name="uri",
            type=pa.string(),
            meaning="where it came from, relative to the corpus: path, tar member, Parquet row, index",
            written_by="ingest",
        ),
        Column(
            name="source_label",
            type=pa.string(),
            nullable=True,
            meaning="the corpus's own label; never used by any selection",
            written_by="ingest",
        ),
        Column(
            name="status",
            type=_WORD,
            meaning="ok, decode_error, too_small, too_large, duplicate (the same pixels came before in this corpus), "
            "unreadable (an I/O error, no permission, a file that changed: ingest tries it again)",
            written_by="ingest",
        ),
        Column(
            name="error",
            type=pa.string(),
            nullable=True,
            meaning="one line, for a sample that could not be used",
            written_by="ingest",
        ),
        Column(
            name="duplicate_of",
            type=pa.string(),
            nullable=True,
            meaning="key of the first sample of this corpus with the same pixels",
            written_by="ingest",
        ),
        Column(
            name="width",
            type=pa.int32(),
            nullable=True,
            unit="px",
            meaning="of the source, before resizing; null where it could not be read",
            written_by="ingest",
        ),
        Column(
            name="height",
            type=pa.int32(),
            nullable=True,
            unit="px",
            meaning="of the source, before resizing; null where it could not be read",
            written_by="ingest",
        ),
        Column(
            name="pixel_hash",
            type=pa.string(),
            nullable=True,
            meaning="32 hex digits over the stored pixels",
            written_by="ingest",
        ),
        Column(
            name="shard",
            type=pa.int32(),
            nullable=True,
            meaning="row number in this folder's shards.parquet; null where this folder holds no pixels of it",
            written_by="ingest, pack",
        ),
        Column(
            name="block", type=pa.int32(), nullable=True, meaning="block within the shard", written_by="ingest, pack"
        ),
        Column(name="row", type=pa.int32(), nullable=True, meaning="row within the block", written_by="ingest, pack"),
    ),
)

SCORES = Table(
    name="scores",
    meaning="one row per usable sample: what the teacher thinks of it",
    columns=(
        _key("score"),
        Column(
            name="status",
            type=_WORD,
            meaning="ok, or nonfinite: then every number is NULL and no rule selects it",
            written_by="score",
        ),
        Column(name="pred", type=pa.int32(), nullable=True, meaning="argmax of the logits", written_by="score"),
        Column(
            name="confidence",
            type=pa.float32(),
            nullable=True,
            meaning="largest softmax probability",
            written_by="score",
        ),
        Column(
            name="entropy",
            type=pa.float32(),
            nullable=True,
            unit="nats",
            meaning="entropy of the softmax",
            written_by="score",
        ),
        Column(
            name="margin",
            type=pa.float32(),
            nullable=True,
            meaning="largest minus second largest probability",
            written_by="score",
        ),
        Column(
            name="energy",
            type=pa.float32(),
            nullable=True,
            unit="nats",
            meaning="-logsumexp(logits)",
            written_by="score",
        ),
        Column(
            name="self_ce",
            type=pa.float32(),
            nullable=True,
            unit="nats",
            meaning="cross-entropy between the softmax and its own argmax, -log confidence, exact also near 0",
            written_by="score",
        ),
    ),
)

FEATURES = Table(
    name="features",
    meaning="the teacher's penultimate features: all scored rows in a scores folder, the packed rows in a transfer set",
    columns=(
        _key("score"),
        Column(name="features", type=_VECTOR, meaning="input of the last linear layer, fixed size", written_by="score"),
    ),
)

LOGITS = Table(
    name="logits",
    meaning="the teacher's logits, rows as in features",
    columns=(
        _key("score"),
        Column(name="logits", type=_VECTOR, meaning="before the softmax, fixed size", written_by="score"),
    ),
)

SELECTION = Table(
    name="selection",
    meaning="one row per scored sample: kept or left out, and why",
    columns=(
        _key("select"),
        Column(name="selected", type=pa.bool_(), meaning="part of the transfer set", written_by="select"),
        Column(
            name="split",
            type=_WORD,
            nullable=True,
            meaning="train or holdout, for selected rows",
            written_by="select",
        ),
        Column(
            name="reason",
            type=_WORD,
            meaning="why it was kept or left out: top-k, drawn, class full, duplicate, excluded, nonfinite, ...",
            written_by="select",
        ),
        Column(
            name="rank",
            type=pa.int64(),
            nullable=True,
            meaning="position among the selected rows in the rule's order, from 1",
            written_by="select",
        ),
        Column(
            name="target_class",
            type=pa.int32(),
            nullable=True,
            meaning="class that the rule filled with it; null for rules without classes",
            written_by="select",
        ),
        Column(
            name="nn_dist",
            type=pa.float64(),
            nullable=True,
            meaning="Euclidean distance to the nearest vector of the reference; null where none was given",
            written_by="select",
        ),
        Column(
            name="nn_key",
            type=pa.string(),
            nullable=True,
            meaning="key of that nearest sample of the reference",
            written_by="select",
        ),
    ),
)

SHARDS = Table(
    name="shards",
    meaning="one row per shard, in the order in which a sequential stream reads them",
    columns=(
        Column(name="name", type=pa.string(), meaning="path below this folder", written_by="ingest, pack"),
        Column(name="split", type=_WORD, meaning="all in a store; train or holdout", written_by="ingest, pack"),
        Column(name="bytes", type=pa.int64(), unit="bytes", meaning="size of the tar", written_by="ingest, pack"),
        Column(name="sha256", type=pa.string(), meaning="of the tar, 64 hex digits", written_by="ingest, pack"),
        Column(name="rows", type=pa.int32(), meaning="images in it", written_by="ingest, pack"),
        Column(
            name="blocks",
            type=_BLOCKS,
            meaning="per block: number in the set, rows, byte offset and length in the tar, XXH3-64 of those bytes",
            written_by="ingest, pack",
        ),
    ),
)

RUNS = Table(
    name="runs",
    meaning="one row a run: what was trained on what, what it cost, and what came out",
    columns=(
        Column(name="run", type=pa.string(), meaning="name of its folder", written_by="train"),
        Column(name="method", type=_WORD, meaning="as `distill methods` lists it", written_by="train"),
        Column(name="student", type=_WORD, meaning="architecture", written_by="train"),
        Column(name="teacher", type=pa.string(), meaning="name of the teacher", written_by="train"),
        Column(name="teacher_sha256", type=pa.string(), meaning="of its tensors", written_by="train"),
        Column(
            name="transfer_set",
            type=pa.string(),
            nullable=True,
            meaning="id of what it learned from; null where a generator made it all",
            written_by="train",
        ),
        Column(name="images", type=pa.int64(), meaning="in an epoch of that", written_by="train"),
        Column(name="seed", type=pa.int64(), meaning="of weights, order, augmentation and noise", written_by="train"),
        Column(name="config", type=pa.string(), meaning="every setting of the method, as JSON", written_by="train"),
        Column(name="finished", type=pa.bool_(), meaning="whether its schedule is over", written_by="train"),
        Column(name="steps", type=pa.int64(), meaning="of the loop", written_by="train"),
        Column(name="student_updates", type=pa.int64(), meaning="optimiser updates of the student", written_by="train"),
        Column(name="teacher_queries", type=pa.int64(), meaning="images put through the teacher", written_by="train"),
        Column(name="seconds", type=pa.float64(), unit="s", meaning="of training, over all slices", written_by="train"),
        Column(
            name="agreement_last",
            type=pa.float64(),
            nullable=True,
            meaning="fraction of the held-out images on which the last student and the teacher name the same class",
            written_by="train",
        ),
        Column(
            name="agreement_chosen",
            type=pa.float64(),
            nullable=True,
            meaning="the same for the student that was chosen by it",
            written_by="train",
        ),
        Column(
            name="accuracy_last",
            type=pa.float64(),
            nullable=True,
            meaning="on the labelled images of the latest `distill eval`; null before one",
            written_by="eval",
        ),
        Column(
            name="accuracy_chosen",
            type=pa.float64(),
            nullable=True,
            meaning="the same for the chosen student",
            written_by="eval",
        ),
        Column(
            name="evaluated_on",
            type=pa.string(),
            nullable=True,
            meaning="name of that corpus",
            written_by="eval",
        ),
        Column(name="device", type=pa.string(), meaning="what it was computed on", written_by="train"),
    ),
)

METRICS = Table(
    name="metrics",
    meaning="what was measured along a run: one row a step and name",
    columns=(
        Column(name="run", type=pa.string(), meaning="name of its folder", written_by="train"),
        Column(name="step", type=pa.int64(), meaning="of the loop, from 1", written_by="train"),
        Column(
            name="name",
            type=_WORD,
            meaning="a loss term (its mean since the last row), agreement, updates, seconds, or synthetic.* "
            "of a generator",
            written_by="train",
        ),
        Column(
            name="value", type=pa.float64(), nullable=True, meaning="null where it is not finite", written_by="train"
        ),
    ),
)

TABLES: dict[str, Table] = {t.name: t for t in (SAMPLES, SCORES, FEATURES, LOGITS, SELECTION, SHARDS, RUNS, METRICS)}
