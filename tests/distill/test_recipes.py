"""Recipes: whole configs by name, changed by what a user typed."""

from typing import Any

import pytest

from distill.errors import DistillError, UnknownMethod
from distill.methods import METHODS
from distill.methods.kd import KDConfig
from distill.methods.mosaickd import MosaicKDConfig
from distill.recipes import RECIPES, configure, find_method


@pytest.mark.parametrize("method", METHODS)
def test_paper_is_the_methods_own_defaults(method: str) -> None:
    assert configure("paper", method, {}) == METHODS[method].config_class()


def test_kd_has_the_published_baseline() -> None:
    """MosaicKD's baseline: SGD 0.1, momentum 0.9, weight decay 1e-4, B 128, T 5, 200 epochs."""
    assert configure("paper", "kd", {}) == KDConfig(
        lr=0.1, momentum=0.9, weight_decay=1e-4, batch_size=128, temperature=5.0, epochs=200
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_every_method(recipe: str, method: str) -> None:
    config = configure(recipe, method, {})
    assert isinstance(config, METHODS[method].config_class)
    assert recipe == "paper" or config.epochs * config.batches_per_step < configure("paper", method, {}).epochs


def test_typed_values_take_their_settings_type() -> None:
    config = configure("paper", "mosaickd", {"epochs": "3", "lr": "1e-2", "networks": "paper", "balance": 2})
    assert config == MosaicKDConfig(epochs=3, lr=0.01, networks="paper", balance=2.0)
    assert isinstance(config, MosaicKDConfig)
    assert type(config.balance) is float


@pytest.mark.parametrize(
    ("recipe", "method", "changes", "words"),
    [
        ("papre", "kd", {}, "unknown recipe 'papre'; known: paper, starter"),
        ("paper", "dk", {}, "unknown method 'dk'; known: kd, mosaickd"),
        ("paper", "kd", {"adv": 1}, "kd has no setting 'adv'; known: batch_size, epochs, lr, .*, temperature"),
        ("paper", "kd", {"epochs": "3.5"}, "epochs is '3.5'; expected int"),
        ("paper", "kd", {"lr": "fast"}, "lr is 'fast'; expected float"),
        ("paper", "kd", {"epochs": "0"}, "epochs is 0; expected a number of at least 1"),
        ("paper", "kd", {"batch_size": -8}, "batch_size is -8; expected a number of at least 1"),
        ("paper", "kd", {"lr": "nan"}, "lr is nan; expected a number of at least 0"),
        ("paper", "kd", {"temperature": "0"}, r"temperature is 0.0; expected more than 0"),
        ("paper", "mosaickd", {"stride": "0"}, "stride is 0; expected a number of at least 1"),
        ("paper", "mosaickd", {"networks": "mine"}, "networks is 'mine'; expected code or paper"),
    ],
)
def test_what_is_refused(recipe: str, method: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        configure(recipe, method, changes)


def test_find_method() -> None:
    assert {name: find_method(name) for name in METHODS} == METHODS
    with pytest.raises(UnknownMethod, match="unknown method 'KD'; known: kd"):
        find_method("KD")
