"""`distill teachers`: a checkpoint as people have it is kept, listed, shown and found; what is wrong is told."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import curate.cli
from distill.models import build
from distill.models.store import load_teacher, store_dir
from tests.curate.make import pictures, write_folder
from tests.distill.test_cli import Distill
from tests.distill.test_teachers import make, rewrite

CIFAR10 = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2023,0.1994,0.2010")
ADD = ("teachers", "add", "ckpt.pth", "--arch", "wrn16_1", *CIFAR10)


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Distill:
    """``distill("teachers", ...)`` with an empty store, in a folder that holds what RepDistiller leaves."""
    monkeypatch.setenv("TRANSFERSET_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    torch.manual_seed(0)
    state = build("wrn16_1", 3).state_dict()
    torch.save({"epoch": 240, "model": state, "best_acc": torch.tensor(75.6), "optimizer": {}}, "ckpt.pth")
    return Distill(monkeypatch, capsys)


def only() -> str:
    """The name of the one stored teacher."""
    (path,) = store_dir().iterdir()
    return path.stem


# the main use


def test_a_checkpoint_is_kept_and_found_without_further_flags(
    distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = distill(*ADD, "--classes", "cat,dog,eel", "--set", "dataset=cifar100")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"{only()}: a wrn16_1 with 3 classes, inputs of 32 px",
        "use it with --teacher wrn16_1; try it with `distill eval wrn16_1 --data SPEC`",
    ]
    assert done.err == ""
    write_folder(tmp_path / "folder", pictures(9))
    monkeypatch.setattr(sys, "argv", ["curate", "select", "--teacher", "wrn16_1", "--corpus", "f=../folder", "--json"])
    with pytest.raises(SystemExit) as stop:
        curate.cli.main()
    assert not stop.value.code
    teacher = json.loads(capsys.readouterr().out)["teacher"]
    assert (teacher["name"], teacher["arch"]) == (only(), "wrn16_1")


def test_the_list(distill: Distill) -> None:
    distill(*ADD, "--classes", "cat,dog,eel", "--set", "dataset=cifar100", "--set", "test_accuracy=0.756")
    make(Path("plain.safetensors"), arch="wrn16_2")
    distill("teachers", "add", "plain.safetensors")
    listed = distill("teachers")
    assert listed.err == ""
    header, first, second = listed.out.splitlines()
    assert header.split("  ")[0] == "name"
    assert header.split()[1:] == ["arch", "classes", "input", "px", "trained", "on", "test", "accuracy"]
    assert first.split()[1:] == ["wrn16_1", "3", "32", "cifar100", "0.7560"]
    assert second.split()[1:] == ["wrn16_2", "2", "32"]
    assert distill("teachers", "--json").json == [
        {
            "name": first.split()[0],
            "arch": "wrn16_1",
            "classes": 3,
            "input_size": 32,
            "dataset": "cifar100",
            "test_accuracy": 0.756,
        },
        {
            "name": second.split()[0],
            "arch": "wrn16_2",
            "classes": 2,
            "input_size": 32,
            "dataset": None,
            "test_accuracy": None,
        },
    ]


def test_an_empty_store_says_what_to_do(distill: Distill) -> None:
    done = distill("teachers")
    assert (done.code, done.out) == (0, "")
    assert str(store_dir()) in done.err
    assert "`distill teachers add FILE --arch wrn40_2 --mean R,G,B --std R,G,B`" in done.err
    assert "`distill pretrain`" in done.err
    assert distill("teachers", "--json").json == []


def test_a_file_of_an_earlier_version_is_listed_with_what_it_says(distill: Distill) -> None:
    path = rewrite(
        make(Path("t.safetensors")), drop=("arch", "num_classes", "input_size"), put={"test_accuracy": "ca. 1"}
    )
    store_dir().mkdir(parents=True)
    path.rename(store_dir() / "wrn16_1-0123456789ab.safetensors")
    (row,) = distill("teachers", "--json").json
    assert list(row.values()) == ["wrn16_1-0123456789ab", "wrn16_1", 2, None, None, "ca. 1"]
    distill("teachers", "show", "wrn16_1").refused("the stored teacher wrn16_1-0123456789ab is damaged", code=4)


def test_a_damaged_file_is_named_and_can_be_removed(distill: Distill) -> None:
    distill(*ADD)
    (path,) = store_dir().iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    listed = distill("teachers")
    assert f"{path.stem} is damaged: remove it with `distill teachers remove {path.stem}`" in listed.err
    distill("teachers", "remove", path.stem)
    assert not path.exists()


def test_adding_again_keeps_what_is_not_told_anew(distill: Distill) -> None:
    """And says what is now another."""
    distill(*ADD, "--classes", "cat,dog,eel", "--set", "dataset=zoo")
    told = distill("teachers", "add", "ckpt.pth", "--mean", "0.1,0.2,0.3")
    assert "mean is now 0.1,0.2,0.3; it was 0.4914,0.4822,0.4465" in told.out
    assert "std is now" not in told.out
    teacher = load_teacher("wrn16_1", None)
    assert teacher is not None
    assert (teacher.classes, teacher.mean, teacher.metadata["dataset"]) == (
        ("cat", "dog", "eel"),
        (0.1, 0.2, 0.3),
        "zoo",
    )


# add


def test_facts_reach_the_teacher(distill: Distill) -> None:
    Path("names.txt").write_text("\ufeffcat, small\n\ndog\neel\n", encoding="utf-8")
    added = distill(*ADD, "--classes", "names.txt", "--input-size", "64", "--set", "flip=false", "--json").json
    assert (added["name"], added["classes"], added["input_size"]) == (only(), 3, 64)
    assert Path(added["path"]).parent == store_dir()
    teacher = load_teacher("wrn16_1", None)
    assert teacher is not None
    assert (teacher.classes, teacher.input_size, teacher.flip) == (("cat, small", "dog", "eel"), 64, False)
    assert (teacher.mean, teacher.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_adding_again_corrects(distill: Distill) -> None:
    first = distill(*ADD)
    assert first.code == 0
    assert first.err == "its classes are called by their numbers; if they have names, add it again with --classes\n"
    assert distill(*ADD, "--classes", "cat,dog,eel").err == ""
    assert distill("teachers", "show", only(), "--json").json["metadata"]["classes"] == "cat,dog,eel"


def test_a_grey_teacher(distill: Distill) -> None:
    torch.save(build("lenet5", 10).state_dict(), "lenet.pth")
    distill("teachers", "add", "lenet.pth", "--arch", "lenet5", "--mean", "0.1307", "--std", "0.3081")
    teacher = load_teacher("lenet5", None)
    assert teacher is not None
    assert (teacher.channels, teacher.mean) == (1, (0.1307,))
    distill("teachers", "add", "lenet.pth", "--arch", "lenet5", *CIFAR10).refused(
        "a lenet5 wants mean and std of 1 channels; got (0.4914, 0.4822, 0.4465)"
    )


def test_the_second_of_an_architecture_is_used_by_its_own_name(distill: Distill) -> None:
    distill(*ADD)
    make(Path("other.safetensors"), seed=5)
    second = distill("teachers", "add", "other.safetensors").out.splitlines()
    assert second[1].startswith(f"use it with --teacher {second[0].split(':')[0]}; ")
    assert load_teacher(second[0].split(":")[0], None) is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone.pth",), "no weights file 'gone.pth'; expected a safetensors or .pth file"),
        (("ckpt.pth",), "'ckpt.pth' does not say its architecture"),
        (("ckpt.pth", "--arch", "wrn16_9x"), "unknown model 'wrn16_9x'; did you mean wrn16_2? known: wrn16_1"),
        (("ckpt.pth", "--arch", "wrn16_1"), "distill teachers add ckpt.pth --arch wrn16_1 --mean R,G,B --std R,G,B"),
        (("ckpt.pth", "--arch", "wrn16_2", *CIFAR10), "ckpt.pth is not a wrn16_2 with 3 classes: "),
        ((*ADD[2:], "--mean", "red"), "mean is 'red'; expected numbers such as 0.5,0.5,0.5"),
        ((*ADD[2:], "--mean", "125.3,123.0,113.9"), "those of inputs of 0 to 255 are to be divided by 255"),
        ((*ADD[2:], "--mean", "0.5"), "mean and std need 3 numbers each"),
        ((*ADD[2:], "--classes", "cat,dog"), "2 classes are named but the network has 3"),
        ((*ADD[2:], "--classes", "names.txt"), "--classes 'names.txt': no such file; expected one with a name a line"),
        ((*ADD[2:], "--classes", "ckpt.pth"), "--classes ckpt.pth: not UTF-8 text ("),
        ((*ADD[2:], "--input-size", "4"), "wrn16_1 cannot work at 4 px; it takes images of at least 8 px a side"),
        ((*ADD[2:], "--set", "dataset"), "--set 'dataset'; expected KEY=VALUE, such as --set dataset=cifar10"),
        ((*ADD[2:], "--set", "a b=c"), "--set 'a b=c'; expected KEY=VALUE"),
        ((*ADD[2:], "--set", "input_size=3"), "that has an option of its own, --input-size"),
        ((*ADD[2:], "--set", "num_classes=3"), "that has an option of its own, --classes"),
        ((*ADD[2:], "--set", "x=1", "--set", "x=2"), "--set 'x=2': x was given before, as 1; say it once"),
        ((*ADD[2:], "--set", "test_accuracy=94.9"), "--set test_accuracy=94.9; expected a fraction, such as 0.949"),
        ((*ADD[2:], "--set", "test_accuracy=good"), "--set test_accuracy=good; expected a fraction"),
        ((*ADD[2:], "--set", "flip=no"), "flip is 'no'; expected true or false"),
    ],
)  # fmt: skip
def test_what_cannot_be_added(distill: Distill, arguments: tuple[str, ...], words: str) -> None:
    distill("teachers", "add", *arguments).refused(words)
    assert not store_dir().exists()


def test_a_checkpoint_that_holds_code_is_refused_with_the_way_out(distill: Distill) -> None:
    torch.save(build("wrn16_1", 3), "ckpt.pth")
    distill(*ADD).refused("holds more than tensors (it asks for distill.models.wrn.WideResNet), and code from a file")
    assert "torch.save(x.state_dict(), NEW)" in distill(*ADD).err


# show and remove


def test_show_tells_all(distill: Distill) -> None:
    distill(*ADD, "--set", "dataset=cifar100")
    shown: dict[str, Any] = distill("teachers", "show", "wrn16_1", "--json").json
    sha256 = load_teacher("wrn16_1", None).sha256  # type: ignore[union-attr]
    assert shown == {
        "name": only(),
        "path": str(store_dir() / f"{only()}.safetensors"),
        "sha256": sha256,
        "parameters": sum(p.numel() for p in build("wrn16_1", 3).parameters()),
        "metadata": {
            "arch": "wrn16_1",
            "classes": "0,1,2",
            "dataset": "cifar100",
            "input_size": "32",
            "mean": "0.4914,0.4822,0.4465",
            "num_classes": "3",
            "std": "0.2023,0.1994,0.201",
        },
    }
    for name in (only(), only()[:-6]):
        table = distill("teachers", "show", name)
        facts = {line.split()[0]: line.split()[1:] for line in table.out.splitlines()}
        assert (facts["sha256"], facts["mean"]) == ([sha256], ["0.4914,0.4822,0.4465"])
        assert facts["parameters"] == [f"{shown['parameters']:,}"]


def test_remove(distill: Distill) -> None:
    distill(*ADD)
    name = only()
    assert distill("teachers", "remove", name).out == f"removed {store_dir() / name}.safetensors\n"
    assert list(store_dir().iterdir()) == []
    distill("teachers", "remove", name).refused(f"no teacher {name!r} in the store; `distill teachers` lists them")


def test_which_of_several_is_asked(distill: Distill) -> None:
    distill(*ADD)
    make(Path("other.safetensors"), seed=5)
    distill("teachers", "add", "other.safetensors")
    for command in ("show", "remove"):
        distill("teachers", command, "wrn16_1").refused(
            "2 teachers 'wrn16_1' in the store; name one of them: --teacher"
        )
    assert len(list(store_dir().iterdir())) == 2


def test_wrong_usage(distill: Distill) -> None:
    distill("teachers", "--json", "show", "wrn16_1").refused("--json stands after the command: distill teachers show")
    for arguments in (("ad",), ("add",), ("show",), ("remove",), ("show", "x", "y"), ("add", "x", "--input-size", "0")):
        assert distill("teachers", *arguments).code == 2
