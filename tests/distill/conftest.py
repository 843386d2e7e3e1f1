"""What the tests of this room share: one thread (kernels that wait for a second one by spinning are slow), toys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shards.index import ShardFolder
from tests.distill import toys
from tests.distill.test_cli import Distill


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy teacher's file."""
    return toys.write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="session")
def transfer_set(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """40 images of 8 px to learn from and 10 held out, chosen for the toy teacher; not to be changed."""
    return toys.write_transfer_set(tmp_path_factory.mktemp("set"), weights)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """A corpus store of 16 images of each of the toy teacher's classes; not to be changed."""
    work = tmp_path_factory.mktemp("labelled")
    return toys.write_labelled_store(work, toys.write_images(work / "images"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Distill:
    """``command("train", ...)``: `distill` in an empty folder, with a store of teachers of its own."""
    monkeypatch.setenv("TRANSFERSET_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return Distill(monkeypatch, capsys)
