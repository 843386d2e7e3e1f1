"""Balance: the class counts that the paper printed come out, and every image beyond them says why it was left out."""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.choice import Choice
from curate.errors import CurateError
from curate.select.balanced import BEYOND, CLASS_FULL, fill
from curate.select.base import CORPUS_FULL
from tests.curate.make import Outcome, Sample, chosen, scored

Counts = list[int]
Row = dict[str, Any]

# Nayak, Mopuri and Chakraborty, WACV 2021, supplement, Tables 6 (MNIST), 7 (FMNIST) and 8 (CIFAR-10): images of each
# class before and after balancing. Every cell is readable, and every column sums to what Table 9 says of it.
TABLES: dict[str, dict[str, tuple[Counts, Counts]]] = {
    "MNIST": {
        "noise": ([933, 233, 3721, 4835, 5910, 10435, 419, 2886, 29280, 1348], [6000] * 10),
        "Clevr + Mid-Air": (
            [2868, 3376, 156, 898, 31100, 2026, 2117, 5884, 9443, 2132],
            [4415, 5450, 6000, 6000, 6000, 6000, 4745, 6000, 6000, 6000],
        ),
        "SVHN + Tiny ImageNet": (
            [3295, 6758, 1588, 1092, 31368, 1424, 2828, 6014, 3849, 1784],
            [6000, 6000, 6000, 6000, 6000, 6000, 6000, 6000, 6000, 5773],
        ),
    },
    "FMNIST": {
        "noise": ([2751, 3501, 917, 404, 263, 99, 22614, 0, 29451, 0], [6000] * 10),
        "Clevr + Mid-Air": (
            [6959, 988, 5698, 656, 40, 551, 1413, 0, 43681, 14],
            [6000, 6000, 6000, 6000, 1000, 6000, 6000, 92, 6000, 844],
        ),
        "SVHN + Tiny ImageNet": (
            [8015, 3544, 4625, 4892, 390, 1113, 13500, 20, 22578, 1323],
            [6000, 6000, 6000, 6000, 2240, 6000, 6000, 178, 6000, 2702],
        ),
    },
    "CIFAR-10": {
        "noise": ([0, 0, 15, 1, 13, 0, 49971, 0, 0, 0], [5000] * 10),
        "Clevr + Mid-Air": (
            [11205, 461, 1416, 5937, 129, 22472, 1680, 2186, 138, 4376],
            [5000, 2490, 5000, 5000, 5000, 5000, 5000, 4727, 5000, 5000],
        ),
        "SVHN + Tiny ImageNet": (
            [1719, 34, 7886, 27073, 1803, 7761, 23, 2509, 928, 264],
            [5000, 2493, 5000, 5000, 5000, 5000, 5000, 5000, 4190, 5000],
        ),
    },
}
# Table 9: images in all, before and after. (Its CIFAR-100 column rests on counts that are printed only as figures.)
TOTALS = {
    "MNIST": {"noise": 60_000, "Clevr + Mid-Air": 56_610, "SVHN + Tiny ImageNet": 59_773},
    "FMNIST": {"noise": 60_000, "Clevr + Mid-Air": 43_936, "SVHN + Tiny ImageNet": 47_120},
    "CIFAR-10": {"noise": 50_000, "Clevr + Mid-Air": 47_217, "SVHN + Tiny ImageNet": 46_683},
}
TRAINED_ON = {"MNIST": 60_000, "FMNIST": 60_000, "CIFAR-10": 50_000}
columns = pytest.mark.parametrize(
    ("task", "sets"), [(task, sets) for task, found in TABLES.items() for sets in found], ids="-".join
)


# -------------------------------------------------------------------------------------------------- the paper's tables


