import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import manifests.write
from manifests import query
from manifests.errors import IntegrityError, ManifestError, QueryRefused
from manifests.provenance import Provenance
from manifests.query import find_manifests, open_views, run_query
from manifests.schema import FEATURES, SAMPLES, SCORES, SHARDS
from manifests.write import write_manifest

MADE = Provenance(step="score")
WriteScores = Callable[[Path, int], Path]


def rows(sql: str, folder: Path, **limits: Any) -> list[dict[str, Any]]:
    """The rows of a query as Python values."""
    found: list[dict[str, Any]] = run_query(sql, folder, **limits).to_pylist()
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(sql: str, folder: Path, **limits: Any) -> str:
    """What the user is told; one or two lines, nothing of Python's."""
    with pytest.raises(QueryRefused) as caught:
        run_query(sql, folder, **limits)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
    assert "^^" not in str(caught.value)
    return str(caught.value)


# -- what a query gives -----------------------------------------------------------------------------------------------


def test_a_select_gives_its_rows(store: Path) -> None:
    sql = """
        SELECT status, count(*) AS n, avg(confidence) AS c -- a comment; with a semicolon
        FROM scores GROUP BY status ORDER BY n;
    """
    assert rows(sql, store) == [{"status": "nonfinite", "n": 10, "c": None}, {"status": "ok", "n": 90, "c": 0.5}]


@pytest.mark.parametrize(
    "sql",
    [
        "FROM scores",
        "TABLE scores",
        "WITH s AS (FROM scores) SELECT * FROM s",
        "SELECT * FROM (VALUES (1)) v(x), scores",
        "SELECT * FROM query_table('scores')",
    ],
)
def test_every_way_to_write_a_select(store: Path, sql: str) -> None:
    assert run_query(sql, store).num_rows == 100


def test_the_views_describe_themselves(store: Path) -> None:
    assert rows("SHOW TABLES", store) == [{"name": "scores"}]
    assert [r["column_name"] for r in rows("DESCRIBE scores", store)] == SCORES.arrow_schema().names
    assert len(rows("SUMMARIZE scores", store)) == len(SCORES.columns)
    assert rows("PIVOT scores ON status IN ('ok', 'nonfinite') USING count(*)", store)


def test_filters_on_words_and_nulls(store: Path) -> None:
    """Dictionary columns and NULLs go through Arrow's own filters."""
    assert rows("SELECT count(*) AS n FROM scores WHERE status = 'nonfinite'", store) == [{"n": 10}]
    assert rows("SELECT count(*) AS n FROM scores WHERE status IN ('ok', 'other')", store) == [{"n": 90}]
    assert rows("SELECT count(*) AS n FROM scores WHERE entropy IS NULL", store) == [{"n": 10}]
    assert rows("SELECT count(*) AS n FROM scores WHERE entropy >= 0.5", store) == [{"n": 45}]


def test_names_are_unique(store: Path) -> None:
    table = run_query("SELECT s.*, t.status, 1 AS status_1 FROM scores s JOIN scores t USING (key) LIMIT 1", store)
    assert table.column_names == [*SCORES.arrow_schema().names, "status_1", "status_1_1"]


def test_sums_of_integers_are_integers(store: Path) -> None:
    table = run_query(
        "SELECT sum(pred) AS s, 0.25 AS d, 2::HUGEINT ** 100 AS big, 1::HUGEINT << 70 AS huge FROM scores", store
    )
    assert table.select(["s", "d"]).to_pylist() == [{"s": 360, "d": 0.25}]
    assert table.schema.field("s").type == pa.int64()
    assert table.schema.field("d").type == pa.float64()
    assert int(table["huge"][0].as_py()) == 2**70


def test_a_statement_without_rows_keeps_its_columns(store: Path) -> None:
    table = run_query("SELECT key, sum(pred) AS s FROM scores WHERE false GROUP BY key", store)
    assert (table.num_rows, table.column_names) == (0, ["key", "s"])


