"""Every selection rule goes through one suite: a decision and a reason for every row, in any order of reading."""

import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.choice import Choice
from curate.select import SELECTORS
from curate.select.base import CORPUS_FULL, Quota
from curate.select.decide import OUTSIDE
from curate.select.filters import EXCLUDED, NEAR, drop_excluded, drop_near_duplicates
from curate.select.order import FLOOR
from curate.select.pool import Pool, Scored, open_pool
from manifests.schema import SAMPLES, SCORES, SELECTION
from tests.curate.make import Outcome, Sample, chosen, on_disk, points, rows_of, scored

Row = dict[str, Any]

MANY = 1_000  # a budget beyond any small corpus here
CLASSES = ("one", "two", "never")  # no image here is of the last one
NAN, INF = float("nan"), float("inf")
# Logits. Each tells two rules apart: ties between images and classes, a shift, a third class that counts, images so
# certain that only self_ce still differs, huge ones; and three that are not finite.
TIE, CERTAIN = (0.0, 0.0, -9.0), (900.0, -900.0, -950.0)
FINITE = [
    (1.0, 0.0, -9.0),
    (0.0, 1.0, -9.0),
    TIE,
    (5.0, 5.0, -4.0),
    (0.3, 0.0, 0.0),
    (20.0, 0.0, -9.0),
    (30.0, 0.0, -9.0),
    CERTAIN,
    (-2e38, 3e38, -3e38),
]
NOT_FINITE = [(NAN, 0.0, 0.0), (INF, 0.0, 0.0), (0.0, 0.0, -INF)]


REFERENCE = points([(0, 0), (2, 1), (1, 5)])

# What a rule cannot be without. A new rule is added here, and goes through everything below.
OPTIONS: dict[str, Row] = {
    "entropy-topk": {},
    "confidence-topk": {},
    "confidence-bottomk": {},
    "margin-topk": {},
    "margin-bottomk": {},
    "energy-topk": {},
    "energy-bottomk": {},
    "dfnd": {},
    "balanced": {},
    "balanced-entropy": {},
    "kcenter": {},
    "hausdorff": {},
    "band": {"where": "entropy >= 0.25"},
    "random": {},
    "sql": {"sql": "SELECT key FROM scores ORDER BY entropy DESC, key"},
}
BY_CLASS = ("balanced", "balanced-entropy")
BY_PLACE = ("kcenter", "hausdorff")


def drawn(row: Row, seed: int) -> str:
    """A number that only seed and key decide."""
    return hashlib.md5(f"random:{seed}:{row['key']}".encode()).hexdigest()


# Of the rules that are an order: what Python sorts by.
ORDERS: dict[str, Callable[[Row, int], Any]] = {
    "entropy-topk": lambda row, seed: -row["entropy"],
    "confidence-topk": lambda row, seed: (-row["confidence"], row["self_ce"]),
    "confidence-bottomk": lambda row, seed: row["confidence"],
    "margin-topk": lambda row, seed: (-row["margin"], row["self_ce"]),
    "margin-bottomk": lambda row, seed: row["margin"],
    "energy-topk": lambda row, seed: -row["energy"],
    "energy-bottomk": lambda row, seed: row["energy"],
    "dfnd": lambda row, seed: row["self_ce"],
    "band": drawn,
    "random": drawn,
    "sql": lambda row, seed: -row["entropy"],
}
WHERES: dict[str | None, Callable[[Row], bool]] = {
    None: lambda row: True,
    "entropy >= 0.25": lambda row: row["entropy"] >= 0.25,
    "pred = 0 OR corpus = 'c1'": lambda row: row["pred"] == 0 or row["corpus"] == "c1",
}

VARIED = [Sample(picture=n, logits=FINITE[n % 9]) for n in range(15)]

modes = pytest.mark.parametrize("mode", OPTIONS)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None)


@st.composite
def corpora(draw: st.DrawFn) -> list[Scored]:
    """One to three corpora that share pictures, bytes and views, with damaged files and answers that are not finite.

    Equal pixels have equal logits, and equal bytes equal pixels, as in any real corpus.
    """
    views = draw(st.lists(st.sampled_from([*FINITE, *NOT_FINITE]), min_size=9, max_size=9))
    pictures = st.sampled_from([None, *range(9), *range(9)])
    sample = st.builds(
        lambda picture, form: Sample(picture=picture, form=form, logits=None if picture is None else views[picture]),
        pictures,
        st.integers(0, 1),
    )
    found = draw(st.lists(st.lists(sample, max_size=12), min_size=1, max_size=3))
    return [scored(f"c{n}", samples) for n, samples in enumerate(found)]


