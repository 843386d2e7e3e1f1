"""The store of teachers: what is kept, what is believed, and which file a name means."""

import hashlib
from pathlib import Path

import pytest
import torch

from distill.errors import BadWeights, UnknownTeacher, WrongArchitecture
from distill.models import build
from distill.models.store import (
    Stored,
    find,
    find_by_hash,
    find_starter,
    is_arch,
    load_teacher,
    register,
    remove,
    resolve,
    store_dir,
    teacher_file,
    teachers,
)
from distill.models.teachers import load_classifier
from distill.models.weights import read_metadata, read_weights, weights_sha256
from tests.distill.test_teachers import MEAN, make, rewrite

FACTS = {"mean": "0.5,0.4,0.3", "std": "0.25,0.2,0.1"}
STARTER = {"dataset": "builtin:digits"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a working folder of our own."""
    monkeypatch.setenv("TRANSFERSET_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "home"


def checkpoint(path: Path, *, arch: str = "wrn16_1", classes: int = 2, seed: int = 0) -> Path:
    """What a training script leaves: no normaliser, no architecture."""
    torch.manual_seed(seed)
    state = {f"module.{name}": tensor for name, tensor in build(arch, classes).state_dict().items()}
    torch.save({"epoch": 240, "model": state, "best_acc": torch.tensor(94.2)}, path)
    return path


# keeping one


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
    changed = stored.stat().st_mtime_ns
    assert register(path) == stored
    assert stored.stat().st_mtime_ns == changed
    again = make(tmp_path / "u.safetensors", extra={"test_accuracy": "0.9"})  # equal weights, one fact more
    assert register(again) == stored
    says = read_metadata(stored)
    assert (says["dataset"], says["test_accuracy"]) == ("x", "0.9")
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


def test_register_makes_a_checkpoint_say_everything(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "ckpt_epoch_240.pth")
    stored = register(path, arch="wrn16_1", facts={**FACTS, "classes": '"a, or b",c', "dataset": "x", "flip": "false"})
    teacher = load_classifier(stored)
    assert stored.stem == teacher.name == f"wrn16_1-{weights_sha256(read_weights(path)[0])[:12]}"
    assert (teacher.arch, teacher.mean, teacher.classes, teacher.input_size) == ("wrn16_1", MEAN, ("a, or b", "c"), 32)
    assert (teacher.metadata["dataset"], teacher.flip) == ("x", False)
    whole = {"arch": "wrn16_1", "num_classes": "2", "input_size": "32", "classes": '"a, or b",c'}
    assert read_metadata(stored) == {**FACTS, **whole, "dataset": "x", "flip": "false"}


def test_register_without_a_normaliser_names_the_command(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "t.pth")
    with pytest.raises(BadWeights, match=f"distill teachers add {path} --arch wrn16_1 --mean R,G,B --std R,G,B"):
        register(path, arch="wrn16_1")
    assert not store_dir().exists()


def test_register_again_with_facts_corrects_what_is_told(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "t.pth")
    stored = register(path, arch="wrn16_1", facts=FACTS)
    assert register(path, arch="wrn16_1", facts={**FACTS, "classes": "a,b"}) == stored
    assert load_classifier(stored).classes == ("a", "b")
    assert [teacher.name for teacher in teachers()] == [stored.stem]


def test_register_keeps_what_shares_memory(tmp_path: Path) -> None:
    flat = torch.cat([tensor.flatten().float() for tensor in build("wrn16_1", 2).state_dict().values()])
    shapes = {name: tensor.shape for name, tensor in build("wrn16_1", 2).state_dict().items()}
    pieces = torch.split(flat, [shape.numel() for shape in shapes.values()])
    state = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
    torch.save(state, tmp_path / "t.pth")
    assert weights_sha256(read_weights(register(tmp_path / "t.pth", arch="wrn16_1", facts=FACTS))[0]) == (
        weights_sha256(state)
    )


def test_register_leaves_auxiliary_heads_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = "torchvision:googlenet"
    state = build(arch, 2).state_dict()
    torch.save(state | {"aux1.conv.conv.weight": torch.ones(1)}, tmp_path / "t.pth")
    stored = register(tmp_path / "t.pth", arch=arch, facts=FACTS)
    assert stored.name.startswith("torchvision-googlenet-")
    tensors, metadata = read_weights(stored)
    assert weights_sha256(tensors) == weights_sha256(state)
    assert (metadata["arch"], metadata["mean"]) == (arch, FACTS["mean"])
    assert load_teacher(arch, None).sha256 == weights_sha256(state)  # type: ignore[union-attr]
    torch.save(state | {"aux3.conv.conv.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(WrongArchitecture, match=r"such as: aux3.conv.conv.weight is unknown"):
        register(tmp_path / "other.pth", arch=arch, facts=FACTS)


def test_register_a_network_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from distill.models import build\ndef make(k): return build('wrn16_1', k)\n")
    arch = f"{tmp_path / 'net.py'}:make"
    stored = register(checkpoint(tmp_path / "t.pth"), arch=arch, facts=FACTS)
    assert stored.parent == store_dir()
    assert stored.name.endswith(f"-net.py-make-{find_by_hash_of(tmp_path / 't.pth')}.safetensors")
    teacher = load_teacher(arch, None)
    assert teacher is not None
    assert (teacher.arch, teacher.name) == (arch, stored.stem)
    assert teacher_file(arch, None, made_with=teacher.sha256) == stored
    by_name = load_teacher(stored.stem, None)  # it is in the store because the user named its code
    assert by_name is not None
    assert by_name.code == hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()
    with pytest.raises(BadWeights, match="a weights file may not have code run"):  # anywhere else: unless it is named
        load_classifier(stored)


def test_a_corrected_file_of_the_same_weights_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first = register(make(tmp_path / "a.safetensors"))
    second = rewrite(make(tmp_path / "b.safetensors"), put={"mean": "0.1,0.1,0.1", "flip": "false"})
    assert register(second) == first
    teacher = load_teacher("wrn16_1", None)
    assert teacher is not None
    assert (teacher.mean, teacher.flip) == ((0.1, 0.1, 0.1), False)


def find_by_hash_of(path: Path) -> str:
    return weights_sha256(read_weights(path)[0])[:12]


def test_equal_weights_of_two_architectures_are_two_teachers(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from distill.models import build\ndef make(k): return build('wrn16_1', k)\n")
    arch, path = f"{tmp_path / 'net.py'}:make", checkpoint(tmp_path / "t.pth")
    first, second = (register(path, arch=name, facts=FACTS) for name in ("wrn16_1", arch))
    assert first != second
    assert (resolve("wrn16_1"), resolve(arch)) == (first, second)


def test_register_needs_to_know_the_architecture(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("arch",))
    with pytest.raises(BadWeights, match="does not say its architecture"):
        register(path)
    assert register(path, arch="wrn16_1").name.startswith("wrn16_1-")


# which file a name means


def test_resolve_prefers_the_given_then_the_store_then_the_folder(tmp_path: Path) -> None:
    here = make(Path("wrn16_1-mine.safetensors"))
    assert resolve("wrn16_1") == here
    stored = register(make(tmp_path / "t.safetensors", seed=1))
    register(make(tmp_path / "s.safetensors", seed=2, extra=STARTER))  # the starter's own: never meant
    register(make(tmp_path / "o.safetensors", arch="wrn16_2"))
    assert resolve("wrn16_1") == stored


def test_resolve_without_weights_says_what_to_do(tmp_path: Path) -> None:
    register(make(tmp_path / "s.safetensors", extra=STARTER))
    with pytest.raises(
        UnknownTeacher,
        match=r"no weights for teacher 'wrn16_1' .*;\npass --teacher-weights FILE, .*add FILE`, .*distill pretrain",
    ):
        resolve("wrn16_1")


def test_several_of_one_architecture_are_named(tmp_path: Path) -> None:
    both = [register(make(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (0, 1)]
    first, second = sorted(path.stem for path in both)
    with pytest.raises(UnknownTeacher) as caught:
        resolve("wrn16_1")
    assert str(caught.value) == (f"2 teachers 'wrn16_1' in the store; name one of them: --teacher {first}, {second}")


def test_a_stored_name_or_a_beginning_of_its_hash(tmp_path: Path) -> None:
    paths = {path.stem: path for path in (register(make(tmp_path / f"{i}.safetensors", seed=i)) for i in (0, 1))}
    for name, path in paths.items():
        assert resolve(name) == find(name).path == path
        assert resolve(name[:-6]) == path
        teacher = load_teacher(name[:-6], None)
        assert teacher is not None
        assert teacher.name == name
        assert teacher_file(name[:-6], None, made_with=teacher.sha256) == path
    with pytest.raises(UnknownTeacher, match="unknown teacher 'wrn16_1-'"):
        load_teacher("wrn16_1-", None)  # says no digit of a hash
    with pytest.raises(UnknownTeacher, match="unknown teacher 'wrn16_1-zz'"):
        load_teacher("wrn16_1-zz", None)


def test_a_beginning_that_two_share(tmp_path: Path) -> None:
    for number in (1, 2):
        path = register(make(tmp_path / f"{number}.safetensors", seed=number))
        path.rename(path.with_stem(f"wrn16_1-abcdef00000{number}"))
    with pytest.raises(UnknownTeacher, match=r"2 teachers 'wrn16_1-abc' in the store; name one of them: --teacher wrn"):
        resolve("wrn16_1-abc")


def test_the_starters_is_meant_by_its_own_name_alone(tmp_path: Path) -> None:
    starter = register(make(tmp_path / "s.safetensors", extra=STARTER))
    assert resolve(starter.stem) == resolve(starter.stem[:-5]) == starter
    with pytest.raises(UnknownTeacher, match="no teacher 'wrn16_1' in the store; `distill teachers` lists them"):
        find("wrn16_1")
    assert find(starter.stem).arch == "wrn16_1"


def test_the_working_folder_is_searched_by_whole_names() -> None:
    """`alexnet` is not alexnet_half, wrn16_1 not wrn16_10, resnet110 not resnet110x2."""
    for name in ("alexnet_half.pth", "alexnet_half-cifar10.pth", "wrn16_10.pth", "wrn16_1x.pth", "resnet110x2.pth"):
        Path(name).touch()
    for arch in ("alexnet", "wrn16_1", "resnet110"):
        with pytest.raises(UnknownTeacher, match=f"no weights for teacher '{arch}'"):
            resolve(arch)
    for name, arch in (
        ("alexnet.pth", "alexnet"),
        ("wrn16_1_best.pth", "wrn16_1"),
        ("resnet110-cifar100.safetensors", "resnet110"),
        ("torchvision-resnet18.pth", "torchvision:resnet18"),
    ):
        Path(name).touch()
        assert resolve(arch) == Path(name)
    assert resolve("alexnet_half-cifar10") == Path("alexnet_half-cifar10.pth")
    Path("wrn16_1.safetensors").touch()
    with pytest.raises(UnknownTeacher) as caught:
        resolve("wrn16_1")
    assert str(caught.value) == (
        "2 teachers 'wrn16_1' in the working folder; "
        "pick one with --teacher-weights: wrn16_1.safetensors, wrn16_1_best.pth"
    )


def test_a_checkpoint_in_the_working_folder_says_what_it_lacks() -> None:
    checkpoint(Path("wrn16_1.pth"))
    with pytest.raises(BadWeights, match=r"distill teachers add wrn16_1.pth --arch wrn16_1 --mean R,G,B --std R,G,B"):
        load_teacher("wrn16_1", None)


@pytest.mark.parametrize("weights", [None, Path("any.safetensors")])
def test_unknown_name_lists_the_known(weights: Path | None) -> None:
    with pytest.raises(
        UnknownTeacher,
        match=r"unknown teacher 'resnet1'; did you mean resnet18\? known: wrn16_1, wrn16_2, wrn40_1, wrn40_2",
    ):
        load_teacher("resnet1", weights)


def test_is_arch(tmp_path: Path) -> None:
    stored = register(make(tmp_path / "t.safetensors"))
    assert all(map(is_arch, ("wrn16_1", "wrn28_10", "torchvision:resnet18")))
    assert not is_arch(stored.stem)
    assert not is_arch(stored.stem[:-3])
    with pytest.raises(UnknownTeacher, match="torchvision has no classifier 'resnet1'"):
        is_arch("torchvision:resnet1")


# what is there, and what is damaged


def test_teachers_are_listed_by_name(tmp_path: Path) -> None:
    assert teachers() == []
    paths = [register(make(tmp_path / f"{a}.safetensors", arch=a)) for a in ("wrn16_2", "wrn16_1")]
    assert [teacher.path for teacher in teachers()] == paths[::-1]
    assert [(teacher.arch, teacher.metadata["classes"]) for teacher in teachers()] == [
        ("wrn16_1", "a,b"),
        ("wrn16_2", "a,b"),
    ]


def test_remove(tmp_path: Path) -> None:
    first, second, other = (
        register(make(tmp_path / f"{arch}{seed}.safetensors", arch=arch, seed=seed))
        for arch, seed in (("wrn16_1", 0), ("wrn16_1", 1), ("wrn16_2", 0))
    )
    with pytest.raises(UnknownTeacher, match="2 teachers 'wrn16_1' in the store"):
        remove("wrn16_1")
    assert remove(first.stem) == first
    assert remove("wrn16_1") == second
    assert [teacher.path for teacher in teachers()] == [other]
    with pytest.raises(UnknownTeacher, match="no teacher 'wrn16_1' in the store"):
        remove("wrn16_1")


def test_a_stored_teacher_that_changed_is_refused(tmp_path: Path) -> None:
    stored = register(make(tmp_path / "t.safetensors"))
    changed = bytearray(stored.read_bytes())
    changed[-3] ^= 1
    stored.write_bytes(changed)
    for name in ("wrn16_1", stored.stem):
        with pytest.raises(
            BadWeights, match=f"stored teacher {stored.stem} is damaged(.|\n)*teachers remove {stored.stem}"
        ):
            load_teacher(name, None)
    copy = stored.rename(store_dir() / "mine.safetensors")  # who puts a file there himself vouches for it
    assert load_teacher("wrn16_1", copy) is not None


def test_files_of_earlier_versions_work(tmp_path: Path) -> None:
    """They were kept byte for byte: one without `arch` says it by its name."""
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("arch", "classes", "num_classes", "input_size"))
    sha256 = load_classifier(path, arch="wrn16_1").sha256
    old = store_dir() / f"wrn16_1-{sha256[:12]}.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(path.read_bytes())
    assert teachers() == [Stored(path=old, metadata=read_metadata(old))]
    assert teachers()[0].arch == "wrn16_1"
    for name, made_with in (("wrn16_1", None), (old.stem[:-4], None), (None, sha256), ("wrn16_1", sha256)):
        teacher = load_teacher(name, None, made_with=made_with)
        assert teacher is not None
        assert (teacher.sha256, teacher.arch) == (sha256, "wrn16_1")
    assert register(path, arch="wrn16_1") == old  # and now says everything
    assert read_metadata(old)["arch"] == "wrn16_1"
    assert load_classifier(old).sha256 == sha256


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


# which teacher a command means, whose input was made with one


def test_a_given_file_wins(tmp_path: Path) -> None:
    stored = register(make(tmp_path / "t.safetensors"))
    sha256 = load_classifier(stored).sha256
    assert teacher_file(None, Path("mine"), made_with=sha256) == Path("mine")
    assert teacher_file("wrn16_1", Path("mine"), made_with=sha256) == Path("mine")


def test_the_teacher_it_was_made_with_comes_next(tmp_path: Path) -> None:
    """Also where its architecture is named and several stored teachers have it; the starter too."""
    register(make(tmp_path / "o.safetensors", seed=1))
    stored = register(make(tmp_path / "t.safetensors", extra=STARTER))
    sha256 = load_classifier(stored).sha256
    assert teacher_file(None, None, made_with=sha256) == stored
    assert teacher_file("wrn16_1", None, made_with=sha256) == stored


def test_another_architecture_by_name_is_resolved(tmp_path: Path) -> None:
    sha256 = load_classifier(register(make(tmp_path / "t.safetensors"))).sha256
    other = register(make(tmp_path / "o.safetensors", arch="wrn16_2"))
    assert teacher_file("wrn16_2", None, made_with=sha256) == other
    with pytest.raises(UnknownTeacher, match="no weights for teacher 'wrn40_1'"):
        teacher_file("wrn40_1", None, made_with=sha256)


def test_another_of_the_same_architecture_by_its_own_name(tmp_path: Path) -> None:
    own, other = (register(make(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (0, 1))
    sha256 = load_classifier(own).sha256
    assert teacher_file("wrn16_1", None, made_with=sha256) == own
    assert teacher_file(other.stem, None, made_with=sha256) == other


def test_nothing_known_is_none_and_no_guess(tmp_path: Path) -> None:
    register(make(tmp_path / "t.safetensors"))
    assert teacher_file(None, None, made_with="0" * 64) is None
    assert teacher_file(None, None, made_with=None) is None
    assert load_teacher(None, None) is None
