"""SQL that users type: any query of keys is a rule, any condition a filter, and what is neither is refused in words."""

import re
from pathlib import Path
from typing import Any

import pytest

from curate.choice import Choice
from curate.errors import CurateError
from tests.curate.make import Outcome, Sample, chosen, scored

# Pictures 0 to 7, of ascending entropy; 2 comes twice, 8 has no finite answer; the second corpus shares 4 and 5.
ONE = [*(Sample(picture=n, entropy=n / 8, pred=n % 2) for n in range(8)), Sample(picture=2, form=1, entropy=2 / 8)]
FOUND = [
    scored("one", [*ONE, Sample(picture=8, entropy=None)]),
    scored("two", [Sample(picture=n, entropy=n / 8, pred=n % 2) for n in (4, 5, 9)]),
]
TOP = "SELECT key FROM scores WHERE entropy > 0.3 ORDER BY entropy DESC, key"


def run(sql: str, **options: Any) -> Outcome:
    return chosen(FOUND, Choice(mode="sql", sql=sql, **{"budget": 50, **options}))


def where(condition: str, **options: Any) -> Outcome:
    return chosen(FOUND, Choice(where=condition, **{"budget": 50, **options}))


def ranked(outcome: Outcome) -> list[tuple[str, int]]:
    """Corpus and place of what was picked, in its order."""
    rows = [row for row in outcome.rows() if row.get("selected")]
    return [(row["corpus"], int(row["uri"])) for row in sorted(rows, key=lambda row: int(row["rank"]))]


def reasons(outcome: Outcome) -> dict[tuple[str, int], str]:
    return {(row["corpus"], int(row["uri"])): row["reason"] for row in outcome.rows()}


# ------------------------------------------------------------------------------------------------------------- queries


def test_a_query_is_a_rule_and_its_order_the_ranks() -> None:
    outcome = run(TOP, budget=4)
    assert ranked(outcome) == [("two", 2), ("one", 7), ("one", 6), ("one", 5)]
    assert reasons(outcome) == {
        **{("one", n): "not in query" for n in (0, 1, 2)},
        ("one", 3): "below cut",
        ("one", 4): "below cut",
        **{("one", n): "in query" for n in (5, 6, 7)},
        ("one", 8): "duplicate",
        ("one", 9): "nonfinite",
        ("two", 0): "duplicate",
        ("two", 1): "duplicate",
        ("two", 2): "in query",
    }
    assert outcome.picked.facts == {"returned": 6}  # two of the keys are of both corpora


def test_what_a_query_returns_beyond_candidates_stays_out() -> None:
    """Duplicates, what has no finite answer, and what --where leaves outside."""
    outcome = run("SELECT key FROM samples", where="entropy >= 0.5")
    assert sorted(ranked(outcome)) == [("one", 4), ("one", 5), ("one", 6), ("one", 7), ("two", 2)]
    left = reasons(outcome)
    assert [left["one", n] for n in (0, 8, 9)] == ["outside band", "duplicate", "nonfinite"]
    assert [left["two", n] for n in (0, 1)] == ["duplicate", "duplicate"]


@pytest.mark.parametrize(
    "sql",
    [
        TOP + ";",
        TOP + " -- from the top",
        TOP.replace("key FROM", "key, entropy AS key, 7 FROM"),
        TOP.replace("key FROM", 'key AS "it""s", * FROM'),
        f"WITH best AS ({TOP}) FROM best JOIN scores USING (key) ORDER BY entropy DESC",
        f"SELECT key FROM ({TOP}) JOIN scores USING (key) ORDER BY entropy DESC NULLS FIRST, key LIMIT 50",
        f"SELECT key, entropy FROM ({TOP}) NATURAL JOIN scores UNION ALL SELECT key, 0 FROM ({TOP}) ORDER BY 2 DESC",
        TOP.replace("scores", "candidates"),
        TOP.replace("key FROM", "DISTINCT ON (key) key FROM"),
    ],
)
def test_forms_of_one_query(sql: str) -> None:
    """More columns, names of any kind, one key several times: the first column counts, and the first place of a key."""
    assert ranked(run(sql)) == ranked(run(TOP))


def test_a_query_may_return_nothing() -> None:
    outcome = run("SELECT key FROM scores WHERE entropy > 99")
    assert ranked(outcome) == []
    assert outcome.picked.facts == {"returned": 0}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT key FROM scores",
        "SELECT key FROM scores LIMIT 7",
        "SELECT key FROM scores WHERE pred = 1 LIMIT 3 OFFSET 2",
        "SELECT DISTINCT key FROM scores",
        "SELECT key FROM scores ORDER BY pred DESC LIMIT 7",
        "SELECT key FROM scores JOIN samples USING (key) ORDER BY scores.status",
    ],
)
def test_rows_that_a_query_leaves_equal_come_by_key(sql: str) -> None:
    """With the limit as it was; nothing but the query's own order comes before the key."""
    rows = {row["key"]: row for row in run(sql).rows()}
    picked = run(sql).picked.rows["key"].to_pylist()
    preds = {row["key"]: row["pred"] for row in run(sql).scores.to_pylist()}
    by_pred = "ORDER BY pred" in sql
    assert picked == sorted(picked, key=lambda key: (-preds[key] if by_pred else 0, key))
    assert len(picked) <= (7 if "LIMIT 7" in sql else 3 if "LIMIT 3" in sql else len(rows))
    assert len(picked) >= 2