@st.composite
def choices(draw: st.DrawFn, mode: str, count: int) -> Choice:
    """What may be asked of a rule over ``count`` corpora."""
    budget = draw(st.integers(len(CLASSES) if mode in BY_CLASS else 1, 14))
    caps = draw(st.dictionaries(st.sampled_from(range(count)), st.integers(0, 6)))
    floors: dict[int, int] = {}
    for n in draw(st.lists(st.sampled_from(range(count)), unique=True)):
        floors[n] = draw(st.integers(0, min(caps.get(n, budget), budget - sum(floors.values()))))
    options = {"where": draw(st.sampled_from(list(WHERES))), **OPTIONS[mode]}
    return Choice(
        mode=mode,
        budget=budget,
        seed=draw(st.integers(0, 3)),
        holdout=draw(st.sampled_from([0.0, 0.05, 0.29, 0.5, 0.999])),
        caps={f"c{n}": cap for n, cap in caps.items()},
        floors={f"c{n}": floor for n, floor in floors.items()},
        **options,
    )


def run(found: list[Scored], choice: Choice, **options: Any) -> Outcome:
    reference = REFERENCE if choice.mode == "hausdorff" else None
    return chosen(found, choice, **{"classes": CLASSES, "reference": reference, **options})


def asked(mode: str, **options: Any) -> Choice:
    return Choice(mode=mode, **{**OPTIONS[mode], **options})


def joined(outcome: Outcome) -> list[Row]:
    """Everything that is known of every scored row, in the order of the corpora and, in each, of the places."""
    judged = {row["key"]: row for row in outcome.scores.to_pylist()}
    rows = [{**row, **judged[row["key"]]} for row in outcome.rows() if row["key"] in judged]
    return sorted(rows, key=lambda row: (row["corpus"], row["uri"]))


def split(rows: list[Row], choice: Choice) -> tuple[list[Row], dict[str, list[Row]]]:
    """Rows that a rule may pick, and the others by the reason they must have; by a plain loop over all."""
    free: list[Row] = []
    left: dict[str, list[Row]] = {"duplicate": [], "nonfinite": [], OUTSIDE: []}
    seen: set[str] = set()
    for row in rows:
        if row["pixel_hash"] in seen:
            left["duplicate"].append(row)
        elif row["status"] != "ok":
            left["nonfinite"].append(row)
        elif not WHERES[choice.where](row):
            left[OUTSIDE].append(row)
        else:
            free.append(row)
        seen.add(row["pixel_hash"])
    return free, left


# -------------------------------------------------------------------------------------------------------- every rule


def test_every_rule_is_here_and_says_where_it_is_from() -> None:
    assert OPTIONS.keys() == SELECTORS.keys()
    assert ORDERS.keys() == OPTIONS.keys() - {*BY_CLASS, *BY_PLACE}
    for rule in SELECTORS.values():
        assert len(rule.source) > 20


@modes
@given(data=st.data())
@examples(4)
def test_every_row_is_decided_with_a_reason_and_counts_add_up(mode: str, data: st.DataObject) -> None:
    found = data.draw(corpora())
    choice = data.draw(choices(mode, len(found)))
    outcome = run(found, choice)
    check_tables(outcome, found)
    rows = joined(outcome)
    free, left = split(rows, choice)
    for reason, out in left.items():
        assert [row["uri"] for row in out if row["reason"] != reason or row["selected"]] == []
    kept = [row for row in free if row["selected"]]
    rest = [row for row in free if not row["selected"]]
    assert len(kept) == sum(row["selected"] for row in rows)
    assert not {row["reason"] for row in kept} & ({row["reason"] for row in rest} | left.keys() | {CORPUS_FULL})
    assert all(row["reason"] for row in rows)
    assert sorted(row["rank"] for row in kept) == list(range(1, len(kept) + 1))
    assert all((row["rank"] is not None) == (row["split"] is not None) == row["selected"] for row in rows)
    held = sum(row["split"] == "holdout" for row in rows)
    assert held == math.floor(Fraction(str(choice.holdout)) * len(kept))
    check_limits(free, kept, choice)
    assert Counter(f"c{n}" for n in outcome.picked.rows["corpus_order"]) == Counter(row["corpus"] for row in kept)
    check_order(free, choice)


