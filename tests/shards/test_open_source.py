"""What an address means: sets, tars, URLs and commands are opened, everything else is refused in words."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

import shards
from shards.errors import NotAShardFolder, ShardError, TarDamaged
from shards.export import export
from shards.index import ShardFolder
from shards.sources import LocalBlocks, SampleTars, open_source, open_splits
from shards.stream import Stream
from tests.curate.make import encode, picture, pictures, write_tar
from tests.shards.conftest import Sources

SIZE = 8  # px
ACCEPTED = "expected the folder or URL of a transfer set, a tar of samples, a folder of them, a quoted pattern such as"


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three images in two tars."""
    folder = tmp_path / "tars #1"
    folder.mkdir()
    write_tar(folder / "t-0.tar", pictures(2))
    write_tar(folder / "t-1.TAR", pictures(1, first=2))
    return folder


def test_a_transfer_set_or_a_store(packed: ShardFolder, sources: Sources) -> None:
    source = open_source(packed.path, split="train")
    assert isinstance(source, LocalBlocks)
    assert source.identity == LocalBlocks(packed, "train").identity
    assert open_source(str(packed.path), split=None, size=packed.size).counts.sum() == packed.rows()
    store = sources.stores["one"]
    assert open_source(store.path, split="all").counts.sum() == store.rows()


@pytest.mark.parametrize(("size", "resize"), [(64, "antialias"), (None, "box")])
def test_the_pixels_of_a_set_are_what_they_are(packed: ShardFolder, size: int | None, resize: str) -> None:
    words = rf"holds images of 4 px, resized when it was made; neither size \({size}\) nor resize \({resize}\) can"
    with pytest.raises(ShardError, match=words):
        open_source(packed.path, split="train", size=size, resize=resize)


def test_an_unfinished_set_says_so(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    write_tar(tmp_path / "t.tar", pictures(1))
    with pytest.raises(NotAShardFolder, match="is unfinished: run the command that makes it again"):
        open_source(tmp_path, split=None, size=SIZE)


def test_an_export_is_tars_of_samples_once_it_is_finished(packed: ShardFolder, tmp_path: Path) -> None:
    out = tmp_path / "export"
    export(packed, out, to="wds")
    assert open_source(out, split=None, size=SIZE).counts.sum() == packed.rows()
    (out / "export.json").unlink()  # as if killed before
    with pytest.raises(NotAShardFolder, match="is unfinished: run the command that makes it again"):
        open_source(out, split=None, size=SIZE)


@pytest.mark.parametrize("address", ["", "/t-*.*", "/t-{0.tar,1.TAR}", ["t-1.TAR", "t-0.tar"]])
def test_tars(tars: Path, address: str | list[str]) -> None:
    given = f"{tars}{address}" if isinstance(address, str) else [tars / name for name in address]
    source = open_source(given, split=None, size=SIZE, resize="box")
    assert isinstance(source, SampleTars)
    assert source.identity == SampleTars(tars, size=SIZE, resize="box").identity
    assert source.counts.sum() == 3


def test_a_tar_by_its_path_below_home(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tars))
    assert open_source("~/t-0.tar", split=None, size=SIZE).counts.sum() == 2


def test_tars_need_a_size(tars: Path) -> None:
    with pytest.raises(
        ShardError, match=rf"images in tars come in any size, and none is given for {tars}; give it in px"
    ):
        open_source(tars, split=None)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", rf"^'' is not there; {ACCEPTED} 'data-\{{0000..0099\}}.tar', or pipe:COMMAND where pipes are allowed$"),
        ("nowhere", rf"^'nowhere' is not there; {ACCEPTED}"),
        ("nowhere.tar", r"^'nowhere.tar' is not there"),
        ("empty", rf"^'empty' is a folder with neither a transfer set nor tars in it; {ACCEPTED}"),
        ("t-{0..1}.tar", r"^no such file: t-0.tar \(from the pattern t-\{0..1\}.tar\)$"),
        ("t-*.tar", r"^no such file: t-\*.tar$"),
        ("t-{0..1.tar", r"^unbalanced braces in 't-\{0..1.tar'; expected e.g. train-\{000..146\}.tar$"),
        (["empty"], r"^no \*.tar file in the folder empty$"),
        (["nowhere.tar"], r"^no such file: nowhere.tar$"),
        ([], r"^no tar is given"),
        (
            "https://host/t.tar",
            r"^https://host/t.tar: tars of samples are streamed from this machine; fetch them, `cu",
        ),
        ("https://host/{0..9}.tar?key=1", r"or allow pipes and give pipe:COMMAND"),
        (
            "pipe:cat t.tar",
            r"^pipe:cat t.tar would run a command, which is not allowed here; --allow-pipe, or allow_pipe=True",
        ),
    ],
)
def test_everything_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match=words) as refusal:
        open_source(address, split="train", size=SIZE)
    assert refusal.value.exit_code == 2


