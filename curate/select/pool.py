"""The pool: the scored rows of all corpora together, less those that a filter dropped, each for a reason.

DuckDB reads the manifests where they lie and spills to disk beyond MEMORY, so a pool of 100 million rows needs no more
than one of a million. Vectors are read only when a rule or a filter works on distances.
"""

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.errors import CurateError
from curate.select.query import check_select, in_one_order
from manifests.progress import Progress, silent
from manifests.query import error_words
from manifests.read import read_batches, read_rows
from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES
from shards.layout import KEY_DTYPE

MEMORY = "1GB"  # DuckDB's share; what it holds beyond that goes to disk
VECTOR_TABLES = {"features": FEATURES, "logits": LOGITS}
_CONFIG: dict[str, str | int | float | list[str]] = {
    "python_enable_replacements": False,  # a table in a user's SQL is never a Python variable
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_file_cache": False,  # each file is read once or twice: the page cache is enough
    "memory_limit": MEMORY,
}

VIEWS = ("scores", "samples")
"""what a person's SQL may read"""
_COLUMNS = {"samples": "*", "scores": "*, '{name}' AS corpus"}  # every row says which corpus it is of
_UNION = "SELECT {columns}, {order}::BIGINT AS corpus_order FROM {view}_{order}"
_DROPPED = "CREATE TABLE dropped (key VARCHAR, corpus_order BIGINT, reason VARCHAR)"
_NEAREST = "CREATE TABLE nearest (key VARCHAR, corpus_order BIGINT, nn_dist DOUBLE, nn_key VARCHAR)"
_OWN_TWINS = """
INSERT INTO dropped SELECT key, corpus_order, 'duplicate' FROM samples WHERE duplicate_of IS NOT NULL
"""
_CROSS_TWINS = """
INSERT INTO dropped SELECT key, {order}, 'duplicate' FROM samples_{order}
WHERE duplicate_of IS NULL AND pixel_hash IN ({earlier})
"""
_CANDIDATES = """
CREATE OR REPLACE VIEW candidates AS
SELECT * FROM scores ANTI JOIN dropped USING (key, corpus_order) WHERE status = 'ok' AND coalesce({where}, false)
"""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One corpus, ready for selection: its manifests as files, or as tables in memory."""

    name: str
    samples: Path | pa.Table
    scores: Path | pa.Table
    vectors: Mapping[str, Path | pa.Table]
    """features and logits"""

    @classmethod
    def of(cls, name: str, store: Path, scores: Path) -> "Scored":
        """A corpus in its store and scores folder."""
        vectors = {kind: scores / table.file for kind, table in VECTOR_TABLES.items()}
        return cls(name=name, samples=store / SAMPLES.file, scores=scores / SCORES.file, vectors=vectors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Vectors of candidates, in key order."""

    keys: NDArray[np.bytes_]
    corpus_order: NDArray[np.int64]
    rows_ND: NDArray[np.float32]

    def table(self, which: NDArray[np.integer]) -> pa.Table:
        """Keys and corpora of some rows."""
        return pa.table({"key": pa.array(self.keys[which].astype(str)), "corpus_order": self.corpus_order[which]})


