"""Progress: silent in a library and on a pipe, a bar on a terminal."""

import io
import sys

import pytest

from manifests.progress import bar, silent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with silent("score", 2) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("score", 2) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_names_the_work_and_its_rate_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with bar("score tiny", 1000, unit="images") as advance:
        for _ in range(10):
            advance(100)
    assert "score tiny" in terminal.getvalue()
    assert "1000/1000" in terminal.getvalue()