def test_a_url_is_a_set_elsewhere(packed: ShardFolder) -> None:
    source = open_source(f"file://{packed.path}", split="train")
    assert source.identity == LocalBlocks(packed, "train").identity
    assert type(source).__name__ == "RemoteBlocks"
    with pytest.raises(ShardError, match="holds images of 4 px"):
        open_source(f"file://{packed.path}", split="train", size=5)


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_pipe_is_spooled_and_removed(tars: Path, spool: Path) -> None:
    command = f"pipe:cat '{tars}/t-0.tar'"
    source = open_source(command, split=None, size=SIZE, allow_pipe=True)
    (spooled,) = spool.iterdir()
    assert source.name == command
    batches = list(Stream(source, batch_size=2, shuffle=False).one_epoch())
    assert batches[0].images_BCHW.transpose(0, 2, 3, 1).tolist() == [picture(n).tolist() for n in range(2)]
    assert source.identity == open_source(command, split=None, size=SIZE, allow_pipe=True).identity
    del source
    gc.collect()
    assert not spooled.exists()
    assert [*spool.iterdir()] == []


def test_a_forked_process_leaves_what_a_pipe_wrote(tars: Path, spool: Path) -> None:
    source = open_source(f"pipe:cat '{tars}/t-0.tar'", split=None, size=SIZE, allow_pipe=True)
    child = os.fork()
    if child == 0:
        try:
            del source
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert len(source.read(0)) > 0
    assert len([*spool.iterdir()]) == 1


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        ("echo lost >&2; exit 7", ShardError, r"^pipe:echo lost >&2; exit 7 ended with exit code 7: lost$"),
        ("cat t.tar; exit 1", ShardError, r"^pipe:cat t.tar; exit 1 ended with exit code 1: it says nothing$"),
        ("head -c 1024 t.tar", TarDamaged, r"^damaged tar pipe:head -c 1024 t.tar at byte 1024: .* ends without the"),
        ("true", TarDamaged, r"^damaged tar pipe:true at byte 0: the file ends without the end marker"),
        ("cat t.tar t.tar", TarDamaged, r"^damaged tar pipe:cat t.tar t.tar at byte .* found something else"),
        ("gzip -c t.tar", ShardError, r"^pipe:gzip -c t.tar is compressed \(gzip\)"),
    ],
)
def test_a_pipe_that_fails(
    spool: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: type[ShardError], words: str
) -> None:
    monkeypatch.chdir(spool.parent)
    write_tar(Path("t.tar"), {"a.png": encode(picture(0))})
    with pytest.raises(error, match=words):
        open_source(f"pipe:{command}", split=None, size=SIZE, allow_pipe=True)
    assert [*spool.iterdir()] == []


def test_a_pipe_needs_a_size_and_a_rule_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="images in tars come in any size"):
        open_source(f"pipe:touch {tmp_path}/ran", split=None, allow_pipe=True)
    with pytest.raises(ShardError, match="no resize rule is called 'cubic'"):
        open_source(f"pipe:touch {tmp_path}/ran", split=None, size=SIZE, resize="cubic", allow_pipe=True)
    assert [*tmp_path.iterdir()] == []


def test_several_splits_are_opened_at_once(tars: Path, packed: ShardFolder, spool: Path) -> None:
    command = f"pipe:cat '{tars}/t-0.tar'; echo >> '{spool.parent}/runs'"
    train, holdout = open_splits(command, ["train", "holdout"], size=SIZE, allow_pipe=True)
    assert (spool.parent / "runs").read_text() == "\n"
    assert train.name == f"split 'train' of {command}"
    del train
    gc.collect()
    assert len(holdout.read(0)) == 1  # its file is still there
    del holdout
    gc.collect()
    assert [*spool.iterdir()] == []
    for address, size in ((tars, SIZE), (packed.path, None), (f"file://{packed.path}", None)):
        for source, split in zip(open_splits(address, ["train", None], size=size), ["train", None], strict=True):
            assert source.identity == open_source(address, split=split, size=size).identity


def test_they_are_public_names() -> None:
    assert (shards.open_source, shards.open_splits) == (open_source, open_splits)
