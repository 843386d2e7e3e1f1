import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.commit import check_file
from manifests.errors import IntegrityError, ManifestError, SchemaMismatch
from manifests.provenance import Provenance
from manifests.read import read_manifest, read_provenance
from manifests.schema import FEATURES, SCORES, SHARDS
from manifests.show import describe
from manifests.write import write_manifest

MADE = Provenance(step="score", config={"dtype": "float32"}, teacher={"name": "wrn40_2", "sha256": "cd"})
SHARD_ROWS = {
    "name": ["shards/b.tar", "shards/a.tar"],
    "split": ["train", "holdout"],
    "bytes": [2048, 1024],
    "sha256": ["ff", "ee"],
    "rows": [2, 1],
    "blocks": [
        [{"block": 0, "rows": 2, "offset": 512, "bytes": 9, "xxh3": "00"}],
        [{"block": 1, "rows": 1, "offset": 512, "bytes": 5, "xxh3": "01"}],
    ],
}


def test_what_is_written_is_read_back(tmp_path: Path, scores: pa.Table) -> None:
    facts = write_manifest(tmp_path / "s", SCORES, scores, provenance=MADE)
    assert (facts.name, facts.rows) == ("scores.parquet", 100)
    check_file(tmp_path / "s" / facts.name, bytes=facts.bytes, sha256=facts.sha256)
    table = read_manifest(tmp_path / "s", SCORES)
    assert table.schema.remove_metadata() == SCORES.arrow_schema()
    assert table.cast(SCORES.plain_schema()).to_pylist() == scores.sort_by("key").to_pylist()
    assert read_provenance(tmp_path / "s" / "scores.parquet") == MADE


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(100)), columns=st.permutations(SCORES.arrow_schema().names), cut=st.integers(1, 99))
def test_neither_order_nor_pieces_reach_the_bytes(
    tmp_path: Path, scores: pa.Table, order: list[int], columns: list[str], cut: int
) -> None:
    wanted = write_manifest(tmp_path, SCORES, scores, provenance=MADE)
    shuffled = scores.take(order).select(columns)
    pieces = pa.concat_tables([shuffled.slice(0, cut), shuffled.slice(cut)])
    assert write_manifest(tmp_path, SCORES, pieces, provenance=MADE) == wanted
    words = pa.chunked_array([pa.array(c.to_pylist()).dictionary_encode() for c in pieces["status"].chunks])
    coded = pieces.set_column(columns.index("status"), "status", words)
    assert write_manifest(tmp_path, SCORES, coded, provenance=MADE) == wanted


def test_shards_keep_their_order(tmp_path: Path) -> None:
    write_manifest(tmp_path, SHARDS, pa.table(SHARD_ROWS, schema=SHARDS.plain_schema()), provenance=MADE)
    assert read_manifest(tmp_path, SHARDS).to_pylist() == pa.table(SHARD_ROWS).to_pylist()


def test_shards_in_pieces_give_the_same_bytes(tmp_path: Path) -> None:
    whole = pa.table(SHARD_ROWS, schema=SHARDS.plain_schema())
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    facts = [write_manifest(tmp_path, SHARDS, rows, provenance=MADE) for rows in (whole, pieces)]
    assert facts[0] == facts[1]


def test_no_rows_are_a_manifest_too(tmp_path: Path) -> None:
    write_manifest(tmp_path, SCORES, SCORES.plain_schema().empty_table(), provenance=MADE)
    assert read_manifest(tmp_path, SCORES).num_rows == 0


def test_vectors_have_a_fixed_size_on_disk(tmp_path: Path) -> None:
    rows = pa.table({"key": ["b", "a"], "features": [[1.0, 2.0], [3.0, 4.0]]})
    write_manifest(tmp_path, FEATURES, rows, provenance=MADE, sizes={"features": 2}, name="parts/features-0.parquet")
    table = read_manifest(tmp_path, FEATURES, name="parts/features-0.parquet")
    assert table.schema.field("features").type == pa.list_(pa.float32(), 2)
    assert table["features"].to_pylist() == [[3.0, 4.0], [1.0, 2.0]]
    with pytest.raises(SchemaMismatch, match=r"rows for features.parquet do not fit the schema: .*size"):
        write_manifest(tmp_path, FEATURES, rows, provenance=MADE, sizes={"features": 3})


def test_some_columns_are_read_alone(tmp_path: Path, scores: pa.Table) -> None:
    write_manifest(tmp_path, SCORES, scores, provenance=MADE)
    assert read_manifest(tmp_path, SCORES, columns=["key", "entropy"]).column_names == ["key", "entropy"]


