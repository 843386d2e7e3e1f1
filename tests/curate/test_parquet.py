"""Parquet: columns by option, also inside structs, and lists of files; the layout itself is in test_corpora.py."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.corpora import Item, open_corpus
from curate.errors import CorpusAmbiguous, CorpusEmpty, CorpusNotFound, UnknownCorpus

KIND = {"names": ["wood", "stone"], "_type": "ClassLabel"}
NAMES = {"fine": {"names": ["oak", "pine"], "_type": "ClassLabel"}, "meta": {"kind": KIND}}


def items_of(option: str) -> list[Item]:
    corpus = open_corpus(option)
    return [item for part in corpus.parts() for item in corpus.read(part)]


def found(option: str) -> list[tuple[object, str | None]]:
    return [(item.data, item.label) for item in items_of(option)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two rows, and every kind of column that images and labels may be in."""
    views = [{"left": {"bytes": b"L0", "path": "x"}, "right": b"R0"}, {"left": None, "right": b"R1"}]
    table = pa.table(
        {
            "img": [{"bytes": b"I0", "path": None}, {"bytes": b"I1", "path": None}],
            "png": pa.array([b"P0", b"P1"], pa.large_binary()),
            "views": views,
            "views.right": pa.array([b"V0", b"V1"], pa.binary()),
            "fine": [1, 0],
            "meta": [{"kind": 0, "note": "a"}, {"kind": 1, "note": "b"}],
            "label": [7, 8],
            "caption": ["left", "right"],
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": NAMES}})}), path)
    return path


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ("", [(b"I0", "7"), (b"I1", "8")]),
        ("?image=img", [(b"I0", "7"), (b"I1", "8")]),
        ("?image=img.bytes&label=fine", [(b"I0", "pine"), (b"I1", "oak")]),
        ("?image=png&label=caption", [(b"P0", "left"), (b"P1", "right")]),
        ("?image=views.left&label=meta.kind", [(b"L0", "wood"), (None, "stone")]),
        ("?image=views.left.bytes&label=meta.note", [(b"L0", "a"), (None, "b")]),
        ("?image=views.right&label=", [(b"V0", None), (b"V1", None)]),  # a column of that very name comes first
        ("?label=", [(b"I0", None), (b"I1", None)]),
    ],
)
def test_columns_by_option(path: Path, options: str, rows: list[tuple[object, str | None]]) -> None:
    corpus = open_corpus(f"t={path}{options}")
    assert corpus.spec == f"parquet:{path}{options}"
    assert found(f"{path}{options}") == found(f"parquet:{path}{options}") == found(f"{path.parent}{options}") == rows
    assert (corpus.identity() == open_corpus(str(path)).identity()) == (options == "")


def test_class_names_are_those_of_the_label_column(path: Path) -> None:
    assert open_corpus(f"{path}?label=fine").classes == ("oak", "pine")
    assert open_corpus(f"{path}?label=meta.kind").classes == ("wood", "stone")
    assert open_corpus(f"{path}?label=caption").classes is open_corpus(f"{path}?label=").classes is None
    other = path.with_name("u.parquet")
    changed = {"info": {"features": NAMES | {"fine": {"names": ["pine", "oak"], "_type": "ClassLabel"}}}}
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(changed)}), other)
    assert open_corpus(f"{path.parent}?label=meta.kind").classes == ("wood", "stone")
    with pytest.raises(CorpusAmbiguous, match="state different class names"):
        open_corpus(f"{path.parent}?label=fine")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?image=no", "no column 'no'; expected one of img, png, views,"),
        ("?image=img.no", "no column 'img.no'; expected"),
        ("?image=caption", "'caption' is string; expected a column of binary or struct<bytes, path>"),
        ("?image=views", "'views' is struct<left"),
        ("?label=no", "no column 'no'; expected one of img, png"),
        ("?column=img", "parquet: has no option 'column'.*expected one of image, label$"),
        ("?image=img&image=png", "gives an option twice"),
    ],
)
def test_refused_columns(path: Path, options: str, words: str) -> None:
    with pytest.raises(UnknownCorpus, match=words) as caught:
        open_corpus(f"parquet:{path}{options}")
    assert str(caught.value).count("\n") == 0


def test_lists(path: Path) -> None:
    folder = path.parent / "lists"
    folder.mkdir()
    for name in ("a.parquet", "b-1.parquet", "b-2.parquet"):
        pq.write_table(pa.table({"image": pa.array([name.encode()], pa.binary())}), folder / name)
    listed = folder / "some.txt"
    listed.write_text(f"# two by a pattern\nb-{{1..2}}.parquet\n\n  {folder}/a.parquet\nb-*.parquet\n")
    corpus = open_corpus(f"parquet:@{listed}?label=")
    assert (corpus.name, corpus.spec) == ("some", f"parquet:@{listed}?label=")
    items = items_of(f"parquet:@{listed}?label=")
    assert [item.uri for item in items] == [f"{name}/00000000" for name in ("a.parquet", "b-1.parquet", "b-2.parquet")]
    assert open_corpus(f"parquet:@{listed}").identity() == open_corpus(f"parquet:{folder}").identity()
    for text, error, words in [
        ("gone.parquet", CorpusNotFound, f"no such file: {folder}/gone.parquet"),
        ("# nothing\n", CorpusEmpty, f"no path in the list {listed}; expected one a line"),
        ("a.parquet\nhttps://host/b.parquet\n", UnknownCorpus, "lists 1 URLs among 2 lines; expected all or none"),
    ]:
        listed.write_text(text)
        with pytest.raises(error, match=words):
            open_corpus(f"parquet:@{listed}")


def test_cifar100(shared: Path) -> None:
    place = shared / "data" / "cifar100" / "test.parquet"
    default, named = open_corpus(str(place)), open_corpus(f"{place}?image=image.bytes&label=label")
    assert default.classes == named.classes
    assert len(named.classes or ()) == 100
    first = [next(iter(corpus.read(corpus.parts()[0]))) for corpus in (default, named)]
    assert first[0] == first[1]
