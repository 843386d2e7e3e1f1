"""Four rooms, one direction: which package may import which, what a file holds, and what `--help` costs."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.errors import TransfersetError
from manifests.provenance import VERSION

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "manifests": set[str](),
    "shards": {"manifests"},
    "curate": {"manifests", "shards"},
    "distill": {"manifests", "shards"},
}
ONLY_IN_CLI = {"curate": {"distill"}, "distill": {"curate"}}
NOT_IN_MANIFESTS = {"PIL", "faiss", "torch", "torchvision", "webdataset"}
DISTRIBUTIONS = {  # whose import name is another
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
HEAVY = ("PIL", "faiss", "scipy", "skimage", "sklearn", "torch", "torchvision", "webdataset")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAX_FILE, MAX_FUNCTION = 400, 80  # lines

FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in FILES}
PACKAGES = sorted(path.parent for path in FILES if path.name == "__init__.py")


def name(path: Path) -> str:
    """Path below the checkout, for messages and test names."""
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    """Dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level packages that a file imports, wherever in the file, also by `import_module("...")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "relative import" if node.level else str(node.module).split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(a.value).split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[room] | {room}
    if path == ROOT / room / "cli.py":
        allowed |= ONLY_IN_CLI.get(room, set())
    forbidden = (set(MAY_IMPORT) | {"relative import", "scripts", "tests"}) - allowed
    if room == "manifests":
        forbidden |= NOT_IN_MANIFESTS
    assert not forbidden & set(imported(TREES[path]))


def test_the_walk_sees_every_kind_of_import() -> None:
    source = """
import a.b
def f():
    from c.d import e
    importlib.import_module("g.h")
if TYPE_CHECKING:
    from i import j
from . import k
"""
    assert set(imported(ast.parse(source))) == {"a", "c", "g", "i", "relative import"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_its_idea_and_keeps_its_size(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree), "opens without a docstring"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE, f"{lines} lines: split it by idea"
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: length for f in functions if (length := (f.end_lineno or 0) - f.lineno + 1) > MAX_FUNCTION}
    assert not long, f"functions of more than {MAX_FUNCTION} lines"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=name)
def test_an_init_holds_names_only(path: Path) -> None:
    defined = [n for n in ast.walk(TREES[path]) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    assert not defined


def test_every_folder_of_sources_is_a_package() -> None:
    assert sorted({path.parent for path in FILES}) == PACKAGES


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__main__.py"], ids=name)
def test_public_names_resolve(path: Path) -> None:
    loaded = importlib.import_module(module(path))
    exported = getattr(loaded, "__all__", [])
    assert len(set(exported)) == len(exported)
    for public in exported:
        assert hasattr(loaded, public), public


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_lazy_names_are_what_type_checkers_see(room: str) -> None:
    package = importlib.import_module(room)
    typed = {
        alias.asname or alias.name: (node.module, alias.name)
        for block in TREES[ROOT / room / "__init__.py"].body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed
    assert set(typed) == set(package.__all__) == set(dir(package))
    for public, (where, original) in typed.items():
        assert getattr(package, public) is getattr(importlib.import_module(str(where)), original)
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'nonsense'"):
        _ = package.nonsense


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_every_error_of_a_room_is_in_the_one_tree(room: str) -> None:
    errors = importlib.import_module(f"{room}.errors")
    classes = [v for v in vars(errors).values() if isinstance(v, type) and v.__module__ == errors.__name__]
    assert classes
    assert all(issubclass(c, TransfersetError) and c.__doc__ for c in classes)
    assert [c.__name__ for c in classes if c.__name__ not in str(errors.__doc__)] == [], "not in the drawn tree"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_help_costs_no_torch(room: str) -> None:
    code = f"""
import runpy, sys
sys.argv = ["{room}", "--help"]
try:
    runpy.run_module("{room}", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = [m for m in {HEAVY!r} if m in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_every_library_imported_is_a_declared_dependency() -> None:
    extras = [line for extra, lines in PROJECT["optional-dependencies"].items() if extra != "dev" for line in lines]
    declared = {re.split(r"[<>=~! ]", line)[0] for line in PROJECT["dependencies"] + extras}
    used = {lib for tree in TREES.values() for lib in imported(tree)} - set(MAY_IMPORT) - set(sys.stdlib_module_names)
    assert {DISTRIBUTIONS.get(library, library) for library in used} <= declared


def test_the_project_file_names_what_is_there() -> None:
    assert PROJECT["version"] == VERSION
    assert set(PROJECT["scripts"]) == set(MAY_IMPORT)
    for command, target in PROJECT["scripts"].items():
        where, function = target.split(":")
        assert where == f"{command}.cli"
        assert callable(getattr(importlib.import_module(where), function))