@modes
@pytest.mark.parametrize("budget", [7, 16])
def test_caps_and_floors_hold_where_the_rule_would_have_it_otherwise(mode: str, budget: int) -> None:
    """The first corpus has something of all, the second what one end of an order holds, the third the other end."""
    ends = (("c1", CERTAIN, 40), ("c2", TIE, 60))
    found = [scored("c0", VARIED)]
    found += [scored(c, [Sample(picture=first + n, logits=view) for n in range(15)]) for c, view, first in ends]
    choice = asked(mode, budget=budget, caps={"c0": 2, "c1": 4, "c2": 5}, floors={"c1": 2, "c2": 3})
    rows = joined(run(found, choice))
    free, _ = split(rows, choice)
    kept = [row for row in free if row["selected"]]
    check_limits(free, kept, choice)
    check_order(free, choice)
    if mode in ORDERS and mode not in ("random", "band"):
        assert {row["reason"] for row in free} >= ({FLOOR} if budget == 7 else {CORPUS_FULL})


def check_tables(outcome: Outcome, found: list[Scored]) -> None:
    """Every sample is there once, every scored one is decided, in key order and in the columns of the schema."""
    assert outcome.samples.num_rows == sum(rows_of(corpus.samples).num_rows for corpus in found)
    assert outcome.scores.num_rows == sum(rows_of(corpus.scores).num_rows for corpus in found)
    keys = outcome.scores["key"].to_pylist()
    assert outcome.selection["key"].to_pylist() == keys == sorted(set(keys))
    assert len(set(outcome.samples["key"].to_pylist())) == outcome.samples.num_rows
    for table, schema in ((outcome.samples, SAMPLES), (outcome.scores, SCORES), (outcome.selection, SELECTION)):
        assert table.schema.names == schema.plain_schema().names


def check_limits(free: list[Row], kept: list[Row], choice: Choice) -> None:
    """Budget, caps and floors."""
    had, gave = Counter(row["corpus"] for row in free), Counter(row["corpus"] for row in kept)
    assert all(gave[name] <= cap for name, cap in choice.caps.items())
    for row in free:
        if row["reason"] == CORPUS_FULL:
            assert gave[row["corpus"]] == choice.caps[row["corpus"]]
    if choice.mode in BY_CLASS:
        cap = choice.budget // len(CLASSES)
        assert all(count <= cap for count in Counter(row["target_class"] for row in kept).values())
        assert all(row["target_class"] == row["pred"] for row in kept)
        return
    assert len(kept) == min(choice.budget, sum(min(n, choice.caps.get(name, MANY)) for name, n in had.items()))
    assert all(gave[name] >= min(floor, had[name]) for name, floor in choice.floors.items())
    assert all(row["target_class"] is None for row in free)


def check_order(free: list[Row], choice: Choice) -> None:
    """The rows that a plain sort keeps, in its order; what only a floor brought in says so."""
    if choice.mode not in ORDERS:
        return
    best: list[Row] = []
    gave: Counter[str] = Counter()
    for row in sorted(free, key=lambda row: (ORDERS[choice.mode](row, choice.seed), row["key"])):
        gave[row["corpus"]] += 1
        if gave[row["corpus"]] <= choice.caps.get(row["corpus"], MANY):
            best.append({**row, "assured": gave[row["corpus"]] <= choice.floors.get(row["corpus"], 0)})
    assured = [row for row in best if row["assured"]]
    others = [row for row in best if not row["assured"]][: choice.budget - len(assured)]
    wanted = {row["key"] for row in (*assured, *others)}
    rank = {row["key"]: row["rank"] for row in free}
    assert [rank[row["key"]] for row in best if row["key"] in wanted] == list(range(1, len(wanted) + 1))
    saved = {row["key"] for row in best[choice.budget :] if row["assured"]}
    assert {row["key"] for row in free if row["reason"] == FLOOR} == saved