def test_nested_columns(tmp_path: Path) -> None:
    blocks = [{"block": i, "rows": 4, "offset": 512 * i, "bytes": 9, "xxh3": "00"} for i in range(2)]
    row = {"name": "a.tar", "split": "all", "bytes": 1024, "sha256": "ff", "rows": 8, "blocks": blocks}
    write_manifest(tmp_path, SHARDS, pa.Table.from_pylist([row], schema=SHARDS.plain_schema()), provenance=MADE)
    assert rows("SELECT blocks FROM shards", tmp_path) == [{"blocks": blocks}]
    sql = 'SELECT name, sum(b."rows") AS n FROM (SELECT name, unnest(blocks) AS b FROM shards) GROUP BY name'
    assert rows(sql, tmp_path) == [{"name": "a.tar", "n": 8}]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_an_order_holds_on_any_number_of_threads(
    tmp_path: Path, write_scores: WriteScores, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(manifests.write, "ROW_GROUP", 500)  # several row groups are read at once
    write_scores(tmp_path, 5000)
    monkeypatch.setitem(query.LOCKED, "threads", threads)
    top = rows("SELECT key, pred % 2 AS p FROM scores ORDER BY pred % 2 DESC NULLS LAST, key LIMIT 50", tmp_path)
    assert [int(r["key"], 16) for r in top] == [i for i in range(500) if i % 2 and i % 10 != 9][:50]
    everything = run_query("SELECT key FROM scores", tmp_path)["key"].to_pylist()
    assert everything == [f"{i:032x}" for i in range(5000)]


# -- the guard --------------------------------------------------------------------------------------------------------

NOT_A_SELECT = {
    "INSERT INTO scores VALUES (1)": "INSERT",
    "UPDATE scores SET pred = 1": "UPDATE",
    "DELETE FROM scores": "DELETE",
    "CREATE TABLE t AS SELECT 1": "CREATE",
    "CREATE VIEW v AS SELECT 1": "CREATE",
    "DROP VIEW scores": "DROP",
    "COPY scores TO 'out.csv'": "COPY",
    "COPY (SELECT 1) TO 'store/out.parquet'": "COPY",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'": "EXPLAIN",
    "EXPLAIN SELECT 1": "EXPLAIN",
    "ATTACH 'out.db'": "ATTACH",
    "EXPORT DATABASE 'out'": "EXPORT",
    "PRAGMA database_list": "PRAGMA",
    "SET threads = 1": "SET",
    "SET enable_external_access = true": "SET",
    "RESET memory_limit": "SET",
    "USE memory": "SET",
    "INSTALL httpfs": "LOAD",
    "LOAD httpfs": "LOAD",
    "CALL pragma_version()": "CALL",
    "PREPARE p AS SELECT 1": "PREPARE",
    "BEGIN": "TRANSACTION",
    "VACUUM": "VACUUM",
    "PIVOT scores ON pred": r"a PIVOT without IN \(values\)",
}
READS_A_FILE = [
    "SELECT * FROM {}('/etc/passwd')",
    "SELECT * FROM {}('store/scores.parquet')",
    "SELECT * FROM {}('*')",
    "SELECT * FROM {}('https://example.com/x')",
]


@pytest.mark.parametrize("sql", NOT_A_SELECT)
def test_only_a_select_is_run(store: Path, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.chdir(store.parent)
    before = tree(store.parent)
    with pytest.raises(
        QueryRefused, match=f"only SELECT is allowed here, this is {NOT_A_SELECT[sql]}: manifests are read"
    ):
        run_query(sql, store)
    assert tree(store.parent) == before


@pytest.mark.parametrize(
    ("sql", "count"),
    [("", 0), (" ; ", 0), ("-- nothing", 0), ("SELECT 1; SELECT 2", 2), ("SELECT 1; COPY (SELECT 1) TO 'out.csv'", 2)],
)
def test_one_statement_is_run(store: Path, sql: str, count: int) -> None:
    assert refusal(sql, store) == f"expected one SELECT statement, got {count} statements"


@pytest.mark.parametrize("function", ["read_csv", "read_parquet", "read_json", "read_text", "read_blob", "glob"])
@pytest.mark.parametrize("sql", READS_A_FILE)
def test_no_function_reads_a_file(store: Path, monkeypatch: pytest.MonkeyPatch, sql: str, function: str) -> None:
    monkeypatch.chdir(store.parent)
    message = refusal(sql.format(function), store)
    assert "Cannot access file" in message
    assert message.endswith("a query reads only the registered views (scores)")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM 'store/scores.parquet'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM parquet_metadata('store/scores.parquet')",
        "SELECT * FROM sqlite_scan('a.db', 't')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''out.csv''')",
        "SELECT * FROM scores WHERE key = (SELECT content FROM read_text('/etc/passwd'))",
        "SELECT getenv('HOME')",
    ],
)
def test_no_other_way_reads_or_writes(store: Path, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.chdir(store.parent)
    before = tree(store.parent)
    assert refusal(sql, store)
    assert tree(store.parent) == before


def test_a_python_variable_is_no_table(store: Path) -> None:
    zebra = pa.table({"a": [1]})
    assert "Table with name zebra does not exist; views of " in refusal("SELECT * FROM zebra", store)
    with open_views(find_manifests(store), store) as connection, pytest.raises(duckdb.CatalogException, match="zebra"):
        connection.sql("SELECT * FROM zebra")  # DuckDB looks for a variable where it is called from: here
    assert zebra.num_rows == 1


@pytest.mark.parametrize("setting", ["threads = 1", "enable_external_access = true", "lock_configuration = false"])
def test_the_configuration_is_locked(store: Path, setting: str) -> None:
    with open_views(find_manifests(store), store) as connection, pytest.raises(duckdb.Error, match="locked"):
        connection.execute(f"SET {setting}")


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = b.range % 11",
        "SELECT a.range FROM range(10000000) a, range(10000000) b WHERE a.range = -b.range - 1 OR a.range < -1",
    ],
    ids=["before its first row", "while rows stream"],
)
def test_a_runaway_query_is_stopped(store: Path, sql: str) -> None:
    begin = time.monotonic()
    assert refusal(sql, store, timeout_s=0.3) == "the query ran longer than 0.3 s; narrow it, or raise --timeout"
    assert time.monotonic() - begin < 10


