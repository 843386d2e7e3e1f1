"""What may not be picked: excluded sets, near duplicates, and how far each row lies from a reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.choice import EXCLUDE_WITHIN, Choice
from curate.errors import CurateError
from curate.select.filters import EXCLUDED, NEAR, drop_excluded, drop_near_duplicates
from curate.select.pool import Pool, Scored
from tests.curate.make import Outcome, Sample, chosen, points, rows_of, scored

Row = dict[str, Any]

ALL = 1_000
place = st.tuples(*[st.integers(0, 9).map(float)] * 2)


def placed(name: str, places: Sequence[tuple[float, ...]], *, first: int = 0) -> Scored:
    """A corpus of different pictures whose features lie at some places."""
    return scored(name, [Sample(picture=first + n, vector=vector) for n, vector in enumerate(places)])


def pixels(corpus: Scored, *which: int) -> pa.ChunkedArray:
    """Hashes of the pixels of some of its samples, by their place."""
    rows = sorted(rows_of(corpus.samples).to_pylist(), key=lambda row: str(row["uri"]))
    return pa.chunked_array([[rows[n]["pixel_hash"] for n in which]], pa.string())


def by_place(outcome: Outcome) -> dict[tuple[str, int], Row]:
    """Sample and decision, by corpus and place."""
    return {(row["corpus"], int(row["uri"])): row for row in outcome.rows()}


def reasons(outcome: Outcome, reason: str) -> set[tuple[str, int]]:
    return {at for at, row in by_place(outcome).items() if row.get("reason") == reason}


# ------------------------------------------------------------------------------------------------------------ exclude


def test_equal_pixels_are_excluded_whatever_their_form_and_corpus() -> None:
    """Only the first of equal pixels is called excluded; its twins are duplicates and stay so."""
    one = scored("one", [Sample(picture=n) for n in range(5)])
    two = scored("two", [Sample(picture=2, form=1), Sample(picture=7), Sample(picture=7, form=1), Sample(picture=8)])
    given_ = scored("given", [Sample(picture=2, form=9), Sample(picture=7), Sample(picture=99)])
    facts: dict[str, int] = {}

    def prepare(pool: Pool) -> None:
        facts.update(drop_excluded(pool, pixels(given_, 0, 1, 2), points([]), Choice()))

    outcome = chosen([one, two], Choice(budget=ALL), prepare=prepare)
    assert reasons(outcome, EXCLUDED) == {("one", 2), ("two", 1)}
    assert reasons(outcome, "duplicate") == {("two", 0), ("two", 2)}
    assert facts == {"equal_pixels": 2, "near": 0}
    assert {at for at, row in by_place(outcome).items() if row["selected"]} == {
        *{("one", n) for n in (0, 1, 3, 4)},
        ("two", 3),
    }


def test_vectors_near_the_excluded_set_are_excluded() -> None:
    """Within a fraction of that set's spread: of four at the corners of a square of side 20, the root of 200."""
    corners = [(0.0, 0.0), (20.0, 0.0), (0.0, 20.0), (20.0, 20.0)]
    spread = 200**0.5
    by_fraction = [(0.0, fraction * spread) for fraction in (0.25, 0.26, 0.09, 0.11)]
    found = placed("c", [*by_fraction, (10.0, 10.0), (20.0, 20.0), (-3.0, 0.0)])

    def run(within: float | None) -> tuple[set[tuple[str, int]], dict[str, int]]:
        choice, facts = Choice(budget=ALL, exclude_within=within), {}

        def prepare(pool: Pool) -> None:
            given_ = points(corners) if choice.exclusion else None
            facts.update(drop_excluded(pool, pixels(found, 6), given_, choice))

        return reasons(chosen([found], choice, prepare=prepare), EXCLUDED), facts

    for within, near in ((0, []), (None, [2, 5]), (0.255, [0, 2, 3, 5]), (0.27, [0, 1, 2, 3, 5])):
        assert run(within) == ({("c", n) for n in [*near, 6]}, {"equal_pixels": 1, "near": len(near)})
    assert EXCLUDE_WITHIN == 0.1