@modes
@given(data=st.data())
@examples(2)
def test_neither_order_nor_pieces_nor_threads_of_reading_change_a_decision(mode: str, data: st.DataObject) -> None:
    found = data.draw(corpora())
    choice = data.draw(choices(mode, len(found)))

    def shuffled(table: pa.Table) -> pa.Table:
        return table.take(pa.array(data.draw(st.permutations(range(len(table)))), pa.int64()))

    one = run([replace(c, samples=shuffled(c.samples), scores=shuffled(c.scores)) for c in found], choice, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        row_group = data.draw(st.integers(1, 3))
        pieces = [on_disk(corpus, Path(folder) / corpus.name, row_group=row_group) for corpus in found]
        two = run(pieces, choice, threads=4)
    assert (one.samples, one.scores, one.selection) == (two.samples, two.scores, two.selection)
    assert one.picked == two.picked


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Scored], list[Scored]]:
    """Two corpora, full of ties, over several of DuckDB's row groups (122,880 rows); in large and in small pieces."""
    folder = tmp_path_factory.mktemp("large")
    found = [many("c0", 126_000, seed=0), many("c1", 9_000, seed=1)]
    large, small = (
        [on_disk(corpus, folder / f"{corpus.name}-{rows}", row_group=rows) for corpus in found]
        for rows in (1 << 17, 3_000)
    )
    return large, small


def many(name: str, count: int, *, seed: int) -> Scored:
    """A corpus of which only the scores matter, each of three values."""
    generator = np.random.default_rng(seed)
    keys = pa.array(sorted(f"{n:016x}" * 2 for n in generator.integers(0, 1 << 62, count)))
    samples = {field.name: pa.nulls(count, field.type) for field in SAMPLES.plain_schema()}
    samples |= dict.fromkeys(("key", "uri", "pixel_hash"), keys) | {"status": pa.repeat("ok", count)}
    levels = {n: generator.integers(0, 3, count).astype(np.float32) for n in ("entropy", "confidence", "margin")}
    levels |= {"energy": levels["entropy"], "self_ce": levels["margin"]}
    pred = generator.integers(0, len(CLASSES), count).astype(np.int32)
    scores = {"key": keys, "status": pa.repeat("ok", count), "pred": pred, **levels}
    return Scored(name=name, samples=pa.table(samples), scores=pa.table(scores), vectors={})


@pytest.mark.parametrize("mode", [mode for mode in OPTIONS if mode not in BY_PLACE])
def test_threads_change_no_decision_among_many_ties(
    mode: str, large: tuple[list[Scored], list[Scored]], tmp_path: Path
) -> None:
    choice = asked(mode, budget=60_000, floors={"c1": 1_000})
    one, two = (picks(found, choice, tmp_path, threads=n) for found, n in zip(large, (1, 4), strict=True))
    assert one == two
    assert one.num_rows == choice.budget
    assert one["key"].to_pylist() != sorted(one["key"].to_pylist())


@pytest.mark.parametrize(
    "sql", ["SELECT key FROM scores ORDER BY entropy LIMIT 50_000", "SELECT DISTINCT key FROM scores"]
)
def test_threads_do_not_order_what_a_query_leaves_open(
    sql: str, large: tuple[list[Scored], list[Scored]], tmp_path: Path
) -> None:
    choice = asked("sql", sql=sql, budget=60_000)
    one, two = (picks(found, choice, tmp_path, threads=n) for found, n in zip(large, (1, 4), strict=True))
    assert one == two
    assert one.num_rows >= 50_000


def picks(found: list[Scored], choice: Choice, spill: Path, *, threads: int | None = None) -> pa.Table:
    """What a rule picks, not decided."""
    reference = REFERENCE if choice.mode == "hausdorff" else None
    with open_pool(found, class_names=CLASSES, spill=spill / "spill", reference=reference, threads=threads) as pool:
        if choice.where is not None:
            pool.restrict(choice.where)
        return SELECTORS[choice.mode].pick(pool, choice, Quota.of(choice, pool.corpora)).rows


