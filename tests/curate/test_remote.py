"""Remote files: fetched once, whole or not at all; known by what the server says; every failure in words."""

import gzip
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from curate.corpora import CORPORA, Item, open_corpus
from curate.corpora.open import ENDINGS
from curate.errors import CorpusDamaged, CorpusEmpty, CorpusNotFound, CorpusUnreachable, UnknownCorpus
from curate.ingest import ingest
from tests.curate.make import pictures, write_parquet, write_tar

ROOT = Path(__file__).resolve().parents[2]


class Server(ThreadingHTTPServer):
    """Serves a folder, and misbehaves when told."""

    daemon_threads = True
    fetched: list[str]  # paths of the files that were sent, in order
    answer: int = 200  # to a request for a file
    cut: int | None = None  # bytes after which a file ends
    slow: float = 0.0  # seconds before a file's bytes
    silent: bool = False  # about how long a file is

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send_head(self) -> object:  # type: ignore[override]
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            return super().send_head()
        if self.server.answer != 200:
            self.send_error(self.server.answer)
            return None
        if not path.is_file():
            self.send_error(404)
            return None
        self.send_response(200)
        if not self.server.silent:
            self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.end_headers()
        if self.command == "GET":
            self.server.fetched.append(path.name)
            time.sleep(self.server.slow)
            self.wfile.write(path.read_bytes()[: self.server.cut])
            self.close_connection = True
        return None


