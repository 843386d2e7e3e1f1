"""What may be asked of a selection: every option is checked before any work, and refused in words."""

import dataclasses
import re
from typing import Any

import pytest

from curate.choice import Choice
from curate.errors import CurateError, UnknownMode
from curate.select import SELECTORS

NAN = float("nan")
ORDERS = (
    "entropy-topk, confidence-topk, confidence-bottomk, margin-topk, margin-bottomk, energy-topk, energy-bottomk, "
    "dfnd, random"
)


def test_defaults_are_those_of_the_papers() -> None:
    choice = Choice()
    assert (choice.mode, choice.budget, choice.holdout, choice.seed) == ("entropy-topk", 50_000, 0.05, 0)
    assert (choice.by, choice.base_limit, choice.on, choice.exclude_within) == ("random", None, "features", None)
    assert (choice.caps, choice.floors, choice.where, choice.sql, choice.near_duplicates) == ({}, {}, None, None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0}, "--budget is 0; expected at least 1 image"),
        ({"budget": -3}, "--budget is -3; expected at least 1 image"),
        ({"holdout": 1.0}, "--holdout is 1.0; expected a fraction from 0 to below 1"),
        ({"holdout": -0.1}, "--holdout is -0.1; expected a fraction from 0 to below 1"),
        ({"holdout": NAN}, "--holdout is nan; expected a fraction from 0 to below 1"),
        ({"mode": "balanced", "base_limit": 0}, "--base-limit is 0; expected at least 1 image"),
        ({"on": "pixels"}, "--on is pixels; expected one of features, logits"),
        ({"near_duplicates": 1.0}, "--near-duplicates is 1.0; expected a fraction from 0 to below 1"),
        ({"near_duplicates": -1e-9}, "--near-duplicates is -1e-09; expected a fraction"),
        ({"near_duplicates": NAN}, "--near-duplicates is nan; expected a fraction"),
        ({"exclude_within": 1.5}, "--exclude-within is 1.5; expected a fraction from 0 to below 1"),
        ({"exclude_within": NAN}, "--exclude-within is nan; expected a fraction"),
        ({"caps": {"one": -1}}, "--cap one is -1; expected a number of images, 0 or more"),
        ({"floors": {"one": -1}}, "--floor one is -1; expected a number of images, 0 or more"),
        ({"caps": {"one": 4}, "floors": {"one": 5}}, "--floor one is 5; expected no more than its --cap, 4"),
        (
            {"budget": 9, "floors": {"one": 5, "two": 5}},
            "the sum of all --floor is 10; expected no more than --budget, 9",
        ),
        ({"mode": "band"}, "--mode band needs its band: --where 'entropy BETWEEN 0.5 AND 1.5', for example"),
        ({"mode": "sql"}, "--mode sql needs its query: --sql 'SELECT key FROM scores WHERE ...'"),
        ({"sql": "SELECT 1"}, "--sql belongs to --mode sql; --mode entropy-topk does not use it"),
        ({"by": "dfnd"}, "--by belongs to --mode balanced; --mode entropy-topk does not use it"),
        (
            {"mode": "kcenter", "base_limit": 9},
            "--base-limit belongs to --mode balanced; --mode kcenter does not use it",
        ),
        ({"mode": "hausdorff", "sql": "SELECT 1"}, "--sql belongs to --mode sql; --mode hausdorff does not use it"),
        ({"mode": "balanced", "sql": "SELECT 1"}, "--sql belongs to --mode sql; --mode balanced does not use it"),
        ({"mode": "sql", "sql": "SELECT 1", "by": "dfnd"}, "--by belongs to --mode balanced; --mode sql does not use"),
        (
            {"mode": "balanced-entropy", "by": "dfnd"},
            "--by belongs to --mode balanced; --mode balanced-entropy does not",
        ),
        *(
            ({"mode": "balanced", "by": by}, f"--by is {by!r}; expected one of {ORDERS}")
            for by in ("band", "balanced", "sql", "kcenter", "nothing")
        ),
    ],
)
def test_what_may_not_be_asked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(CurateError, match=re.escape(words)):
        Choice(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"holdout": 0.0},
        {"near_duplicates": 0.0},
        {"caps": {"one": 0}, "floors": {"one": 0}},
        {"budget": 9, "floors": {"one": 4, "two": 5}},
        {"mode": "balanced-entropy", "base_limit": 7},
        {"mode": "band", "where": "entropy > 1"},
        {"mode": "sql", "sql": "SELECT key FROM scores", "where": "entropy > 1"},
        *({"mode": "balanced", "by": by} for by in ORDERS.split(", ")),
    ],
)
def test_what_may_be_asked(options: dict[str, Any]) -> None:
    assert dataclasses.asdict(Choice(**options)) == dataclasses.asdict(Choice()) | options


def test_an_unknown_mode_names_all_that_are_known() -> None:
    with pytest.raises(UnknownMode) as refusal:
        Choice(mode="entropy")
    assert str(refusal.value) == f"unknown mode 'entropy'; known: {', '.join(SELECTORS)}"


CORPORA = ("one", "two")


@pytest.mark.parametrize("option", ["caps", "floors"])
def test_limits_are_of_corpora_that_are_there(option: str) -> None:
    limits: dict[str, Any] = {option: {"one": 3, "tow": 3}}
    words = f"--{option.removesuffix('s')} is tow; expected a corpus among one, two"
    with pytest.raises(CurateError, match=words):
        Choice(**limits).check_sides(CORPORA, reference=False, excluded=False)
    Choice(**limits).check_sides([*CORPORA, "tow"], reference=False, excluded=False)


def test_some_options_need_another_set_beside_them() -> None:
    with pytest.raises(CurateError, match="--mode is hausdorff; expected --reference SPEC beside it"):
        Choice(mode="hausdorff").check_sides(CORPORA, reference=False, excluded=True)
    for within in (0.0, 0.5):
        with pytest.raises(CurateError, match=rf"--exclude-within is {within}; expected --exclude SPEC beside it"):
            Choice(exclude_within=within).check_sides(CORPORA, reference=True, excluded=False)
    Choice(mode="hausdorff", exclude_within=0.1).check_sides(CORPORA, reference=True, excluded=True)
    Choice(mode="kcenter").check_sides(CORPORA, reference=False, excluded=False)


def test_vectors_are_chosen_only_where_they_are_used() -> None:
    words = "--on is logits; expected a rule or a filter that measures distances"
    with pytest.raises(CurateError, match=words):
        Choice(on="logits").check_sides(CORPORA, reference=False, excluded=False)
    with pytest.raises(CurateError, match=words):
        Choice(on="logits", exclude_within=0.0).check_sides(CORPORA, reference=False, excluded=True)
    Choice(on="logits").check_sides(CORPORA, reference=True, excluded=False)
    Choice(on="logits").check_sides(CORPORA, reference=False, excluded=True)
    Choice(on="logits", near_duplicates=0.1).check_sides(CORPORA, reference=False, excluded=False)
    Choice(on="logits", mode="kcenter").check_sides(CORPORA, reference=False, excluded=False)


def test_numbers_stay_integers_everywhere() -> None:
    for options in ({"budget": 10**20}, {"caps": {"one": 10**13}}, {"mode": "balanced", "base_limit": 10**18}):
        with pytest.raises(
            CurateError, match=r"the largest number of images is \d+; expected at most 1,000,000,000,000"
        ):
            Choice(**options)
