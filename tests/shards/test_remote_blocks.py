"""Blocks that lie elsewhere are those that lie here; what fails is tried again, refetched or refused in words."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from manifests.commit import LOCK
from manifests.errors import IntegrityError, TransfersetError
from shards import block_cache, remote_files
from shards.errors import BlockDamaged, NotAShardFolder, ShardError, UnknownAddress, Unreachable
from shards.index import ShardFolder
from shards.remote_files import BACKOFF, RemoteFolder, backoff
from shards.sources import LocalBlocks
from shards.sources.remote import RemoteBlocks
from shards.stream import Batch, Stream
from tests.shards import make
from tests.shards.range_server import Fault, Server, serving

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 3 * 3072
"""bytes, of three blocks"""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BACKOFF", 0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFERSET_CACHE", str(tmp_path / "home"))
    return tmp_path / "home" / "blocks"


@pytest.fixture
def server(packed: ShardFolder) -> Iterator[Server]:
    """Serves a transfer set of 16 + 4 images, whose files a test may change."""
    with serving(packed.path) as server:
        yield server


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.block"))


def kept_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in kept(cache))


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("images_BCHW", "keys", "labels"))


def everything(blocks: RemoteBlocks) -> list[bytes]:
    return [key for i in range(len(blocks.counts)) for key in blocks.read(i).keys.tolist()]


# ------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("place", ["http", "http, query", "memory", "file"])
@pytest.mark.parametrize("resident", [False, True])
def test_the_stream_is_that_of_the_folder_here(packed: ShardFolder, server: Server, place: str, resident: bool) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(packed.path), "/a set", recursive=True)
    urls = {"http": f"{server.url}/", "http, query": f"{server.url}?token=1"}
    urls |= {"memory": "memory://a set", "file": f"file://{packed.path}"}
    try:
        for split in ("train", "holdout", None):
            here, there = LocalBlocks(packed, split), RemoteBlocks(urls[place], split)
            assert (there.identity, there.size, there.views) == (here.identity, here.size, here.views)
            assert there.document == packed.document
            one, other = (
                Stream(s, batch_size=4, seed=3, window=2, tail="wrap", resident=resident) for s in (here, there)
            )
            assert all(same(next(one), next(other)) for _ in range(3 * one.batches_per_epoch))
            other.load_state(one.state())
            assert same(next(one), next(other))
    finally:
        memory.rm("/a set", recursive=True)


def test_a_store_is_read_too(tmp_path: Path) -> None:
    make.write_store(tmp_path / "store", [[2, 1], [3]])
    with serving(tmp_path) as server:
        assert len(everything(RemoteBlocks(f"{server.url}/store"))) == 6


def test_large_images_stay_encoded(tmp_path: Path) -> None:
    store = make.write_store(tmp_path, [[2, 3]], size=72)
    with serving(tmp_path) as server:
        found = RemoteBlocks(server.url).read(1)
        assert np.array_equal(found.images_NCHW, LocalBlocks(store).read(1).images_NCHW)


def test_what_is_read_can_be_written_to(server: Server) -> None:
    blocks = RemoteBlocks(server.url)
    assert all(blocks.read(0).images_NCHW.flags.writeable for _ in ("from there", "from the cache"))


def test_many_threads_at_once(packed: ShardFolder, server: Server) -> None:
    blocks, here = RemoteBlocks(server.url), LocalBlocks(packed)
    with ThreadPoolExecutor(16) as pool:
        wanted = [*range(len(blocks.counts))] * 8
        for number, found in zip(wanted, pool.map(blocks.read, wanted), strict=True):
            assert np.array_equal(found.images_NCHW, here.read(number).images_NCHW)
    assert len(server.ranges) == len(blocks.counts)  # each once, for who comes second waits


def test_a_forked_process_reads_on(server: Server) -> None:
    code = f"""
import os
from shards.sources.remote import RemoteBlocks
blocks = RemoteBlocks({server.url!r}, cache_bytes=0)
blocks.read(0)
pid = os.fork()
assert len(blocks.read(1)) == 3
if pid == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=60)


def test_what_is_pickled_reads_on(server: Server) -> None:
    blocks = RemoteBlocks(server.url, "holdout")
    assert everything(pickle.loads(pickle.dumps(blocks))) == everything(blocks)


# ---------------------------------------------------------------------------------------------------- the cache


def test_what_is_in_the_cache_needs_no_server(server: Server, cache: Path) -> None:
    first = RemoteBlocks(server.url)
    keys = everything(first)
    assert len(server.ranges) == len(first.counts) == len(kept(cache))
    again = RemoteBlocks(server.url, "train")
    server.shutdown()
    server.server_close()
    assert everything(again) == keys[:16]
    assert everything(first) == keys


