"""Export: every image of a set in the forms that others read, the same pixels, the same bytes after any kill."""

import gc
import io
import json
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from curate.corpora import open_corpus
from curate.ingest import ingest
from manifests.commit import Ledger
from manifests.errors import IntegrityError, OutputConflict
from manifests.keys import pixel_hash
from manifests.read import read_manifest
from manifests.schema import SAMPLES, SCORES
from shards.errors import BlockDamaged, ShardError
from shards.export import Exported, export
from shards.export.folder import path_of
from shards.index import ShardFolder, open_folder, seal, write_index
from shards.write import committed, write_shard
from tests.shards import make
from tests.shards.conftest import Sources

ROOT = Path(__file__).parents[2]
FORMATS = ("wds", "folder", "parquet")
WHERE = {"wds": "wds:{}", "folder": "folder:{}", "parquet": "parquet:{}/data"}
ROWS = 6
CLASSES = [f"class {n}" for n in range(make.CLASSES)]


@pytest.fixture(scope="module", params=["set", "store"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """A transfer set of 20 raw images in two splits, or a store of 14 encoded ones."""
    tmp_path = tmp_path_factory.mktemp("made")
    if request.param == "set":
        made: Sources = request.getfixturevalue("sources")
        return made.pack(tmp_path / "set").folder
    return make.write_store(tmp_path / "store", [[5, 4], [5]], size=80)


@pytest.fixture(scope="module")
def packed_set(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return sources.pack(tmp_path_factory.mktemp("packed") / "set").folder


def exported(folder: ShardFolder, out: Path, to: str, **options: Any) -> Exported:
    return export(folder, out, to=to, rows=None if to == "folder" else ROWS, **options)


def placed(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_manifest(folder, SAMPLES).to_pylist()
    return [row for row in rows if row["shard"] is not None]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def pixels(data: bytes) -> str:
    return pixel_hash(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1))


# -- the same pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["png", "webp"])
@pytest.mark.parametrize("to", FORMATS)
def test_ingest_of_an_export_gives_the_same_pixels(folder: ShardFolder, tmp_path: Path, to: str, image: str) -> None:
    done = exported(folder, tmp_path / "a #1 folder?", to, image=image)
    assert done.lossless
    assert sum(done.images.values()) == folder.rows()
    shutil.copytree(tmp_path / "a #1 folder?", tmp_path / "plain")
    again = ingest(open_corpus(f"again={WHERE[to].format(tmp_path / 'plain')}"), size=folder.size, work=tmp_path)
    found = placed(again.store.path)
    assert sorted(row["pixel_hash"] for row in found) == sorted(row["pixel_hash"] for row in placed(folder.path))
    assert {row["status"] for row in found} == {"ok"}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    ("spec", "size"), [("svhn_crops/test_32x32.mat", 32), ("imagenet_originals", 96)], ids=["raw", "encoded"]
)
def test_real_images_come_back_as_they_were(shared: Path, tmp_path: Path, to: str, spec: str, size: int) -> None:
    store = ingest(open_corpus(f"one={shared / 'data' / spec}"), size=size, work=tmp_path).store
    done = export(store, tmp_path / "out", to=to)
    assert done.images == {"train": store.rows()}
    again = ingest(open_corpus(f"two={WHERE[to].format(tmp_path / 'out')}"), size=size, work=tmp_path).store
    assert sorted(r["pixel_hash"] for r in placed(again.path)) == sorted(r["pixel_hash"] for r in placed(store.path))


def test_jpeg_says_that_it_loses(packed_set: ShardFolder, tmp_path: Path) -> None:
    fine, coarse = (exported(packed_set, tmp_path / str(q), "folder", image="jpg", quality=q) for q in (100, 20))
    assert not fine.lossless
    assert json.loads((tmp_path / "20" / "export.json").read_text())["lossless"] is False
    assert coarse.images == fine.images == {"train": 16, "holdout": 4}
    assert coarse.bytes < fine.bytes


# -- as others read it ------------------------------------------------------------------------------------------------


def read_tars(urls: list[str]) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files open
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
        gc.collect()
    return samples


def expected(folder: ShardFolder, split: str) -> dict[str, dict[str, Any]]:
    """What the manifests say of the images of a split, by key."""
    scores = {row["key"]: row for row in read_manifest(folder.path, SCORES).to_pylist()}
    return {
        row["key"]: {**row, **scores[row["key"]]}
        for row in placed(folder.path)
        if folder.shards[row["shard"]].split == split
    }


def test_webdataset_reads_tars_of_samples(packed_set: ShardFolder, tmp_path: Path) -> None:
    exported(packed_set, tmp_path, "wds")
    assert [path.name for path in sorted(tmp_path.glob("*.tar"))] == [
        *("holdout-000000.tar", "train-000000.tar", "train-000001.tar", "train-000002.tar")
    ]
    for split in ("train", "holdout"):
        urls = [str(path) for path in sorted(tmp_path.glob(f"{split}-*.tar"))]
        samples = read_tars(urls)
        known = expected(packed_set, split)
        assert {sample["__key__"] for sample in samples} == set(known)
        for sample in samples:
            row = known[sample["__key__"]]
            assert pixel_hash(sample["png"].transpose(2, 0, 1)) == row["pixel_hash"]
            assert sample["cls"] == row["pred"]
            facts = sample["json"]
            assert facts["label"] == CLASSES[row["pred"]]
            for name in (
                "key",
                "corpus",
                "uri",
                "source_label",
                "pixel_hash",
                "pred",
                "entropy",
                "confidence",
                "margin",
            ):
                assert facts[name] == row[name], name
    about = json.loads((tmp_path / "export.json").read_text())
    assert (about["classes"], about["label"]) == (CLASSES, "the teacher's prediction")
    assert (about["set"], about["images"]) == (packed_set.id, {"train": 16, "holdout": 4})


def test_torchvision_reads_a_folder(packed_set: ShardFolder, tmp_path: Path) -> None:
    exported(packed_set, tmp_path, "folder")
    found = ImageFolder(str(tmp_path / "train"))
    known = expected(packed_set, "train")
    assert found.classes == sorted({CLASSES[row["pred"]] for row in known.values()})
    assert {Path(path).stem for path, _ in found.samples} == set(known)
    for path, number in found.samples:
        row = known[Path(path).stem]
        assert found.classes[number] == CLASSES[row["pred"]]
        assert pixels(Path(path).read_bytes()) == row["pixel_hash"]
    lines = [json.loads(line) for line in (tmp_path / "train" / "metadata.jsonl").read_text().splitlines()]
    assert {line["key"]: line["entropy"] for line in lines} == {key: row["entropy"] for key, row in known.items()}
    assert all((tmp_path / "train" / line["file_name"]).is_file() for line in lines)


def test_hugging_face_reads_parquet_and_folder(
    packed_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    exported(packed_set, tmp_path / "parquet", "parquet")
    exported(packed_set, tmp_path / "folder", "folder", image="webp")
    assert [path.name for path in sorted((tmp_path / "parquet" / "data").glob("*"))] == [
        "holdout-00000-of-00001.parquet",
        *(f"train-0000{n}-of-00003.parquet" for n in range(3)),
    ]
    for found in (
        datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache")),
        datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache")),
    ):
        assert {"train", "holdout"} >= set(found)
        known = expected(packed_set, "train")
        assert {row["key"] for row in found["train"]} == set(known)
        for row in found["train"]:
            image = np.asarray(row["image"].convert("RGB")).transpose(2, 0, 1)
            assert pixel_hash(image) == known[row["key"]]["pixel_hash"]
            assert row["entropy"] == known[row["key"]]["entropy"]
    features = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))["holdout"].features
    assert features["label"].names == CLASSES
    assert features["pred"].dtype == "int32"


# -- classes ----------------------------------------------------------------------------------------------------------


def labelled(folder: Path, labels: Sequence[str | None], *, classes: Sequence[str] | None = None) -> ShardFolder:
    """A store of one image a label."""
    block = make.block(len(labels))
    shard = write_shard(folder, "shards/000000.tar", [block], split="all", first_block=0)
    rows = [
        make.sample(key.decode(), "one", image_CHW=image, shard=0, block=0, row=n) | {"source_label": labels[n]}
        for n, (key, image) in enumerate(zip(block.keys, block.images_NCHW, strict=True))
    ]
    files = [committed(shard), make.write_rows(folder, SAMPLES, rows, made=make.MADE)]
    files.append(write_index(folder, [shard], provenance=make.MADE))
    about = {"corpus": "one", "size": make.SIZE, "classes": classes}
    seal(folder, about, kind="store", files=files, fingerprint="f")
    return open_folder(folder)


@pytest.mark.parametrize(
    ("labels", "stated", "numbers", "names"),
    [
        (["b", None, "a", "b"], None, [1, None, 0, 1], ["a", "b"]),
        (["b", "a", "z"], ["b", "a"], [0, 1, None], ["b", "a"]),
        (["10", "2", None], None, [10, 2, None], None),
        (["010", "2"], None, [0, 1], ["010", "2"]),
        (["-1", "0"], None, [-1, 0], None),
        (["9" * 20, "2"], None, [1, 0], ["2", "9" * 20]),  # of which no column of numbers holds all
        ([None, None], None, [None, None], None),
    ],
)
def test_classes_of_a_store_are_its_sources(
    tmp_path: Path, labels: list[str | None], stated: list[str] | None, numbers: list[int | None], names: list[str]
) -> None:
    """Numbers stay what they are; names are numbered as stated, else sorted; what has none says so."""
    store = labelled(tmp_path / "store", labels, classes=stated)
    export(store, tmp_path / "parquet", to="parquet")
    table = pq.read_table(tmp_path / "parquet" / "data" / "train-00000-of-00001.parquet")
    assert table["label"].to_pylist() == numbers
    feature = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]
    assert feature.get("names") == names
    export(store, tmp_path / "wds", to="wds")
    samples = read_tars([str(tmp_path / "wds" / "train-000000.tar")])
    assert [sample.get("cls") for sample in samples] == numbers
    export(store, tmp_path / "folder", to="folder")
    folders = {path.name for path in (tmp_path / "folder" / "train").iterdir() if path.is_dir()}
    assert folders == {"unlabelled" if n is None else names[n] if names else str(n) for n in numbers}


