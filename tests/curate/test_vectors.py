"""Vectors from every place they lie in, with what lies beside them, and every wrong place in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.corpora import open_corpus
from curate.errors import CurateError, DistanceError
from curate.ingest import ingest
from curate.score import ScoreResult, score
from curate.vectors import Kind, check_same_teacher, open_vectors
from manifests.errors import IntegrityError, SchemaMismatch
from manifests.provenance import Provenance
from manifests.read import read_manifest
from manifests.schema import FEATURES, SAMPLES
from manifests.write import write_manifest
from shards.pack import pack
from tests.curate.make import SIZE, Toy, encode, pictures, write_folder
from tests.shards.make import CLASSES, write_selection, write_store

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def scored(work: Path, *, teacher: Toy | None = None) -> ScoreResult:
    """Five pictures, one of them white: the toy teacher has features of it and no finite logits."""
    torch.set_num_threads(1)
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    corpus = open_corpus(f"c={write_folder(work / 'in', pictures(4) | {'white.png': encode(white)})}")
    return score(ingest(corpus, size=SIZE, work=work).store, teacher or Toy(), work=work, threads=1)


def lists(rows: list[Any], kind: pa.DataType, **columns: list[Any]) -> pa.Table:
    return pa.table({"features": pa.array(rows, kind), **columns})


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", ["features", "logits"])
def test_a_scores_folder_with_keys_teacher_and_pictures(tmp_path: Path, kind: Kind) -> None:
    result = scored(tmp_path)
    found = open_vectors(result.path, kind)
    whole = pq.read_table(result.path / f"{kind}.parquet").to_pylist()
    finite = [row for row in whole if np.isfinite(row[kind]).all()]
    assert found.rows_ND.tolist() == [row[kind] for row in finite]
    assert found.rows_ND.dtype == np.float32
    assert found.rows_ND.flags.c_contiguous
    assert found.keys is not None
    assert found.keys.to_pylist() == [row["key"] for row in finite]
    assert found.left_out == len(whole) - len(finite) == (1 if kind == "logits" else 0)
    assert found.teacher == {"name": Toy().name, "sha256": Toy().sha256}
    assert found.name == str(result.path)
    (store,) = (tmp_path / "stores").iterdir()
    assert found.home == store
    known = {row["key"]: row for row in read_manifest(store, SAMPLES).to_pylist()}
    for number, sample in zip((3, 0), found.samples([3, 0]), strict=True):
        row = known[finite[number]["key"]]
        assert (sample.row, sample.key, sample.corpus, sample.uri) == (number, row["key"], "c", row["uri"])
        assert sample.place == (row["shard"], row["block"], row["row"])
        assert str(sample) == f"c/{row['uri']}"


def test_a_file_of_ours_outside_of_its_folder_still_names_its_keys(tmp_path: Path) -> None:
    result = scored(tmp_path)
    moved = (result.path / "features.parquet").rename(tmp_path / "mine.parquet")
    found = open_vectors(moved, "features")
    (sample,) = found.samples([2])
    assert found.home is None
    assert found.teacher is not None
    assert (sample.uri, sample.place, str(sample)) == (None, None, sample.key)


def test_a_transfer_set_is_its_own_home(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [[3, 2]])
    pack(write_selection(tmp_path / "selection", [store], budget=4), {"one": store}, tmp_path / "set")
    found = open_vectors(tmp_path / "set", "features")
    assert found.home == tmp_path / "set"
    assert found.rows_ND.shape[0] == 4
    assert all(sample.place is not None for sample in found.samples(range(4)))
    assert open_vectors(tmp_path / "set", "logits").rows_ND.shape == (4, CLASSES)


def test_two_teachers_are_refused_by_name(tmp_path: Path) -> None:
    mine = open_vectors(scored(tmp_path / "1").path, "features")
    other = open_vectors(scored(tmp_path / "2", teacher=Toy(name="other", sha256="cd" * 32)).path, "features")
    np.save(tmp_path / "x.npy", ROWS)
    check_same_teacher(mine, mine)
    check_same_teacher(mine, open_vectors(tmp_path / "x.npy", "features"))
    with pytest.raises(DistanceError, match=f"was scored by the teacher {Toy().name}, .* by other: distances between"):
        check_same_teacher(mine, other)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("dtype", "held"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.uint8, np.float32),
        (np.int64, np.float64),
        (">f4", np.float32),
    ],
)
def test_npy_keeps_what_its_numbers_need(tmp_path: Path, dtype: Any, held: Any) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(ROWS.astype(dtype)))
    found = open_vectors(tmp_path / "x.npy", "features")
    assert found.rows_ND.dtype == held
    assert found.rows_ND.flags.c_contiguous
    np.testing.assert_array_equal(found.rows_ND, ROWS)
    assert (found.keys, found.teacher, found.home, found.left_out) == (None, None, None, 0)
    assert str(found.samples([2])[0]) == "row 2"


def test_npz_by_key_by_kind_or_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "alone.npz", whatever=ROWS)
    np.savez(tmp_path / "more.npz", features=ROWS, logits=ROWS[:, :2], x=ROWS + 1)
    assert open_vectors(tmp_path / "alone.npz", "features").rows_ND[1, 1] == 4
    assert open_vectors(tmp_path / "more.npz", "logits").rows_ND.shape == (4, 2)
    assert open_vectors(f"{tmp_path}/more.npz?key=x", "features").rows_ND[1, 1] == 5


@pytest.mark.parametrize(
    ("form", "held"),
    [
        (pa.list_(pa.float32()), np.float32),
        (pa.list_(pa.float32(), 3), np.float32),
        (pa.list_(pa.float16(), 3), np.float32),
        (pa.large_list(pa.float64()), np.float64),
        (pa.list_(pa.int64()), np.float64),
    ],
)
def test_parquet_of_any_list_in_any_row_groups(tmp_path: Path, form: pa.DataType, held: Any) -> None:
    many = np.tile(ROWS, (5000, 1))  # several batches
    cells: list[Any] = list(many.astype(np.float16)) if form.value_type == pa.float16() else many.tolist()
    if pa.types.is_integer(form.value_type):
        cells = many.astype(int).tolist()
    names = [f"k{n}" for n in range(len(many))]
    pq.write_table(lists(cells, form, key=names), tmp_path / "x.parquet", row_group_size=3333)
    found = open_vectors(tmp_path / "x.parquet", "features")
    assert found.rows_ND.dtype == held
    np.testing.assert_array_equal(found.rows_ND, many.astype(np.float16 if form.value_type == pa.float16() else held))
    (sample,) = found.samples([12_345])
    assert (sample.key, str(sample), found.teacher) == ("k12345", "k12345", None)


def test_what_is_not_finite_in_a_file_of_ones_own_is_kept_and_refused_later(tmp_path: Path) -> None:
    pq.write_table(lists([[1.0, 2.0], [float("nan"), 0.0]], pa.list_(pa.float32())), tmp_path / "x.parquet")
    found = open_vectors(tmp_path / "x.parquet", "features")
    assert np.isnan(found.rows_ND[1, 0])
    assert (len(found.rows_ND), found.left_out) == (2, 0)


# ----------------------------------------------------------------------------------------------------------- wrong use


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of things that hold no features."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("old").mkdir()
    pq.write_table(pa.table({"key": ["a"], "logits": [[1.0]]}), "old/logits.parquet")
    Path("x.csv").write_text("1,2")
    Path("bad.npy").write_bytes(b"no array")
    Path("bad.npz").write_bytes(b"no zip")
    np.save("flat.npy", ROWS[0])
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("objects.npy", np.array([[None]]), allow_pickle=True)
    np.savez("two.npz", a=ROWS, b=ROWS)
    pq.write_table(pa.table({"x": [1]}), "other.parquet")
    pq.write_table(lists([1.0], pa.float64()), "plain.parquet")
    pq.write_table(lists([["a"]], pa.list_(pa.string())), "strings.parquet")
    pq.write_table(lists([[1.0, 2.0], [1.0]], pa.list_(pa.float64())), "ragged.parquet")
    pq.write_table(lists([[1.0, 2.0], None, None], pa.list_(pa.float64())), "holes.parquet")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "no such file or folder: nowhere; expected a transfer set, a scores folder of `curate score`, or"),
        ("empty", "empty holds no features.parquet; expected a transfer set"),
        ("old", "old holds logits and no features.parquet; ask for --on logits, or make it again with this release"),
        ("x.csv", "x.csv is neither .npy, .npz nor .parquet; expected"),
        ("bad.npy", "bad.npy cannot be read as numbers: "),
        ("bad.npz", "bad.npz cannot be read as numbers: "),
        ("objects.npy", "objects.npy cannot be read as numbers: "),
        ("flat.npy", r"flat.npy: float32 of shape \(3,\); expected numbers, a row for each sample \(N, D\)"),
        ("words.npy", r"words.npy: <U1 of shape \(1, 2\); expected numbers"),
        ("two.npz", r"two.npz holds the arrays a, b; name one with \?key=NAME"),
        ("two.npz?key=c", r"two.npz\?key=c holds the arrays a, b and no 'c'; name one with"),
        ("flat.npy?key=c", r"flat.npy\?key=c: only a .npz file takes \?key=NAME"),
        ("two.npz?name=c", r"npz: has no option 'name' \(in two.npz\?name=c\); expected one of key"),
        ("other.parquet", "other.parquet has no column 'features', only x"),
        ("plain.parquet", "plain.parquet: the column 'features' holds double; expected lists of numbers"),
        ("strings.parquet", "strings.parquet: the column 'features' holds list<.*string>; expected lists of numbers"),
        ("ragged.parquet", "ragged.parquet: features of 1 and 2 numbers; expected lists of one length"),
        ("holes.parquet", "holes.parquet: 2 rows without features; leave them out of the file"),
    ],
)
def test_a_wrong_place_is_refused_in_words(places: None, place: str, words: str) -> None:
    with pytest.raises(CurateError, match=f"^{words}"):
        open_vectors(place, "features")


def test_lengths_that_change_between_batches_are_refused(tmp_path: Path) -> None:
    rows = [[1.0, 2.0]] * 9000 + [[1.0]] * 9000
    pq.write_table(lists(rows, pa.list_(pa.float64())), tmp_path / "x.parquet", row_group_size=9000)
    with pytest.raises(DistanceError, match="features of 1 and 2 numbers"):
        open_vectors(tmp_path / "x.parquet", "features")


def test_damage_and_other_schemas_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(IntegrityError, match=r"x.parquet is damaged or no Parquet file: "):
        open_vectors(tmp_path / "x.parquet", "features")
    rows = pa.table({"key": ["a", "b"], "features": [[0.0, 1.0], [2.0, 3.0]]})
    made = Provenance(step="score", schema_version=99)
    write_manifest(tmp_path, FEATURES, rows, provenance=made, sizes={"features": 2})
    with pytest.raises(SchemaMismatch, match="has schema version 99; this release reads"):
        open_vectors(tmp_path, "features")
    write_manifest(tmp_path, FEATURES, rows, provenance=Provenance(step="score"), sizes={"features": 2})
    damaged = bytearray((tmp_path / "features.parquet").read_bytes())
    damaged[60] ^= 1
    (tmp_path / "features.parquet").write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"features.parquet is damaged"):
        open_vectors(tmp_path, "features")
