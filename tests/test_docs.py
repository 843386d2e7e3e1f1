"""Docs are tests: what they name exists, what exists they name, and their SQL runs."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import demo
import docs
from manifests.query import run_query
from manifests.schema import TABLES

ROOT = Path(__file__).resolve().parent.parent
BESIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/GPU.md")]
PAGES = sorted([*BESIDE, *(ROOT / "docs").glob("*.md")])
WRITTEN = [page for page in PAGES if page.name not in {"cli.md", "manifests.md"}]  # by a person
COMMANDS = docs.commands()
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
REPOSITORY_PATH = re.compile(r"^(?:\.ci|benchmarks|curate|distill|docs|manifests|scripts|shards|tests)/[\w./-]*$")


def code(text: str) -> list[str]:
    """Every line of code in a page: of fenced blocks, continued lines joined, and inline."""
    fenced = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip().removeprefix("$ ") for line in fenced] + INLINE.findall(FENCE.sub("", text))


def invocations(text: str) -> list[list[str]]:
    """The words of every line of code that runs one of the four commands."""
    lines = [line for line in code(text) if line.split(" ")[0] in docs.ROOMS]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def unknown(words: list[str]) -> list[str]:
    """What of an invocation does not exist: its command, or one of its options."""
    if words[1:] and not words[1].startswith("-") and tuple(words[:2]) not in COMMANDS:
        return [" ".join(words[:2])]
    longest = max(n for n in (1, 2, 3) if tuple(words[:n]) in COMMANDS)
    command: Any = COMMANDS[tuple(words[:longest])]
    known = {"--help", *(option for p in command.params for option in (*p.opts, *p.secondary_opts))}
    given = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
    return sorted(given - known)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.name)
def test_commands_and_options_in_docs_exist(page: Path) -> None:
    wrong = {" ".join(words): bad for words in invocations(page.read_text()) if (bad := unknown(words))}
    assert not wrong


def test_a_wrong_command_or_option_in_docs_is_seen() -> None:
    text = "`curate selct` and\n```console\n$ curate select \\\n  --mode random --nonsense=3\n$ ls --all\n```\n"
    assert [unknown(words) for words in invocations(text)] == [["--nonsense"], ["curate selct"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_in_docs_exist(page: Path) -> None:
    text = page.read_text()
    linked = {link: page.parent / link for link in LINK.findall(text)}
    named = {word: ROOT / word for word in INLINE.findall(text) if REPOSITORY_PATH.match(word)}
    assert [word for word, path in {**linked, **named}.items() if not path.exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.name)
def test_sql_in_docs_runs(page: Path, tmp_path: Path) -> None:
    queries = [words[2] for words in invocations(page.read_text()) if words[:2] == ["manifests", "sql"] and words[2:]]
    for table in TABLES.values():
        pq.write_table(table.arrow_schema({"features": 2, "logits": 2}).empty_table(), tmp_path / table.file)
    for query in queries:
        if "..." not in query:
            run_query(query, tmp_path)


def test_generated_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 0, capsys.readouterr().err


def test_drift_of_a_generated_page_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert docs.main() == 0
    page = tmp_path / "manifests.md"
    page.write_text(page.read_text().replace("| `entropy` |", "| `entropie` |"))
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    said = capsys.readouterr().err
    assert "docs/manifests.md" in said
    assert "-| `entropie` |" in said
    assert "run scripts/docs.py" in said


def test_readme_shows_what_the_demo_runs() -> None:
    readme = " ".join(" ".join(code((ROOT / "README.md").read_text())).split())
    for command in demo.COMMANDS:
        assert demo.shown(command) in readme


@pytest.mark.parametrize("script", ["demo", "test"])
def test_readme_commands_are_run_by_ci(script: str) -> None:
    command = f"python3 scripts/{script}.py"
    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text()
