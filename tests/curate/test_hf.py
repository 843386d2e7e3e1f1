"""Hugging Face datasets, all without a network: folders of a repository, what was saved, columns, every refusal."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from curate.corpora import Item, open_corpus
from curate.errors import CorpusAmbiguous, CorpusDamaged, CorpusNotFound, CorpusUnreachable, UnknownCorpus
from curate.ingest import ingest
from tests.curate.make import pictures, write_folder

PICTURES = list(pictures(6).values())
NAMES = ["cat", "dog"]


def items_of(option: str) -> list[Item]:
    corpus = open_corpus(option)
    return [item for part in corpus.parts() for item in corpus.read(part)]


def table(**more: object) -> datasets.Dataset:
    """Six images, labels of two kinds, and a column that is no image."""
    columns = {
        "img": [{"bytes": data, "path": "x.png"} for data in PICTURES],
        "fine": [0, 1, -1, None, 1, 0],
        "caption": list("abcdef"),
    }
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=NAMES), "caption": datasets.Value("string")}
    )
    made = datasets.Dataset.from_dict(columns, features=features)
    for name, column in more.items():
        made = made.add_column(name, column)
    return made


@pytest.fixture(autouse=True)
def quiet_and_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, a cache of its own, no bars of progress."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder as a repository of the Hub has them."""
    root = tmp_path / "my-set"
    (root / "data").mkdir(parents=True)
    table().to_parquet(root / "data" / "train-00000-of-00001.parquet")
    table().select(range(2)).to_parquet(root / "data" / "test-00000-of-00001.parquet")
    return root


def test_encoded_bytes_come_out_and_class_names(repository: Path) -> None:
    corpus = open_corpus(f"hf:{repository}?label=fine")
    assert (corpus.name, corpus.spec, corpus.classes) == ("my-set", f"hf:{repository}?label=fine", ("cat", "dog"))
    items = items_of(f"hf:{repository}?label=fine")
    assert [item.uri for item in items] == [f"train/{row:08d}" for row in range(6)]
    assert [item.data for item in items] == PICTURES
    assert [item.label for item in items] == ["cat", "dog", None, None, "dog", "cat"]


def test_splits_and_columns(repository: Path) -> None:
    spec = f"hf:{repository}"
    assert {item.label for item in items_of(spec)} == {None}
    assert [item.label for item in items_of(f"{spec}?label=caption")] == list("abcdef")
    assert [item.uri for item in items_of(f"{spec}?split=test&image=img")] == ["test/00000000", "test/00000001"]
    assert [item.data for item in items_of(f"{spec}?split=train[4:]")] == PICTURES[4:]
    with pytest.raises(UnknownCorpus, match=r'Instruction "train\[:0\]" corresponds to no data!$'):
        items_of(f"{spec}?split=train[:0]")
    options = ["", "?label=fine", "?label=", "?split=test", "?split=train[:2]", "?image=img"]
    identities = [open_corpus(f"{spec}{option}").identity() for option in options]
    assert len(set(identities)) == len(options)


def test_a_folder_of_images_is_read_from_its_files(tmp_path: Path) -> None:
    names = [f"train/{kind}/{n}.png" for kind in ("bird", "ant") for n in range(3)]
    root = write_folder(tmp_path / "birds", dict(zip(names, PICTURES, strict=True)))
    corpus = open_corpus(f"hf:{root}")
    assert corpus.classes == ("ant", "bird")
    assert {(item.data, item.label) for item in items_of(f"hf:{root}")} == {
        (data, name.split("/")[1]) for name, data in zip(names, PICTURES, strict=True)
    }
    (gone,) = (path for path in root.rglob("2.png") if "ant" in path.parts)
    parts = corpus.parts()
    gone.unlink()
    (missing,) = (item for part in parts for item in corpus.read(part) if item.data is None)
    assert (missing.label, missing.error, missing.unreadable) == ("ant", "unreadable: No such file or directory", True)


def test_what_was_saved_is_found_without_a_scheme(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table(), "val": table().select(range(2))}).save_to_disk(tmp_path / "two")
    assert [item.data for item in items_of(str(tmp_path / "one"))] == PICTURES
    assert open_corpus(f"{tmp_path / 'one'}?label=fine").classes == ("cat", "dog")
    assert [item.uri for item in items_of(f"{tmp_path / 'two'}?split=val")] == ["val/00000000", "val/00000001"]
    assert len(items_of(str(tmp_path / "two"))) == 6
    with pytest.raises(UnknownCorpus, match="no split 'test'; expected one of train, val"):
        open_corpus(f"{tmp_path / 'two'}?split=test")
    with pytest.raises(UnknownCorpus, match="a single split was saved there; leave split=train out"):
        open_corpus(f"{tmp_path / 'one'}?split=train")
    with pytest.raises(UnknownCorpus, match="config= chooses among what the Hub keeps"):
        open_corpus(f"{tmp_path / 'one'}?config=x")