def test_nothing_of_the_machine_is_in_the_file(
    tmp_path: Path, scores: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal runs give equal bytes: whoever runs them, wherever and whenever."""
    write_manifest(tmp_path / "here", SCORES, scores, provenance=MADE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("TZ", "Pacific/Apia")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    write_manifest(Path("there"), SCORES, scores, provenance=MADE)
    raw = (tmp_path / "here" / "scores.parquet").read_bytes()
    assert raw == (tmp_path / "there" / "scores.parquet").read_bytes()
    assert str(tmp_path).encode() not in raw
    file = pq.read_metadata(tmp_path / "here" / "scores.parquet")
    assert set(file.metadata) == {b"transferset", b"ARROW:schema"}
    assert file.metadata[b"transferset"] == MADE.footer()[b"transferset"]
    assert file.created_by == f"parquet-cpp-arrow version {pa.__version__}"


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("entropy", None, "lack the column(s) entropy, have key, status, pred, confidence, margin, energy, self_ce"),
        ("pred", ["cat"] * 100, "do not fit the schema: Failed to parse string: 'cat' as a scalar of type int32"),
        ("pred", [2**40] * 100, "do not fit the schema: Integer value 1099511627776 not in range"),
        ("energy", [[1.0]] * 100, "do not fit the schema: Unsupported cast from list"),
        ("key", [None] * 100, "do not fit the schema: Casting field 'key' with null values to non-nullable"),
        ("entropy", [0.5, float("nan")] * 50, "have NaN in entropy; write NULL, and say why in the status"),
    ],
    ids=["missing", "words", "too large", "nested", "null key", "nan"],
)
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, scores: pa.Table, column: str, values: list[object] | None, words: str
) -> None:
    at = scores.column_names.index(column)
    bad = scores.remove_column(at) if values is None else scores.set_column(at, column, pa.array(values))
    with pytest.raises(SchemaMismatch) as caught:
        write_manifest(tmp_path, SCORES, bad, provenance=MADE)
    assert str(caught.value).startswith(f"rows for scores.parquet {words}")
    assert not list(tmp_path.iterdir())


def test_infinity_is_a_number(tmp_path: Path, scores: pa.Table) -> None:
    infinite = scores.set_column(4, "entropy", pa.array([float("inf")] * 100))
    write_manifest(tmp_path, SCORES, infinite, provenance=MADE)
    assert read_manifest(tmp_path, SCORES)["entropy"].to_pylist() == [float("inf")] * 100


# -- files that are not what they should be ---------------------------------------------------------------------------


def test_an_absent_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"scores\.parquet does not exist; expected a manifest there"):
        read_manifest(tmp_path, SCORES)


def test_a_foreign_file_is_refused(tmp_path: Path, scores: pa.Table) -> None:
    pq.write_table(scores, tmp_path / "scores.parquet")
    for read in (lambda: read_manifest(tmp_path, SCORES), lambda: describe(tmp_path / "scores.parquet", "scores")):
        with pytest.raises(SchemaMismatch, match=r"scores\.parquet was not written by transferset"):
            read()


def test_another_version_s_file_is_refused(tmp_path: Path, scores: pa.Table) -> None:
    write_manifest(tmp_path, SCORES, scores, provenance=Provenance(step="score", schema_version=1))
    with pytest.raises(SchemaMismatch, match=r"scores\.parquet has schema version 1; this release reads 2"):
        read_manifest(tmp_path, SCORES)


def test_a_manifest_of_another_table_is_refused(tmp_path: Path, scores: pa.Table) -> None:
    write_manifest(tmp_path, SCORES, scores, provenance=MADE, name="shards.parquet")
    with pytest.raises(
        SchemaMismatch, match=r"shards\.parquet lacks the column\(s\) name, split, bytes, .* of a shards"
    ):
        read_manifest(tmp_path, SHARDS)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all, but long enough to be looked at"])
def test_what_is_no_parquet_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.parquet").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"scores\.parquet is damaged or no Parquet file: "):
        read_manifest(tmp_path, SCORES)


def test_a_cut_file_is_damaged(tmp_path: Path, scores: pa.Table) -> None:
    path = tmp_path / write_manifest(tmp_path, SCORES, scores, provenance=MADE).name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"scores\.parquet is damaged or no Parquet file: "):
        read_manifest(tmp_path, SCORES)


def test_one_flipped_bit_in_any_page_is_found(tmp_path: Path, scores: pa.Table) -> None:
    """Parquet itself would give other numbers in silence."""
    path = tmp_path / write_manifest(tmp_path, SCORES, scores, provenance=MADE).name
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    for i in range(group.num_columns):
        chunk = group.column(i)
        start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
        damaged = bytearray(whole)
        damaged[start + chunk.total_compressed_size - 1] ^= 1  # the last byte of the column's last page
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"scores\.parquet is damaged: "):
            read_manifest(tmp_path, SCORES)
    path.write_bytes(whole)
    assert read_manifest(tmp_path, SCORES).num_rows == 100


def test_describe_is_what_made_the_file(tmp_path: Path, scores: pa.Table) -> None:
    facts = write_manifest(tmp_path, SCORES, scores, provenance=MADE)
    path = tmp_path / facts.name
    assert describe(path, "scores") == {
        "view": "scores",
        "file": str(path),
        "rows": 100,
        "bytes": facts.bytes,
        "step": "score",
        "config": {"dtype": "float32"},
        "teacher": {"name": "wrn40_2", "sha256": "cd"},
        "transform": None,
        "parents": {},
        "schema_version": 2,
        "tool_version": "0.1.0",
    }
