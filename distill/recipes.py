"""Recipes: whole configs by name, for distilling (`RECIPES`) and for pretraining (`TEACHER_RECIPES`)."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from distill.errors import DistillError, UnknownMethod
from distill.material import Material
from distill.methods import METHODS, Method
from distill.methods.adversarial_config import AdversarialConfig
from distill.methods.base import Config
from distill.methods.supervised import SupervisedConfig

C = TypeVar("C", bound=Config)


def paper(method: str) -> Config:
    """The paper's settings: the defaults of the method's config, source in its file."""
    return find_method(method).config_class()


def starter(method: str) -> Config:
    """Short enough for two CPU cores and the starter's 16 px images; no published result hangs on it."""
    config = replace(paper(method), batch_size=64)
    if isinstance(config, AdversarialConfig):  # 1,000 updates of the student
        return replace(config, epochs=1, steps_per_epoch=100, generator_steps=1, student_steps=10)
    return replace(config, epochs={"kd": 35, "mosaickd": 3}.get(method, 10))


RECIPES = {"paper": paper, "starter": starter}

_MAD = SupervisedConfig(epochs=160, schedule="step_down", nesterov=False)  # lr 0.1, momentum 0.9, weight decay 5e-4
_MAD_LARGE = replace(_MAD, epochs=90, schedule="step_thirds", weight_decay=1e-4, warm_up=5)
TEACHER_RECIPES = {
    # one cycle, for CPUs; figures in docs/results.md
    "fast": SupervisedConfig(),
    "digits": SupervisedConfig(epochs=12, lr=0.05, flip=False, pad=2),
    # MosaicKD, supplement B: lr 0.1, momentum 0.9, weight decay 1e-4, 200 epochs, cosine; batches of 256 from its code
    "mosaickd": SupervisedConfig(batch_size=256, epochs=200, weight_decay=1e-4, schedule="cosine", nesterov=False),
    # MAD, Table 4, by data set; where it says that the rate is scaled, it is 0.01 for 256 images
    "mad-cifar": _MAD,
    "mad-tiny-imagenet": replace(_MAD, batch_size=256),
    "mad-food101": replace(_MAD_LARGE, batch_size=512, lr=0.01 * 512 / 256),
    "mad-places365": replace(_MAD_LARGE, batch_size=1024, lr=0.01 * 1024 / 256),
}


def find_method(name: str) -> type[Method]:
    """A method by name; raises `UnknownMethod`."""
    if name not in METHODS:
        known = (method for method, found in METHODS.items() if not found.needs_labels)  # supervised is pretraining's
        raise UnknownMethod(f"unknown method {name!r}; known: {', '.join(known)}")
    return METHODS[name]


def default_recipe(material: Material, *, tell: Callable[[str], None]) -> str:
    """The recipe where the user names none: the paper's, but for the starter's small images, which is told."""
    if not (material.document or {}).get("builtin"):
        return "paper"
    tell("a starter transfer set: using the short `starter` recipe; --recipe paper gives the published one")
    return "starter"


def configure(recipe: str, method: str, changes: Mapping[str, Any]) -> Config:
    """The config of a recipe with some fields changed; values may be strings, as typed by a user."""
    published = find_method(method).recipes
    if recipe in published:
        return _changed(published[recipe], method, changes)
    if recipe not in RECIPES:
        raise DistillError(f"unknown recipe {recipe!r} of {method}; known: {', '.join([*RECIPES, *published])}")
    return _changed(RECIPES[recipe](method), method, changes)


def configure_teacher(recipe: str, changes: Mapping[str, Any]) -> SupervisedConfig:
    """The same for a recipe of pretraining."""
    if recipe not in TEACHER_RECIPES:
        raise DistillError(f"unknown recipe {recipe!r}; known: {', '.join(TEACHER_RECIPES)}")
    return _changed(TEACHER_RECIPES[recipe], "pretraining", changes)


def _changed(config: C, whose: str, changes: Mapping[str, Any]) -> C:
    known = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    values = {}
    for name, value in changes.items():
        if name not in known:
            raise DistillError(f"{whose} has no setting {name!r}; known: {', '.join(known)}")
        try:
            values[name] = _truth(value) if known[name] is bool else known[name](value)
        except ValueError:
            raise DistillError(f"{name} is {value!r}; expected {known[name].__name__}") from None
    return replace(config, **values)


def _truth(value: Any) -> bool:
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]