@given(places=st.lists(place, min_size=1, max_size=12), given_=st.lists(place, max_size=4))
@settings(max_examples=15, deadline=None)
def test_exclusion_by_vector_is_brute_force(
    places: list[tuple[float, float]], given_: list[tuple[float, float]]
) -> None:
    choice = Choice(budget=ALL, exclude_within=0.5)
    none = pa.chunked_array([[]], pa.string())
    outcome = chosen(
        [placed("c", places)], choice, prepare=lambda pool: drop_excluded(pool, none, points(given_), choice)
    )
    excluded = np.array(given_, np.float64).reshape(-1, 2)
    spread = np.sqrt(np.square(excluded - excluded.mean(axis=0)).sum(axis=1).mean()) if given_ else 0.0
    wanted = {("c", n) for n, at in enumerate(places) if (apart(at, excluded) <= 0.5 * spread).any()}
    assert reasons(outcome, EXCLUDED) == wanted


def apart(at: tuple[float, ...], others_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(others_ND - np.array(at)).sum(axis=1)))


# ---------------------------------------------------------------------------------------------------- near duplicates


@given(one=st.lists(place, max_size=8), two=st.lists(place, max_size=8), within=st.sampled_from([0.0, 0.2, 0.7]))
@settings(max_examples=20, deadline=None)
def test_of_near_duplicates_the_earlier_corpus_stays(
    one: list[tuple[float, float]], two: list[tuple[float, float]], within: float
) -> None:
    """By a plain loop: corpora in order, keys in order, and what was dropped drops nothing itself."""
    choice, facts = Choice(budget=ALL, near_duplicates=within), []
    found = [placed("one", one), placed("two", two, first=100)]
    outcome = chosen(found, choice, prepare=lambda pool: facts.append(drop_near_duplicates(pool, choice)))
    rows = by_place(outcome)
    place_of = {("one", n): at for n, at in enumerate(one)} | {("two", n): at for n, at in enumerate(two)}
    all_ND = np.array(list(place_of.values()), np.float64).reshape(-1, 2)
    spread = np.sqrt(np.square(all_ND - all_ND.mean(axis=0)).sum(axis=1).mean()) if len(all_ND) else 0.0
    kept: list[tuple[float, float]] = []
    wanted = set()
    for at in sorted(place_of, key=lambda at: (at[0], rows[at]["key"])):
        if kept and (apart(place_of[at], np.array(kept)) <= within * spread).any():
            wanted.add(at)
        else:
            kept.append(place_of[at])
    assert reasons(outcome, NEAR) == wanted
    assert facts == [len(wanted)]


def test_near_duplicates_are_of_candidates_alone() -> None:
    """What another filter took out hides nothing: its near twin stays."""
    found = placed("c", [(0.0, 0.0), (0.0, 0.001), (50.0, 50.0), (50.0, 50.001)])
    hidden = 0 if key_of(found, 0) < key_of(found, 1) else 1

    def prepare(pool: Pool) -> None:
        assert pool.drop_pixels(pixels(found, hidden), EXCLUDED) == 1
        assert drop_near_duplicates(pool, choice) == 1

    choice = Choice(budget=ALL, near_duplicates=0.01)
    outcome = chosen([found], choice, prepare=prepare)
    assert by_place(outcome)["c", 1 - hidden]["selected"]
    assert len(reasons(outcome, NEAR) & {("c", 2), ("c", 3)}) == 1


def key_of(corpus: Scored, number: int) -> str:
    return next(str(row["key"]) for row in rows_of(corpus.samples).to_pylist() if int(row["uri"]) == number)


@pytest.mark.parametrize("on", ["features", "logits"])
def test_vectors_are_those_that_were_asked_for(on: str) -> None:
    """The features of 0 and 1 agree, and the logits of 1 and 2."""
    samples = [
        Sample(picture=0, vector=(0.0, 0.0), logits=(9.0, 0.0)),
        Sample(picture=1, vector=(0.0, 0.0), logits=(0.0, 5.0)),
        Sample(picture=2, vector=(9.0, 9.0), logits=(0.0, 5.0)),
    ]
    choice = Choice(budget=ALL, near_duplicates=0.01, on=on)
    outcome = chosen([scored("c", samples)], choice, prepare=lambda pool: drop_near_duplicates(pool, choice))
    (dropped,) = reasons(outcome, NEAR)
    assert dropped[1] in ({0, 1} if on == "features" else {1, 2})


