"""Scores: the formulas against float64, what is not finite, and numbers that depend on image and teacher alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from curate import ingest as ingest_module
from curate.corpora import base as corpora_base
from curate.corpora import open_corpus
from curate.ingest import ingest
from curate.score import ScoreResult, score, score_columns
from manifests.commit import exclusive
from manifests.errors import Busy
from manifests.read import read_manifest, read_provenance
from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES
from shards.index import ShardFolder
from shards.layout import block_rows
from tests.curate.make import SIZE, WEIGHTS_DK, Toy, contents, encode, picture, pictures, write_folder

WHITE = np.full((SIZE, SIZE, 3), 255, np.uint8)  # to which the toy teacher has no finite answer
NUMBERS = ("pred", "confidence", "entropy", "margin", "energy")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards of several blocks."""
    monkeypatch.setattr(corpora_base, "PART_SIZE", 5)
    monkeypatch.setattr(ingest_module, "block_rows", lambda size: 2)


def make_store(root: Path, count: int = 11) -> ShardFolder:
    files = pictures(count) | {"broken.png": b"", "twin.bmp": encode(picture(0), "BMP"), "white.png": encode(WHITE)}
    corpus = open_corpus(f"c={write_folder(root / 'in', files)}")
    return ingest(corpus, size=SIZE, work=root).store


def columns(result: ScoreResult) -> dict[str, list[object]]:
    found: dict[str, list[object]] = read_manifest(result.path, SCORES).to_pydict()
    return found


# ------------------------------------------------------------------------------------------------------------ formulas


@given(arrays(np.float32, (4, 5), elements=st.floats(-1e4, 1e4, width=32)))
@settings(max_examples=60, deadline=None)
def test_columns_are_their_definitions(logits_NK: NDArray[np.float32]) -> None:
    found = {name: np.array(column.to_pylist()) for name, column in score_columns(logits_NK).items()}
    for n, logits in enumerate(logits_NK.astype(np.longdouble)):
        shifted = np.exp(logits - logits.max())
        p = shifted / shifted.sum()
        entropy = -sum(x * np.log(x) for x in p if x > 0)
        best = np.sort(p)[::-1]
        assert found["entropy"][n] == pytest.approx(float(entropy), rel=1e-6, abs=1e-7)
        assert found["confidence"][n] == pytest.approx(float(best[0]), rel=1e-6)
        assert found["margin"][n] == pytest.approx(float(best[0] - best[1]), rel=1e-6, abs=1e-7)
        energy = -(logits.max() + np.log(shifted.sum()))
        assert found["energy"][n] == pytest.approx(float(energy), rel=1e-6, abs=1e-6)
        assert logits_NK[n, found["pred"][n]] == logits_NK[n].max()
    assert (found["status"] == "ok").all()
    assert (found["entropy"] >= 0).all()
    assert (found["entropy"] <= np.float32(np.log(5))).all()


@pytest.mark.parametrize(
    ("logits", "entropy"),
    [
        ([0.0, 0.0, 0.0, 0.0], np.log(4)),  # nats
        ([1e4, -1e4, 0.0, 0.0], 0.0),
        ([1e4, 1e4, -1e4, -1e4], np.log(2)),
        ([3e38, -3e38, 0.0, 0.0], 0.0),
        ([-3e38, -3e38, -3e38, -3e38], np.log(4)),
    ],
)
def test_extreme_logits_have_a_finite_entropy(logits: list[float], entropy: float) -> None:
    found = score_columns(np.array([logits], np.float32))
    assert found["entropy"].to_pylist() == [pytest.approx(entropy, abs=1e-7)]
    assert all(np.isfinite(column.to_pylist()).all() for name, column in found.items() if name != "status")


def test_the_first_of_equal_classes_is_the_prediction() -> None:
    assert score_columns(np.array([[1, 5, 5, 2]], np.float32))["pred"].to_pylist() == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_null_with_a_status(bad: float) -> None:
    found = score_columns(np.array([[1, 2, 3], [1, bad, 3], [0, 0, 0]], np.float32))
    assert found["status"].to_pylist() == ["ok", "nonfinite", "ok"]
    for name in NUMBERS:
        assert [value is None for value in found[name].to_pylist()] == [False, True, False]


# ---------------------------------------------------------------------------------------------------------- the folder


