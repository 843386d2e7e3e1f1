"""Recipes: whole configs by name, changed by what a user typed."""

from dataclasses import replace
from typing import Any

import pytest

from distill.errors import DistillError, UnknownMethod
from distill.methods import METHODS
from distill.methods.kd import KDConfig
from distill.methods.mosaickd import MosaicKDConfig
from distill.methods.schedules import SCHEDULES, warmed
from distill.methods.supervised import SupervisedConfig
from distill.recipes import RECIPES, TEACHER_RECIPES, configure, configure_teacher, find_method


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


@pytest.mark.parametrize(("method", "recipe"), [(name, recipe) for name in METHODS for recipe in METHODS[name].recipes])
def test_a_methods_own_recipes_are_found_and_changed(method: str, recipe: str) -> None:
    published = METHODS[method].recipes[recipe]
    assert configure(recipe, method, {}) == published
    assert configure(recipe, method, {"epochs": "2"}) == replace(published, epochs=2)
    assert recipe not in RECIPES


@pytest.mark.parametrize(
    ("recipe", "method", "changes", "words"),
    [
        ("papre", "kd", {}, "unknown recipe 'papre' of kd; known: paper, starter"),
        ("mad-imagenet", "kd", {}, "unknown recipe 'mad-imagenet' of kd; known: paper, starter"),
        ("mad-imagnet", "mad", {}, "unknown recipe 'mad-imagnet' of mad; known: paper, starter, mad-cifar-resnet"),
        ("paper", "dk", {}, "unknown method 'dk'; known: kd, .*mosaickd, .*abm, dfkd-mem, mad"),
        ("paper", "kd", {"adv": 1}, "kd has no setting 'adv'; known: batch_size, epochs, lr, .*, temperature"),
        ("paper", "kd", {"epochs": "3.5"}, "epochs is '3.5'; expected int"),
        ("paper", "kd", {"lr": "fast"}, "lr is 'fast'; expected float"),
        ("paper", "kd", {"epochs": "0"}, "epochs is 0; expected a number of at least 1"),
        ("paper", "kd", {"batch_size": -8}, "batch_size is -8; expected a number of at least 1"),
        ("paper", "kd", {"lr": "nan"}, "lr is nan; expected a number of at least 0"),
        ("paper", "kd", {"temperature": "0"}, r"temperature is 0.0; expected more than 0"),
        ("paper", "mosaickd", {"stride": "0"}, "stride is 0; expected a number of at least 1"),
        ("paper", "mosaickd", {"networks": "mine"}, "networks is 'mine'; expected one of code, paper"),
    ],
)
def test_what_is_refused(recipe: str, method: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        configure(recipe, method, changes)


def test_find_method() -> None:
    assert {name: find_method(name) for name in METHODS} == METHODS
    with pytest.raises(UnknownMethod, match="unknown method 'KD'; known: kd"):
        find_method("KD")


# teachers


def test_teachers_are_trained_as_published() -> None:
    """MosaicKD's supplement B and code; MAD's Table 4, whose rows for large images scale 0.01 by batch / 256."""
    assert configure_teacher("mosaickd", {}) == SupervisedConfig(
        lr=0.1, momentum=0.9, weight_decay=1e-4, batch_size=256, epochs=200, schedule="cosine", nesterov=False
    )
    cifar = configure_teacher("mad-cifar", {})
    assert cifar == SupervisedConfig(
        lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=128, epochs=160, schedule="step_down", nesterov=False
    )
    places = configure_teacher("mad-places365", {})
    assert (places.lr, places.batch_size, places.epochs, places.warm_up) == (0.04, 1024, 90, 5)


@pytest.mark.parametrize(("recipe", "drops"), [("mad-cifar", (80, 120)), ("mad-food101", (30, 60))])
def test_rates_drop_at_the_published_epochs(recipe: str, drops: tuple[int, int]) -> None:
    config = configure_teacher(recipe, {})
    rates = [warmed(config.schedule, epoch, config.epochs, warm=config.warm_up) for epoch in range(config.epochs)]
    first, second = drops
    assert rates[config.warm_up : first] == [1.0] * (first - config.warm_up)
    assert rates[first:second] == pytest.approx([0.1] * (second - first))
    assert rates[second:] == pytest.approx([0.01] * (config.epochs - second))
    assert rates[: config.warm_up] == [(n + 1) / config.warm_up for n in range(config.warm_up)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_ends_low_and_never_leaves_0_to_1(name: str) -> None:
    rates = [SCHEDULES[name](step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(1.0)
    assert min(rates) >= 0
    assert rates[-1] <= 0.011 or set(rates) == {1.0} == {name == "constant"}


def test_typed_truths() -> None:
    assert configure_teacher("digits", {"flip": "True", "nesterov": "false", "pad": "0"}) == replace(
        TEACHER_RECIPES["digits"], flip=True, nesterov=False, pad=0
    )


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("slow", {}, "unknown recipe 'slow'; known: fast, digits, mosaickd, mad-cifar"),
        ("fast", {"temperature": 1}, "pretraining has no setting 'temperature'; known: batch_size"),
        ("fast", {"flip": "maybe"}, "flip is 'maybe'; expected bool"),
        ("fast", {"schedule": "linear"}, "schedule is 'linear'; expected one of one_cycle, cosine, step_down, step_th"),
        ("fast", {"pad": -1}, "pad is -1; expected a number of at least 0"),
        ("fast", {"epochs": 5, "warm_up": 5}, "warm_up is 5 epochs of 5; expected fewer than there are"),
    ],
)
def test_what_is_refused_of_teachers(recipe: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        configure_teacher(recipe, changes)
