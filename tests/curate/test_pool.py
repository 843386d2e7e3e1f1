"""The pool: the rows of all corpora together, what was dropped of them, and their vectors in the order of the keys."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curate.select.pool import MEMORY, VECTOR_TABLES, Pool, Scored, open_pool
from manifests.errors import IntegrityError
from manifests.provenance import Provenance
from manifests.schema import FEATURES
from manifests.write import write_manifest
from tests.curate.make import Sample, on_disk, points, rows_of, scored

# Pictures 0 to 5; the first corpus has 1 twice, the second shares 4 (in another form) and 5 (the same bytes).
FOUND = [
    scored(
        "one",
        [
            *(Sample(picture=n, entropy=None if n == 3 else n / 8, pred=n % 2) for n in range(6)),
            Sample(picture=1, form=1),
            Sample(picture=None),
        ],
    ),
    scored("two", [Sample(picture=4, form=1), Sample(picture=5), Sample(picture=6), Sample(picture=7)]),
]


def opened(spill: Path) -> AbstractContextManager[Pool]:
    return open_pool(FOUND, class_names=["even", "odd"], spill=spill)


def test_candidates_are_finite_first_and_admitted(tmp_path: Path) -> None:
    with opened(tmp_path / "spill") as pool:
        assert [pool.count(view) for view in ("samples", "scores", "dropped", "candidates")] == [12, 11, 3, 7]
        rows = pool.connection.sql("SELECT corpus, corpus_order, status FROM candidates").to_arrow_table().to_pylist()
        assert {(row["corpus"], row["corpus_order"], row["status"]) for row in rows} == {
            ("one", 0, "ok"),
            ("two", 1, "ok"),
        }
        pool.restrict("corpus = 'two'")
        assert pool.count() == 2
        pool.restrict("entropy > 99")  # another one takes the place of the first
        assert pool.count() == 0


def test_rows_are_counted_by_corpus(tmp_path: Path) -> None:
    with opened(tmp_path / "spill") as pool:
        assert pool.corpora == ["one", "two"]
        rows = pool.connection.sql("SELECT * FROM candidates").to_arrow_table()
        assert pool.per_corpus(rows) == [5, 2]
        assert pool.per_corpus(rows.slice(0, 0)) == [0, 0]


def test_what_is_dropped_is_no_candidate_any_more(tmp_path: Path) -> None:
    with opened(tmp_path / "spill") as pool:
        some = pool.points("features")
        assert pool.drop(some.table(np.array([0, 2])), "unwanted") == 2
        left = pool.points("features").keys
        assert left.tolist() == some.keys[[1, 3, 4, 5, 6]].tolist()
        reasons = pool.connection.execute("SELECT reason, count(*) FROM dropped GROUP BY ALL ORDER BY ALL").fetchall()
        assert reasons == [("duplicate", 3), ("unwanted", 2)]


def test_pixels_are_dropped_once_and_duplicates_keep_their_reason(tmp_path: Path) -> None:
    with opened(tmp_path / "spill") as pool:
        hashes = pool.connection.sql(
            "SELECT pixel_hash FROM samples WHERE uri IN ('000001', '000005')"
        ).to_arrow_table()
        assert (
            pool.drop_pixels(hashes["pixel_hash"], "excluded") == 2
        )  # pictures 1 and 5 of the first; the damaged has none
        assert pool.drop_pixels(hashes["pixel_hash"], "excluded") == 0
        assert pool.count("dropped WHERE reason = 'duplicate'") == 3


@pytest.mark.parametrize("kind", list(VECTOR_TABLES))
@pytest.mark.parametrize("row_group", [None, 1, 3])
def test_vectors_come_in_key_order_each_with_its_key(kind: str, row_group: int | None, tmp_path: Path) -> None:
    """Of one key in two corpora the earlier corpus comes first."""
    found = [
        scored(name, [Sample(picture=n, vector=(n, at), logits=(at, n)) for n in pictures])
        for at, (name, pictures) in enumerate({"one": range(8), "two": range(5, 12)}.items())
    ]
    place = {row["key"]: int(row["uri"]) + 5 * n for n, c in enumerate(found) for row in rows_of(c.samples).to_pylist()}
    if row_group:
        found = [on_disk(corpus, tmp_path / corpus.name, row_group=row_group) for corpus in found]
    with open_pool(found, class_names=["a"], spill=tmp_path / "spill") as pool:
        all_ = pool.points(kind, "scores")
        some = pool.points(kind, "candidates WHERE corpus_order = 1")
    assert len(all_.keys) == 15
    assert [(k, c) for k, c in zip(all_.keys, all_.corpus_order, strict=True)] == sorted(
        zip(all_.keys.tolist(), all_.corpus_order.tolist(), strict=True)
    )
    wanted = [(place[k.decode()], c) for k, c in zip(all_.keys, all_.corpus_order, strict=True)]
    assert all_.rows_ND.tolist() == [list(at) if kind == "features" else list(at[::-1]) for at in wanted]
    assert sorted(some.rows_ND[:, 0 if kind == "features" else 1].tolist()) == [8, 9, 10, 11]
    assert some.table(np.array([1])).to_pylist() == [{"key": some.keys[1].decode(), "corpus_order": 1}]


def test_nothing_has_no_vectors(tmp_path: Path) -> None:
    with opened(tmp_path / "spill") as pool:
        none = pool.points("features", "candidates WHERE false")
        assert none.rows_ND.shape == (0, 0)
        assert len(none.keys) == len(none.corpus_order) == 0


def test_a_row_without_its_vector_is_an_integrity_error(tmp_path: Path) -> None:
    one = on_disk(FOUND[0], tmp_path / "one", row_group=2)
    vectors = rows_of(FOUND[0].vectors["features"])
    path = one.vectors["features"]
    assert isinstance(path, Path)
    write_manifest(path.parent, FEATURES, vectors.slice(1), provenance=Provenance(step="score"), sizes={"features": 2})
    with open_pool([one], class_names=["a"], spill=tmp_path / "spill") as pool:
        with pytest.raises(IntegrityError, match=f"features.parquet lacks the row of {vectors['key'][0].as_py()}"):
            pool.points("features", "scores")
        assert len(pool.points("logits", "scores").keys) == 7


def test_distances_to_a_reference_become_columns(tmp_path: Path) -> None:
    with open_pool(FOUND, class_names=["a"], spill=tmp_path / "spill", reference=points([(0, 0), (3, 4)])) as pool:
        some = pool.points("features", "candidates WHERE corpus_order = 1")
        pool.note_nearest(some, np.array([2.5, 0.0]), np.array([1, 0]))
        noted = pool.connection.execute(
            "SELECT key, nn_dist, nn_key FROM scores WHERE nn_dist IS NOT NULL ORDER BY key"
        )
        keys = [key.decode() for key in some.keys]
        assert noted.fetchall() == [(keys[0], 2.5, f"{1:032x}"), (keys[1], 0.0, f"{0:032x}")]
        assert pool.count("scores") == 11
        pool.restrict("nn_dist > 1")
        assert pool.count() == 1


def test_tables_last_as_long_as_their_block(tmp_path: Path) -> None:
    with opened(tmp_path / "spill") as pool:
        with pool.table("mine", pa.table({"n": [1, 2]})):
            assert pool.count("mine") == 2
        with pytest.raises(Exception, match="mine does not exist"):
            pool.count("mine")


def test_paths_may_hold_quotes_and_what_spills_goes(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "here" {now}'
    found = [on_disk(corpus, folder / corpus.name, row_group=2) for corpus in FOUND]
    with open_pool(found, class_names=["a"], spill=folder / "work", threads=1) as pool:
        assert pool.count() == 7
        assert len(pool.points("features").keys) == 7
        setting = "SELECT current_setting('memory_limit'), current_setting('threads')"
        limit, threads = pool.connection.execute(setting).fetchall()[0]
        assert (limit, threads) == ("953.6 MiB", 1)
        assert MEMORY == "1GB"
    assert not (folder / "work").exists()
    assert (folder / "one" / "samples.parquet").exists()


def test_a_corpus_is_found_in_its_folders(tmp_path: Path) -> None:
    corpus = Scored.of("one", tmp_path / "store", tmp_path / "scores")
    assert corpus.samples == tmp_path / "store" / "samples.parquet"
    assert corpus.scores == tmp_path / "scores" / "scores.parquet"
    assert corpus.vectors == {kind: tmp_path / "scores" / f"{kind}.parquet" for kind in ("features", "logits")}
