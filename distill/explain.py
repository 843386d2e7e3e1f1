"""What methods there are and what their settings mean, read from the methods' own files."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from distill.methods import METHODS, Method
from distill.methods.base import Config
from distill.recipes import RECIPES, find_method


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a method's config."""

    name: str
    type: str
    default: Any
    meaning: str
    """with unit and source, as the config's own docstring says"""


def describe(name: str) -> dict[str, Any]:
    """What a method is, needs and costs, and its settings; raises `UnknownMethod`."""
    method = find_method(name)
    config = method.config_class()
    updates = config.updates_per_step
    return {
        "method": name,
        "what": summary(method),
        "source": method.source,
        "needs": needs(method),
        "phases": dict(config.phases),
        "queries_per_update": config.queries_per_step / updates,
        "images_per_update": config.batches_per_step * config.batch_size / updates,
        "recipes": [*RECIPES, *method.recipes],
        "settings": [vars(setting) for setting in settings(type(config))],
    }


def all_methods() -> list[dict[str, Any]]:
    """Every method that distils; that which learns from labels is `distill pretrain`'s."""
    return [describe(name) for name, method in METHODS.items() if not method.needs_labels]


def summary(method: type[Method]) -> str:
    """The first line of a method's file, without its name."""
    text = inspect.getdoc(inspect.getmodule(method)) or ""
    return text.splitlines()[0].partition(": ")[2].rstrip(".")


def needs(method: type[Method]) -> str:
    """What it learns from: the transfer set, a generator's images, or both."""
    generator = method.samples is not Method.samples
    return " + ".join([*(["transfer set"] if method.needs_stream else []), *(["generator"] if generator else [])])


def settings(config: type[Config]) -> list[Setting]:
    """The fields of a config class, its own first and then those that all share."""
    meanings: dict[str, str] = {}
    own: dict[str, int] = {}
    for depth, cls in enumerate(c for c in config.__mro__ if issubclass(c, Config)):
        for name, meaning in _meanings(cls):
            meanings[name] = meanings.get(name) or meaning
            own.setdefault(name, depth)
    found = [
        Setting(
            name=field.name,
            type=str(field.type if isinstance(field.type, str) else field.type.__name__),
            default=None if field.default is MISSING else field.default,
            meaning=meanings.get(field.name, ""),
        )
        for field in fields(config)
    ]
    return sorted(found, key=lambda setting: own[setting.name])


def _meanings(cls: type) -> Iterator[tuple[str, str]]:
    """Fields of a class body, each with the string that follows it, or "" ."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for at, statement in enumerate(statements):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            after = statements[at + 1] if at + 1 < len(statements) else None
            value = after.value if isinstance(after, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
            yield statement.target.id, " ".join(text.split())
