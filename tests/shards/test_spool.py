"""Images come out of the spool as they went in, whatever the order, in memory that is bounded."""

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import shards.spool
from shards.codec import Encoded
from shards.spool import Spool
from tests.shards import make

ORDERS = (np.array([4, 0, 2]), np.array([1, 5, 3, 6]))


@pytest.fixture(params=["in memory", "on disk"])
def _place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "on disk":
        monkeypatch.setattr(shards.spool, "MEMORY", 100)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("encoded", [False, True])
def test_images_come_out_as_they_went_in(tmp_path: Path, encoded: bool) -> None:
    images = make.images(7, size=5)
    with Spool(7, size=5, folder=tmp_path) as spool:
        for rows in ORDERS:
            spool.put(rows, Encoded.of(images[rows]) if encoded else images[rows])
        for rows in (np.arange(7), np.array([6, 0]), np.array([3])):
            found = spool.take(rows)
            assert isinstance(found, Encoded) == encoded
            assert isinstance(found, Encoded) or found.flags.writeable  # torch wants that
            assert np.array_equal(found.pixels() if isinstance(found, Encoded) else found, images[rows])


def test_what_is_on_disk_has_no_name_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.spool, "MEMORY", 100)
    with Spool(7, size=5, folder=tmp_path) as spool:
        spool.put(np.arange(7), make.images(7, size=5))
        assert list(tmp_path.iterdir()) == []  # so nothing is left by a process that is killed


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 MB of images through a spool of 2 MB."""
    monkeypatch.setattr(shards.spool, "MEMORY", 2 << 20)
    piece, pieces = make.images(100, size=64), 20
    tracemalloc.start()
    with Spool(100 * pieces, size=64, folder=tmp_path) as spool:
        for number in range(pieces):
            spool.put(np.arange(100) * pieces + number, piece)
        for number in range(pieces):
            found = spool.take(np.arange(100) * pieces + number)
            assert not isinstance(found, Encoded)
            assert np.array_equal(found, piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.spool, "MEMORY", 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised, Spool(500, size=64, folder=tmp_path) as spool:
            spool.put(np.arange(500), make.images(500, size=64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.filename == str(tmp_path)