def test_an_inner_order_is_none() -> None:
    """As SQL has it: only the outermost ORDER BY orders."""
    picked = run(f"WITH best AS ({TOP}) SELECT * FROM best").picked.rows["key"].to_pylist()
    assert picked == sorted(picked)
    assert len(picked) == 6


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "--sql: expected one condition or one SELECT, got ''"),
        ("-- nothing", "--sql: expected one condition or one SELECT, got '-- nothing'"),
        ("SELEC key", 'syntax error at or near "SELEC"'),
        ("SELECT 1; SELECT 2", "expected one condition or one SELECT, got 'SELECT 1; SELECT 2'"),
        (f"{TOP}; DROP TABLE dropped", "expected one condition or one SELECT"),
        ("DROP TABLE dropped", "expected one condition or one SELECT, got 'DROP TABLE dropped'"),
        ("DELETE FROM dropped", "expected one condition or one SELECT"),
        ("CREATE TABLE mine AS SELECT 1", "expected one condition or one SELECT"),
        ("COPY scores TO '{file}'", "expected one condition or one SELECT"),
        ("EXPLAIN ANALYZE COPY scores TO '{file}'", "expected one condition or one SELECT"),
        ("ATTACH '{file}'", "expected one condition or one SELECT"),
        ("SET threads = 1", "expected one condition or one SELECT"),
        ("PRAGMA version", "expected one condition or one SELECT"),
        ("INSTALL httpfs", "expected one condition or one SELECT"),
        ("WITH x AS (DELETE FROM dropped RETURNING key) FROM x", "--sql changes what is there (DELETE); expected"),
        ("WITH x AS (INSERT INTO dropped VALUES ('', 0, '') RETURNING key) FROM x", "changes what is there (INSERT)"),
        ("WITH x AS (UPDATE dropped SET key = '' RETURNING key) FROM x", "changes what is there (UPDATE)"),
        ("WITH x AS (COPY scores TO '{file}') SELECT key FROM scores", "changes what is there (COPY)"),
        ("SELECT key FROM scores ORDER BY Random()", "--sql may give other rows another time"),
        ("SELECT key FROM scores USING SAMPLE 3", "--sql may give other rows another time"),
        ("SELECT key FROM scores TABLESAMPLE 10%", "--sql may give other rows another time"),
        ("SELECT key FROM scores WHERE now() > TIMESTAMP '2030-01-01'", "--sql may give other rows another time"),
        ("SELECT key FROM scores WHERE current_date > DATE '2030-01-01'", "--sql may give other rows another time"),
        ("SELECT key FROM scores GROUP BY key HAVING approx_count_distinct(pred) > 1", "may give other rows"),
        ("SELECT error('boom') FROM scores", "--sql may give other rows another time"),
        ("SELECT key FROM dropped", "--sql reads dropped; expected scores or samples or candidates"),
        ("SELECT key FROM nowhere", "--sql reads nowhere; expected scores or samples or candidates"),
        ("SELECT key FROM FOUND", "--sql reads FOUND; expected"),  # no Python variable is a table
        ("SELECT key FROM '{file}.parquet'", "file.parquet; expected scores or samples or candidates"),
        ("SELECT key FROM read_parquet('{file}')", "--sql reads read_parquet(...); expected"),
        ("SELECT COLUMNS('k.*') FROM scores", "--sql uses COLUMNS(...); expected the columns by name"),
        ("SELECT key, 1 AS rowid FROM scores", "--sql: a column is called rowid; give it another name"),
        ("SELECT entropy FROM scores", "the first column, entropy, is FLOAT with 1 NULLs; expected keys"),
        ("SELECT [key] AS keys FROM scores", "the first column, keys, is VARCHAR[] with 0 NULLs; expected keys"),
        ("SELECT NULL AS key", "the first column, key, is"),
        ("SELECT if(pred = 1, key, NULL) AS k FROM scores", "the first column, k, is VARCHAR with 7 NULLs; expected"),
        ("SELECT corpus FROM scores", "--sql returned 2 keys that no scored row has, such as one, two"),
        ("VALUES ('x'), ('b'), ('c'), ('d')", "returned 4 keys that no scored row has, such as b, c, d"),
        ("SELECT key FROM scores LIMIT ?", "Values were not provided for the following parameters"),
        ("SELECT nope FROM scores", 'Referenced column "nope" not found'),
        ("SELECT key FROM scores WHERE CAST(corpus AS INT) > 0", "Could not convert string"),
    ],
)
def test_what_is_no_query_of_keys_is_refused_in_words(sql: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(CurateError) as refusal:
        run(sql.format(file=file))
    assert str(refusal.value).startswith("--sql")
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert not file.exists()


def test_texts_that_only_look_like_writing_or_drawing_are_queries() -> None:
    sql = """SELECT key AS "sample", 'random() "type":"COPY_QUERY_NODE" "sample":{' AS random FROM scores"""
    assert len(ranked(run(sql))) == 9


# ---------------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    "condition",
    [
        "entropy >= 0.5",
        "entropy >= 0.5 -- the upper half",
        "entropy >= 0.5;",
        "/* upper */ scores.entropy >= 0.5",
        "entropy >= 0.5\nOR -- or\nfalse",
        "false) OR (entropy >= 0.5",
        "NOT entropy < 0.5",
        "entropy >= (SELECT min(entropy) + 0.5 FROM scores)",
        "CAST(entropy * 2 AS DOUBLE) >= 1",
        "key IN (SELECT key FROM scores AS other WHERE other.key = scores.key AND other.entropy >= 0.5)",
    ],
)
def test_forms_of_one_condition(condition: str) -> None:
    if condition.startswith("false)"):  # what closes a bracket that is not its own is no expression
        with pytest.raises(CurateError, match=re.escape('--where: syntax error at or near ")"')):
            where(condition)
        return
    outcome = where(condition)
    assert sorted(ranked(outcome)) == [("one", 4), ("one", 5), ("one", 6), ("one", 7), ("two", 2)]
    left = reasons(outcome)
    assert [left["one", n] for n in (0, 8, 9)] == ["outside band", "duplicate", "nonfinite"]


