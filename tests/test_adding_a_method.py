"""The walk of docs/adding-a-method.md, followed word by word in a copy of the tree, passes what it says it passes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding-a-method.md"
ROOMS = ("curate", "distill", "manifests", "shards", "tests")
NAME = "mimic"


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree to which what the page shows was added, and nothing else."""
    file, imported, row, tested = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    tree = tmp_path_factory.mktemp("tree")
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / "scripts").symlink_to(ROOT / "scripts")
    (tree / "distill" / "methods" / f"{NAME}.py").write_text(file)
    insert(tree / "distill" / "methods" / "__init__.py", imported, before="from distill.methods.mosaickd ")
    insert(tree / "distill" / "methods" / "__init__.py", row, before='    "supervised"')
    insert(tree / "tests" / "distill" / "test_kill.py", tested, before="}\nPATIENCE")
    return tree


def insert(path: Path, line: str, *, before: str) -> None:
    """Add a line to a file."""
    text = path.read_text()
    assert text.count(before) == 1, f"{path} has no place for {line!r}"
    path.write_text(text.replace(before, line + before))


def passes(tree: Path, *arguments: str) -> str:
    """What pytest says of the tree, which passes."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


def test_the_method_of_the_page_passes_the_conformance_suite(walked: Path) -> None:
    said = passes(walked, "tests/conformance/test_methods.py", "tests/test_rooms.py", "-k", NAME)
    found = re.search(r"(\d+) passed", said)
    assert found is not None
    assert int(found[1]) > 20


@pytest.mark.slow
def test_it_resumes_after_kills_and_its_help_is_whole(walked: Path) -> None:
    passes(walked, "tests/distill/test_kill.py", "-k", f"({NAME} and few) or every_method")
    passes(walked, "tests/distill/test_runs_cli.py", "-k", "methods_are_listed or every_setting")


def test_the_page_names_every_place_that_it_changes() -> None:
    text = PAGE.read_text()
    for place in ("distill/methods/__init__.py", "tests/distill/test_kill.py", "distill/methods/kd.py"):
        assert f"`{place}`" in text
