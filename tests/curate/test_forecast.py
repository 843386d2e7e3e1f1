"""A forecast says what a run then does, and does nothing itself."""

from pathlib import Path

import pytest
import torch

from curate.choice import Choice
from curate.corpora import open_corpus
from curate.forecast import GO_ON, MAKE, REUSE, UNKNOWN, forecast
from curate.run import Sources, curate
from tests.curate.make import SIZE, Toy, pictures, write_folder

CHOICE = Choice(budget=5, holdout=0.25)
SAMPLE, SCORE, DECISION, VECTORS = 64, 40, 26, 4 * (3 + 4)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    one, two = (write_folder(tmp_path / name, pictures(8, first=first)) for name, first in (("one", 0), ("two", 20)))
    return Sources(corpora=[open_corpus(f"one={one}")], reference=[open_corpus(f"two={two}")])


def steps(sources: Sources, root: Path) -> dict[tuple[str, str], dict[str, object]]:
    found = forecast(sources, Toy(), CHOICE, work=root / "work", out=root / "out")
    return {(step["step"], step["what"].rsplit("/", 1)[-1]): step for step in found}


def test_nothing_is_there_and_nothing_is_made(sources: Sources, tmp_path: Path) -> None:
    found = steps(sources, tmp_path)
    assert list(found) == [
        *(("ingest", "one"), ("ingest", "two (reference)"), ("score", "one"), ("score", "two (reference)")),
        *(("select", "entropy-topk"), ("pack", "out")),
    ]
    assert {step["state"] for step in found.values()} == {MAKE}
    assert [step["images"] for step in found.values()] == [8, 8, 8, 8, 8, 5]
    folder = sum(file.stat().st_size for file in (tmp_path / "one").iterdir())
    assert found["ingest", "one"]["reads_MB"] == round(folder / 1e6, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_bytes_are_about_those_of_the_arrays(tmp_path: Path) -> None:
    """Pixels, vectors and manifest rows, of ten thousand images."""
    many = Sources(corpora=[open_corpus("n=noise:uniform?n=10000&size=8")])
    found = steps(many, tmp_path)
    assert found["ingest", "n"]["reads_MB"] is None
    assert found["ingest", "n"]["writes_MB"] == round(10_000 * (3 * SIZE**2 + SAMPLE) / 1e6, 1)
    assert found["score", "n"]["writes_MB"] == round(10_000 * (VECTORS + SCORE) / 1e6, 1)
    assert found["select", "entropy-topk"]["writes_MB"] == round(10_000 * (SAMPLE + SCORE + DECISION) / 1e6, 1)


def test_what_a_run_left_is_reused(sources: Sources, tmp_path: Path) -> None:
    curate(sources, Toy(), CHOICE, work=tmp_path / "work", out=tmp_path / "out")
    found = steps(sources, tmp_path)
    assert {step["state"] for step in found.values()} == {REUSE}
    assert {step["writes_MB"] for step in found.values()} == {0.0}
    (tmp_path / "out" / "shards" / "train-000000.tar").unlink()
    assert steps(sources, tmp_path)["pack", "out"]["state"] == GO_ON


def test_an_output_of_another_plan(sources: Sources, tmp_path: Path) -> None:
    curate(sources, Toy(), Choice(budget=3), work=tmp_path / "work", out=tmp_path / "out")
    found = steps(sources, tmp_path)
    assert str(found["pack", "out"]["state"]).startswith("refused: ")
    assert "budget was 3, now 5" in str(found["pack", "out"]["state"])
    assert (found["score", "one"]["state"], found["select", "entropy-topk"]["state"]) == (REUSE, MAKE)
    write_folder(tmp_path / "one", pictures(1, first=50))
    more = Sources(corpora=[open_corpus(f"one={tmp_path / 'one'}")], reference=sources.reference)
    found = steps(more, tmp_path)
    assert found["pack", "out"]["state"] == UNKNOWN  # until the new image is read
    assert (found["ingest", "one"]["state"], found["ingest", "one"]["images"]) == (MAKE, 9)
