"""Decide: every scored row is kept or left out, with a reason, by one SQL story that all rules share.

Duplicates go first (corpus order wins), then rows without finite scores; the rule ranks the rest; the budget cuts;
a seeded draw within the kept rows makes the holdout split.
"""

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from curate.select.base import Rule


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Manifests over all corpora together, keys made unique across them."""

    samples: pa.Table
    """with corpus_order, and own_key: the key in the corpus's own store"""
    scores: pa.Table
    selection: pa.Table


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One corpus, ready for selection."""

    samples: pa.Table
    scores: pa.Table


_SAMPLES = """
CREATE TABLE samples AS
WITH named AS (
    SELECT *, key AS own_key, CASE WHEN nth > 1 THEN left(sha256(key || ':' || nth), 32) ELSE key END AS unique_key
    FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY corpus_order) AS nth FROM all_samples)
)
SELECT s.* REPLACE (s.unique_key AS key, original.unique_key AS duplicate_of)
FROM named s LEFT JOIN named original
    ON original.own_key = s.duplicate_of AND original.corpus_order = s.corpus_order
"""

_SCORES = """
CREATE TABLE scores AS
SELECT s.key, c.* EXCLUDE (key, corpus_order), s.corpus_order
FROM all_scores c JOIN samples s ON s.own_key = c.key AND s.corpus_order = c.corpus_order
"""

_CANDIDATES = """
CREATE TABLE candidates AS
SELECT c.*, row_number() OVER (
    PARTITION BY s.pixel_hash ORDER BY s.corpus_order, s.duplicate_of IS NOT NULL, s.key) > 1 AS is_duplicate
FROM scores c JOIN samples s USING (key)
"""

_SELECTION = """
WITH ranked AS (
    SELECT key, row_number() OVER (ORDER BY {order_by}, key) AS rank
    FROM candidates WHERE status = 'ok' AND NOT is_duplicate
), kept AS (
    SELECT key, row_number() OVER (ORDER BY md5('holdout:{seed}:' || key), key) AS draw
    FROM ranked WHERE rank <= {budget}
)
SELECT key, kept.draw IS NOT NULL AS selected,
    CASE WHEN kept.draw IS NULL THEN NULL
         WHEN kept.draw <= {holdout} * (SELECT count(*) FROM kept) THEN 'holdout' ELSE 'train' END AS split,
    CASE WHEN kept.draw IS NOT NULL THEN '{kept}' WHEN is_duplicate THEN 'duplicate'
         WHEN status <> 'ok' THEN status ELSE '{cut}' END AS reason,
    rank, NULL::INTEGER AS target_class
FROM candidates LEFT JOIN ranked USING (key) LEFT JOIN kept USING (key)
ORDER BY key
"""


def decide(corpora: list[Scored], rule: Rule, *, budget: int, seed: int, holdout: float) -> Decided:
    """Apply ``rule`` to all corpora together, in their order.

    ``holdout`` is the fraction of the kept rows that goes to the holdout split. A file that lies in two corpora has
    one key in both; here the later one gets a key of its own, and the reason `duplicate`.
    """
    with duckdb.connect() as connection:
        for view in ("samples", "scores"):
            parts = []
            for order, corpus in enumerate(corpora):
                connection.register(f"{view}_{order}", getattr(corpus, view))
                parts.append(f"SELECT *, {order} AS corpus_order FROM {view}_{order}")
            connection.execute(f"CREATE VIEW all_{view} AS {' UNION ALL BY NAME '.join(parts)}").fetchall()
        for statement in (_SAMPLES, _SCORES, _CANDIDATES):
            connection.execute(statement).fetchall()
        query = _SELECTION.format(
            order_by=rule.order_by(seed), seed=seed, budget=budget, holdout=holdout, kept=rule.kept, cut=rule.cut
        )
        return Decided(
            samples=connection.sql("SELECT * FROM samples ORDER BY key").to_arrow_table(),
            scores=connection.sql("SELECT * FROM scores ORDER BY key").to_arrow_table(),
            selection=connection.sql(query).to_arrow_table(),
        )