def test_without_a_server_nothing_is_opened(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(RemoteBlocks(server.url))
    server.faults = [Fault(99, name="transfer-set", status=503)]
    with pytest.raises(Unreachable, match=r"cannot fetch .*/transfer-set.json: 503.*; tried 5 times$"):
        RemoteBlocks(server.url)


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(server: Server, cache: Path) -> None:
    blocks = RemoteBlocks(server.url, cache_bytes=LIMIT)
    for number in [0, 1, *range(2, len(blocks.counts))]:
        blocks.read(number)
        blocks.read(0)
        assert kept_bytes(cache) <= LIMIT
    assert f"{0:06d}.block" in {path.name for path in kept(cache)}
    assert len(kept(cache)) in (2, 3)
    assert len(server.ranges) == len(blocks.counts)


def test_all_sets_share_the_limit(server: Server, cache: Path, tmp_path: Path) -> None:
    make.write_store(tmp_path / "other", [[3, 3, 3]])
    everything(RemoteBlocks(server.url))
    before = len(kept(cache))
    with serving(tmp_path / "other") as other:
        everything(RemoteBlocks(other.url, cache_bytes=kept_bytes(cache)))
    assert len({path.parent for path in kept(cache)}) == 2
    assert len(kept(cache)) <= before


@pytest.mark.parametrize("limit", [0, 100])
def test_a_cache_smaller_than_a_block_keeps_nothing_and_works(server: Server, cache: Path, limit: int) -> None:
    blocks = RemoteBlocks(server.url, cache_bytes=limit)
    assert everything(blocks) == everything(blocks)
    assert len(server.ranges) == 2 * len(blocks.counts)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_done_without(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(everything(RemoteBlocks(server.url, cache=tmp_path / "file" / "cache"))) == 20


def test_a_full_disk_is_done_without(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: object, *, durable: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_cache, "write_bytes", full)
    assert len(everything(RemoteBlocks(server.url))) == 20
    assert kept(cache) == []


def test_a_lock_that_somebody_keeps_is_waited_for_a_while_only(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache, "PATIENCE", 0.02)
    monkeypatch.setattr(block_cache, "FETCH_PATIENCE", 0.02)
    blocks = RemoteBlocks(server.url)
    held = block_cache.BlockCache(cache / "x", limit=1 << 20)
    with held._lock(LOCK, 1), held.fetching(0, 1):
        assert len(blocks.read(0)) == 3
        assert kept(cache) == []
    blocks.read(0)
    assert len(kept(cache)) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]],
    ids=["empty", "cut", "a bit flipped"],
)
def test_a_damaged_entry_is_fetched_anew(server: Server, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    blocks = RemoteBlocks(server.url)
    keys = everything(blocks)
    path = kept(cache)[2]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert everything(blocks) == keys
    assert path.read_bytes() == whole
    assert len(server.ranges) == len(blocks.counts) + 1


def test_two_processes_fetch_each_block_once(server: Server, cache: Path) -> None:
    server.faults = [Fault(99, stall=0.05)]
    code = f"""
from shards.sources.remote import RemoteBlocks
blocks = RemoteBlocks({server.url!r})
print(sum(len(blocks.read(i)) for i in range(len(blocks.counts))))
"""
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [b"20", b"20"]
    assert len(server.ranges) == len(set(server.ranges)) == len(kept(cache))
    assert int((cache / "total").read_text()) == kept_bytes(cache)


def test_killed_while_it_keeps_a_block(server: Server, cache: Path) -> None:
    code = f"""
import time
from pathlib import Path
from shards.sources.remote import RemoteBlocks
Path.replace = lambda self, target: time.sleep(60)
RemoteBlocks({server.url!r}).read(0)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        while not [*cache.glob("*/*.part")]:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    blocks = RemoteBlocks(server.url, cache_bytes=LIMIT)
    assert len(everything(blocks)) == 20
    assert kept_bytes(cache) <= LIMIT
    assert [*cache.glob("*/*.part")] == []
    (cache / "total").write_text("")  # killed while it was written
    assert len(everything(blocks)) == 20
    assert int((cache / "total").read_text()) == kept_bytes(cache)


# ------------------------------------------------------------------------------------------------ what may pass


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        (4, {"status": 503}),
        (4, {"status": 429}),
        (4, {"reset": True}),
        (4, {"cut": 100}),
        (1, {"short": 100}),
        (1, {"wrong": True}),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(
    packed: ShardFolder, server: Server, cache: Path, times: int, fault: dict[str, Any]
) -> None:
    blocks = RemoteBlocks(server.url)
    server.faults = [Fault(times, **fault)]
    assert np.array_equal(blocks.read(1).images_NCHW, LocalBlocks(packed).read(1).images_NCHW)
    assert server.faults[0].times == 0
    assert len(kept(cache)) == 1


def test_silence_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "STALL", 0.1)
    blocks = RemoteBlocks(server.url)
    server.faults = [Fault(1, stall=1.0)]
    start = time.monotonic()
    assert len(blocks.read(0)) == 3
    assert time.monotonic() - start < 1.0
    server.faults = [Fault(5, stall=0.3)]
    with pytest.raises(Unreachable, match=r"cannot fetch .*000000.tar: .*[Tt]imeout.*; tried 5 times$"):
        blocks.read(1)


@pytest.mark.parametrize(
    ("fault", "requests", "words"),
    [
        (Fault(9, status=503), 5, r"^cannot fetch {url}: 503, message='Service Unavailable'.*; tried 5 times$"),
        (Fault(9, cut=100), 5, r"^cannot fetch {url}: .*; tried 5 times$"),
        (Fault(9, status=403), 1, r"^cannot fetch {url}: 403, message='Forbidden'.*your right to read it; check the n"),
        (Fault(9, status=400), 1, r"^cannot fetch {url}: 400, message='Bad Request'"),
        (Fault(9, whole=True), 1, r"of {url} sent [\d,]+ bytes where [\d,]+ were asked for: it does not answer range"),
    ],
    ids=["unavailable", "cut off", "forbidden", "a bad request", "no ranges"],
)
def test_what_does_not_pass_is_told(server: Server, cache: Path, fault: Fault, requests: int, words: str) -> None:
    blocks = RemoteBlocks(server.url)
    server.faults = [fault]
    with pytest.raises(Unreachable, match=words.format(url=f"{server.url}/shards/train-000000.tar")) as caught:
        blocks.read(1)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(server.ranges) == requests
    assert kept(cache) == []


def test_connections_that_break_are_given_up(server: Server) -> None:
    blocks = RemoteBlocks(server.url)
    server.faults = [Fault(99, reset=True)]
    with pytest.raises(Unreachable, match=r"^cannot fetch http.*000000.tar: .*; check the address .*; tried 5 times$"):
        blocks.read(1)
    assert len(server.ranges) >= 5  # aiohttp tries some again by itself


@pytest.mark.parametrize(
    ("fault", "requests", "words"),
    [
        (Fault(9, status=404), 1, r"^{url} is missing, block 1 was to be read from it$"),
        (Fault(9, status=416), 2, r"^{url}: block 1 ends after 0 of [\d,]+ bytes$"),
        (Fault(9, short=100), 2, r"^{url}: block 1 ends after [\d,]+ of [\d,]+ bytes$"),
        (Fault(9, wrong=True), 2, r"^{url}: block 1 is damaged \(XXH3 [0-9a-f]{{16}}, index says [0-9a-f]{{16}}\)$"),
    ],
    ids=["missing", "before the block", "short", "wrong"],
)
def test_damage_there_is_damage(server: Server, cache: Path, fault: Fault, requests: int, words: str) -> None:
    blocks = RemoteBlocks(server.url)
    server.faults = [fault]
    with pytest.raises(BlockDamaged, match=words.format(url=f"{server.url}/shards/train-000000.tar")):
        blocks.read(1)
    assert len(server.ranges) == requests
    assert kept(cache) == []


def test_a_file_that_is_replaced_meanwhile_is_damage(packed: ShardFolder, server: Server, tmp_path: Path) -> None:
    blocks = RemoteBlocks(server.url)
    blocks.read(0)
    shutil.copy(packed.path / "shards/train-000001.tar", packed.path / "shards/train-000000.tar")
    assert len(blocks.read(0)) == 3  # from the cache: it was checked
    with pytest.raises(BlockDamaged, match=r"train-000000.tar: block 1 is damaged"):
        blocks.read(1)
    with pytest.raises(BlockDamaged, match=r"block 1 is damaged"):
        next(Stream(blocks, batch_size=6, shuffle=False))


def test_backoff_doubles_and_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BACKOFF", BACKOFF)
    for tried, around in [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0)]:
        waits = [backoff(tried) for _ in range(100)]
        assert around / 2 <= min(waits) < max(waits) <= around * 1.5
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)

    def fails() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(Unreachable, match=r"cannot fetch x://y: gone; .*; tried 5 times"):
        remote_files.patiently("x://y", fails)
    assert len(waited) == 4
    assert 3.75 <= sum(waited) <= 11.25


# ----------------------------------------------------------------------------------------------------- opening


def test_shards_are_looked_at_before_they_are_read(packed: ShardFolder, server: Server) -> None:
    blocks = RemoteBlocks(server.url)
    blocks.check()
    assert server.ranges == []
    path = packed.path / "shards/train-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(BlockDamaged, match=r"http.*train-000001.tar holds [\d,]+ bytes, the index says [\d,]+: it was"):
        Stream(blocks, batch_size=2)
    RemoteBlocks(server.url, "holdout").check()
    path.unlink()
    with pytest.raises(BlockDamaged, match=r"http.*/shards/train-000001.tar is missing; copy the set there again$"):
        blocks.check()


def test_a_size_that_the_server_does_not_say_is_passed_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteFolder, "_call", lambda self, what, name: {"name": name, "size": None})
    assert RemoteFolder(server.url).size("shards/train-000000.tar") is None


def edited(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "transfer-set.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            without("transfer-set.json"),
            NotAShardFolder,
            r"^{url} is no transfer set \(no transfer-set.json in it\); ",
        ),
        (without("shards.parquet"), IntegrityError, r"^{url}/shards.parquet is missing; make the folder again"),
        (
            lambda f: (f / "shards.parquet").write_bytes(b""),
            IntegrityError,
            r"^{url}/shards.parquet is not the index ",
        ),
        (
            lambda f: (f / "transfer-set.json").write_bytes(b"{"),
            IntegrityError,
            r"^{url}/transfer-set.json is damaged: ",
        ),
        (edited(id="../../x"), IntegrityError, r"^{url}/transfer-set.json is damaged: its id '../../x' is not that of"),
        (edited(size=-1), IntegrityError, r"^{url}/transfer-set.json is damaged: kind, id, size or contents"),
    ],
    ids=["no document", "no index", "another index", "a cut document", "another id", "no size"],
)
def test_what_is_no_set_is_refused(
    packed: ShardFolder, server: Server, change: Callable[[Path], object], error: type[TransfersetError], words: str
) -> None:
    change(packed.path)
    with pytest.raises(error, match=words.format(url=server.url)):
        RemoteBlocks(server.url)


def test_addresses_that_cannot_be_opened(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardError, match=rf"split 'test' of {server.url} holds no images; its splits: train, holdout"):
        RemoteBlocks(server.url, "test")
    with pytest.raises(UnknownAddress, match=r"cannot open nosuch://x: .*; expected https://, s3://, gs:// or fsspec"):
        RemoteBlocks("nosuch://x")
    with pytest.raises(Unreachable, match=r"cannot fetch http://127.0.0.1:1/transfer-set.json: .*; tried 5 times$"):
        RemoteBlocks("http://127.0.0.1:1")
    server.faults = [Fault(1, name="transfer-set", status=403)]
    with pytest.raises(Unreachable, match=r"/transfer-set.json: 403, message='Forbidden'"):
        RemoteBlocks(server.url)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(Unreachable, match=r"cannot open https://host/set \(.*aiohttp.*'transferset\[remote\]'"):
        RemoteBlocks("https://host/set")


def test_names_in_urls(tmp_path: Path) -> None:
    assert RemoteFolder("memory://a set").url_of("a b#?.tar") == "memory://a set/a b#?.tar"
    folder = RemoteFolder("https://host/a%20set/?token=a/b")
    assert folder.url_of("shards/a b#?%.tar") == "https://host/a%20set/shards/a%20b%23%3F%25.tar"
    (tmp_path / "a b#?%.tar").write_bytes(b"0123")
    with serving(tmp_path) as server:
        assert RemoteFolder(f"{server.url}?token=1").read_range("a b#?%.tar", 1, 3) == b"12"


def test_an_access_token_goes_to_the_server_and_nowhere_else(server: Server) -> None:
    blocks = RemoteBlocks(f"{server.url}/?token=secret", "train")
    blocks.read(0)
    assert blocks.name == f"split 'train' of {server.url}"
    assert server.queries == {"token=secret"}


def test_the_default_cache_is_the_users(server: Server, cache: Path, tmp_path: Path) -> None:
    found = RemoteBlocks(server.url)
    found.read(0)
    assert [path.parent.parent for path in kept(cache)] == [cache]
    RemoteBlocks(server.url, cache=tmp_path / "mine").read(0)
    (path,) = kept(tmp_path / "mine")
    assert path.relative_to(tmp_path) == Path("mine", str(found.identity["id"]), "000000.block")
    assert [*path.parent.iterdir()] == [path]
