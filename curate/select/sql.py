"""sql: whatever a query returns. Any SELECT whose first column is keys is a selection rule."""

from curate.choice import Choice
from curate.errors import CurateError
from curate.select.base import Picked, Quota
from curate.select.order import pick_first, refuse_foreign
from curate.select.pool import Pool

SHOWN = 3  # unknown keys named in an error
_UNKNOWN = f"SELECT key, count(*) OVER () FROM returned ANTI JOIN scores USING (key) ORDER BY place LIMIT {SHOWN}"


class Sql:
    """The rows of a user's query, in its order, as far as the budget goes."""

    source = "the user's own: --sql 'SELECT key FROM scores WHERE ... ORDER BY ..., key LIMIT ...'"
    uses_vectors = False

    def check(self, choice: Choice) -> None:
        """There must be a query."""
        refuse_foreign(choice, but=["--sql"])
        if choice.sql is None:
            raise CurateError("--mode sql needs its query: --sql 'SELECT key FROM scores WHERE ...'")

    def pick(self, pool: Pool, choice: Choice, quota: Quota) -> Picked:
        """Keys of the query that are candidates; duplicates and the like that it returned stay dropped."""
        returned = pool.query_keys(choice.sql or "")
        unknown = pool.connection.execute(_UNKNOWN).fetchall()
        if unknown:
            some = ", ".join(key for key, _ in unknown)
            raise CurateError(f"--sql returned {unknown[0][1]:,} keys that no scored row has, such as {some}")
        pool.run("CREATE TABLE chosen AS SELECT key, corpus_order, place FROM candidates JOIN returned USING (key)")
        picked = pick_first(pool, quota, order=["place"], source="chosen", kept="in query", cut="below cut")
        left = f"CASE WHEN key IN (SELECT key FROM chosen) THEN {picked.left} ELSE 'not in query' END"
        return Picked(rows=picked.rows, left=left, facts={"returned": returned})


SQL = Sql()