@pytest.mark.parametrize("mode", ORDERS)
def test_orders_beyond_the_heap_are_sorted_to_the_same_end(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB's heap ends at a million rows; above it the whole order is sorted."""
    found = [scored("c0", VARIED), scored("c1", [Sample(picture=30 + n, logits=FINITE[n]) for n in range(6)])]
    choice = asked(mode, budget=10, caps={"c0": 8}, floors={"c1": 4})
    by_heap = picks(found, choice, tmp_path)
    monkeypatch.setattr("curate.select.order.HEAP", 1)
    assert picks(found, choice, tmp_path) == by_heap
    assert by_heap.num_rows >= 8


@pytest.mark.parametrize("mode", [mode for mode in OPTIONS if mode not in BY_CLASS])
@given(data=st.data())
@examples(2)
def test_a_larger_budget_keeps_what_a_smaller_one_kept(mode: str, data: st.DataObject) -> None:
    """Balanced does not promise it: a larger budget has a larger base limit."""
    found = data.draw(corpora())
    choice = data.draw(choices(mode, len(found)))
    with tempfile.TemporaryDirectory() as folder:
        budgets = (choice.budget, choice.budget + 2)
        small, large = (picks(found, replace(choice, budget=n), Path(folder))["key"].to_pylist() for n in budgets)
    assert set(small) <= set(large)
    assert len(small) == len(set(small))


@modes
def test_a_budget_beyond_all_takes_all_and_the_earlier_corpus_wins(mode: str) -> None:
    """Whatever the scores say, and whichever corpus has more."""
    found = [scored("c0", VARIED[3:5]), scored("c1", [*VARIED, Sample(picture=20, logits=TIE)])]
    rows = joined(run(found, asked(mode, budget=MANY)))
    free, left = split(rows, asked(mode))
    assert [(row["corpus"], row["uri"], row["reason"]) for row in left["duplicate"]] == [
        ("c1", "000003", "duplicate"),
        ("c1", "000004", "duplicate"),
    ]
    assert len(free) > 5
    assert all(row["selected"] for row in free)
    check_order(free, asked(mode, budget=MANY))


@modes
def test_a_budget_of_nothing_takes_nothing(mode: str) -> None:
    rows = joined(run([scored("c0", VARIED)], asked(mode), budget=0))
    assert len(rows) == len(VARIED)
    assert not any(row["selected"] or row["split"] or row["rank"] for row in rows)
    assert all(row["reason"] for row in rows)


@modes
def test_nothing_is_picked_where_nothing_can_be(mode: str) -> None:
    """A corpus without a sample, one of damaged ones, one without a finite answer."""
    found = [
        scored("c0", []),
        scored("c1", [Sample(picture=None, form=n) for n in range(2)]),
        scored("c2", [Sample(picture=n, logits=view) for n, view in enumerate(NOT_FINITE)]),
    ]
    outcome = run(found, asked(mode, budget=6), reference=REFERENCE)
    assert outcome.selection["reason"].to_pylist() == ["nonfinite"] * 3
    assert outcome.samples.num_rows == 5
    assert outcome.picked.rows.num_rows == 0


@modes
def test_equal_scores_are_decided_by_key_alone(mode: str) -> None:
    """Also by equal vectors; the rules that draw, draw by key."""
    samples = [Sample(picture=n, logits=TIE, vector=(1.0, 1.0)) for n in range(9)]
    rows = joined(run([scored("c0", samples)], asked(mode, budget=15, seed=2)))
    by_draw = mode in ("random", "band", "balanced")
    wanted = sorted(rows, key=lambda row: (drawn(row, 2) if by_draw else "", row["key"]))
    kept = wanted[: 5 if mode in BY_CLASS else 9]  # all are of one class
    assert [row["rank"] for row in wanted] == [*range(1, len(kept) + 1), *[None] * (9 - len(kept))]


@modes
def test_filters_and_conditions_combine_with_every_rule(mode: str) -> None:
    """Pictures 0 and 1 are excluded by pixels and by vector, 2 lies near 3, 4 has no finite answer, 5 lies outside."""
    near = (30.0, 30.0)
    places = [(9.0, 0.0), (60.0, 0.0), near, near, (0.0, 0.0), (5.0, 5.0), (0.0, 9.0), (20.0, 0.0), (0.0, 20.0)]
    samples = [
        Sample(picture=n, vector=place, logits=NOT_FINITE[0] if n == 4 else CERTAIN if n == 5 else FINITE[n % 3])
        for n, place in enumerate(places)
    ]
    found = [scored("c0", samples[:3]), scored("c1", [samples[0], *samples[3:]])]
    choice = asked(mode, budget=9, where="entropy > 0.1", near_duplicates=0.01, exclude_within=0.01)
    hashes = pa.chunked_array([rows_of(found[0].samples)["pixel_hash"].combine_chunks()[:1]])

    def prepare(pool: Pool) -> None:
        assert drop_excluded(pool, hashes, points([places[1], (99, 99)]), choice) == {"equal_pixels": 1, "near": 1}
        assert drop_near_duplicates(pool, choice) == 1

    rows = joined(run(found, choice, prepare=prepare))
    free = {("c1", n) for n in range(4, 7)}
    reasons = {(row["corpus"], int(row["uri"])): row["reason"] for row in rows if not row["selected"]}
    assert reasons == {
        ("c0", 0): EXCLUDED,
        ("c0", 1): EXCLUDED,
        ("c1", 0): "duplicate",
        ("c1", 1): NEAR,
        ("c1", 2): "nonfinite",
        ("c1", 3): OUTSIDE,
    }
    assert {(row["corpus"], int(row["uri"])) for row in rows if row["selected"]} == {("c0", 2), *free}


# ------------------------------------------------------------------------------------------------------ single rules


def test_a_draw_is_a_function_of_seed_and_key() -> None:
    samples = [Sample(picture=n, entropy=float(n)) for n in range(60)]
    other = [Sample(picture=n, entropy=float(-n)) for n in range(60)]

    def draw(found: list[Sample], seed: int) -> set[str]:
        picked = run([scored("c", found)], asked("random", budget=20, seed=seed)).picked
        return set(picked.rows["key"].to_pylist())

    kept = [draw(samples, seed) for seed in range(3)]
    assert draw(other, 1) == kept[1]
    assert all(1 <= len(a & b) <= 15 for a, b in ((kept[0], kept[1]), (kept[1], kept[2])))  # 6.7 expected


grid = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9)
Place = tuple[int, int]