@pytest.fixture
def www(tmp_path: Path) -> Path:
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def server(www: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(www)))
    server.fetched = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFERSET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(cache: Path) -> list[str]:
    """Names of all files in the cache but locks."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def items_of(option: str) -> list[Item]:
    corpus = open_corpus(option)
    return [item for part in corpus.parts() for item in corpus.read(part)]


def test_a_url_is_read_like_a_file_and_fetched_once(www: Path, server: Server, cache: Path) -> None:
    write_parquet(www / "train-00000.parquet", list(pictures(3).values()))
    corpus = open_corpus(f"{server.url}/train-00000.parquet")
    assert (corpus.name, corpus.spec) == ("train-00000", f"parquet:{server.url}/train-00000.parquet")
    assert corpus.identity() == open_corpus(f"x=parquet:{server.url}/train-00000.parquet").identity()
    assert server.fetched == cached(cache) == []  # nothing is fetched to know what it is
    here = items_of(str(www / "train-00000.parquet"))
    assert items_of(corpus.spec) == items_of(corpus.spec) == here
    assert server.fetched == cached(cache) == ["train-00000.parquet"]


def test_patterns_folders_lists_and_options(www: Path, server: Server, tmp_path: Path) -> None:
    for n in range(3):
        write_tar(www / f"t-{n}.tar", pictures(2, first=2 * n))
    write_parquet(www / "a.parquet", list(pictures(1).values()))
    (www / "deep").mkdir()
    write_tar(www / "deep" / "t-3.tar", pictures(1, first=6))
    expected = items_of(f"wds:{www}")
    for path in ("t-{0..2}.tar", "", "t-*.tar"):
        assert items_of(f"wds:{server.url}/{path}") == expected
    assert [item.uri for item in items_of(f"{server.url}/deep/../t-0.tar")] == ["t-0.tar/000.png", "t-0.tar/001.png"]
    (tmp_path / "list.txt").write_text(f"{server.url}/deep/t-3.tar\n# and\n{server.url}/t-{{1..2}}.tar\n")
    uris = [item.uri for item in items_of(f"wds:@{tmp_path}/list.txt")]
    assert uris == ["deep/t-3.tar/006.png", *(item.uri for item in expected[2:])]
    options = "?image=image&label="
    assert [item.label for item in items_of(f"{server.url}/*.parquet{options}")] == [None]
    query = f"{server.url}/a.parquet?token=1"
    assert [item.label for item in items_of(f"{query}?")] == ["0"]
    assert [item.label for item in items_of(f"{query}{options}")] == [None]
    with pytest.raises(UnknownCorpus, match=r"no option 'token'.*; a query of the URL's own ends in another '\?'$"):
        open_corpus(query)


def test_idx_labels_lie_beside_the_images(www: Path, server: Server) -> None:
    images = gzip.compress(struct.pack(">4I", 0x803, 2, 8, 8) + bytes(128))
    (www / "train-images-idx3-ubyte.gz").write_bytes(images)
    url = f"{server.url}/train-images-idx3-ubyte.gz"
    assert [item.label for item in items_of(url)] == [None, None]
    (www / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + bytes((3, 1)))
    assert [item.label for item in items_of(url)] == ["3", "1"]


def test_a_file_that_changed_is_another_one_fetched_again_the_same(www: Path, server: Server, cache: Path) -> None:
    path = write_tar(www / "t.tar", pictures(2))
    spec = f"t={server.url}/t.tar"
    first = open_corpus(spec).identity()
    store = ingest(open_corpus(spec), size=8, work=cache.parent / "work")
    assert store.decoded == 2
    for file in cache.rglob("*.tar"):
        file.unlink()
    assert open_corpus(spec).identity() == first
    again = ingest(open_corpus(spec), size=8, work=cache.parent / "work")
    assert (again.decoded, again.store.path) == (0, store.store.path)
    assert server.fetched == ["t.tar"]  # what is ingested already is not even fetched
    items_of(spec)
    assert server.fetched == ["t.tar"] * 2
    os.utime(path, ns=(1, 1))
    assert open_corpus(spec).identity() != first
    items_of(spec)
    assert server.fetched == ["t.tar"] * 3


def test_refusals(www: Path, server: Server, cache: Path) -> None:
    (www / "empty").mkdir()
    for option, error, words in [
        (f"{server.url}/no.tar", CorpusNotFound, f"^no such file: {server.url}/no.tar$"),
        (f"{server.url}/no-{{0..3}}.tar", CorpusNotFound, "no such file: .*/no-0.tar$"),
        (f"{server.url}/*.tar", CorpusNotFound, r"no such file: .*/\*.tar$"),
        (f"wds:{server.url}/empty/", CorpusEmpty, r"no \*.tar file in http"),
        (f"{server.url}/a-{{0..3.tar", UnknownCorpus, "unbalanced braces"),
        ("http://127.0.0.1:1/a.tar", CorpusUnreachable, "cannot fetch http://127.0.0.1:1/a.tar: .*Connect call failed"),
        ("memory://nothing/a.tar", CorpusNotFound, "no such file: memory://nothing/a.tar"),
    ]:
        with pytest.raises(error, match=words) as caught:
            open_corpus(option)
        assert str(caught.value).count("\n") == 0
    write_tar(www / "t.tar", pictures(1))
    server.answer = 403
    with pytest.raises(CorpusUnreachable, match=r"t.tar: 403, message='Forbidden'.*your right to read it; check"):
        open_corpus(f"{server.url}/t.tar")
    server.answer, server.silent = 200, True
    with pytest.raises(CorpusUnreachable, match="does not say how long it is; fetch it yourself and give its path"):
        open_corpus(f"{server.url}/t.tar")
    assert cached(cache) == []


def test_what_is_cut_off_is_not_taken_for_whole(www: Path, server: Server, cache: Path) -> None:
    write_tar(www / "t.tar", pictures(40))
    corpus = open_corpus(f"{server.url}/t.tar")
    server.cut = 5000
    with pytest.raises(CorpusUnreachable, match=f"cannot fetch {server.url}/t.tar: "):
        corpus.parts()
    assert cached(cache) == []
    server.cut = None
    assert sum(part.count for part in corpus.parts()) == 40


def test_a_file_that_changes_under_way_or_is_gone_is_refused(www: Path, server: Server, cache: Path) -> None:
    path = write_tar(www / "t.tar", pictures(2))
    corpus = open_corpus(f"{server.url}/t.tar")
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorpusUnreachable, match=r"t.tar changed while it was fetched; run the same command again"):
        corpus.parts()
    corpus = open_corpus(f"{server.url}/t.tar")
    write_tar(path, pictures(40))
    with pytest.raises(CorpusUnreachable, match=r"t.tar ended after [\d,]+ of 10,240 bytes; run the same command"):
        corpus.parts()
    path.unlink()
    with pytest.raises(CorpusNotFound, match=r"no such file: .*t.tar"):
        corpus.parts()
    assert cached(cache) == []


def test_killed_under_way(www: Path, server: Server, cache: Path) -> None:
    write_tar(www / "t.tar", pictures(3))
    server.slow = 30
    code = f"from curate.corpora import open_corpus; open_corpus('{server.url}/t.tar').parts()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        while not cached(cache):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert cached(cache) == ["t.tar.part"]
    server.slow = 0
    assert len(items_of(f"{server.url}/t.tar")) == 3
    assert cached(cache) == ["t.tar"]


def test_a_damaged_file_is_fetched_but_refused_by_its_reader(www: Path, server: Server) -> None:
    whole = write_tar(www / "t.tar", pictures(3)).read_bytes()
    (www / "t.tar").write_bytes(whole[:1536])
    with pytest.raises(CorpusDamaged, match=r"damaged tar .*t.tar at byte"):
        items_of(f"{server.url}/t.tar")


def test_memory(tmp_path: Path, cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    for n in range(2):
        memory.pipe(f"/bucket/t-{n}.tar", write_tar(tmp_path / "t.tar", pictures(2, first=2 * n)).read_bytes())
    try:
        for spec in ("memory://bucket/t-{0..1}.tar", "memory://bucket/*.tar", "wds:memory://bucket/"):
            uris = [f"t-{n // 2}.tar/{n:03d}.png" for n in range(4)]
            assert [item.uri for item in items_of(spec)] == uris
    finally:
        memory.rm("/bucket", recursive=True)
    assert set(cached(cache)) == {"t-0.tar", "t-1.tar"}


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(CorpusUnreachable, match=r"cannot open https://host/a.tar \(.*aiohttp.*'transferset\[remote\]'"):
        open_corpus("https://host/a.tar")


def test_every_ending_has_a_reader() -> None:
    assert set(ENDINGS.values()) <= set(CORPORA)
