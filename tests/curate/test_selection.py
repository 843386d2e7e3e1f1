"""A selection folder: what may be asked for, what is written, counts that add up, and what makes it another one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from curate.choice import Choice
from curate.corpora import open_corpus
from curate.errors import CorpusUnusable, CurateError, UnknownMode
from curate.ingest import ingest
from curate.score import score
from curate.selection import COUNTS, Judged, make_plan, select
from manifests.commit import Ledger
from manifests.keys import content_key
from manifests.read import read_manifest, read_provenance
from manifests.schema import FEATURES, SAMPLES, SCORES, SELECTION
from shards.index import ShardFolder
from shards.selection import SelectionFolder, open_selection
from tests.curate.make import CLASSES, SIZE, Toy, contents, encode, picture, pictures, write_folder

WHITE = encode(picture(0) * 0 + 255)  # no finite score


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def stores_of(root: Path) -> dict[str, ShardFolder]:
    """Two corpora: one has a twin, a damaged file and one without a finite score, the other shares three pictures."""
    files = {
        "one": pictures(8) | {"twin.bmp": encode(picture(0), "BMP"), "broken.png": b"", "white.png": WHITE},
        "two": pictures(6, first=5),
    }
    found = {}
    for name, images in files.items():
        corpus = open_corpus(f"{name}={write_folder(root / name, images)}")
        found[name] = ingest(corpus, size=SIZE, work=root).store
    return found


def run(root: Path, choice: Choice, teacher: Toy | None = None) -> SelectionFolder:
    judge, stores = teacher or Toy(), stores_of(root)
    judged = [Judged(store=store, scores=score(store, judge, work=root)) for store in stores.values()]
    plan = make_plan(choice, stores, judge, device="cpu")
    return select(choice, judged, judge, plan=plan, work=root)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "entropy"}, UnknownMode, "unknown mode 'entropy'; known: entropy-topk, confidence-topk, "),
        ({"budget": 0}, CurateError, "--budget is 0; expected at least 1 image"),
        ({"budget": -3}, CurateError, "--budget is -3; expected at least 1 image"),
        ({"holdout": 1.0}, CurateError, r"--holdout is 1.0; expected a fraction from 0 to below 1"),
        ({"holdout": -0.1}, CurateError, r"--holdout is -0.1; expected"),
        ({"holdout": float("nan")}, CurateError, "--holdout is nan; expected"),
    ],
)
def test_what_may_be_chosen(options: dict[str, Any], error: type[CurateError], words: str) -> None:
    with pytest.raises(error, match=words):
        Choice(**options)


def test_counts_add_up_in_all_and_per_corpus(tmp_path: Path) -> None:
    document = run(tmp_path, Choice(budget=50)).document
    assert document["corpora"] == [
        {"corpus": "one", "seen": 11, "selected": 8, "left_out": 2, "quarantined": 1, "duplicates": 1},
        {"corpus": "two", "seen": 6, "selected": 3, "left_out": 3, "quarantined": 0, "duplicates": 3},
    ]
    assert document["counts"] == {name: sum(c[name] for c in document["corpora"]) for name in COUNTS}
    for counts in (document["counts"], *document["corpora"]):
        assert counts["selected"] + counts["left_out"] + counts["quarantined"] == counts["seen"]
    assert document["class_histogram"].keys() == set(CLASSES)
    assert sum(document["class_histogram"].values()) == 11


def test_the_manifests_agree(tmp_path: Path) -> None:
    folder = run(tmp_path, Choice(budget=9, holdout=0.3))
    samples, scores, selection, features = (
        read_manifest(folder.path, table).to_pylist() for table in (SAMPLES, SCORES, SELECTION, FEATURES)
    )
    assert len(samples) == len({row["key"] for row in samples}) == 17
    assert [row["key"] for row in scores] == [row["key"] for row in selection]
    assert {row["key"] for row in scores} == {row["key"] for row in samples if row["pixel_hash"]}
    assert [row["key"] for row in features] == [row["key"] for row in selection if row["selected"]]
    assert all(len(row["features"]) == Toy.feature_dim for row in features)
    reasons = {row["key"]: row["reason"] for row in selection}
    assert reasons[content_key(WHITE)] == "nonfinite"
    assert sorted(reasons.values()).count("duplicate") == 4
    predicted = [row["pred"] for row in scores if reasons[row["key"]] == "top-k"]
    assert folder.document["class_histogram"] == {name: predicted.count(n) for n, name in enumerate(CLASSES)}
    assert [row["split"] for row in selection].count("holdout") == 2


def test_features_of_a_key_in_two_corpora_come_once(tmp_path: Path) -> None:
    """Pictures 5, 6 and 7 have the same key in both stores; each is taken of the first."""
    folder = run(tmp_path, Choice(budget=50))
    features = read_manifest(folder.path, FEATURES)["key"].to_pylist()
    assert len(features) == len(set(features)) == folder.document["counts"]["selected"] == 11
    assert {content_key(encode(picture(n))) for n in (5, 6, 7)} <= set(features)


def test_what_it_was_made_from_is_on_record(tmp_path: Path) -> None:
    choice, stores = Choice(budget=5, seed=3), stores_of(tmp_path)
    folder = run(tmp_path, choice)
    footer = read_provenance(folder.path / SELECTION.file)
    assert footer.config == folder.plan
    assert {name: folder.plan[name] for name in ("mode", "budget", "seed", "holdout")} == {
        "mode": "entropy-topk",
        "budget": 5,
        "seed": 3,
        "holdout": 0.05,
    }
    assert footer.parents == folder.parents == {name: store.id for name, store in stores.items()}
    assert footer.teacher == {"name": Toy.name, "sha256": Toy.sha256}
    assert footer.transform == stores["one"].document["transform"] == folder.document["transform"]
    assert folder.document["builtin"] is False
    Ledger(folder.path).verify()
    assert open_selection(folder.path) == folder


def test_the_same_plan_is_taken_as_it_is(tmp_path: Path) -> None:
    first = run(tmp_path, Choice(budget=5))
    before = {name: (first.path / name).stat().st_mtime_ns for name in contents(first.path)}
    again = run(tmp_path, Choice(budget=5))
    assert again == first
    assert {name: (first.path / name).stat().st_mtime_ns for name in contents(first.path)} == before


@pytest.mark.parametrize("name", ["selection.json", "features.parquet"])
def test_a_file_that_was_lost_is_made_again(tmp_path: Path, name: str) -> None:
    first = run(tmp_path, Choice(budget=5))
    whole = contents(first.path)
    (first.path / name).unlink()
    run(tmp_path, Choice(budget=5))
    assert contents(first.path) == whole


def test_any_part_of_the_plan_makes_another_selection(tmp_path: Path) -> None:
    choices = [Choice(), Choice(budget=5), Choice(mode="random"), Choice(mode="random", seed=1), Choice(holdout=0.5)]
    folders = [run(tmp_path, choice).path for choice in choices]
    folders.append(run(tmp_path, Choice(), Toy(sha256="cd" * 32)).path)
    assert len(set(folders)) == len(folders)
    assert [folder.name.rsplit("-", 1)[0] for folder in folders[:3]] == ["entropy-topk", "entropy-topk", "random"]


def test_a_teacher_without_one_finite_answer(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "one", {"white.png": WHITE})
    store = ingest(open_corpus(f"one={root}"), size=SIZE, work=tmp_path).store
    teacher, choice = Toy(), Choice()
    judged = [Judged(store=store, scores=score(store, teacher, work=tmp_path))]
    plan = make_plan(choice, {"one": store}, teacher, device="cpu")
    words = f"teacher {teacher.name} has no finite answer to any of the 1 usable images; its weights or its normaliser"
    with pytest.raises(CorpusUnusable, match=words):
        select(choice, judged, teacher, plan=plan, work=tmp_path)