@pytest.mark.parametrize(("condition", "count"), [("NULL", 0), ("pred", 5), ("1 = 1", 9), ("corpus = 'two'", 1)])
def test_a_condition_admits_what_it_is_true_of(condition: str, count: int) -> None:
    """As in SQL: unknown is not true, and a number other than 0 is."""
    assert len(ranked(where(condition))) == count


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("", "--where: "),
        ("entropy >", "syntax error"),
        ("entropy > 0, true", "single expression"),
        ("true); DROP TABLE dropped; --", 'syntax error at or near ")"'),
        ("1) GROUP BY (1", 'syntax error at or near ")"'),
        ("true) UNION ALL SELECT key FROM scores WHERE (true", 'syntax error at or near ")"'),
        ("/* open", "unterminated"),
        ("nope > 1", 'Referenced column "nope" not found'),
        ("nn_dist < 3", 'Referenced column "nn_dist" not found'),
        ("entropy > avg(entropy)", "WHERE clause cannot contain aggregates"),
        ("row_number() OVER () < 3", "WHERE clause cannot contain window functions"),
        ("entropy > ?", "Values were not provided for the following parameters"),
        ("entropy > (WITH x AS (COPY scores TO '{file}') SELECT 0)", "--where changes what is there (COPY)"),
        ("random() < 0.5", "expected the same answer always, as from md5('7' || key) < '8' (a seeded half)"),
        ("uuid() < key", "--where may give other rows another time"),
        ("key IN (SELECT key FROM samples USING SAMPLE 5)", "--where may give other rows another time"),
        ("error('boom')", "--where may give other rows another time"),
        ("key IN (SELECT key FROM candidates)", "--where reads candidates; expected scores or samples"),
        ("CAST(corpus AS INTEGER) > 0", "Could not convert string"),
        ("CASE WHEN entropy = 1.125 THEN CAST(corpus AS BOOLEAN) END", "Could not convert string 'two' to BOOL"),
        ("key", "to BOOL"),
        ("'yes and no'", "Could not convert string 'yes and no' to BOOL"),
        ("entropy IN (SELECT entropy FROM '{file}.parquet')", "file.parquet; expected scores or samples, for a"),
    ],
)
def test_what_is_no_condition_is_refused_in_words(condition: str, words: str, tmp_path: Path) -> None:
    """Also what fails only when a single row is read: before anything is picked."""
    file = tmp_path / "file"
    with pytest.raises(CurateError) as refusal:
        where(condition.format(file=file), budget=1)
    assert str(refusal.value).startswith("--where")
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert not file.exists()


def test_a_seeded_half_is_a_condition() -> None:
    """What the refusal of a draw names instead."""
    half = where("md5('7' || key) < '8'")
    assert ranked(half) == ranked(where("md5('7' || key) < '8'"))
    assert 0 < len(ranked(half)) < 9
