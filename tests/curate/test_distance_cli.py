"""`curate distance` at the terminal: the numbers, their witnesses, the page with pictures, and wrong use in a line."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.corpora import open_corpus
from curate.distance_cli import distance
from curate.ingest import ingest
from curate.score import score
from manifests.console import new_app, run
from manifests.read import read_manifest
from manifests.schema import FEATURES, SAMPLES
from tests.curate.make import SIZE, Toy, encode, pictures, write_folder

app = new_app("curate")
app.command()(distance)

A = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
B = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]])


class Terminal:
    """What a person at a terminal does and sees."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._monkeypatch.setattr(sys, "argv", ["curate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run(app, "curate")
        out, err = self._capsys.readouterr()
        return int(stop.value.code or 0), out, err

    def json(self, *arguments: object) -> Any:
        """The document of a command that succeeds."""
        code, out, err = self(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Terminal:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", A)
    np.save("b.npy", B)
    return Terminal(capsys, monkeypatch)


def scored(name: str, count: int, *, first: int = 0, teacher: Toy | None = None) -> Path:
    """A scores folder of some pictures and a white one, whose logits are not finite."""
    white = encode(np.full((SIZE, SIZE, 3), 255, np.uint8))
    corpus = open_corpus(f"{name}={write_folder(Path(name), pictures(count, first=first) | {'white.png': white})}")
    work = Path("work")
    return score(ingest(corpus, size=SIZE, work=work).store, teacher or Toy(), work=work, threads=1).path


def test_what_a_person_reads(measure: Terminal) -> None:
    code, out, err = measure("a.npy", "b.npy", "--threads", 1)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["A:", "a.npy,", "features", "of", "3", "samples", "(2", "numbers", "each)"],
        ["B:", "b.npy,", "features", "of", "3", "samples", "(2", "numbers", "each)"],
        [],
        ["direction", "hausdorff", "mean", "of", "min", "q95"],
        ["A", "to", "B", "3.1623", "1.0541", "2.8460"],
        ["B", "to", "A", "2.0000", "0.6667", "1.8000"],
        ["symmetric", "3.1623", "1.0541", "2.8460"],
        [],
        ["direction", "the", "farthest", "its", "key", "its", "nearest", "the", "nearest's", "key"],
        ["A", "to", "B", "row", "1", "row", "2"],
        ["B", "to", "A", "row", "2", "row", "2"],
    ]


def test_the_document(measure: Terminal) -> None:
    found = measure.json("a.npy", "b.npy")
    assert found["a"] == {"name": "a.npy", "rows": 3, "width": 2, "left_out": 0, "teacher": None}
    assert found["on"] == "features"
    way = found["a_to_b"]
    assert way["hausdorff"] == found["symmetric"]["hausdorff"] == pytest.approx(10**0.5, rel=1e-15)
    assert way["mean_of_min"] == pytest.approx(10**0.5 / 3, rel=1e-15)
    assert [way["witness"][side]["row"] for side in "ab"] == [1, 2]
    assert [found["b_to_a"]["witness"][side]["row"] for side in "ab"] == [2, 2]
    quick = measure.json("a.npy", "b.npy", "--hausdorff-only")
    assert quick["a_to_b"]["hausdorff"] == way["hausdorff"]
    assert quick["symmetric"] == {"hausdorff": way["hausdorff"], "mean_of_min": None, "q95": None}


def test_hausdorff_only_shows_no_other_columns(measure: Terminal) -> None:
    code, out, _ = measure("a.npy", "b.npy", "--hausdorff-only")
    assert code == 0
    assert out.splitlines()[3:5] == ["direction  hausdorff", "A to B        3.1623"]


def test_witnesses_are_named_and_shown(measure: Terminal) -> None:
    a, b = scored("one", 12), scored("two", 9, first=12)
    found = measure.json(a, b, "--report", "page.html")
    features = [np.array([row["features"] for row in read_manifest(f, FEATURES).to_pylist()]) for f in (a, b)]
    table = np.linalg.norm(features[0][:, None].astype(float) - features[1], axis=2)
    assert found["a_to_b"]["hausdorff"] == pytest.approx(table.min(axis=1).max(), rel=1e-6)
    assert found["b_to_a"]["hausdorff"] == pytest.approx(table.min(axis=0).max(), rel=1e-6)
    (store,) = Path("work/stores").glob("one-*")
    uris = {row["key"]: row["uri"] for row in read_manifest(store, SAMPLES).to_pylist()}
    witness = found["a_to_b"]["witness"]["a"]
    assert (witness["corpus"], witness["uri"]) == ("one", uris[witness["key"]])
    assert witness["row"] == table.min(axis=1).argmax()
    page = Path("page.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<img src="data:image/png', page)) == 4  # farthest and nearest, both ways
    assert page.count('class="plot"') == 2
    assert f"one/{witness['uri']}" in page
    _, out, _ = measure(a, b)
    assert f"one/{witness['uri']}" in out


def test_a_page_without_pictures_where_there_are_none(measure: Terminal) -> None:
    code, _, _ = measure("a.npy", "b.npy", "--hausdorff-only", "--report", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert code == 0
    assert "<img" not in page
    assert 'class="plot"' not in page
    assert "row 1" in page


def test_rows_that_are_not_finite_are_left_out_and_told(measure: Terminal) -> None:
    a, b = scored("one", 5), scored("two", 4, first=5)
    code, out, err = measure(a, b, "--on", "logits")
    assert code == 0
    assert err.splitlines() == [f"{f}: left out, as their logits are not finite: 1" for f in (a, b)]
    assert "logits of 5 samples" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.npy", "nowhere"), "curate: no such file or folder: nowhere; expected a transfer set"),
        (("a.npy", "b.npy", "--on", "colours"), "curate: --on 'colours'; expected features or logits"),
        (("a.npy", "wide.npy"), "curate: A: rows of 2 numbers, B: of 3; expected vectors of one length"),
        (("a.npy", "holed.npy"), "curate: B: NaN or infinity in 1 of 3 rows, first in row 1"),
        (("a.npy", "b.npy", "--report", "a.npy/x.html"), "curate: a.npy"),
    ],
)
def test_wrong_use_is_answered_in_a_line(measure: Terminal, arguments: tuple[str, ...], words: str) -> None:
    np.save("wide.npy", np.ones((3, 3)))
    np.save("holed.npy", np.array([[0, 0], [np.inf, 0], [1, 1]]))
    code, out, err = measure(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(words)
    assert len(err.splitlines()) == 1


def test_two_teachers_are_refused(measure: Terminal) -> None:
    a, b = scored("one", 3), scored("two", 3, first=3, teacher=Toy(name="other", sha256="cd" * 32))
    code, out, err = measure(a, b)
    assert (code, out) == (2, "")
    assert re.search(f"{Toy().name}, .* by other: distances between their vectors mean nothing", err)


@pytest.mark.parametrize("name", ["notes.md", "link.html", "folder.html"])
def test_a_page_replaces_nothing_else(measure: Terminal, name: str) -> None:
    Path("notes.md").write_text("mine")
    Path("link.html").symlink_to("notes.md")
    Path("folder.html").mkdir()
    code, out, err = measure("a.npy", "b.npy", "--report", name)
    assert (code, out) == (2, "")
    assert f"--report is {name}" in err
    assert Path("notes.md").read_text() == "mine"
    assert Path("link.html").is_symlink()
