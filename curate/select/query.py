"""SQL that a person types: one condition or one SELECT over the manifests, which gives the same answer every time.

Looked at in DuckDB's own syntax tree: what writes, draws, looks at the clock or at other files is refused, for a
selection is known by its plan, and the plan holds the text alone.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any

import duckdb

from curate.errors import CurateError
from manifests.query import error_words

_GENERATORS = ("unnest", "range", "generate_series")  # table functions that read nothing
_APPROXIMATE = ("approx_", "reservoir_")  # how such functions begin: their answers depend on the number of threads

_CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}  # need no brackets
_DRAWS = (
    "may give other rows another time (a draw, a clock or an approximation); expected the same answer always, as from "
    "md5('7' || key) < '8' (a seeded half)"
)


def check_select(connection: duckdb.DuckDBPyConnection, sql: str, *, option: str, views: Collection[str]) -> None:
    """Refuse anything but one SELECT over ``views`` that only reads and always gives the same rows (`CurateError`)."""
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise CurateError(f"{option}: expected one condition or one SELECT, got {sql.strip()!r}")
        if problem := _problem(connection, list(_nodes(_tree(connection, sql))), views):
            raise CurateError(f"{option} {problem}")
        connection.execute(f"EXPLAIN {sql}").fetchall()
    except duckdb.Error as error:
        raise CurateError(f"{option}: {error_words(error)}") from None


def in_one_order(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """A SELECT whose ORDER BY ends in its first column; else rows that are equal come as threads happen to finish."""
    tree, by_first = (_tree(connection, text) for text in (sql, "SELECT 1 ORDER BY 1"))
    own, last = (one["statements"][0]["node"]["modifiers"] for one in (tree, by_first))
    for modifier in own:
        if modifier["type"] == last[0]["type"]:
            modifier["orders"] += last[0]["orders"]
            break
    else:
        own[:0] = last
    return str(connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()[0][0])


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    return json.loads(connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0][0])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a syntax tree."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _nodes(branch)


def _problem(connection: duckdb.DuckDBPyConnection, nodes: list[dict[str, Any]], views: Collection[str]) -> str | None:
    """What is wrong with a query, in words that follow the option's name; None if nothing is."""
    kinds = [str(node.get("type", "")) for node in nodes]
    if writes := [kind for kind in kinds if kind.endswith("_QUERY_NODE")]:
        what = writes[0].removesuffix("_QUERY_NODE")
        return f"changes what is there ({what}); expected a condition or SELECT that only reads"
    named = {str(entry["key"]) for node in nodes for entry in node.get("cte_map", {}).get("map", [])}
    for node, kind in zip(nodes, kinds, strict=True):
        table = node.get("table_name", "")
        if kind == "BASE_TABLE" and table not in {*views, *named}:
            return f"reads {table}; expected {' or '.join(views)}, for a selection depends on nothing else"
        if kind == "TABLE_FUNCTION" and (name := node["function"]["function_name"]) not in _GENERATORS:
            return f"reads {name}(...); expected {' or '.join(views)}, for a selection depends on nothing else"
        if kind == "STAR" and node.get("columns"):
            return "uses COLUMNS(...); expected the columns by name"
        if node.get("sample") or (kind == "COLUMN_REF" and node["column_names"][-1].lower() in _CLOCKS):
            return _DRAWS
    # Not operators: of + DuckDB 2.0.1 says that it changes, for it adds to times of the session's zone too.
    called = {name for node in nodes if (name := str(node.get("function_name", "")))[:1].isalpha()}
    approximate = any(name.startswith(_APPROXIMATE) for name in called)
    return _DRAWS if approximate or _unstable(connection, called) else None


def _unstable(connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> bool:
    """Whether DuckDB says of one of these functions that its answer changes."""
    asked = (
        "SELECT count(*) FROM duckdb_functions() WHERE stability <> 'CONSISTENT' AND list_contains(?, function_name)"
    )
    return bool(connection.execute(asked, [list(names)]).fetchall()[0][0])