def test_no_class_leads_out_of_the_folder(tmp_path: Path) -> None:
    nasty = ["../../up", "/root", "..", ".hidden", "a/b", "a%2Fb", "", "C:\\x", "nul\0", "été 猫 #1?", "plain"]
    nasty += ["unlabelled", "metadata.jsonl"]
    assert path_of("plain", "k", "png") == "plain/k.png"
    assert path_of("été 猫 #1?", "k", "png") == "été 猫 #1%3F/k.png"
    export(labelled(tmp_path / "store", [*nasty, None]), tmp_path / "out", to="folder")
    folders = {path.parent for path in (tmp_path / "out").rglob("*.png")}
    assert len(folders) == len(nasty) + 1
    assert {folder.parent for folder in folders} == {tmp_path / "out" / "train"}
    assert not [folder for folder in folders if folder.name.startswith(".")]


# -- whole, or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_set_gives_the_same_bytes(packed_set: ShardFolder, tmp_path: Path, to: str) -> None:
    one, other = (exported(packed_set, tmp_path / name, to) for name in ("one", "other"))
    assert one == other
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert exported(packed_set, tmp_path / "one", to).files_written == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    Ledger(tmp_path / "one").verify()


KILLED = """
import os, signal, sys
from pathlib import Path
from shards.export import export
from shards.index import open_folder
replace, left = Path.replace, int(sys.argv[4])
def dying(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
options = {} if sys.argv[3] == "folder" else {"rows": 6}
export(open_folder(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3], **options)
"""