def test_one_row_for_every_stored_image_and_no_other(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    teacher, told = Toy(), list[int]()
    result = score(store, teacher, work=tmp_path, advance=told.append)
    samples = {row["key"]: row for row in read_manifest(store.path, SAMPLES).to_pylist()}
    stored = sorted(key for key, row in samples.items() if row["shard"] is not None)
    assert columns(result)["key"] == stored
    assert result.forwards == sum(told) == store.rows() == len(stored) == 13  # the twin and the white one too
    by_uri = {samples[key]["uri"]: n for n, key in enumerate(stored)}
    statuses = columns(result)["status"]
    assert [uri for uri, n in by_uri.items() if statuses[n] == "nonfinite"] == ["white.png"]
    assert all(columns(result)[name][by_uri["white.png"]] is None for name in NUMBERS)
    features = read_manifest(result.path, FEATURES)
    logits = read_manifest(result.path, LOGITS)
    assert features["key"].to_pylist() == logits["key"].to_pylist() == stored
    for n in range(11):
        mean = picture(n).reshape(-1, 3).astype(np.float64).mean(0) / 255
        row = by_uri[f"{n:03d}.png"]
        np.testing.assert_allclose(features["features"][row].as_py(), mean, rtol=1e-6)
        np.testing.assert_allclose(logits["logits"][row].as_py(), mean @ WEIGHTS_DK, rtol=1e-5, atol=1e-6)
    footer = read_provenance(result.path / SCORES.file)
    assert (footer.step, footer.parents) == ("score", {"store": store.id})
    assert footer.teacher == {"name": teacher.name, "sha256": teacher.sha256}


def test_every_batch_has_one_shape_and_one_thread(tmp_path: Path) -> None:
    teacher = Toy()
    torch.set_num_threads(2)
    score(make_store(tmp_path), teacher, work=tmp_path, threads=2)
    assert set(teacher.batches) == {(block_rows(SIZE), 3, SIZE, SIZE)}
    assert teacher.threads == {1}
    assert torch.get_num_threads() == 2  # the caller's own number stands


def test_threads_change_no_byte(tmp_path: Path, small: None) -> None:
    store = make_store(tmp_path)
    written = [contents(score(store, Toy(), work=tmp_path / str(n), threads=n).path) for n in (1, 2, 3)]
    assert written[0] == written[1] == written[2]


def test_how_the_store_is_cut_changes_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for part, block in ((4096, 256), (5, 2), (3, 3), (1, 1)):
        monkeypatch.setattr(corpora_base, "PART_SIZE", part)
        monkeypatch.setattr(ingest_module, "block_rows", lambda size, block=block: block)
        work = tmp_path / f"{part}-{block}"
        result = score(make_store(work), Toy(), work=work)
        found.append([read_manifest(result.path, table).to_pylist() for table in (SCORES, FEATURES)])
    assert found[0] == found[1] == found[2] == found[3]


def test_a_rerun_asks_the_teacher_nothing(tmp_path: Path, small: None) -> None:
    store = make_store(tmp_path)
    first = score(store, Toy(), work=tmp_path)
    before = contents(first.path)
    teacher, told = Toy(), list[int]()
    again = score(store, teacher, work=tmp_path, advance=told.append)
    assert (again.forwards, again.path, teacher.batches, told) == (0, first.path, [], [store.rows()])
    assert contents(first.path) == before


@pytest.mark.parametrize(("undone", "forwards"), [([], 0), ([1], 5), ([0, 2], 8), ([0, 1, 2], 13)])
def test_half_made_scores_are_gone_on_with_by_parts(
    tmp_path: Path, small: None, undone: list[int], forwards: int
) -> None:
    store = make_store(tmp_path)
    assert [shard.rows for shard in store.shards] == [5, 5, 3]
    path = score(store, Toy(), work=tmp_path).path
    whole = contents(path)
    for unit in ("scores", *(f"part-{n:06d}" for n in undone)):
        (path / "commits" / f"{unit}.json").unlink()
    (path / "features.parquet").unlink()
    assert score(store, Toy(), work=tmp_path).forwards == forwards
    assert contents(path) == whole


def test_another_teacher_precision_or_normaliser_is_another_folder(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    teachers = [
        Toy(),
        Toy(sha256="cd" * 32),
        Toy(dtype="bfloat16"),
        Toy(mean=(0.5, 0.5, 0.5)),
        Toy(std=(2.0, 1.0, 1.0)),
    ]
    results = [score(store, teacher, work=tmp_path) for teacher in teachers]
    assert len({result.path for result in results}) == len(teachers)
    assert all(result.forwards == store.rows() for result in results)
    assert len({result.fingerprint for result in results}) == len(teachers)


def test_a_store_without_a_picture(tmp_path: Path) -> None:
    store = ingest(open_corpus(f"c={write_folder(tmp_path / 'in', {'a.png': b''})}"), size=SIZE, work=tmp_path).store
    result = score(store, Toy(), work=tmp_path)
    assert result.forwards == 0
    assert [read_manifest(result.path, table).num_rows for table in (SCORES, FEATURES, LOGITS)] == [0, 0, 0]


def test_a_teacher_that_fails_leaves_what_was_done(tmp_path: Path, small: None) -> None:
    store = make_store(tmp_path)

    class Tired(Toy):
        def __call__(self, images_BCHW: torch.Tensor, /) -> object:  # type: ignore[override]
            if len(self.batches) == 4:
                raise RuntimeError("out of memory")
            return super().__call__(images_BCHW)

    with pytest.raises(RuntimeError, match="out of memory"):
        score(store, Tired(), work=tmp_path, threads=1)  # type: ignore[arg-type]  # it never answers wrongly
    assert torch.get_num_threads() == 1
    assert score(store, Toy(), work=tmp_path).forwards == store.rows() - store.shards[0].rows


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = score(store, Toy(), work=tmp_path).path
    (path / "commits" / "scores.json").unlink()
    with exclusive(path), pytest.raises(Busy, match="is being written by process"):
        score(store, Toy(), work=tmp_path)
