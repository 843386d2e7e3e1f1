"""Decide: every scored row is kept or left out, with a reason, and written so; in slices of the key space.

Keys are hashes, so a slice of them is a fair share of the rows of every corpus, and all that is joined by key is joined
within the slice: memory does not grow with the number of rows.
"""

import bisect
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.select.base import Picked
from curate.select.pool import Pool
from manifests.commit import FileFacts
from manifests.provenance import Provenance
from manifests.schema import SAMPLES, SCORES, SELECTION
from manifests.write import manifest_writer

SLICE = 1 << 19  # rows of all corpora together: ~150 MB while they are decided and written
TABLES = (SAMPLES, SCORES, SELECTION)
OUTSIDE = "outside band"
"""reason of rows that --where does not admit"""

_PICKED = """
CREATE TABLE picked AS SELECT *, CASE
    WHEN row_number() OVER (ORDER BY md5('holdout:{seed}:' || key), key) <= {holdout} * (SELECT count(*) FROM picks)
    THEN 'holdout' ELSE 'train' END AS split
FROM picks
"""
# A file that lies in two corpora has one key in both; the later one gets a key of its own (and is a duplicate).
_RENAMED = """
CREATE TABLE renamed AS
SELECT own_key, corpus_order, left(sha256(own_key || ':' || earlier + 1), 32) AS key
FROM (
    SELECT s.key AS own_key, s.corpus_order, count(*) AS earlier
    FROM samples s JOIN samples e ON e.key = s.key AND e.corpus_order < s.corpus_order GROUP BY ALL
)
"""
_NO_RENAMED = "CREATE TABLE renamed (own_key VARCHAR, corpus_order BIGINT, key VARCHAR)"
_OF_RENAMED = """
CREATE TABLE renamed_{view} AS
SELECT r.key, r.own_key, v.* EXCLUDE (key)
FROM {view} v JOIN renamed r ON r.own_key = v.key AND r.corpus_order = v.corpus_order ORDER BY r.key
"""
_HERE = {"samples": "here", "scores": "(SELECT * FROM here LEFT JOIN nearest USING (key, corpus_order))"}
_SLICE = "SELECT *, key AS own_key FROM {here}"
_SLICE_RENAMED = """
SELECT key, key AS own_key, * EXCLUDE (key) FROM {here} ANTI JOIN (
    SELECT own_key AS key, corpus_order FROM renamed WHERE own_key >= '{first}' AND own_key < '{end}'
) USING (key, corpus_order)
UNION ALL BY NAME SELECT * FROM renamed_{view} WHERE key >= '{first}' AND key < '{end}'
"""
_SAMPLES = "SELECT * FROM slice ORDER BY key"
_SAMPLES_RENAMED = """
SELECT s.* REPLACE (coalesce(r.key, s.duplicate_of) AS duplicate_of)
FROM slice s LEFT JOIN renamed r ON r.own_key = s.duplicate_of AND r.corpus_order = s.corpus_order ORDER BY s.key
"""
_DECIDED = """
SELECT s.* EXCLUDE (admitted, left_for), p.rank IS NOT NULL AS selected, p.split, p.rank, p.target_class,
    CASE WHEN p.rank IS NOT NULL THEN p.reason WHEN d.reason IS NOT NULL THEN d.reason
        WHEN s.status <> 'ok' THEN s.status WHEN NOT admitted THEN '{outside}' ELSE left_for END AS reason
FROM (SELECT *, coalesce({where}, false) AS admitted, {left} AS left_for FROM slice AS scores) s
LEFT JOIN picked p ON p.key = s.own_key AND p.corpus_order = s.corpus_order
LEFT JOIN dropped d ON d.key = s.own_key AND d.corpus_order = s.corpus_order ORDER BY s.key
"""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What was decided of all rows, in numbers."""

    files: list[FileFacts]
    reasons: dict[str, int]
    """rows for each reason, most first"""
    classes: dict[int, int]
    """selected rows of each predicted class"""


def decide(pool: Pool, picked: Picked, *, seed: int, holdout: float, folder: Path, provenance: Provenance) -> Decided:
    """Write the samples, scores and selection manifests of all corpora together.

    ``holdout`` is the fraction of the picked rows that a draw by key and ``seed`` takes for the holdout split.
    """
    with pool.table("picks", picked.rows):
        pool.run(_PICKED.format(seed=seed, holdout=holdout))
    renamed = _rename(pool)
    query = _DECIDED.format(where=pool.where, outside=OUTSIDE, left=picked.left)
    reasons: Counter[str] = Counter()
    classes: Counter[int] = Counter()
    rows = pool.count("samples")
    with (
        ExitStack() as stack,
        ThreadPoolExecutor(len(TABLES)) as threads,
        pool.progress("decide", rows, unit="rows") as advance,
    ):
        writers = [stack.enter_context(manifest_writer(folder, t, provenance=provenance)) for t in TABLES]
        writing: list[Future[None]] = []
        read = {view: [_Rows(source) for source in pool.sources(view)] for view in ("samples", "scores")}
        part = _SLICE_RENAMED if renamed else _SLICE
        for first, end in pairwise(_edges(rows)):
            tables = []
            for view, of_view in (("samples", _SAMPLES_RENAMED if renamed else _SAMPLES), ("scores", query)):
                rows_here = part.format(view=view, here=_HERE[view], first=first, end=end)
                with pool.table("here", pa.concat_tables([rows.until(end) for rows in read[view]])):
                    tables.append(pool.connection.sql(f"WITH slice AS ({rows_here}) {of_view}").to_arrow_table())
            samples, decided = tables
            for written in writing:
                written.result()
            writing = [
                threads.submit(writer.write, table)
                for writer, table in zip(writers, (samples, decided, decided), strict=True)
            ]
            advance(len(samples))
            reasons.update(_counts(decided["reason"]))
            classes.update(_counts(decided["pred"].filter(decided["selected"])))
        for written in writing:
            written.result()
    return Decided(
        files=[writer.facts for writer in writers], reasons=dict(reasons.most_common()), classes=dict(classes)
    )


def _rename(pool: Pool) -> int:
    """Find the rows whose key is that of a row of an earlier corpus; how many there are."""
    pool.run(_RENAMED if len(pool.corpora) > 1 else _NO_RENAMED)
    for view in ("samples", "scores"):
        pool.run(_OF_RENAMED.format(view=view))
    return pool.count("renamed")


def _edges(rows: int) -> list[str]:
    """Ascending first digits of keys, so that each slice between two of them has about SLICE of the rows."""
    slices = max(1, -(-rows // SLICE))
    return ["", *(f"{(n << 32) // slices:08x}" for n in range(1, slices)), "g"]


class _Rows:
    """The rows of one manifest of one corpus in key order, taken piece by piece.

    Not DuckDB's: of a file with many row groups it looks at all of them for every slice.
    """

    def __init__(self, batches: Iterator[pa.Table]) -> None:
        self._batches = batches
        self._waiting = next(batches)

    def until(self, end: str) -> pa.Table:
        """All rows that were not taken yet and whose key is below ``end``."""
        taken = [self._waiting.slice(0, 0)]
        while True:
            keys = self._waiting["key"]
            cut = bisect.bisect_left(range(len(keys)), end, key=lambda row: keys[row].as_py())
            taken.append(self._waiting.slice(0, cut))
            self._waiting = self._waiting.slice(cut)
            if len(self._waiting):
                return pa.concat_tables(taken)
            more = next(self._batches, None)
            if more is None:
                return pa.concat_tables(taken)
            self._waiting = more


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {count["values"]: count["counts"] for count in pc.value_counts(column).to_pylist()}
