"""The whole story on small corpora of three kinds: what comes out, what is reused, what is refused."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import curate as room
from curate.choice import Choice
from curate.corpora import Corpus, open_corpus
from curate.errors import CorpusUnusable
from curate.previews import write_previews
from curate.run import Curated, Sources, curate
from manifests.errors import OutputConflict
from manifests.read import read_manifest
from manifests.schema import SAMPLES, SCORES, SELECTION
from shards.read import read_shard
from shards.verify import verify
from tests.curate.make import Toy, contents, encode, picture, pictures, write_folder, write_parquet, write_tar

CHOICE = Choice(budget=12, holdout=0.25)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def corpora(tmp_path: Path) -> list[Corpus]:
    """A folder (one file damaged), a tar that shares two pictures with it, and a Parquet file."""
    folder = write_folder(tmp_path / "folder", pictures(9) | {"x.jpg": b"text"})
    tar = write_tar(tmp_path / "x.tar", pictures(7, first=7))
    parquet = write_parquet(tmp_path / "x.parquet", [encode(picture(n), "BMP") for n in range(20, 26)])
    return [open_corpus(f"{name}={path}") for name, path in (("f", folder), ("t", tar), ("p", parquet))]


def run(corpora: list[Corpus], root: Path, choice: Choice = CHOICE, **options: Any) -> tuple[Curated, Toy]:
    teacher = options.pop("teacher", None) or Toy()
    work, out = options.pop("work", root / "work"), options.pop("out", root / "out")
    return curate(Sources(corpora=corpora), teacher, choice, work=work, out=out, **options), teacher


def test_the_set_holds_what_the_rule_chose(corpora: list[Corpus], tmp_path: Path) -> None:
    result, _ = run(corpora, tmp_path)
    counts = result.folder.document["counts"]
    assert counts == {"seen": 23, "selected": 12, "left_out": 10, "quarantined": 1, "duplicates": 2}
    assert (result.decoded, result.forwards, result.shards_written, result.moved) == (23, 22, 2, None)
    assert (result.folder.rows("train"), result.folder.rows("holdout")) == (9, 3)
    assert verify(result.folder.path).problems == ()
    selection = {row["key"]: row for row in read_manifest(result.folder.path, SELECTION).to_pylist()}
    entropy = {row["key"]: row["entropy"] for row in read_manifest(result.folder.path, SCORES).to_pylist()}
    chosen = [entropy[key] for key, row in selection.items() if row["selected"]]
    others = [entropy[key] for key, row in selection.items() if row["reason"] == "below cut"]
    assert len(chosen) + len(others) == 20
    assert min(chosen) >= max(others)


def test_the_pixels_are_those_of_the_source(corpora: list[Corpus], tmp_path: Path) -> None:
    result, _ = run(corpora, tmp_path)
    samples = {row["key"]: row for row in read_manifest(result.folder.path, SAMPLES).to_pylist()}
    for shard in result.folder.shards:
        for block in read_shard(result.folder.path, shard):
            for key, image in zip(block.keys, block.images_NCHW, strict=True):
                row = samples[key.decode()]
                stem = row["uri"].rsplit("/", 1)[-1]
                number = int(stem) + 20 if row["corpus"] == "p" else int(stem.removesuffix(".png"))
                np.testing.assert_array_equal(image, picture(number).transpose(2, 0, 1))


def test_a_rerun_does_nothing_and_gives_the_same_id(corpora: list[Corpus], tmp_path: Path) -> None:
    first, _ = run(corpora, tmp_path)
    before = contents(tmp_path)
    again, teacher = run(corpora, tmp_path)
    assert (again.decoded, again.forwards, again.shards_written, teacher.batches) == (0, 0, 0, [])
    assert again.folder == first.folder
    assert contents(tmp_path) == before


def test_into_another_place_on_other_threads_the_bytes_are_the_same(corpora: list[Corpus], tmp_path: Path) -> None:
    one, _ = run(corpora, tmp_path, threads=1)
    two, _ = run(corpora, tmp_path / "elsewhere", threads=2)
    assert contents(one.folder.path) == contents(two.folder.path)


def test_another_mode_or_budget_reuses_the_scores(corpora: list[Corpus], tmp_path: Path) -> None:
    first, _ = run(corpora, tmp_path)
    for number, choice in enumerate((Choice(mode="random", seed=1), Choice(budget=3))):
        other, teacher = run(corpora, tmp_path, choice, out=tmp_path / f"other-{number}")
        assert (other.decoded, other.forwards, teacher.batches) == (0, 0, [])
        assert other.folder.id != first.folder.id


def test_another_teacher_decodes_nothing_again(corpora: list[Corpus], tmp_path: Path) -> None:
    run(corpora, tmp_path)
    other, _ = run(corpora, tmp_path, teacher=Toy(sha256="cd" * 32), out=tmp_path / "other")
    assert (other.decoded, other.forwards) == (0, 22)


def test_the_order_of_corpora_decides_between_duplicates(corpora: list[Corpus], tmp_path: Path) -> None:
    forth, _ = run(corpora, tmp_path, Choice(budget=99))
    back, _ = run(corpora[::-1], tmp_path, Choice(budget=99), out=tmp_path / "back")
    duplicates = [{c["corpus"]: c["duplicates"] for c in r.folder.document["corpora"]} for r in (forth, back)]
    assert duplicates == [{"f": 0, "t": 2, "p": 0}, {"p": 0, "t": 0, "f": 2}]


# ------------------------------------------------------------------------------------------------------------ refusals


def test_another_budget_into_the_same_folder_is_refused_before_any_forward(
    corpora: list[Corpus], tmp_path: Path
) -> None:
    run(corpora, tmp_path)
    before = contents(tmp_path / "out")
    teacher = Toy(sha256="cd" * 32)
    with pytest.raises(OutputConflict, match="out was made differently: budget was 12, now 5; choose another folder"):
        run(corpora, tmp_path, Choice(budget=5, holdout=0.25))
    with pytest.raises(OutputConflict, match="teacher was 'abab"):
        run(corpora, tmp_path, teacher=teacher)
    assert teacher.batches == []
    assert contents(tmp_path / "out") == before
    result, _ = run(corpora, tmp_path, Choice(budget=5, holdout=0.25), replace=True)
    assert result.moved == tmp_path / "out.old-1"
    assert contents(result.moved) == before
    assert result.folder.rows() == 5


def test_a_folder_that_holds_something_else_is_left_alone(corpora: list[Corpus], tmp_path: Path) -> None:
    write_folder(tmp_path / "out", {"thesis.tex": b"years of work"})
    teacher = Toy()
    with pytest.raises(OutputConflict, match=r"out holds something else \(thesis.tex\)"):
        run(corpora, tmp_path, teacher=teacher)
    assert teacher.batches == []
    assert contents(tmp_path / "out") == {"thesis.tex": b"years of work"}


def test_only_damaged_images(tmp_path: Path) -> None:
    bad = [open_corpus(f"{n}={write_folder(tmp_path / n, {'a.png': b'', 'b.jpg': b'text'})}") for n in ("x", "y")]
    with pytest.raises(
        CorpusUnusable, match=r'none of the 4 samples in x, y could be used; see why: manifests sql "SEL'
    ):
        run(bad, tmp_path)
    assert not (tmp_path / "out").exists()


def test_one_corpus_of_damaged_images_among_others_is_no_error(corpora: list[Corpus], tmp_path: Path) -> None:
    bad = open_corpus(f"bad={write_folder(tmp_path / 'bad', {'a.png': b''})}")
    result, _ = run([bad, *corpora], tmp_path)
    assert result.folder.document["corpora"][0] == {
        "corpus": "bad",
        "seen": 1,
        "quarantined": 1,
        **dict.fromkeys(("selected", "left_out", "duplicates"), 0),
    }
    assert result.folder.rows() == 12


# ------------------------------------------------------------------------------------------------------------ the rest


def test_progress_is_told_of_every_image_and_only_of_work(corpora: list[Corpus], tmp_path: Path) -> None:
    told: dict[str, list[int]] = {}

    @contextlib.contextmanager
    def progress(label: str, total: int, *, unit: str = "images") -> Iterator[Callable[[int], None]]:
        steps = told.setdefault(label, [])
        yield steps.append
        assert sum(steps) == total, (label, unit)

    run(corpora, tmp_path, progress=progress)
    assert list(told) == [
        "ingest f",
        "ingest t",
        "ingest p",
        "score f",
        "score t",
        "score p",
        "decide",
        "gather",
        "pack",
    ]
    told.clear()
    run(corpora, tmp_path, progress=progress)
    assert list(told) == ["score f", "score t", "score p", "pack"]


def test_previews_are_beside_the_set_and_not_part_of_it(corpora: list[Corpus], tmp_path: Path) -> None:
    result, _ = run(corpora, tmp_path)
    before = contents(result.folder.path)
    write_previews(result.folder, result.selection, result.stores)
    after = contents(result.folder.path)
    added = {name: data for name, data in after.items() if name not in before}
    assert {name: data for name, data in after.items() if name in before} == before
    assert "report.html" in added
    assert sum(name.endswith(".png") for name in added) == 2
    assert verify(result.folder.path).problems == ()
    write_previews(result.folder, result.selection, result.stores)
    assert contents(result.folder.path) == after
    again, _ = run(corpora, tmp_path)  # a set with previews is still the set
    assert again.shards_written == 0


def test_previews_where_nothing_was_left_out(tmp_path: Path) -> None:
    corpus = open_corpus(f"c={write_folder(tmp_path / 'in', pictures(3))}")
    result, _ = run([corpus], tmp_path, Choice(budget=9))
    write_previews(result.folder, result.selection, result.stores)
    assert (result.folder.path / "report.html").stat().st_size > 0


def test_the_room_offers_its_story_by_name() -> None:
    assert (room.curate, room.Curated, room.Choice) == (curate, Curated, Choice)