def placed(name: str, places: list[Place], first: int) -> Scored:
    return scored(name, [Sample(picture=first + n, vector=(float(x), float(y))) for n, (x, y) in enumerate(places)])


def by_key(found: list[Scored]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The vector and the corpus of every key."""
    rows = [(row, n) for n, corpus in enumerate(found) for row in rows_of(corpus.vectors["features"]).to_pylist()]
    vectors = {row["key"]: np.array(row["features"], np.float64) for row, _ in rows}
    return vectors, {row["key"]: n for row, n in rows}


def apart(vector: np.ndarray, others: Sequence[np.ndarray]) -> float:
    return min(float(np.linalg.norm(vector - other)) for other in others)


@pytest.mark.parametrize("warm", [False, True], ids=["from nothing", "from a reference"])
@given(one=grid, two=grid, budget=st.integers(2, 9), floor=st.integers(0, 2))
@examples(10)
def test_kcenter_takes_the_farthest_at_every_step(
    warm: bool, one: list[Place], two: list[Place], budget: int, floor: int
) -> None:
    """Of the second corpus as far as its floor, then of both: ties by key, and what was taken before counts."""
    found = [placed("c0", one, 0), placed("c1", two, 50)]
    floor = min(floor, len(two))
    choice = asked("kcenter", budget=budget, floors={"c1": floor})
    picked = run(found, choice, reference=REFERENCE if warm else None).picked
    place, corpus = by_key(found)
    kept = picked.rows["key"].to_pylist()
    assert picked.rows["reason"].to_pylist() == [FLOOR] * floor + ["covers"] * (len(kept) - floor)
    before = [row.astype(np.float64) for row in REFERENCE.rows_ND] if warm else [place[kept[0]]]
    for n, key in list(enumerate(kept))[0 if warm else 1 :]:
        left = [k for k in place if k not in kept[:n] and (n >= floor or corpus[k] == 1)]
        gaps = {k: apart(place[k], before) for k in left}
        assert key == min(k for k, gap in gaps.items() if gap == max(gaps.values()))
        before.append(place[key])
    assert picked.facts["radius"] == pytest.approx(max(apart(vector, before) for vector in place.values()), rel=1e-12)


@given(one=grid, two=grid, budget=st.integers(2, 9), floor=st.integers(0, 2))
@examples(15)
def test_hausdorff_serves_the_reference_as_well_as_all_would(
    one: list[Place], two: list[Place], budget: int, floor: int
) -> None:
    found = [placed("c0", one, 0), placed("c1", two, 50)]
    floor = min(floor, len(two))
    picked = run(found, asked("hausdorff", budget=budget, floors={"c1": floor})).picked
    place, corpus = by_key(found)
    kept = picked.rows["key"].to_pylist()

    def h(keys: list[str]) -> float:
        return max(apart(row.astype(np.float64), [place[key] for key in keys]) for row in REFERENCE.rows_ND)

    assert [corpus[key] for key in kept[:floor]] == [1] * floor
    assert picked.facts["radius"] == pytest.approx(h(kept), rel=1e-12)
    if budget - floor >= len(REFERENCE.keys):
        assert h(kept) == h(list(place))
    if not floor:  # the first serves the vector that lies farthest from the reference's mean
        assert apart(np.array([1.0, 5.0]), [place[kept[0]]]) == apart(np.array([1.0, 5.0]), list(place.values()))
