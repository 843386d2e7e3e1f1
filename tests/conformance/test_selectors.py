"""Every selection rule goes through one suite: a decision and a reason for every row, in any order of reading."""

import functools
import math
from collections import Counter
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.select import SELECTORS, Rule
from curate.select.decide import Decided, Scored, decide
from manifests.schema import SAMPLES, SELECTION
from tests.curate.make import Sample, scored

MANY = 1_000  # a budget beyond any corpus here


@st.composite
def corpora(draw: st.DrawFn) -> list[Scored]:
    """One to three corpora that share pictures, bytes and entropies, with damaged files and scores that are not finite.

    Equal pixels have equal scores, and equal bytes equal pixels, as in any real corpus.
    """
    entropies = draw(st.lists(st.sampled_from([None, 0.0, 0.25, 0.5, 2.0]), min_size=6, max_size=6))
    pictures = st.one_of(st.none(), st.integers(0, 5))
    sample = st.builds(
        lambda picture, form: Sample(
            picture=picture, form=form, entropy=None if picture is None else entropies[picture]
        ),
        pictures,
        st.integers(0, 1),
    )
    found = draw(st.lists(st.lists(sample, max_size=8), min_size=1, max_size=3))
    return [scored(f"c{n}", samples) for n, samples in enumerate(found)]


rules = pytest.mark.parametrize("rule", SELECTORS.values(), ids=list(SELECTORS))
examples = settings(max_examples=15, deadline=None)


def run(found: list[Scored], rule: Rule, **options: Any) -> Decided:
    return decide(found, rule, **{"budget": 3, "seed": 0, "holdout": 0.25, **options})