@pytest.mark.parametrize(("to", "step"), [("wds", 3), ("wds", 6), ("folder", 9), ("folder", 25), ("parquet", 4)])
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    packed_set: ShardFolder, tmp_path: Path, to: str, step: int
) -> None:
    """Killed before the step-th file appears under its name."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = exported(packed_set, whole, to)
    words = [sys.executable, "-c", KILLED, str(packed_set.path), str(killed), to, str(step)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(killed.rglob("*.part"))
    assert not (killed / "export.json").exists()
    again = exported(packed_set, killed, to)
    assert contents(killed) == contents(whole)
    assert not [path for path in whole.glob("*/*.json") if not path.parent.name.startswith(".")]  # taken for images
    assert (again.images, again.files) == (undisturbed.images, undisturbed.files)
    assert again.files_written < undisturbed.files_written or (to, step) == ("folder", 9)


def test_another_export_in_the_folder_is_refused(packed_set: ShardFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(packed_set, out, "wds")
    before = contents(out)
    for words, change in {
        "image was 'png', now 'webp'": {"to": "wds", "image": "webp", "rows": ROWS},
        "shard_rows was 6, now 7": {"to": "wds", "rows": 7},
        r"splits was \['train', 'holdout'\], now \['holdout'\]": {"to": "wds", "rows": ROWS, "split": "holdout"},
        "to was 'wds', now 'parquet'": {"to": "parquet", "rows": ROWS},
    }.items():
        with pytest.raises(OutputConflict, match=f"was made differently: {words}; .*--replace"):
            export(packed_set, out, **change)  # type: ignore[arg-type]
    assert contents(out) == before
    done = export(packed_set, out, to="parquet", split="holdout", replace=True)
    assert done.moved == tmp_path / "out.old-1"
    assert contents(done.moved) == before
    assert done.images == {"holdout": 4}


def test_a_set_is_not_moved_aside_to_be_exported_in_its_place(packed_set: ShardFolder) -> None:
    before = contents(packed_set.path)
    for out in (packed_set.path, packed_set.path.parent):
        with pytest.raises(
            OutputConflict, match=f"^{out} is, or holds, {packed_set.path}, which is to be read; choose"
        ):
            export(packed_set, out, to="wds", replace=True)
    assert contents(packed_set.path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "zip"}, "--to is 'zip'; expected one of wds, folder, parquet"),
        ({"to": "wds", "image": "gif"}, "--image is 'gif'; expected one of png, webp, jpg"),
        ({"to": "wds", "quality": 90}, "--quality 90 is for --image jpg; png is written without loss"),
        ({"to": "wds", "image": "jpg", "quality": 0}, "--quality is 0; expected 1 to 100"),
        ({"to": "wds", "rows": 0}, "--shard-rows is 0; expected at least 1"),
        ({"to": "folder", "rows": 5}, "--shard-rows is 5; .*a folder has no shards"),
        ({"to": "wds", "split": "test"}, r"holds no images of test; its splits: train \(16\), holdout \(4\)$"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    packed_set: ShardFolder, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ShardError, match=words):
        export(packed_set, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"holds no images of any split; its splits: all \(0\)"):
        export(make.write_store(tmp_path / "store", [[]]), tmp_path / "out", to="wds")


def test_damage_stops_an_export(tmp_path: Path) -> None:
    store = make.write_store(tmp_path / "store", [[6, 6], [6]])
    file, facts = store.path / store.shards[1].name, store.shards[1].blocks[0]
    data = bytearray(file.read_bytes())
    data[facts.offset + 700] ^= 1
    file.write_bytes(data)
    with pytest.raises(BlockDamaged, match=r"000001.tar: block 2 is damaged"):
        export(store, tmp_path / "out", to="wds", rows=6)
    assert not (tmp_path / "out" / "export.json").exists()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "places 5 images, the index counts 6"),
        (
            lambda rows: [rows[0] | {"row": rows[1]["row"]}, rows[1] | {"row": rows[0]["row"]}, *rows[2:]],
            "other images",
        ),
    ],
    ids=["fewer", "exchanged"],
)
def test_a_manifest_of_other_images_stops_an_export(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], words: str
) -> None:
    """Nothing is exported under another's facts, whoever sealed such a folder."""
    block = make.block(6)
    shard = write_shard(tmp_path, "shards/000000.tar", [block], split="all", first_block=0)
    images: NDArray[np.uint8] = block.images_NCHW
    rows = [
        make.sample(key.decode(), "one", image_CHW=image, shard=0, block=0, row=n)
        for n, (key, image) in enumerate(zip(block.keys, images, strict=True))
    ]
    files = [committed(shard), make.write_rows(tmp_path, SAMPLES, change(rows), made=make.MADE)]
    files.append(write_index(tmp_path, [shard], provenance=make.MADE))
    seal(tmp_path, {"corpus": "one", "size": make.SIZE}, kind="store", files=files, fingerprint="f")
    with pytest.raises(IntegrityError, match=words):
        export(open_folder(tmp_path), tmp_path / "out", to="parquet")


def test_stored_png_is_taken_as_it_is(tmp_path: Path) -> None:
    store = make.write_store(tmp_path / "store", [[3]], size=80)
    export(store, tmp_path / "out", to="parquet")
    table = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    stored = (store.path / store.shards[0].name).read_bytes()
    assert all(image["bytes"] in stored for image in table["image"].to_pylist())
    assert table.schema.field("width").type == pa.int32()
