"""Webdataset tars: which members are images and labels by option, and lists of tars; the rest is in test_corpora.py."""

from pathlib import Path

import pytest

from curate.corpora import open_corpus
from curate.errors import CorpusEmpty, CorpusNotFound, UnknownCorpus
from tests.curate.make import write_tar

MEMBERS = {
    "a.left.png": b"aL",
    "a.right.png": b"aR",
    "a.cls": b"1",
    "a.index.cls": b"one",
    "a.json": b'{"label": "json"}',
    "b.LEFT.png": b"bL",
    "b.img": b"bI",
    "b.meta.json": b'{"cls": 3}',
}


Found = tuple[str, object, str | None, str | None]  # uri, bytes, label, error


def found(option: str) -> list[Found]:
    corpus = open_corpus(option)
    items = [item for part in corpus.parts() for item in corpus.read(part)]
    assert [item.uri for item in items] == sorted({item.uri for item in items})
    return [(item.uri.removeprefix("t.tar/"), item.data, item.label, item.error) for item in items]


MISSING = "the sample has no such member"


@pytest.mark.parametrize(
    ("options", "items"),
    [
        (
            "",
            [
                ("a.left.png", b"aL", "1", None),
                ("a.right.png", b"aR", "1", None),
                ("b.LEFT.png", b"bL", None, None),
            ],
        ),
        ("?image=left.png", [("a.left.png", b"aL", "1", None), ("b.LEFT.png", b"bL", None, None)]),
        ("?image=IMG", [("a.img", None, "1", MISSING), ("b.img", b"bI", None, None)]),
        (
            "?image=right.png,img&label=index.cls",
            [("a.right.png", b"aR", "one", None), ("b.img", b"bI", None, None)],
        ),
        ("?image=left.png&label=json", [("a.left.png", b"aL", "json", None), ("b.LEFT.png", b"bL", None, None)]),
        ("?image=left.png&label=meta.json", [("a.left.png", b"aL", None, None), ("b.LEFT.png", b"bL", "3", None)]),
        ("?label=&image=left.png", [("a.left.png", b"aL", None, None), ("b.LEFT.png", b"bL", None, None)]),
    ],
)
def test_members_by_option(tmp_path: Path, options: str, items: list[Found]) -> None:
    path = write_tar(tmp_path / "t.tar", MEMBERS)
    assert found(f"wds:{path}{options}") == found(f"{path}{options}") == found(f"{tmp_path}{options}") == items
    assert open_corpus(f"wds:{path}{options}").spec == f"wds:{path}{options}"
    same = open_corpus(str(path)).identity() == open_corpus(f"{path}{options}").identity()
    assert same == (options == "")


def test_refused_options(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", MEMBERS)
    with pytest.raises(UnknownCorpus, match=r"wds: image= names no extension; expected e\.g\. image=jpg"):
        open_corpus(f"{path}?image=")
    with pytest.raises(UnknownCorpus, match=r"wds: has no option 'images'.*expected one of image, label"):
        open_corpus(f"{path}?images=png")
    with pytest.raises(CorpusEmpty, match=r"corpus 't': no image member \(KEY.tiff, KEY.webp\) in wds:"):
        open_corpus(f"{path}?image=tiff,webp").parts()


def test_lists_of_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x/0.tar", "x/1.tar", "y/0.tar", "z.tar"):
        Path(name).parent.mkdir(exist_ok=True)
        write_tar(Path(name), {"k.png": name.encode()})
    Path("lists").mkdir()
    Path("lists/train.txt").write_text(f"# half of it\r\n../x\r\n../y/{{0..0}}.tar\r\n\r\n{tmp_path}/z.tar  \r\n")
    items = found("wds:@lists/train.txt")
    names = ["x/0.tar", "x/1.tar", "y/0.tar", "z.tar"]
    assert [item[:2] for item in items] == [(f"{name}/k.png", name.encode()) for name in names]
    corpus = open_corpus("half=wds:@lists/train.txt?image=png")
    assert (corpus.name, corpus.spec) == ("half", "wds:@lists/train.txt?image=png")
    Path("@list.txt").write_bytes(Path("z.tar").read_bytes())  # a tar that is really called so
    assert [item[:2] for item in found("wds:@list.txt")] == [("@list.txt/k.png", b"z.tar")]
    Path("lists/train.txt").write_text("../x\nno.tar\n")
    with pytest.raises(CorpusNotFound, match=r"no such file: lists/no.tar$"):
        open_corpus("wds:@lists/train.txt")