class Pool:
    """What a rule picks from: the view `candidates`, and `samples` and `scores` of all corpora beside it."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        corpora: Sequence[Scored],
        *,
        class_names: Sequence[str],
        reference: Points | None = None,
        threads: int | None = None,
        progress: Progress = silent,
    ) -> None:
        self.connection, self._corpora = connection, corpora
        self.threads, self.progress = threads, progress
        self.class_names = class_names
        """the teacher's classes, by number"""
        self.corpora = [corpus.name for corpus in corpora]
        self.reference = reference
        """vectors that the selection is measured against, where there are any"""
        self.where = "true"
        """SQL condition of candidates"""
        for view, columns in _COLUMNS.items():
            for n, corpus in enumerate(corpora):
                self._scan(f"{view}_{n}", getattr(corpus, view))
            parts = (
                _UNION.format(columns=columns.format(name=c.name), view=view, order=n) for n, c in enumerate(corpora)
            )
            self.run(f"CREATE VIEW all_{view} AS {' UNION ALL BY NAME '.join(parts)}")
            self.run(f"CREATE VIEW {view} AS SELECT * FROM all_{view}")
        self.run(_DROPPED)
        self.run(_NEAREST)
        self._look()
        self._drop_twins()

    def run(self, statement: str) -> None:
        """Run a statement to its end: an unread result would lock the connection."""
        self.connection.execute(statement).fetchall()

    def count(self, relation: str = "candidates") -> int:
        """How many rows a relation has."""
        return int(self.connection.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0])

    def per_corpus(self, rows: pa.Table) -> list[int]:
        """How many rows there are of each corpus."""
        counts: list[int] = np.bincount(rows["corpus_order"].to_numpy(), minlength=len(self._corpora)).tolist()
        return counts

    def restrict(self, where: str) -> None:
        """Take only rows of which an SQL condition is true; raises `CurateError` for one that is none, or fails."""
        try:
            condition = str(duckdb.SQLExpression(where))  # one expression, without a comment at its end
            query = f"SELECT 1 FROM scores WHERE ({condition})"
            check_select(self.connection, query, option="--where", views=VIEWS)
            self.where = f"CAST(({condition}) AS BOOLEAN)"
            self.run(f"SELECT bool_or({self.where}) FROM scores")  # of every row: a cast may fail at any of them
        except duckdb.Error as error:
            raise CurateError(f"--where: {error_words(error)}") from None
        self._look()

    def check_query(self, sql: str) -> None:
        """Refuse what `query_keys` would refuse without a look at any row (`CurateError`)."""
        check_select(self.connection, sql, option="--sql", views=(*VIEWS, "candidates"))

    def query_keys(self, sql: str) -> int:
        """Make the table `returned` of a user's SELECT: key, its first column, and place, where it first came.

        Places are by the query's own ORDER BY, then by key. How many keys there are. Raises `CurateError` for anything
        but a SELECT of keys.
        """
        self.check_query(sql)
        try:
            self.run(f"CREATE TABLE answer AS {in_one_order(self.connection, sql)}")
        except duckdb.Error as error:
            raise CurateError(f"--sql: {error_words(error)}") from None
        columns = self.connection.execute("DESCRIBE answer").fetchall()
        if "rowid" in {str(column[0]).lower() for column in columns}:  # it would hide the order of the rows
            raise CurateError("--sql: a column is called rowid; give it another name")
        name, kind = columns[0][:2]
        first = '"' + name.replace('"', '""') + '"'
        nulls = self.count(f"answer WHERE {first} IS NULL")
        if kind != "VARCHAR" or nulls:
            raise CurateError(f"--sql: the first column, {name}, is {kind} with {nulls:,} NULLs; expected keys")
        self.run(f"CREATE TABLE returned AS SELECT {first} AS key, min(rowid) AS place FROM answer GROUP BY ALL")
        self.run("DROP TABLE answer")
        return self.count("returned")

    def drop(self, rows: pa.Table, reason: str) -> int:
        """Drop rows (key, corpus_order) for a reason; how many."""
        with self.table("now_dropped", rows):
            self.run(f"INSERT INTO dropped SELECT key, corpus_order, '{reason}' FROM now_dropped")
        return len(rows)

    def drop_pixels(self, hashes: pa.ChunkedArray, reason: str) -> int:
        """Drop the rows whose stored pixels are among these; how many."""
        before = self.count("dropped")
        with self.table("unwanted", pa.table({"pixel_hash": hashes.cast(pa.string())})):
            self.run(f"""
                INSERT INTO dropped SELECT key, corpus_order, '{reason}' FROM samples ANTI JOIN dropped USING
                (key, corpus_order) WHERE pixel_hash IN (SELECT pixel_hash FROM unwanted)
            """)
        return self.count("dropped") - before

    def note_nearest(self, points: Points, distance_N: NDArray[np.float64], nearest_N: NDArray[np.int64]) -> None:
        """Keep how far rows lie from the reference: columns nn_dist and nn_key of `scores` from now on."""
        if self.reference is None:
            raise AssertionError("there is no reference")
        which = np.arange(len(points.keys))
        found = points.table(which).append_column("nn_dist", pa.array(distance_N))
        found = found.append_column("nn_key", pa.array(self.reference.keys[nearest_N].astype(str)))
        with self.table("now_nearest", found):
            self.run("INSERT INTO nearest SELECT key, corpus_order, nn_dist, nn_key FROM now_nearest")
        self.run("""
            CREATE OR REPLACE VIEW scores AS SELECT * FROM all_scores LEFT JOIN nearest USING (key, corpus_order)
        """)
        self._look()

    @contextlib.contextmanager
    def table(self, name: str, rows: pa.Table) -> Iterator[None]:
        """Rows as a table of the connection, for the length of a block."""
        self.connection.register(name, rows)
        try:
            yield
        finally:
            self.connection.unregister(name)

    def points(self, on: str, relation: str = "candidates") -> Points:
        """Vectors of the rows of a relation, in key order (of one key in two corpora: the earlier corpus first)."""
        rows = self.connection.sql(f"SELECT key, corpus_order FROM {relation} ORDER BY ALL").to_arrow_table()
        keys = np.array(rows["key"].to_pylist(), dtype=KEY_DTYPE)
        corpus_order = rows["corpus_order"].to_numpy()
        found = [
            (mine, _vectors(corpus.vectors[on], on, keys[mine]))
            for n, corpus in enumerate(self._corpora)
            if len(mine := np.flatnonzero(corpus_order == n))
        ]
        rows_ND = np.empty((len(keys), found[0][1].shape[1] if found else 0), np.float32)
        for mine, vectors in found:
            rows_ND[mine] = vectors
        return Points(keys=keys, corpus_order=corpus_order, rows_ND=rows_ND)

    def sources(self, view: str) -> list[Iterator[pa.Table]]:
        """The rows of each corpus's `samples` or `scores`, piece by piece in key order, as the view has them."""
        return [self._rows(view, order, corpus) for order, corpus in enumerate(self._corpora)]

    def _rows(self, view: str, order: int, corpus: Scored) -> Iterator[pa.Table]:
        source, table = getattr(corpus, view), {"samples": SAMPLES, "scores": SCORES}[view]
        batches: Iterator[pa.Table]
        if isinstance(source, Path):
            batches = (pa.Table.from_batches([batch]) for batch in read_batches(source.parent, table))
        else:
            batches = iter([source.sort_by("key")])
        schema = table.plain_schema()
        for rows in itertools.chain([schema.empty_table()], batches):
            plain = rows.select(schema.names).cast(schema)
            if view == "scores":
                plain = plain.append_column("corpus", pa.repeat(corpus.name, len(plain)))
            yield plain.append_column("corpus_order", pa.repeat(pa.scalar(order, pa.int64()), len(plain)))

    def _scan(self, view: str, source: Path | pa.Table) -> None:
        if isinstance(source, Path):
            quoted = escape(str(source)).replace("'", "''")  # one file, whatever characters its folders have
            self.run(f"CREATE VIEW {view} AS SELECT * FROM read_parquet('{quoted}')")
        else:
            self.connection.register(view, source)

    def _look(self) -> None:
        self.run(_CANDIDATES.format(where=self.where))

    def _drop_twins(self) -> None:
        """Of equal pixels only the first stays: the earliest corpus wins."""
        self.run(_OWN_TWINS)
        for order in range(1, len(self._corpora)):
            earlier = " UNION ALL ".join(
                f"SELECT pixel_hash FROM samples_{n} WHERE pixel_hash IS NOT NULL" for n in range(order)
            )
            self.run(_CROSS_TWINS.format(order=order, earlier=earlier))


