"""The command `distill`: what it prints, what it leaves, and one or two lines for everything that a user gets wrong."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import cli
from distill.models.store import find_starter, register, store_dir
from distill.models.teachers import load_classifier
from distill.train import LAST
from shards.index import ShardFolder
from tests.distill import toys

Command = list[str | Path]


class Distill:
    """The command, run in this process: its exit code and what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.code: Any = 0
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path) -> "Distill":
        self._monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        self.code = stop.value.code or 0
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        return self

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refused(self, words: str, code: int = 2) -> None:
        """One or two lines on stderr and nothing on stdout."""
        assert (self.code, self.out) == (code, "")
        assert words in self.err
        assert 1 <= len(self.err.splitlines()) <= 2
        assert self.err.startswith("distill: ")


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Distill:
    """``distill("train", ...)`` in an empty folder, with a store of teachers of its own."""
    monkeypatch.setenv("TRANSFERSET_HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return Distill(monkeypatch, capsys)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_images(tmp_path_factory.mktemp("tiles") / "tiles", each=4)


@pytest.fixture
def short(transfer_set: ShardFolder, weights: Path) -> Command:
    """A run of four steps of kd."""
    return [
        *("train", "--shards", transfer_set.path, "--teacher-weights", weights, "--updates", "4", "--batch-size", "8"),
        *("--lr", "0.05", "--dtype", "float32", "--device", "cpu", "--threads", "1", "--out", "run"),
    ]


# train


def test_train_says_what_came_out(distill: Distill, short: Command) -> None:
    done = distill(*short)
    assert done.code == 0, done.err
    first, second, third = done.out.splitlines()
    assert first.startswith("run: finished; 4 student updates in ")
    assert second.startswith("agreement with the teacher on 10 held-out images: last 0.")
    assert "chosen 0." in second
    assert third == "report: run/report.html"
    assert Path("run/report.html").exists()
    assert done.err == ""


def test_train_again_shows_the_same(distill: Distill, short: Command) -> None:
    first = distill(*short).out
    before = {p: p.stat().st_mtime_ns for p in Path("run").rglob("*.safetensors")}
    assert distill(*short).out == first.replace("finished;", "finished before, nothing to do;")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_train_json_is_one_document(distill: Distill, short: Command, transfer_set: ShardFolder) -> None:
    report = distill(*short, "--json").json
    assert report == {"out": "run", **json.loads(Path("run/report.json").read_bytes())}
    assert report["run"]["transfer_set"] == transfer_set.id
    assert (report["run"]["config"]["lr"], report["run"]["config"]["batch_size"]) == (0.05, 8)


def test_settings_reach_the_run(distill: Distill, short: Command) -> None:
    done = distill(
        *short, "--method", "mosaickd", "--student", "wrn16_2", "--seed", "5", "--json",
        *("--set", "student_steps=2", "--set", "networks=paper"),
    )  # fmt: skip
    plan = done.json["run"]
    assert (plan["method"], plan["student"], plan["seed"], plan["dtype"]) == ("mosaickd", "wrn16_2", 5, "float32")
    assert (plan["config"]["student_steps"], plan["config"]["networks"], plan["config"]["adv"]) == (2, "paper", 1.0)
    assert (done.json["steps"], done.json["student_updates"]) == (2, 4)


def test_stopped_slices_add_up_to_the_undisturbed_run(distill: Distill, short: Command) -> None:
    distill(*short)
    expected = Path("run/student.safetensors").read_bytes()
    sliced = [*short[:-1], "sliced", "--stop-after", "0.000001s"]
    stopped = distill(*sliced)
    first, second, _ = stopped.out.splitlines()
    assert first.startswith("sliced: stopped at step 1 of 4; 1 student updates in ")
    assert second.startswith("agreement with the teacher on 10 held-out images: last 0.")
    assert "None" not in stopped.out
    for _ in range(3):
        distill(*sliced)
    assert distill(*sliced).out.startswith("sliced: finished before, nothing to do; 4 student updates")
    assert Path("sliced/student.safetensors").read_bytes() == expected


def test_a_default_folder_is_shared_by_equal_runs_only(distill: Distill, short: Command) -> None:
    short = [*short[:-2], "--json"]
    outs = [distill(*short).json["out"], distill(*short).json["out"], distill(*short, "--seed", "1").json["out"]]
    assert outs[0] == outs[1] != outs[2]
    assert all(Path(out, "student.safetensors").exists() for out in outs)


def test_the_sets_own_teacher_is_found_in_the_store(
    distill: Distill, short: Command, weights: Path, transfer_set: ShardFolder
) -> None:
    short = [word for word in short if word not in {"--teacher-weights", weights}]
    name = load_classifier(weights).name
    distill(*short).refused(
        f"distill: the teacher of {transfer_set.path}, {name}, is not stored; pass --teacher-weights FILE"
    )
    register(weights)
    assert distill(*short, "--json").json["teacher"]["name"] == name


def test_a_starter_set_uses_the_starter_recipe_and_says_so(
    distill: Distill, short: Command, transfer_set: ShardFolder, tmp_path: Path
) -> None:
    shutil.copytree(transfer_set.path, tmp_path / "starter")
    toys.say_builtin(tmp_path / "starter")
    short[2] = tmp_path / "starter"
    done = distill(*short, "--json")
    assert done.json["run"]["config"]["epochs"] == 35
    assert done.err == (
        "a starter transfer set: using the short `starter` recipe; --recipe paper gives the published one\n"
    )
    done = distill(*short[:-1], "paper", "--recipe", "paper", "--json")
    assert (done.json["run"]["config"]["epochs"], done.err) == (200, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "dk"], "unknown method 'dk'; known: kd, "),
        (["--method", "supervised"], "supervised needs labels and a transfer set has none; `distill pretrain` runs it"),
        (["--student", "convnet"], "unknown model 'convnet'; known: wrn16_1"),
        (["--recipe", "quick"], "unknown recipe 'quick' of kd; known: paper, starter"),
        (["--set", "warmth=3"], "kd has no setting 'warmth'; known: batch_size"),
        (["--set", "temperature"], "--set 'temperature'; expected NAME=VALUE, such as --set temperature=4"),
        (["--set", "=4"], "--set '=4'; expected NAME=VALUE"),
        (["--set", "temperature=hot"], "temperature is 'hot'; expected float"),
        (["--set", "lr=0.1"], "--set 'lr=0.1': lr was given before, as 0.05; say it once"),
        (["--set", "momentum=1", "--set", "momentum=2"], "momentum was given before, as 1; say it once"),
        (["--device", "tpu"], "unknown device 'tpu'; expected auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "device 'cuda:99' is not there: torch sees"),
        (["--dtype", "float16"], "unknown dtype 'float16'; expected auto, float32 or bfloat16"),
        (["--stop-after", "soon"], "--stop-after 'soon'; expected a time such as 90s, 9m or 1h"),
        (["--stop-after", "0s"], "--stop-after '0s'; expected a time"),
        (["--stop-after", "nanm"], "--stop-after 'nanm'; expected a time"),
        (["--updates", "0"], "--updates is 0; expected at least 1"),
        (["--epochs", "3"], "--epochs and --updates both say how long to train; pass one of them"),
        (["--lr", "nan"], "lr is nan; expected a number of at least 0"),
        (["--batch-size", "41"], "batch size 41 does not fit the 40 images in split 'train'"),
        (["--batch-size", "0"], "batch_size is 0; expected a number of at least 1"),
        (["--shards", "gone"], "gone is no folder; make one with `curate select`"),
        (["--shards", "."], ". is no transfer set (no transfer-set.json in it); make one with `curate select`"),
        (["--teacher-weights", "gone.safetensors"], "no weights file 'gone.safetensors'; expected a"),
        (["--teacher", "wrn40_2"], "holds a wrn16_1 by its metadata, not the wrn40_2 asked for"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_train_refuses(distill: Distill, short: Command, options: list[str], words: str) -> None:
    distill(*short, *options).refused(words)
    assert not Path("run").exists()


def test_train_refuses_what_cannot_be_parsed(distill: Distill, short: Command) -> None:
    for option, value in (("--epochs", "many"), ("--threads", "0"), ("--lr", "fast")):
        done = distill(*short, option, value)
        assert done.code == 2
        assert option in done.err
    assert distill("train", "--colour").code == 2


def test_train_refuses_a_corpus_store(distill: Distill, short: Command, labelled: ShardFolder) -> None:
    distill(*short, "--shards", labelled.path).refused(
        f"{labelled.path} is a corpus store, not a transfer set; make one with `curate select`"
    )


def test_train_refuses_a_teacher_for_another_size(distill: Distill, short: Command, tmp_path: Path) -> None:
    large = toys.write_teacher(tmp_path / "large.safetensors", size=16)
    distill(*short, "--teacher-weights", large).refused("takes 16 px; curate again with this teacher")


def test_train_refuses_a_teacher_that_it_cannot_find(distill: Distill, short: Command, weights: Path) -> None:
    short = [word for word in short if word not in {"--teacher-weights", weights}]
    distill(*short, "--teacher", "convnet").refused("unknown teacher 'convnet'; known: wrn16_1")
    distill(*short, "--teacher", "wrn40_2").refused("no weights for teacher 'wrn40_2' in the store (empty) or the")


def test_train_refuses_another_run_in_its_folder(distill: Distill, short: Command) -> None:
    distill(*short)
    other = [*short, "--seed", "1"]
    distill(*other).refused("run was made differently: seed was 0, now 1; choose another folder, or pass --replace")
    assert distill(*other, "--replace", "--json").json["run"]["seed"] == 1
    assert Path("run.old-1/student.safetensors").exists()


def test_train_refuses_a_damaged_checkpoint(distill: Distill, short: Command) -> None:
    distill(*short, "--stop-after", "0.000001s")
    path = Path("run") / LAST
    path.write_bytes(path.read_bytes()[:100])
    distill(*short).refused("run/checkpoints/last.safetensors is damaged or no checkpoint", code=4)


def test_train_names_the_loss_that_diverged(distill: Distill, short: Command) -> None:
    distill(*short, "--lr", "1e30").refused("the loss term 'kl' became ")
    assert not Path("run/report.json").exists()


# eval


@pytest.fixture
def evaluated(distill: Distill, short: Command, weights: Path) -> Command:
    """A finished run, to be evaluated."""
    register(weights)
    distill(*short)
    return ["eval", "run", "--device", "cpu", "--threads", "1"]


def test_eval_of_a_run(distill: Distill, evaluated: Command, images: Path, weights: Path) -> None:
    done = distill(*evaluated, "--data", images)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["network", "accuracy", "agreement"]
    assert [line.split()[0] for line in lines[1:]] == ["last", "chosen", "teacher", "on"]
    assert lines[-1] == "on 16 images of tiles"
    assert done.err == ""
    result = distill(*evaluated, "--data", f"tiles={images}", "--json").json
    assert result == json.loads(Path("run/eval-tiles.json").read_bytes())
    assert result["teacher"]["sha256"] == load_classifier(weights).sha256
    assert result["labels_matched_by"] == "name"
    assert "On 16 labelled images of tiles." in Path("run/report.html").read_text()


def test_eval_of_a_weights_file(distill: Distill, images: Path, weights: Path) -> None:
    teacher = toys.write_teacher(Path("stated.safetensors"), test_accuracy="0.2500")
    options: Command = ["--data", images, "--device", "cpu", "--threads", "1"]
    done = distill("eval", weights, *options)
    assert [line.split()[0] for line in done.out.splitlines()] == ["network", "teacher", "on"]
    assert sorted(p.name for p in weights.parent.iterdir()) == ["teacher.safetensors"]
    done = distill("eval", weights, "--teacher-weights", teacher, *options)
    assert "(stated 0.2500)" in done.out
    assert (
        distill("eval", weights, "--teacher-weights", teacher, *options, "--json").json["students"]["teacher"][
            "agreement"
        ]
        == 1.0
    )


def test_eval_says_when_the_runs_teacher_is_not_there(
    distill: Distill, short: Command, images: Path, weights: Path
) -> None:
    distill(*short)
    found = distill("eval", "run", "--data", images, "--device", "cpu", "--threads", "1")
    assert "teacher wrn16_1-" in found.out  # `distill train` keeps a teacher that it is given as a file
    shutil.rmtree(store_dir())
    done = distill("eval", "run", "--data", images, "--device", "cpu", "--threads", "1")
    assert done.err == (
        "the run's teacher is not stored, so agreement with it is not known; pass --teacher-weights FILE\n"
    )
    assert "teacher" not in done.out
    done = distill("eval", "run", "--data", images, "--teacher-weights", weights, "--device", "cpu", "--threads", "1")
    assert "teacher" in done.out


def test_eval_by_position_is_said(distill: Distill, evaluated: Command, tmp_path: Path) -> None:
    numbers = toys.write_images(tmp_path / "numbers", classes=["0", "1", "2", "3"], each=2)
    done = distill(*evaluated, "--data", numbers)
    assert done.err == "no class name of numbers is the network's; they were matched in order\n"
    assert done.code == 0


def test_eval_without_labels(distill: Distill, evaluated: Command, images: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for path in (images / "red").iterdir():
        shutil.copy(path, tmp_path / "flat")
    distill(*evaluated, "--data", tmp_path / "flat").refused(
        "4 of 4 images in corpus 'flat' have no label; labelled data is needed"
    )


def test_what_eval_refuses(distill: Distill, evaluated: Command, images: Path, tmp_path: Path) -> None:
    distill(*evaluated).refused("which labelled images? pass --data [NAME=]SPEC, such as --data test=data/test.parquet")
    distill("eval", "gone").refused(
        "gone does not exist; expected a run folder, a weights file or one of your teachers"
    )
    distill("eval", ".").refused(". is no finished run (no student.safetensors in it); make one with `distill train`")
    distill(*evaluated, "--data", "gone").refused("gone")
    distill(*evaluated, "--data", images, "--teacher", "lenet").refused(
        "unknown teacher 'lenet'; did you mean lenet5? known: wrn16_1"
    )
    distill(*evaluated, "--data", images, "--dtype", "half").refused("unknown dtype 'half'")
    other = toys.write_images(tmp_path / "animals", classes=["cat", "dog"], each=2)
    distill(*evaluated, "--data", other).refused("has classes that the network lacks, such as cat, dog")
    reverse = toys.write_teacher(tmp_path / "reverse.safetensors", classes=toys.CLASSES[::-1])
    distill(*evaluated, "--data", images, "--teacher-weights", reverse).refused("names other classes than")
    assert not list(Path("run").glob("eval-*.json"))


def test_eval_of_a_starter_teacher_needs_no_data(distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = tuple("0123456789")
    weights = toys.write_teacher(Path("digits.safetensors"), classes=digits, dataset=cli.STARTER_TRAIN)
    done = distill("eval", weights, "--device", "cpu", "--threads", "1", "--json")
    assert done.err == f"no --data given: using the starter's own test set, {cli.STARTER_TEST}\n"
    assert done.json["images"] > 300
    assert done.json["labels_matched_by"] == "name"


# pretrain


def test_pretrain_makes_a_teacher(distill: Distill, images: Path) -> None:
    command: Command = [
        *("pretrain", "wrn16_1", "--data", images, "--size", "8", "--epochs", "2", "--batch-size", "8", "--seed", "3"),
        *("--device", "cpu", "--dtype", "float32", "--threads", "1"),
    ]
    stopped = distill(*command, "--stop-after", "0.000001s")
    folder, _, rest = stopped.out.partition(": ")
    assert folder.startswith("runs/pretrain-wrn16_1-tiles-")
    assert rest == "stopped at step 1; run the same command again to go on\n"
    weights, page = Path(folder) / "teacher.safetensors", Path(folder) / "report.html"
    done = distill(*command, "--test", images, "--no-register")
    first, second = done.out.splitlines()
    assert first.startswith(f"{weights}: trained in ")
    assert first.endswith(" on 16 images")
    assert second == f"use it with --teacher wrn16_1 --teacher-weights {weights}; report: {page}"
    assert page.exists()
    assert not list(store_dir().iterdir())
    report = distill(*command, "--json").json
    assert report["teacher"] == load_classifier(weights).name
    assert (store_dir() / f"{report['teacher']}.safetensors").exists()
    assert report["sha256"] == load_classifier(weights).sha256
    assert report["run"]["config"]["epochs"] == 2
    whole = distill(*command, "--out", "whole", "--json").json
    assert whole["sha256"] == report["sha256"]
    distill(*command, "--no-flip", "--out", "whole").refused("was made differently: config.flip was True, now False")
    assert distill("eval", folder, "--data", images, "--json").json["students"]["teacher"]["sha256"] == whole["sha256"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "temperature=1"], "pretraining has no setting 'temperature'"),
        (["--epochs", "0"], "epochs is 0; expected a number of at least 1"),
        (["--batch-size", "17"], "batch size 17 does not fit the 16 images in"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--stop-after", "x"], "--stop-after 'x'; expected a time"),
        (["--data", "gone"], "gone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_pretrain_refuses(distill: Distill, images: Path, options: list[str], words: str) -> None:
    command: Command = [
        "pretrain",
        "wrn16_1",
        "--data",
        images,
        "--size",
        "8",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--out",
        "t",
    ]
    distill(*command, *options).refused(words)
    assert not Path("t").exists()


def test_pretrain_refuses_unknown_models_and_unlabelled_images(distill: Distill, images: Path, tmp_path: Path) -> None:
    options: Command = ["--data", images, "--size", "8", "--device", "cpu", "--threads", "1", "--out", "t"]
    distill("pretrain", "lenet", *options).refused("unknown model 'lenet'; did you mean lenet5? known: wrn16_1")
    (tmp_path / "flat").mkdir()
    for path in (images / "red").iterdir():
        shutil.copy(path, tmp_path / "flat")
    distill("pretrain", "wrn16_1", *options, "--data", tmp_path / "flat").refused("have no label; labelled data")
    assert not Path("t").exists()


def test_pretrain_says_how_many_images_it_could_not_use(distill: Distill, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "some")
    (tmp_path / "some" / "red" / "0.png").write_bytes(b"not an image")
    options: Command = ["--size", "8", "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--threads", "1"]
    done = distill("pretrain", "wrn16_1", "--data", tmp_path / "some", *options)
    assert done.err == "1 of 16 samples of some could not be used\n"


# the starter's teacher


def test_the_starter_teacher_is_trained_once(
    distill: Distill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "STARTER_EPOCHS", 1)
    monkeypatch.setattr(cli, "STARTER_SIZE", 8)
    torch.set_num_threads(2)
    try:
        path = cli.starter_teacher("wrn16_1", device="cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert capsys.readouterr().err.startswith("training the starter teacher (wrn16_1 on scikit-learn's digits), once;")
    assert path == find_starter("wrn16_1", made={"dataset": cli.STARTER_TRAIN})
    teacher = load_classifier(path)
    assert (teacher.metadata["dataset"], teacher.metadata["flip"]) == (cli.STARTER_TRAIN, "false")
    assert float(teacher.metadata["test_accuracy"]) > 0.1
    assert cli.starter_teacher("wrn16_1", device="cpu") == path
    assert capsys.readouterr().err == ""