def test_a_limit_that_is_over_before_the_query_begins_still_stops_it(store: Path) -> None:
    sql = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = b.range % 11"
    assert "ran longer than 1e-06 s" in refusal(sql, store, timeout_s=1e-6)


def test_too_many_rows_are_refused_not_cut(store: Path) -> None:
    assert run_query("FROM scores", store, max_rows=100).num_rows == 100
    wanted = "the result has more than 99 rows; add a LIMIT, or raise --max-rows"
    assert refusal("FROM scores", store, max_rows=99) == wanted
    assert "more than 100,000 rows" in refusal("SELECT * FROM range(1000000000000)", store)
    assert run_query("SELECT * FROM range(100000)", store).num_rows == 100_000


def test_too_much_memory_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(query.LOCKED, "memory_limit", "20MB")
    wanted = "the query needs more memory than 20MB; narrow it, such as by fewer columns"
    assert refusal("SELECT list(range) FROM range(5000000)", store) == wanted


def test_what_does_not_fit_into_memory_goes_to_the_system_s_temporary_folder(store: Path) -> None:
    """DuckDB's own choice is a folder `.tmp` in the working folder."""
    (row,) = rows("SELECT current_setting('temp_directory') AS spill", store)
    assert Path(row["spill"]).parent == Path(tempfile.gettempdir())
    assert not Path(row["spill"]).exists()  # gone with the query


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELCT * FROM scores", 'SQL not understood: syntax error at or near "SELCT"'),
        ("SELECT key FORM scores", 'SQL not understood: syntax error at or near "scores"'),
        ("SELECT 'open FROM scores", "SQL not understood: unterminated string literal"),
        (
            "SELECT entropi FROM scores",
            'Referenced column "entropi" not found in FROM clause! Candidate bindings: "entropy", "energy", "margin"',
        ),
        ("SELECT * FROM score", "Table with name score does not exist; views of {}: scores"),
        ("SELECT * FROM nothing_like_it", "Table with name nothing_like_it does not exist; views of {}: scores"),
        ("SELECT * FROM samples", "{} holds no samples manifest; views of {}: scores"),
        ("SELECT * FROM scores JOIN\n selection USING (key)", "{} holds no selection manifest; views of {}: scores"),
        (
            "SELECT key::INT FROM scores WHERE key LIKE '%a'",
            "Could not convert string '0000000000000000000000000000000a' to INT32 when casting from source column key",
        ),
        ("SELECT error('boo')", "boo"),
    ],
)
def test_a_mistake_is_answered_in_words(store: Path, sql: str, message: str) -> None:
    assert refusal(sql, store) == message.replace("{}", str(store))


def test_an_error_after_many_rows_is_answered_in_words(store: Path) -> None:
    sql = "SELECT CASE WHEN range < 900000 THEN 1 ELSE error('late') END FROM range(1000000)"
    assert refusal(sql, store, max_rows=10_000_000) == "late"


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ManifestError, match=r"holds no manifests \(samples.parquet, scores.parquet, .*make one with"):
        run_query("SELECT 1", tmp_path)


# -- several folders --------------------------------------------------------------------------------------------------


