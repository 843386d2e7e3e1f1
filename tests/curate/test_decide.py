"""Deciding over several corpora: keys that stay unique, who is whose duplicate, the holdout draw, slice by slice."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from curate.choice import Choice
from curate.select import SELECTORS
from curate.select.base import Quota
from curate.select.decide import Decided, decide
from curate.select.pool import Scored, open_pool
from manifests.keys import content_key
from manifests.provenance import Provenance
from manifests.schema import SAMPLES, SCORES, SELECTION
from tests.curate.make import Outcome, Sample, chosen, points, scored

Row = dict[str, Any]

ALL = 1_000


def run(*corpora: list[Sample], **options: Any) -> Outcome:
    """Entropy top-k over corpora that are named one, two and three."""
    found = [scored(name, samples) for name, samples in zip(("one", "two", "three"), corpora, strict=False)]
    return chosen(found, Choice(**{"budget": ALL, "holdout": 0, **options}))


def by_place(outcome: Outcome, corpus: str) -> dict[int, Row]:
    """Sample and decision of each row of a corpus, by its place in it."""
    return {int(row["uri"]): row for row in outcome.rows() if row["corpus"] == corpus}


def keys(corpus: dict[int, Row]) -> list[str]:
    return [corpus[n]["key"] for n in sorted(corpus)]


# ---------------------------------------------------------------------------------------------------------------- keys


def test_the_same_bytes_in_several_corpora_get_keys_of_their_own() -> None:
    """The first and second copy in each of three: the first corpus keeps its keys."""
    twice = [Sample(picture=1), Sample(picture=1)]
    outcome = run(twice, twice, twice)
    one, two, three = (by_place(outcome, name) for name in ("one", "two", "three"))
    own = [content_key(b"picture 1 as 0"), content_key(b"picture 1 as 0", 1)]
    assert keys(one) == own
    all_keys = keys(one) + keys(two) + keys(three)
    assert len(set(all_keys)) == 6
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in all_keys)
    assert [one[n]["reason"] for n in (0, 1)] == ["top-k", "duplicate"]
    assert [corpus[n]["reason"] for corpus in (two, three) for n in (0, 1)] == ["duplicate"] * 4


def test_a_key_of_its_own_is_the_same_whatever_else_is_there() -> None:
    alone = by_place(run([Sample(picture=1)], [Sample(picture=1)]), "two")
    other = by_place(run([Sample(picture=0), Sample(picture=1)], [Sample(picture=1), Sample(picture=3)]), "two")
    assert alone[0]["key"] == other[0]["key"] != content_key(b"picture 1 as 0")


def test_an_original_is_named_by_the_key_it_has_now() -> None:
    """`duplicate_of` stays within the corpus: a rekeyed original is meant by its new key."""
    outcome = run([Sample(picture=1)], [Sample(picture=1), Sample(picture=1, form=1)])
    two = by_place(outcome, "two")
    assert two[0]["key"] != content_key(b"picture 1 as 0")
    assert two[1]["duplicate_of"] == two[0]["key"]
    assert by_place(outcome, "one")[0]["duplicate_of"] is None


def test_scores_follow_a_sample_to_its_new_key() -> None:
    one = [Sample(picture=1, entropy=0.125), Sample(picture=2, entropy=0.25)]
    two = [Sample(picture=2, entropy=0.25), Sample(picture=3, entropy=0.375)]
    outcome = run(one, two)
    entropy = {row["key"]: row["entropy"] for row in outcome.scores.to_pylist()}
    found = {(row["corpus"], int(row["uri"])): entropy[row["key"]] for row in outcome.samples.to_pylist()}
    assert found == {("one", 0): 0.125, ("one", 1): 0.25, ("two", 0): 0.25, ("two", 1): 0.375}


def test_distances_follow_too() -> None:
    """A row that got a key of its own has the distance of the row it was."""
    samples = [Sample(picture=n, vector=(float(n), 0.0)) for n in range(4)]
    found = [scored("one", samples), scored("two", samples[1:3])]
    outcome = chosen(found, Choice(budget=ALL), reference=points([(0, 0)]))
    rows = outcome.rows()
    assert len({row["key"] for row in rows}) == 6
    assert {(row["corpus"], int(row["uri"])): row["nn_dist"] for row in rows} == {
        **{("one", n): float(n) for n in range(4)},
        ("two", 0): 1.0,
        ("two", 1): 2.0,
    }


def test_damaged_samples_are_rekeyed_and_not_decided() -> None:
    outcome = run([Sample(picture=None)], [Sample(picture=None)])
    assert len(set(outcome.samples["key"].to_pylist())) == 2
    assert outcome.samples["status"].to_pylist() == ["decode_error"] * 2
    assert outcome.selection.num_rows == outcome.scores.num_rows == 0


# ---------------------------------------------------------------------------------------------------------- duplicates


def test_the_first_copy_of_a_picture_stands_for_it_even_when_its_key_is_larger() -> None:
    forms = sorted(range(6), key=lambda form: content_key(f"picture 1 as {form}".encode()), reverse=True)
    one = by_place(run([Sample(picture=1, form=form) for form in forms]), "one")
    assert [one[n]["reason"] for n in range(6)] == ["top-k", *["duplicate"] * 5]


def test_a_picture_without_finite_scores_is_nonfinite_once_and_then_a_duplicate() -> None:
    outcome = run(*[[Sample(picture=1, entropy=None), Sample(picture=2)]] * 2)
    assert by_place(outcome, "one")[0]["reason"] == "nonfinite"
    assert by_place(outcome, "two")[0]["reason"] == "duplicate"
    assert [by_place(outcome, "one")[n]["selected"] for n in (0, 1)] == [False, True]


# ------------------------------------------------------------------------------------------------------------- holdout


@pytest.mark.parametrize(
    ("holdout", "budget", "held"),
    [(0, 100, 0), (0.05, 100, 5), (0.05, 19, 0), (0.29, 100, 29), (0.07, 100, 7), (0.58, 100, 58), (0.999, 10, 9)],
)
def test_the_holdout_is_a_fraction_of_what_was_kept(holdout: float, budget: int, held: int) -> None:
    """Exactly: 0.29, 0.07 and 0.58 of 100 are below 29, 7 and above 57 in binary."""
    splits = run([Sample(picture=n, entropy=float(n)) for n in range(120)], holdout=holdout, budget=budget)
    found = splits.selection["split"].to_pylist()
    assert (found.count("holdout"), found.count("train")) == (held, budget - held)


@pytest.mark.parametrize("holdout", [1e-7, 5e-324, 1 / 3, 0.1 + 0.7, 0.00012345678901234568, 0.9999999999999999])
def test_a_fraction_of_any_form_is_understood(holdout: float) -> None:
    splits = run([Sample(picture=n) for n in range(50)], holdout=holdout).selection["split"].to_pylist()
    assert splits.count("holdout") == math.floor(Fraction(str(holdout)) * 50)


def test_the_holdout_draw_is_seeded_by_key_and_says_nothing_of_rank() -> None:
    samples, held = [Sample(picture=n, entropy=float(n)) for n in range(100)], []
    for seed in (0, 1):
        rows = run(samples, budget=80, seed=seed, holdout=0.5).selection.to_pylist()
        held.append({row["key"]: row["rank"] for row in rows if row["split"] == "holdout"})
    assert 10 <= len(held[0].keys() & held[1].keys()) <= 30  # 20 expected
    assert all(30 <= sum(ranks.values()) / 40 <= 51 for ranks in held)  # 40.5 expected


# -------------------------------------------------------------------------------------------------------------- slices

MIXED = [
    Sample(
        picture=None if n % 13 == 7 else n % 41,
        form=n % 2,
        entropy=None if n % 41 % 9 == 4 else n % 41 / 8,
        pred=n % 41 % 2,
    )
    for n in range(90)
]


def write(folder: Path, found: list[Scored]) -> Decided:
    choice = Choice(budget=25, holdout=0.2, where="entropy > 0.5", caps={"one": 12})
    with open_pool(found, class_names=["even", "odd"], spill=folder / "spill") as pool:
        pool.restrict(choice.where or "")
        picked = SELECTORS[choice.mode].pick(pool, choice, Quota.of(choice, pool.corpora))
        made = Provenance(step="select")
        return decide(pool, picked, seed=0, holdout=choice.holdout, folder=folder, provenance=made)


@pytest.mark.parametrize("corpora", [1, 3])
def test_slices_change_not_one_byte(corpora: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices without a row are among them."""
    parts = [MIXED, MIXED[20:50], [*MIXED[60:80], Sample(picture=77, entropy=3.0)]][:corpora]
    found = [scored(name, part) for name, part in zip(("one", "two", "three"), parts, strict=False)]
    whole = write(tmp_path / "whole", found)
    for size in (1, 7, 40):
        monkeypatch.setattr("curate.select.decide.SLICE", size)
        folder = tmp_path / str(size)
        assert write(folder, found) == whole
        for table in (SAMPLES, SCORES, SELECTION):
            assert (folder / table.file).read_bytes() == (tmp_path / "whole" / table.file).read_bytes()
    assert sum(whole.reasons.values()) == whole.files[2].rows == whole.files[1].rows
    assert whole.files[0].rows == sum(len(part) for part in parts)


def test_what_was_decided_in_numbers(tmp_path: Path) -> None:
    """Reasons, most frequent first, and the classes of what was selected."""
    samples = [Sample(picture=n, entropy=n / 8, pred=n % 3) for n in range(12)]
    decided = write(tmp_path, [scored("one", [*samples, *[Sample(picture=0, form=1)] * 2, Sample(picture=20)])])
    assert decided.reasons == {"top-k": 7, "outside band": 6, "duplicate": 2}
    assert list(decided.reasons.values()) == [7, 6, 2]
    assert decided.classes == {0: 2, 1: 2, 2: 3}
    assert [facts.rows for facts in decided.files] == [15, 15, 15]
