"""The store of teachers: what is kept, what is believed, and which file a name means."""

from pathlib import Path

import pytest

from distill.errors import BadWeights, UnknownTeacher
from distill.models.store import find_by_hash, find_starter, register, resolve, store_dir, teacher_file
from distill.models.teachers import load_classifier
from tests.distill.test_teachers import make, rewrite


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a working folder of our own."""
    monkeypatch.setenv("TRANSFERSET_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "home"


def test_store_lies_where_the_environment_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_dir() == home / "teachers"
    monkeypatch.delenv("TRANSFERSET_HOME")
    assert store_dir().parts[-2:] == ("transferset", "teachers")


def test_register_keeps_the_bytes_once(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors", extra={"dataset": "x"})
    sha256 = load_classifier(path).sha256
    stored = register(path)
    assert stored == store_dir() / f"wrn16_1-{sha256[:12]}.safetensors"
    assert stored.read_bytes() == path.read_bytes()
    again = make(tmp_path / "u.safetensors", extra={"dataset": "y"})  # equal weights, other metadata
    assert register(again) == stored
    assert stored.read_bytes() == path.read_bytes()
    assert list(store_dir().iterdir()) == [stored]


def test_find_by_hash_believes_only_the_tensors(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors")
    sha256 = load_classifier(path).sha256
    assert find_by_hash(sha256) is None
    stored = register(path)
    assert find_by_hash(sha256) == stored
    assert find_by_hash(sha256[:12] + "0" * 52) is None
    stored.write_bytes(make(tmp_path / "u.safetensors", seed=1).read_bytes())
    assert find_by_hash(sha256) is None
    stored.write_bytes(b"damaged")
    assert find_by_hash(sha256) is None
    assert register(path).read_bytes() == path.read_bytes()  # mended


def test_register_needs_to_know_the_architecture(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("arch",))
    with pytest.raises(BadWeights, match="does not say its architecture"):
        register(path)
    assert register(path, arch="wrn16_1").name.startswith("wrn16_1-")


def test_resolve_prefers_the_given_then_the_store_then_the_folder(tmp_path: Path) -> None:
    here = make(Path("wrn16_1-mine.safetensors"))
    assert resolve("wrn16_1") == here
    stored = register(make(tmp_path / "t.safetensors", seed=1))
    register(
        make(tmp_path / "s.safetensors", seed=2, extra={"dataset": "builtin:digits"})
    )  # the starter's own: never meant
    register(make(tmp_path / "o.safetensors", arch="wrn16_2"))
    assert resolve("wrn16_1") == stored
    assert resolve("wrn16_1", weights=here) == here


def test_resolve_without_weights_says_what_to_do(tmp_path: Path) -> None:
    register(make(tmp_path / "s.safetensors", extra={"dataset": "builtin:digits"}))
    with pytest.raises(
        UnknownTeacher, match=r"no weights for teacher 'wrn16_1' .*--teacher-weights FILE, .*distill pretrain"
    ):
        resolve("wrn16_1")


def test_resolve_names_the_candidates(tmp_path: Path) -> None:
    both = [register(make(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (0, 1)]
    with pytest.raises(
        UnknownTeacher, match=r"2 weights files for teacher 'wrn16_1'; pick one with --teacher-weights"
    ) as caught:
        resolve("wrn16_1")
    assert all(str(path) in str(caught.value) for path in both)


@pytest.mark.parametrize("weights", [None, Path("any.safetensors")])
def test_resolve_unknown_name_lists_the_known(weights: Path | None) -> None:
    with pytest.raises(UnknownTeacher, match=r"unknown teacher 'resnet1'; known: wrn16_1, wrn16_2, wrn40_1, wrn40_2"):
        resolve("resnet1", weights=weights)


def test_a_stored_file_that_cannot_be_read_is_as_good_as_absent() -> None:
    store_dir().mkdir(parents=True)
    (store_dir() / "wrn16_1-0123456789ab.safetensors").write_bytes(b"damaged")
    assert find_starter("wrn16_1", made={}) is None
    with pytest.raises(UnknownTeacher, match="no weights for teacher 'wrn16_1' in the store"):
        resolve("wrn16_1")


def test_find_starter_is_of_the_builtin_images_and_the_architecture(tmp_path: Path) -> None:
    made = {"dataset": "builtin:digits?split=train"}
    assert find_starter("wrn16_1", made=made) is None
    register(make(tmp_path / "t.safetensors", seed=1, extra={"dataset": "cifar10"}))
    assert find_starter("wrn16_1", made=made) is None
    starter = register(make(tmp_path / "s.safetensors", extra=made))
    assert find_starter("wrn16_1", made=made) == starter
    assert find_starter("wrn16_1", made={**made, "epochs": "99"}) is None  # another recipe: trained anew
    assert find_starter("wrn16_2", made=made) is None


# which teacher a command means


def test_a_given_file_wins(tmp_path: Path) -> None:
    stored = register(make(tmp_path / "t.safetensors"))
    sha256 = load_classifier(stored).sha256
    assert teacher_file(None, Path("mine"), made_with=sha256) == Path("mine")
    assert teacher_file("wrn16_1", Path("mine"), made_with=sha256) == Path("mine")


def test_the_teacher_it_was_made_with_comes_next(tmp_path: Path) -> None:
    """Also where its architecture is named and several stored teachers have it; the starter too."""
    register(make(tmp_path / "o.safetensors", seed=1))
    stored = register(make(tmp_path / "t.safetensors", extra={"dataset": "builtin:digits"}))
    sha256 = load_classifier(stored).sha256
    assert teacher_file(None, None, made_with=sha256) == stored
    assert teacher_file("wrn16_1", None, made_with=sha256) == stored


def test_another_architecture_by_name_is_resolved(tmp_path: Path) -> None:
    sha256 = load_classifier(register(make(tmp_path / "t.safetensors"))).sha256
    other = register(make(tmp_path / "o.safetensors", arch="wrn16_2"))
    assert teacher_file("wrn16_2", None, made_with=sha256) == other
    with pytest.raises(UnknownTeacher, match="no weights for teacher 'wrn40_1'"):
        teacher_file("wrn40_1", None, made_with=sha256)


def test_nothing_known_is_none_and_no_guess(tmp_path: Path) -> None:
    register(make(tmp_path / "t.safetensors"))
    assert teacher_file(None, None, made_with="0" * 64) is None
    assert teacher_file(None, None, made_with=None) is None
