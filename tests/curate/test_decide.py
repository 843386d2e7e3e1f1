"""Deciding over several corpora: keys that stay unique, who is whose duplicate, and the holdout draw."""

from typing import Any

import pyarrow as pa
import pytest

from curate.select import SELECTORS
from curate.select.decide import Decided, decide
from manifests.keys import content_key
from tests.curate.make import Sample, scored

TOPK = SELECTORS["entropy-topk"]


def rows(table: pa.Table, corpus: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_pylist()
    return [row for row in found if corpus is None or row["corpus"] == corpus]


def by_uri(decided: Decided, corpus: str) -> dict[int, dict[str, Any]]:
    """Sample and selection of each row of a corpus, by its place in it."""
    selection = {row["key"]: row for row in rows(decided.selection)}
    return {int(row["uri"]): {**row, **selection.get(row["key"], {})} for row in rows(decided.samples, corpus)}


def test_the_same_bytes_in_two_corpora_get_two_keys() -> None:
    """The first and second copy in each: four samples of one picture, and the later corpus is rekeyed."""
    twice = [Sample(picture=1), Sample(picture=1)]
    one, two = scored("one", twice), scored("two", twice)
    assert one.samples["key"] == two.samples["key"]
    decided = decide([one, two], TOPK, budget=9, seed=0, holdout=0)
    first, second = by_uri(decided, "one"), by_uri(decided, "two")
    assert [first[n]["key"] for n in (0, 1)] == one.samples["key"].to_pylist()
    assert len({row["key"] for row in (*first.values(), *second.values())}) == 4
    assert [row["own_key"] for row in second.values()] == [row["key"] for row in first.values()]
    assert [first[n]["reason"] for n in (0, 1)] == ["top-k", "duplicate"]
    assert [second[n]["reason"] for n in (0, 1)] == ["duplicate", "duplicate"]
    assert all(len(row["key"]) == 32 for row in second.values())


def test_an_original_is_named_by_the_key_it_has_now() -> None:
    """`duplicate_of` stays within the corpus: a rekeyed original is meant by its new key."""
    decided = decide(
        [scored("one", [Sample(picture=1)]), scored("two", [Sample(picture=1), Sample(picture=1, form=1)])],
        TOPK,
        budget=9,
        seed=0,
        holdout=0,
    )
    two = by_uri(decided, "two")
    assert two[0]["key"] != content_key(b"picture 1 as 0")
    assert two[1]["duplicate_of"] == two[0]["key"]
    assert by_uri(decided, "one")[0]["duplicate_of"] is None


def test_scores_follow_a_sample_to_its_new_key() -> None:
    one = scored("one", [Sample(picture=1, entropy=0.1), Sample(picture=2, entropy=0.2)])
    two = scored("two", [Sample(picture=2, entropy=0.2), Sample(picture=3, entropy=0.3)])
    decided = decide([one, two], TOPK, budget=9, seed=0, holdout=0)
    entropy = {row["key"]: row["entropy"] for row in rows(decided.scores)}
    found = {(row["corpus"], row["uri"]): entropy[row["key"]] for row in rows(decided.samples)}
    assert list(found.values()) == pytest.approx([0.1 * (int(uri) + 1 + (name == "two")) for name, uri in found])
    assert len(entropy) == 4


def test_damaged_samples_are_rekeyed_and_not_decided() -> None:
    decided = decide([scored(n, [Sample(picture=None)]) for n in ("one", "two")], TOPK, budget=9, seed=0, holdout=0)
    assert len({row["key"] for row in rows(decided.samples)}) == 2
    assert rows(decided.selection) == rows(decided.scores) == []


def test_the_first_copy_of_a_picture_stands_for_it_even_when_its_key_is_larger() -> None:
    forms = sorted(range(6), key=lambda form: content_key(f"picture 1 as {form}".encode()), reverse=True)
    decided = decide(
        [scored("one", [Sample(picture=1, form=form) for form in forms])], TOPK, budget=9, seed=0, holdout=0
    )
    assert [row["reason"] for _, row in sorted(by_uri(decided, "one").items())] == ["top-k", *["duplicate"] * 5]


def test_a_picture_without_finite_scores_is_nonfinite_once_and_then_a_duplicate() -> None:
    decided = decide(
        [scored(n, [Sample(picture=1, entropy=None)]) for n in ("one", "two")], TOPK, budget=9, seed=0, holdout=0
    )
    assert by_uri(decided, "one")[0]["reason"] == "nonfinite"
    assert by_uri(decided, "two")[0]["reason"] == "duplicate"
    assert not any(row["selected"] for row in rows(decided.selection))


@pytest.mark.parametrize(
    ("holdout", "budget", "held"), [(0, 100, 0), (0.05, 100, 5), (0.05, 19, 0), (0.29, 100, 29), (0.999, 10, 9)]
)
def test_the_holdout_is_a_fraction_of_what_was_kept(holdout: float, budget: int, held: int) -> None:
    found = [scored("c", [Sample(picture=n, entropy=float(n)) for n in range(120)])]
    decided = decide(found, TOPK, budget=budget, seed=0, holdout=holdout)
    splits = decided.selection["split"].to_pylist()
    assert (splits.count("holdout"), splits.count("train")) == (held, budget - held)


def test_the_holdout_draw_is_seeded_by_key_and_says_nothing_of_rank() -> None:
    found = [scored("c", [Sample(picture=n, entropy=float(n)) for n in range(100)])]
    held = []
    for seed in (0, 1):
        selection = rows(decide(found, TOPK, budget=80, seed=seed, holdout=0.5).selection)
        held.append({row["key"]: row["rank"] for row in selection if row["split"] == "holdout"})
    assert 10 <= len(held[0].keys() & held[1].keys()) <= 30  # 20 expected
    assert all(30 <= sum(ranks.values()) / 40 <= 51 for ranks in held)  # 40.5 expected