# ------------------------------------------------------------------------------------------- distances to a reference


def mixed(places: list[tuple[float, float]]) -> list[Sample]:
    """Every fourth has no finite answer."""
    return [
        Sample(picture=n, vector=at, entropy=None if n % 4 == 3 else n / 10, pred=n % 2) for n, at in enumerate(places)
    ]


@given(places=st.lists(place, max_size=10), reference=st.lists(place, min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_every_finite_row_knows_its_nearest(
    places: list[tuple[float, float]], reference: list[tuple[float, float]]
) -> None:
    """Duplicates too; the first of equally near ones is named. Rows without a finite answer have none."""
    found = [scored("one", mixed(places)), scored("two", mixed(places)[:3])]
    outcome = chosen(found, Choice(budget=ALL), reference=points(reference))
    all_ND = np.array(reference, np.float64)
    assert outcome.selection.num_rows == len(places) + len(places[:3])
    for (_, number), row in by_place(outcome).items():
        if number % 4 == 3:
            assert row["nn_dist"] is row["nn_key"] is None
        else:
            away = apart(places[number], all_ND)
            assert row["nn_dist"] == away.min()
            assert row["nn_key"] == f"{away.argmin():032x}"


PLACES = [(0.0, 0.0), (1.0, 0.0), (4.0, 0.0), (9.0, 9.0), (2.5, 0.0), (0.0, 7.0)]


def test_distances_can_be_asked_for() -> None:
    found, reference = [scored("c", mixed(PLACES))], points([(0.0, 0.0)])
    near = {("c", n) for n in (0, 1, 4)}
    where = chosen(found, Choice(budget=ALL, where="nn_dist < 3"), reference=reference)
    assert {at for at, row in by_place(where).items() if row["selected"]} == near
    assert reasons(where, "outside band") == {("c", 2), ("c", 5)}
    assert reasons(where, "nonfinite") == {("c", 3)}
    sql = "SELECT key FROM scores WHERE nn_dist < 3 ORDER BY nn_dist DESC, key"
    query = chosen(found, Choice(mode="sql", budget=ALL, sql=sql), reference=reference)
    ranks = {at: row["rank"] for at, row in by_place(query).items() if row["selected"]}
    assert ranks == {("c", 4): 1, ("c", 1): 2, ("c", 0): 3}
    key = Choice(budget=ALL, where=f"nn_key = '{0:032x}' AND scores.nn_dist > 3")
    assert {at for at, row in by_place(chosen(found, key, reference=reference)).items() if row["selected"]} == {
        ("c", 2),
        ("c", 5),
    }


def test_without_a_reference_there_are_no_distances() -> None:
    found = [scored("c", mixed(PLACES))]
    outcome = chosen(found, Choice(budget=ALL))
    assert outcome.selection["nn_dist"].null_count == outcome.selection["nn_key"].null_count == 6
    with pytest.raises(CurateError, match='--where: Referenced column "nn_dist" not found'):
        chosen(found, Choice(where="nn_dist < 3"))


def test_a_reference_without_a_finite_answer_is_refused() -> None:
    words = "--reference: the teacher has a finite answer to none of its images; expected one at least"
    with pytest.raises(CurateError, match=words):
        chosen([scored("c", mixed(PLACES))], Choice(), reference=points([]))


def test_the_vectors_of_a_subset_give_its_distance_in_sql() -> None:
    """h(subset, reference) is the largest nn_dist of the subset."""
    outcome = chosen([scored("c", mixed(PLACES))], Choice(budget=3), reference=points([(0.0, 0.0), (9.0, 9.0)]))
    kept = [PLACES[at[1]] for at, row in by_place(outcome).items() if row["selected"]]
    brute = max(apart(at, np.array([(0.0, 0.0), (9.0, 9.0)])).min() for at in kept)
    selected = outcome.selection.filter(outcome.selection["selected"])
    assert max(selected["nn_dist"].to_pylist()) == brute == 7.0
