"""What every test shares: the real images where they are there, a user's store of its own, and the GPU's absence."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and teachers; the test is skipped where it is not there."""
    folder = Path(os.environ.get("TRANSFERSET_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared (real images), absent in a plain clone")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One store of teachers for the whole session: the user's own is never touched, the starter is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERSET_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for real images; skip what needs a GPU where there is none."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked gpu where torch sees no CUDA device."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, torch sees none")