@contextlib.contextmanager
def open_pool(
    corpora: Sequence[Scored],
    *,
    class_names: Sequence[str],
    spill: Path,
    reference: Points | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Iterator[Pool]:
    """A pool on a connection of its own; what does not fit into MEMORY lies in the folder ``spill`` meanwhile.

    Raises `CurateError` where neither has room.
    """
    spill.parent.mkdir(parents=True, exist_ok=True)
    config = _CONFIG | {"temp_directory": str(spill)} | ({"threads": threads} if threads else {})
    try:
        with contextlib.closing(duckdb.connect(config=config)) as connection:
            yield Pool(
                connection,
                corpora,
                class_names=class_names,
                reference=reference,
                threads=threads,
                progress=progress,
            )
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise CurateError(
            f"selecting stopped: {error_words(error)}; it uses {MEMORY} of memory, and beyond that the disk at {spill}"
        ) from None
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _vectors(source: Path | pa.Table, kind: str, keys: NDArray[np.bytes_]) -> NDArray[np.float32]:
    """The vectors (N, D) of some ``keys``, which ascend."""
    if isinstance(source, Path):
        rows = read_rows(source.parent, VECTOR_TABLES[kind], keys, columns=[kind])
    else:
        rows = source.filter(pc.is_in(source["key"], value_set=pa.array(keys.astype(str))))
    vectors = rows[kind].combine_chunks()
    found: NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(keys), vectors.type.list_size)
    return found
