"""Recipes: whole configs by name. `paper` is every method's published setting; `starter` fits a coffee break."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from distill.errors import DistillError, UnknownMethod
from distill.methods import METHODS, Method
from distill.methods.base import Config


def paper(method: str) -> Config:
    """The paper's settings: the defaults of the method's config, source in its file."""
    return find_method(method).config_class()


def starter(method: str) -> Config:
    """Short enough for two CPU cores and the starter's 16 px images; no published result hangs on it."""
    epochs = {"kd": 35, "mosaickd": 3}.get(method, 10)
    return replace(paper(method), epochs=epochs, batch_size=64)


RECIPES = {"paper": paper, "starter": starter}


def find_method(name: str) -> type[Method]:
    """A method by name; raises `UnknownMethod`."""
    if name not in METHODS:
        known = (method for method, found in METHODS.items() if not found.needs_labels)  # supervised is pretraining's
        raise UnknownMethod(f"unknown method {name!r}; known: {', '.join(known)}")
    return METHODS[name]


def configure(recipe: str, method: str, changes: Mapping[str, Any]) -> Config:
    """The config of a recipe with some fields changed; values may be strings, as typed by a user."""
    if recipe not in RECIPES:
        raise DistillError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    config = RECIPES[recipe](method)
    known = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    values = {}
    for name, value in changes.items():
        if name not in known:
            raise DistillError(f"{method} has no setting {name!r}; known: {', '.join(known)}")
        try:
            values[name] = known[name](value)
        except ValueError:
            raise DistillError(f"{name} is {value!r}; expected {known[name].__name__}") from None
    return replace(config, **values)