def test_columns_of_images(tmp_path: Path) -> None:
    made = table().add_column("raw", PICTURES)
    made.save_to_disk(tmp_path / "raw")
    assert [item.data for item in items_of(f"{tmp_path / 'raw'}?image=raw")] == PICTURES
    two = made.cast_column("raw", datasets.Image())
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(CorpusAmbiguous, match=r"several columns hold images \(img, raw\); say which: image=img$"):
        open_corpus(str(tmp_path / "two"))
    two.rename_column("raw", "image").save_to_disk(tmp_path / "named")
    assert len(items_of(str(tmp_path / "named"))) == 6
    table().remove_columns("img").save_to_disk(tmp_path / "none")
    for option, words in [
        ("none", "no column of images among fine, caption; expected image=COLUMN, of type Image or binary"),
        ("raw?image=caption", "no column of images 'caption' among img, fine, caption, raw"),
        ("raw?image=no", "no column of images 'no' among"),
        ("raw?label=no", "no column 'no'; expected one of img, fine, caption, raw"),
        ("raw?images=img", "hf: has no option 'images'.*expected one of split, image, label, config, revision"),
    ]:
        with pytest.raises(UnknownCorpus, match=words):
            open_corpus(f"hf:{tmp_path}/{option}")


def test_a_row_without_an_image_is_an_item_with_an_error(tmp_path: Path) -> None:
    rows = [{"bytes": PICTURES[0], "path": None}, None]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(tmp_path / "holes")
    found = [(item.data, item.error, item.unreadable) for item in items_of(str(tmp_path / "holes"))]
    assert found == [(PICTURES[0], None, False), (None, "no image in the row", False)]


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        ("hf:owner/name", CorpusUnreachable, "^hf:owner/name: Couldn't reach 'owner/name' on the Hub"),
        (
            "hf:/no/such/folder",
            CorpusNotFound,
            "no such folder: /no/such/folder; expected one, or OWNER/NAME on the Hub",
        ),
        ("hf:./here", CorpusNotFound, "no such folder: ./here"),
        (
            "hf:{repository}?revision=main",
            UnknownCorpus,
            "revision= chooses among what the Hub keeps; a folder has one",
        ),
        ("hf:{repository}?config=no", UnknownCorpus, "BuilderConfig 'no' not found. Available: "),
        ("hf:{repository}?split=val", UnknownCorpus, r"Unknown split \"val\". Should be one of \['train', 'test'\]"),
        ("hf:{empty}", CorpusNotFound, "doesn't contain any data files"),
    ],
)
def test_refusals(option: str, error: type[Exception], words: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=words) as caught:
        items_of(option.format(repository=repository, empty=tmp_path / "empty"))
    assert str(caught.value).count("\n") == 0


def test_damage_is_told_in_words(repository: Path) -> None:
    path = repository / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    corpus = open_corpus(f"hf:{repository}")
    with pytest.raises(CorpusDamaged, match=r"^hf:.*my-set: .*[Pp]arquet") as caught:
        corpus.parts()
    assert str(caught.value).count("\n") == 0


def test_without_the_package_the_extra_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusUnreachable, match=r"needs the package datasets \(.*\): pip install 'transferset\[hf\]'$"):
        open_corpus(f"hf:{repository}")


def test_ingest_reuses_the_store(repository: Path, tmp_path: Path) -> None:
    spec = f"x=hf:{repository}?label=fine"
    first = ingest(open_corpus(spec), size=8, work=tmp_path / "work")
    shutil.rmtree(tmp_path / "hf-cache")
    again = ingest(open_corpus(spec), size=8, work=tmp_path / "work")
    assert (first.decoded, again.decoded) == (6, 0)
    assert not list((tmp_path / "hf-cache").rglob("*.arrow"))  # the data were not even prepared again


def test_scenes(shared: Path) -> None:
    ours = items_of(str(shared / "data" / "scenes" / "scenes.parquet"))
    theirs = items_of(f"hf:{shared / 'data' / 'scenes'}")
    assert [(item.data, item.label) for item in theirs] == [(item.data, item.label) for item in ours]