def rows(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@rules
@given(
    found=corpora(), budget=st.integers(1, 20), seed=st.integers(0, 3), holdout=st.sampled_from([0.0, 0.05, 0.5, 0.99])
)
@examples
def test_every_row_is_decided_with_a_reason_and_counts_add_up(
    rule: Rule, found: list[Scored], budget: int, seed: int, holdout: float
) -> None:
    decided = run(found, rule, budget=budget, seed=seed, holdout=holdout)
    selection, scores = rows(decided.selection), rows(decided.scores)
    assert [row["key"] for row in selection] == [row["key"] for row in scores] == sorted(row["key"] for row in scores)
    assert len({row["key"] for row in rows(decided.samples)}) == sum(len(c.samples) for c in found)
    assert decided.selection.schema.names == SELECTION.plain_schema().names
    status = {row["key"]: row["status"] for row in scores}
    pixels = {row["key"]: row["pixel_hash"] for row in rows(decided.samples)}
    finite = {pixels[key] for key in status if status[key] == "ok"}
    kept = [row for row in selection if row["selected"]]
    assert len(kept) == min(budget, len(finite))
    assert len({pixels[row["key"]] for row in kept}) == len(kept)  # no picture twice
    assert all(status[row["key"]] == "ok" for row in kept)
    for row in selection:
        assert (row["reason"] == rule.kept) == row["selected"]
        assert row["reason"] in {rule.kept, rule.cut, "duplicate", "nonfinite"}
        assert row["reason"] != "nonfinite" or status[row["key"]] == "nonfinite"
        assert (row["rank"] is None) == (row["reason"] in {"duplicate", "nonfinite"})
        assert (row["split"] is not None) == row["selected"]
    ranked = sorted((row for row in selection if row["rank"]), key=lambda row: int(row["rank"]))
    assert [row["rank"] for row in ranked] == list(range(1, len(finite) + 1))
    assert [row["selected"] for row in ranked] == [n < budget for n in range(len(ranked))]
    assert Counter(row["split"] for row in kept)["holdout"] == math.floor(round(holdout * 100) * len(kept) / 100)


@rules
@given(found=corpora(), data=st.data())
@examples
def test_no_order_of_reading_changes_a_decision(rule: Rule, found: list[Scored], data: st.DataObject) -> None:
    wanted = run(found, rule)

    def shuffled(table: pa.Table) -> pa.Table:
        return table.take(pa.array(data.draw(st.permutations(range(len(table)))), pa.int64()))

    again = run([Scored(samples=shuffled(c.samples), scores=shuffled(c.scores)) for c in found], rule)
    assert (again.selection, again.scores, again.samples) == (wanted.selection, wanted.scores, wanted.samples)


@rules
def test_threads_change_no_decision(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ties over several of DuckDB's row groups (122,880 rows), which threads take in any order."""
    generator = np.random.default_rng(0)
    count = 130_000
    keys = [f"{n:032x}" for n in generator.permutation(count)]
    words = {"corpus": "c", "uri": "u", "status": "ok"}
    samples = {field.name: pa.nulls(count, field.type) for field in SAMPLES.plain_schema()}
    samples |= {name: pa.repeat(word, count) for name, word in words.items()} | {"key": keys, "pixel_hash": keys}
    entropies = generator.integers(0, 3, count).astype(np.float32)
    numbers = dict.fromkeys(("confidence", "margin", "energy"), np.zeros(count, np.float32))
    scores = {"key": keys, "status": pa.repeat("ok", count), "pred": np.zeros(count, np.int32), "entropy": entropies}
    found = [Scored(samples=pa.table(samples), scores=pa.table(scores | numbers))]
    connect, decided = duckdb.connect, []
    for threads in (1, 4):
        monkeypatch.setattr(duckdb, "connect", functools.partial(connect, config={"threads": threads}))
        decided.append(run(found, rule, budget=50_000).selection)
    assert decided[0] == decided[1]
    assert decided[0]["selected"].to_pylist().count(True) == 50_000


@rules
@given(found=corpora(), budget=st.integers(1, 10))
@examples
def test_a_larger_budget_keeps_what_a_smaller_one_kept(rule: Rule, found: list[Scored], budget: int) -> None:
    small, large = (
        {row["key"] for row in rows(run(found, rule, budget=b).selection) if row["selected"]}
        for b in (budget, budget + 2)
    )
    assert small <= large


@rules
@given(found=corpora())
@examples
def test_a_budget_beyond_all_takes_all(rule: Rule, found: list[Scored]) -> None:
    reasons = {row["reason"] for row in rows(run(found, rule, budget=MANY).selection)}
    assert rule.cut not in reasons


@rules
def test_equal_scores_are_decided_by_key_alone(rule: Rule) -> None:
    """The order of equal scores is the same function of the keys, whichever corpus they lie in."""
    one = scored("one", [Sample(picture=n) for n in range(9)])
    parts = [
        scored("two", [Sample(picture=n) for n in (8, 1, 5)]),
        scored("three", [Sample(picture=n) for n in (0, 7)]),
    ]
    rank = {row["key"]: int(row["rank"]) for row in rows(run([one], rule).selection)}
    some = {row["key"]: int(row["rank"]) for row in rows(run(parts, rule).selection)}
    assert sorted(some, key=some.__getitem__) == sorted(some, key=rank.__getitem__)


@rules
def test_the_earlier_corpus_wins_whatever_the_scores_say(rule: Rule) -> None:
    samples = [Sample(picture=n, entropy=float(n)) for n in range(4)]
    one, two = scored("one", samples), scored("two", samples[1:3])
    forth, back = run([one, two], rule, budget=MANY), run([two, one], rule, budget=MANY)
    assert corpora_of(forth, "duplicate") == {"two": 2}
    assert corpora_of(back, "duplicate") == {"one": 2}
    assert corpora_of(back, rule.kept) == {"one": 2, "two": 2}


def corpora_of(decided: Decided, reason: str) -> dict[str, int]:
    """How many rows of each corpus have a reason."""
    corpus = {row["key"]: row["corpus"] for row in rows(decided.samples)}
    return dict(Counter(corpus[row["key"]] for row in rows(decided.selection) if row["reason"] == reason))


@rules
def test_a_rule_says_what_it_is(rule: Rule) -> None:
    assert rule.source
    assert rule.kept != rule.cut
    documented = next(column.meaning for column in SELECTION.columns if column.name == "reason")
    assert rule.kept in documented
    assert rule.cut in documented


# -------------------------------------------------------------------------------------------------- one rule at a time


@given(found=corpora(), budget=st.integers(1, 10))
@examples
def test_entropy_topk_keeps_no_entropy_below_one_left_out(found: list[Scored], budget: int) -> None:
    decided = run(found, SELECTORS["entropy-topk"], budget=budget)
    entropy = {row["key"]: row["entropy"] for row in rows(decided.scores)}
    ranked = [row for row in rows(decided.selection) if row["rank"]]
    kept = [(-entropy[row["key"]], row["key"]) for row in ranked if row["selected"]]
    left = [(-entropy[row["key"]], row["key"]) for row in ranked if not row["selected"]]
    assert not kept or not left or max(kept) < min(left)  # ties by key


def test_random_is_a_function_of_seed_and_key() -> None:
    rule = SELECTORS["random"]
    found = [scored("c", [Sample(picture=n, entropy=float(n)) for n in range(60)])]
    other = [scored("d", [Sample(picture=n, entropy=float(-n)) for n in range(60)])]
    drawn = [chosen(run(found, rule, budget=20, seed=seed)) for seed in range(3)]
    assert chosen(run(other, rule, budget=20, seed=1)) == drawn[1]
    assert all(5 <= 20 - len(a & b) <= 19 for a, b in [(drawn[0], drawn[1]), (drawn[1], drawn[2])])  # 13.3 expected


def test_entropy_topk_does_not_depend_on_the_seed() -> None:
    rule = SELECTORS["entropy-topk"]
    found = [scored("c", [Sample(picture=n, entropy=float(n % 3)) for n in range(60)])]
    assert chosen(run(found, rule, budget=20, seed=1)) == chosen(run(found, rule, budget=20, seed=2))


def chosen(decided: Decided) -> set[str]:
    """Keys of the selected rows."""
    return {row["key"] for row in rows(decided.selection) if row["selected"]}