@columns
def test_the_printed_columns_sum_to_table_9(task: str, sets: str) -> None:
    before, after = TABLES[task][sets]
    assert len(before) == len(after) == 10
    assert sum(before) == TRAINED_ON[task]
    assert sum(after) == TOTALS[task][sets]
    assert all(b >= min(a, TRAINED_ON[task] // 10) for a, b in zip(before, after, strict=True))


@columns
def test_the_balanced_counts_follow_from_the_unbalanced_ones(task: str, sets: str) -> None:
    """A class that the paper filled finds ample supply in the second corpus; of the others it had what it gave."""
    before, after = TABLES[task][sets]
    cap = TRAINED_ON[task] // 10
    second = [10 * cap if b == cap else b - min(a, cap) for a, b in zip(before, after, strict=True)]
    taken_CK, _ = fill(np.array([before, second]), cap)
    assert taken_CK.sum(axis=0).tolist() == after
    assert taken_CK[0].tolist() == [min(a, cap) for a in before]  # the base first, the second only what is missing
    assert taken_CK.sum() == TOTALS[task][sets]
    assert taken_CK.sum() <= TRAINED_ON[task]


@columns
def test_ample_supply_fills_every_class_and_no_more(task: str, sets: str) -> None:
    before, _ = TABLES[task][sets]
    cap = TRAINED_ON[task] // 10
    taken_CK, _ = fill(np.array([before, [9 * cap] * 10, [cap] * 10]), cap)
    assert taken_CK.sum(axis=0).tolist() == [cap] * 10
    assert taken_CK[2].sum() == 0


def test_a_column_comes_out_of_images() -> None:
    """Table 7's SVHN + Tiny ImageNet at a fiftieth, from thousands of rows."""
    before, after = ([count // 50 for count in column] for column in TABLES["FMNIST"]["SVHN + Tiny ImageNet"])
    cap = 120
    second = [200 if b == cap else b - min(a, cap) for a, b in zip(before, after, strict=True)]
    found = [scored("svhn", of_classes(before)), scored("tiny", of_classes(second, first=5_000))]
    outcome = chosen(found, Choice(mode="balanced", budget=1_200), classes=[str(n) for n in range(10)])
    rows = joined(outcome)
    kept = Counter(row["target_class"] for row in rows if row["selected"])
    assert [kept[n] for n in range(10)] == after
    assert Counter(row["corpus"] for row in rows if row["selected"])["svhn"] == sum(min(n, cap) for n in before)
    assert {row["reason"] for row in rows} == {"class quota", "class filled from corpus 2", CLASS_FULL}
    facts = outcome.picked.facts
    assert facts["class_cap"] == cap
    assert facts["shortfall"] == {str(n): cap - b for n, b in enumerate(after) if b < cap}
    assert list(facts["given"]["svhn"].values()) == [min(n, cap) for n in before]


def of_classes(counts: Counts, *, first: int = 0) -> list[Sample]:
    """So many images of each class, mixed."""
    classes = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(first).shuffle(classes)
    return [Sample(picture=first + n, pred=int(pred), vector=(0.0,)) for n, pred in enumerate(classes)]


# ------------------------------------------------------------------------------------------------------------ filling


@st.composite
def supplies(draw: st.DrawFn) -> tuple[list[Counts], int, Counts, Counts]:
    """Supply (C, K), a cap for the classes, and caps and floors of the corpora."""
    corpora, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    row = st.lists(st.integers(0, 7), min_size=classes, max_size=classes)
    supply = draw(st.lists(row, min_size=corpora, max_size=corpora))
    cap = draw(st.integers(0, 6))
    caps = draw(st.lists(st.integers(0, 24), min_size=corpora, max_size=corpora))
    return supply, cap, caps, [draw(st.integers(0, most)) for most in caps]


@given(given_=supplies())
@settings(max_examples=300, deadline=None)
def test_filling_is_handing_out_one_image_at_a_time(given_: tuple[list[Counts], int, Counts, Counts]) -> None:
    supply, cap, caps, floors = given_
    taken_CK, assured_CK = fill(np.array(supply), cap, caps=caps, floors=floors)
    wanted, assured = hand_out(supply, cap, caps=caps, floors=floors)
    assert taken_CK.tolist() == wanted
    assert assured_CK.tolist() == assured
    assert (taken_CK.sum(axis=0) <= cap).all()
    assert (taken_CK.sum(axis=1) <= caps).all()
    assert (assured_CK <= taken_CK).all()
    assert (taken_CK <= supply).all()


def hand_out(supply: list[Counts], cap: int, *, caps: Counts, floors: Counts) -> tuple[list[Counts], list[Counts]]:
    """The same by a plain loop: what each corpus gives of each class, and what of it its floor assures."""
    taken = [[0] * len(row) for row in supply]

    def take(corpus: int, limit: int) -> None:
        given_away = True
        while given_away:
            given_away = False
            for n, there in enumerate(supply[corpus]):
                room = taken[corpus][n] < there and sum(row[n] for row in taken) < cap
                if room and sum(taken[corpus]) < limit:
                    taken[corpus][n] += 1
                    given_away = True

    for corpus, floor in enumerate(floors):
        take(corpus, floor)
    assured = [row.copy() for row in taken]
    for corpus, most in enumerate(caps):
        take(corpus, most)
    return taken, assured


def test_a_corpus_that_may_not_give_all_gives_of_its_classes_evenly() -> None:
    taken_CK, _ = fill(np.array([[50_000, 9_000, 3, 20_000]]), 30_000, caps=[20_002])
    assert taken_CK.tolist() == [[6_667, 6_666, 3, 6_666]]


def test_a_floor_keeps_room_for_a_later_corpus() -> None:
    taken_CK, assured_CK = fill(np.array([[10, 10], [10, 10]]), 5, floors=[0, 3])
    assert assured_CK.tolist() == [[0, 0], [2, 1]]
    assert taken_CK.tolist() == [[3, 4], [2, 1]]


# ---------------------------------------------------------------------------------------------------------- the rule


def joined(outcome: Outcome) -> list[Row]:
    """Every scored row with all that is known of it, in the order of the corpora and the places in them."""
    judged = {row["key"]: row for row in outcome.scores.to_pylist()}
    rows = [{**row, **judged[row["key"]]} for row in outcome.rows() if row["key"] in judged]
    return sorted(rows, key=lambda row: (row["corpus"], row["uri"]))


def drawn(purpose: str, seed: int, row: Row) -> str:
    return hashlib.md5(f"{purpose}:{seed}:{row['key']}".encode()).hexdigest()


BY: dict[str, Callable[[Row, int], Any]] = {
    "random": lambda row, seed: drawn("random", seed, row),
    "entropy-topk": lambda row, seed: -row["entropy"],
    "dfnd": lambda row, seed: row["self_ce"],
    "confidence-topk": lambda row, seed: (-row["confidence"], row["self_ce"]),
}


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_rule_is_a_draw_an_order_and_the_filling(data: st.DataObject) -> None:
    """Against plain Python, row by row: which, for which reason, in which order."""
    classes = ("zero", "one", "two", "three")  # of "three" there is nothing
    image = st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.25, 1.0, None]))
    names = [f"c{n}" for n in range(data.draw(st.integers(1, 3)))]
    found = []
    for n, name in enumerate(names):
        images = data.draw(st.lists(image, max_size=18))
        found.append(scored(name, [Sample(picture=100 * n + i, pred=p, entropy=e) for i, (p, e) in enumerate(images)]))
    budget = data.draw(st.integers(4, 24))
    caps = data.draw(st.dictionaries(st.sampled_from(names), st.integers(0, 12)))
    floors = {name: data.draw(st.integers(0, min(4, caps.get(name, 4), budget // 4))) for name in names[1:]}
    choice = Choice(
        mode="balanced",
        budget=budget,
        by=data.draw(st.sampled_from(list(BY))),
        base_limit=data.draw(st.sampled_from([None, 1, 5, 50])),
        seed=data.draw(st.integers(0, 3)),
        caps=caps,
        floors=floors,
    )
    outcome = chosen(found, choice, classes=classes)
    rows = joined(outcome)
    wanted = expected(rows, choice, names, classes=len(classes))
    ranks = {row["key"]: row["rank"] for row in rows if row["selected"]}
    assert sorted(ranks, key=ranks.__getitem__) == [row["key"] for row in wanted]
    for row in rows:
        number = names.index(row["corpus"])
        if row["selected"]:
            assert row["reason"] == ("class quota" if number == 0 else f"class filled from corpus {number + 1}")
            assert row["target_class"] == row["pred"]
        elif row["status"] == "ok":
            assert row["reason"] == why_left(row, rows, choice, names)


def looked_at(rows: list[Row], choice: Choice, names: list[str]) -> list[Row]:
    """Finite rows, those of the base as far as its limit."""
    free = [row for row in rows if row["status"] == "ok"]
    base = [row for row in free if row["corpus"] == names[0]]
    base.sort(key=lambda row: drawn("base", choice.seed, row))
    beyond = {row["key"] for row in base[choice.base_limit or choice.budget :]}
    return [row for row in free if row["key"] not in beyond]


def expected(rows: list[Row], choice: Choice, names: list[str], *, classes: int) -> list[Row]:
    """The rows that are picked, in their order."""
    free = looked_at(rows, choice, names)
    free.sort(key=lambda row: (BY[choice.by](row, choice.seed), row["key"]))
    of = {(c, k): [r for r in free if (r["corpus"], r["pred"]) == (c, k)] for c in names for k in range(classes)}
    supply = [[len(of[name, k]) for k in range(classes)] for name in names]
    caps = [min(choice.caps.get(name, choice.budget), choice.budget) for name in names]
    floors = [choice.floors.get(name, 0) for name in names]
    taken, assured = hand_out(supply, choice.budget // classes, caps=caps, floors=floors)
    places = [
        (nth >= assured[c][k], c, nth, k)
        for c in range(len(names))
        for k in range(classes)
        for nth in range(taken[c][k])
    ]
    return [of[names[c], k][nth] for _, c, nth, k in sorted(places)]


def why_left(row: Row, rows: list[Row], choice: Choice, names: list[str]) -> str:
    if row["key"] not in {other["key"] for other in looked_at(rows, choice, names)}:
        return BEYOND
    gave = sum(other["selected"] for other in rows if other["corpus"] == row["corpus"])
    return CORPUS_FULL if gave == choice.caps.get(row["corpus"], choice.budget) < choice.budget else CLASS_FULL


def many(name: str, count: int, *, first: int = 0, classes: int = 4) -> Any:
    """A corpus whose classes take turns."""
    return scored(name, [Sample(picture=first + n, pred=n % classes, entropy=n % 7 / 7) for n in range(count)])


def test_the_base_limit_is_a_draw_by_seed_and_key() -> None:
    base, classes = many("base", 120), ["a", "b", "c", "d"]
    run = functools.partial(chosen, classes=classes)

    def beyond(found: list[Any], **options: Any) -> set[str]:
        rows = run(found, Choice(mode="balanced", budget=100, **options)).rows()
        return {row["key"] for row in rows if row.get("reason") == BEYOND}

    out = [beyond([base], base_limit=40, seed=seed) for seed in range(2)]
    assert [len(keys) for keys in out] == [80, 80]
    assert 40 <= len(out[0] & out[1]) <= 67  # 53.3 expected, standard deviation 3.0
    assert beyond([base, many("more", 30, first=500)], base_limit=40) == out[0]  # whatever else there is
    assert beyond([base], base_limit=60) < out[0]  # a larger one takes in more
    assert len(beyond([base])) == 20  # the budget, where nothing is said
    assert beyond([base], base_limit=120) == set()


def test_later_corpora_fill_in_the_order_given() -> None:
    one, two, three = many("one", 8), many("two", 12, first=100), many("three", 40, first=200)
    for order in ([one, two, three], [one, three, two]):
        outcome = chosen(order, Choice(mode="balanced", budget=24), classes=["a", "b", "c", "d"])
        given_ = [sum(counts.values()) for counts in outcome.picked.facts["given"].values()]
        assert list(outcome.picked.facts["given"]) == [corpus.name for corpus in order]
        assert given_ == ([8, 12, 4] if order[1] is two else [8, 16, 0])
        reasons = {row["reason"] for row in outcome.rows() if row["selected"]}
        assert ("class filled from corpus 3" in reasons) == (order[1] is two)


def test_balanced_entropy_is_balanced_by_entropy() -> None:
    found, classes = [many("one", 90)], ["a", "b", "c", "d"]
    one = chosen(found, Choice(mode="balanced", by="entropy-topk", budget=40), classes=classes)
    two = chosen(found, Choice(mode="balanced-entropy", budget=40), classes=classes)
    assert one.selection == two.selection
    assert one.selection != chosen(found, Choice(mode="balanced", budget=40), classes=classes).selection


def test_what_is_missing_and_the_size_that_fills_it() -> None:
    """A later corpus of that size, of the same kind, fills every class that it has anything of."""
    classes = ["a", "b", "c", "none"]
    base = scored("base", [Sample(picture=n, pred=0) for n in range(30)])

    def noise(size: int) -> Any:  # nine in ten are of b, the tenth is of c; some have no finite answer
        images = range(1_000, 1_000 + size)
        return scored(
            "noise", [Sample(picture=n, pred=1 + (n % 10 == 9), entropy=None if n % 5 == 0 else 0.5) for n in images]
        )

    def facts(size: int) -> Any:
        return chosen([base, noise(size)], Choice(mode="balanced", budget=80), classes=classes).picked.facts

    found = facts(50)
    assert found["class_cap"] == 20
    assert found["given"] == {
        "base": {"a": 20, "b": 0, "c": 0, "none": 0},
        "noise": {"a": 0, "b": 20, "c": 5, "none": 0},
    }
    assert found["shortfall"] == {"c": 15, "none": 20}
    assert found["size_that_fills"] == {"c": 200, "none": None}
    assert facts(200)["shortfall"] == {"none": 20}
    assert facts(62)["size_that_fills"]["c"] == 207  # six of 62 are of c: 206.7 of them would have twenty
    assert facts(190)["shortfall"] == {"c": 1, "none": 20}


def test_a_full_balance_lacks_nothing() -> None:
    choice = Choice(mode="balanced", budget=40, base_limit=44)
    facts = chosen([many("one", 44)], choice, classes=["a", "b", "c", "d"]).picked.facts
    assert facts["given"] == {"one": dict.fromkeys("abcd", 10)}
    assert facts["shortfall"] == facts["size_that_fills"] == {}


def test_classes_beyond_the_heap_are_sorted_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB's heap ends at a million rows; above it whole classes are sorted."""
    found = [many("one", 50), many("two", 50, first=30)]
    choice = Choice(mode="balanced", by="dfnd", budget=60, caps={"one": 20}, floors={"two": 5})
    by_heap = chosen(found, choice, classes=["a", "b", "c", "d"])
    monkeypatch.setattr("curate.select.balanced.HEAP", 1)
    by_sort = chosen(found, choice, classes=["a", "b", "c", "d"])
    assert by_sort == by_heap
    assert by_heap.picked.rows.num_rows == 20 + 30  # twenty of the second are in the first


def test_a_budget_that_is_no_multiple_leaves_the_rest() -> None:
    outcome = chosen([many("one", 90)], Choice(mode="balanced", budget=43, base_limit=90), classes=["a", "b", "c", "d"])
    assert outcome.picked.rows.num_rows == 40


def test_a_budget_below_one_image_a_class_is_refused() -> None:
    words = "--budget 3 is less than the teacher's 4 classes; expected one image of each at least"
    with pytest.raises(CurateError, match=words):
        chosen([many("one", 9)], Choice(mode="balanced", budget=3), classes=["a", "b", "c", "d"])