def test_folders_below_become_a_column(tmp_path: Path, write_scores: WriteScores) -> None:
    for number, name in enumerate(("it's", 'a "b"', "c;--", "ü %s {}")):
        write_scores(tmp_path / "scores" / name, number + 1)
    found = rows("SELECT folder, count(*) AS n FROM scores GROUP BY folder ORDER BY n", tmp_path)
    assert [(r["folder"], r["n"]) for r in found] == [
        ("scores/it's", 1),
        ('scores/a "b"', 2),
        ("scores/c;--", 3),
        ("scores/ü %s {}", 4),
    ]
    assert rows("SELECT count(*) AS n FROM scores WHERE folder = 'scores/it''s'", tmp_path) == [{"n": 1}]
    assert rows("SHOW TABLES", tmp_path) == [{"name": "scores"}]


def test_one_folder_below_has_the_column_too(tmp_path: Path, write_scores: WriteScores) -> None:
    write_scores(tmp_path / "one", 2)
    assert rows("SELECT DISTINCT folder FROM scores", tmp_path) == [{"folder": "one"}]
    assert "folder" not in run_query("FROM scores", tmp_path / "one").column_names


def test_views_of_several_folders_join(tmp_path: Path, write_scores: WriteScores) -> None:
    write_scores(tmp_path / "scores" / "tiny-wrn", 5)
    samples = {"key": [f"{i:032x}" for i in range(5)], "corpus": ["tiny"] * 5, "uri": ["x"] * 5, "status": ["ok"] * 5}
    empty = {name: [None] * 5 for name in SAMPLES.arrow_schema().names if name not in samples}
    table = pa.table({**samples, **empty}).select(SAMPLES.arrow_schema().names).cast(SAMPLES.plain_schema())
    write_manifest(tmp_path / "stores" / "tiny", SAMPLES, table, provenance=Provenance(step="ingest"))
    sql = "SELECT corpus, count(pred) AS n FROM samples JOIN scores USING (key) GROUP BY corpus"
    assert rows(sql, tmp_path) == [{"corpus": "tiny", "n": 5}]


def test_a_manifest_in_the_folder_itself_hides_those_below(store: Path, write_scores: WriteScores) -> None:
    write_scores(store / "below", 3)
    assert rows("SELECT count(*) AS n FROM scores", store) == [{"n": 100}]


def test_columns_are_matched_by_name(tmp_path: Path, write_scores: WriteScores) -> None:
    write_scores(tmp_path / "a", 2)
    write_scores(tmp_path / "b", 1)
    table = pq.read_table(tmp_path / "b" / "scores.parquet")
    reordered = table.select(table.column_names[::-1]).drop_columns(["margin"]).append_column("extra", pa.array([7]))
    pq.write_table(reordered, tmp_path / "b" / "scores.parquet")
    assert rows("SELECT folder, pred, extra, margin FROM scores ORDER BY ALL", tmp_path) == [
        {"folder": "a", "pred": 0, "extra": None, "margin": None},
        {"folder": "a", "pred": 1, "extra": None, "margin": None},
        {"folder": "b", "pred": 0, "extra": 7, "margin": None},
    ]


def test_features_of_two_teachers_are_one_view(tmp_path: Path) -> None:
    for size in (2, 3):
        table = pa.table({"key": ["a"], "features": [[0.5] * size]})
        write_manifest(tmp_path / f"t{size}", FEATURES, table, provenance=MADE, sizes={"features": size})
    assert rows("SELECT folder, len(features) AS d FROM features ORDER BY d", tmp_path) == [
        {"folder": "t2", "d": 2},
        {"folder": "t3", "d": 3},
    ]


def test_half_files_and_moved_away_ones_are_not_seen(store: Path) -> None:
    shutil.copy(store / "scores.parquet", store / "samples.parquet.part")
    shutil.copy(store / "scores.parquet", store / ".samples.parquet")
    assert list(find_manifests(store)) == ["scores"]


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no Parquet file, however long one looks at it"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, write_scores: WriteScores, content: bytes) -> None:
    write_scores(tmp_path / "a", 2)
    (write_scores(tmp_path / "b", 2) / "scores.parquet").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"b/scores\.parquet is damaged or no Parquet file: "):
        run_query("SELECT 1", tmp_path)


@pytest.mark.parametrize("sql", ["SELECT max(key) FROM scores", "FROM scores"])
def test_a_flipped_bit_is_found_and_the_file_named(
    tmp_path: Path, write_scores: WriteScores, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.setattr(manifests.write, "ROW_GROUP", 2000)
    write_scores(tmp_path / "a", 2)
    path = write_scores(tmp_path / "b", 20_000) / "scores.parquet"
    column = pq.read_metadata(path).row_group(9).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"b/scores\.parquet is damaged: could not verify page integrity, CRC"):
        run_query(sql, tmp_path)
