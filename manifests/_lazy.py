"""Lazy names for a package's `__init__.py` (PEP 562): a name is imported when it is first asked for, not before.

So `import curate` and every `--help` cost no torch. A package lists its names twice, once for type checkers and once
for this module; a test holds the two lists equal.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(
    package: str, modules: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of ``package``; ``modules``: the names in each of its modules.

    A name must differ from the modules of its package: importing the module would take its place.
    """
    where = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def getattr_(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(where[name]), name)
        setattr(sys.modules[package], name, value)  # the next access finds it without coming here
        return value

    names = sorted(where)
    return getattr_, lambda: names, names
