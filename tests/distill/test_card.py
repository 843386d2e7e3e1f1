"""The card: what a file says of itself comes back as it went in, or is refused with what was wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import BadWeights
from distill.models.card import Card, fit_normaliser, join_names, split_names

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
METADATA = {"mean": "0.5,0.4,0.3", "std": "0.25,0.2,0.1"}


def card(**changes: object) -> Card:
    facts = {"arch": "wrn16_1", "mean": MEAN, "std": STD, "classes": ("a", "b"), "input_size": 32} | changes
    return Card(**facts)  # type: ignore[arg-type]  # as a file may say it


def read(metadata: dict[str, str], *, outputs: int = 2) -> Card:
    return Card.from_metadata(metadata, arch="wrn16_1", outputs=outputs, input_size=32)


def test_a_card_comes_back_from_its_strings() -> None:
    whole = card(classes=("tench, Tinca tinca", 'the "big" one', "größe", ""), mean=(0.49139968, 0.0, 1.0))
    metadata = whole.to_metadata()
    assert {type(value) for value in metadata.values()} == {str}
    assert read(metadata) == whole
    grey = card(mean=(0.1307,), std=(0.3081,))
    assert grey.to_metadata()["mean"] == "0.1307"
    assert read(grey.to_metadata()) == grey


def test_what_may_be_left_out() -> None:
    found = read(METADATA, outputs=3)
    assert (found.classes, found.input_size, found.mean, found.std) == (("0", "1", "2"), 32, MEAN, STD)
    assert read(METADATA | {"num_classes": "2"}, outputs=3).classes == ("0", "1")
    assert read(METADATA | {"mean": " 0.5, 0.4 ,0.3"}) == read(METADATA)


@pytest.mark.parametrize(
    ("left", "words"),
    [({"std"}, "^no mean: the"), ({"mean"}, "^no std: the"), (set(), "^no mean and no std: the norm")],
)
def test_the_normaliser_may_not(left: set[str], words: str) -> None:
    with pytest.raises(BadWeights, match=words):
        read({name: METADATA[name] for name in left})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"mean": "0.5"}, r"need 3 numbers each, or 1 for grey; got \(0.5,\) and \(0.25, 0.2, 0.1\)"),
        ({"mean": "0.5,0.4", "std": "0.5,0.4"}, "need 3 numbers each, or 1 for grey"),
        ({"std": "0.1,0,0.1"}, r"std above 0, to 1, of inputs in \[0, 1\]; got .*\(0.1, 0.0, 0.1\)"),
        ({"std": "inf,0.1,0.1"}, "std above 0, to 1"),
        ({"mean": "nan,0,0"}, r"mean must be in 0 to 1 .* got \(nan, 0.0, 0.0\)"),
        ({"mean": "125.3,123.0,113.9"}, r"those of inputs of 0 to 255 are to be divided by 255"),
        ({"mean": "red,0,0"}, "mean is 'red,0,0'; expected numbers"),
        ({"mean": ""}, "mean is ''; expected numbers"),
        ({"num_classes": "two"}, "invalid literal for int"),
        ({"num_classes": "5", "classes": "a,b"}, "2 classes are named but the network has 5"),
        ({"num_classes": "0"}, "need a class and an input size >= 1; got 0 and 32"),
        ({"num_classes": "99999999999999"}, "num_classes is 99999999999999; expected at most 1000000"),
        ({"classes": ""}, "need a class and"),
        ({"classes": "x" * 200_000}, "field larger than field limit"),
        ({"input_size": "0"}, "an input size >= 1; got 2 and 0"),
        ({"input_size": "32.5"}, "invalid literal for int"),
    ],
)
def test_what_cannot_be(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(BadWeights, match=words):
        read(METADATA | metadata)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_names_survive_one_line_of_csv(names: list[str]) -> None:
    assert split_names(join_names(names)) == tuple(names)


def test_plain_names_are_plain() -> None:
    assert join_names(["a", "b c", "d"]) == "a,b c,d"
    assert split_names("") == ()


def test_a_normaliser_for_other_channels() -> None:
    assert fit_normaliser(MEAN, STD, channels=3) == (MEAN, STD)
    assert fit_normaliser([0.5], [0.2], channels=1) == ((0.5,), (0.2,))
    assert fit_normaliser([0.5], [0.2], channels=3) == ((0.5,) * 3, (0.2,) * 3)
    mean, std = fit_normaliser(MEAN, STD, channels=1)
    assert mean == pytest.approx((0.299 * 0.5 + 0.587 * 0.4 + 0.114 * 0.3,))
    assert std == pytest.approx((0.299 * 0.25 + 0.587 * 0.2 + 0.114 * 0.1,))
