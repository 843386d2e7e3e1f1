"""Pretraining: the normaliser it measures, the card it writes, and the same resume as any run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.errors import BadLabels, DistillError, UnsupportedSize
from distill.evaluate import agreement, predictions, read_labels
from distill.material import Material
from distill.methods.supervised import SupervisedConfig
from distill.models.student import Student
from distill.models.teachers import load_classifier
from distill.pretrain import PretrainConfig, channel_statistics, pretrain
from distill.run import build_method, default_out
from distill.train import Pace, read_metrics
from manifests.errors import OutputConflict
from shards.index import ShardFolder
from shards.sources import LocalBlocks, Source
from shards.stream import Stream
from tests.distill import toys
from tests.shards import make

Pretrain = Callable[..., dict[str, Any]]


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(model="wrn16_1", config=SupervisedConfig(epochs=6, batch_size=16), **changes)


@pytest.fixture
def train(labelled: ShardFolder) -> Pretrain:
    """``train(out, ...)`` on the coloured tiles."""

    def go(out: Path, job: PretrainConfig | None = None, **how: Any) -> dict[str, Any]:
        return pretrain(labelled, job or config(), out=out, device=toys.CPU, dataset="tiles", **how)

    return go


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    work = tmp_path_factory.mktemp("test")
    return toys.write_labelled_store(work, toys.write_images(work / "images", each=5, seed=9), name="unseen")


def test_it_learns_and_says_what_it_made(train: Pretrain, test_set: ShardFolder, tmp_path: Path) -> None:
    report = train(tmp_path / "run", test=test_set)
    assert report == json.loads((tmp_path / "run" / "report.json").read_bytes())
    assert (report["finished"], report["steps"], report["test_images"]) == (True, 6 * 4, 20)
    assert report["test_accuracy"] > 0.9
    net = load_classifier(report["weights"])
    assert report["sha256"] == net.sha256
    assert (net.arch, net.classes, net.input_size) == ("wrn16_1", toys.CLASSES, toys.SIZE)
    stated = {name: net.metadata[name] for name in ("dataset", "epochs", "flip", "test_accuracy")}
    assert stated == {
        "dataset": "tiles",
        "epochs": "6",
        "flip": "true",
        "test_accuracy": f"{report['test_accuracy']:.4f}",
    }
    terms = [line["cross_entropy"] for line in read_metrics(tmp_path / "run")]
    assert terms[-1] < terms[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_accuracy_that_the_file_states_is_of_float32(
    train: Pretrain, test_set: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    asked: list[str] = []

    def noted(predict: Callable[..., Any], source: Source, **how: Any) -> dict[bytes, int]:
        assert isinstance(predict, Student)
        asked.append(predict.dtype)
        return predictions(predict, source, **how)

    with monkeypatch.context() as patch:
        patch.setattr("distill.evaluate.predictions", noted)
        report = train(tmp_path / "run", config(dtype=dtype), test=test_set)
    assert asked == ["float32"]
    net = load_classifier(report["weights"])
    found = predictions(lambda x: net(x).logits_BK, LocalBlocks(test_set), device=toys.CPU)
    assert report["test_accuracy"] == agreement(found, read_labels(test_set, net.classes).as_dict())


def test_the_normaliser_is_measured_on_the_data(train: Pretrain, labelled: ShardFolder, tmp_path: Path) -> None:
    pixels = np.concatenate([b.images_BCHW for b in Stream(LocalBlocks(labelled), batch_size=64).one_epoch()]) / 255.0
    mean, std = channel_statistics(labelled)
    assert mean == pytest.approx(pixels.mean((0, 2, 3)), abs=6e-5)
    assert std == pytest.approx(pixels.std((0, 2, 3)), abs=6e-5)
    net = load_classifier(train(tmp_path / "run")["weights"])
    assert (list(net.mean), list(net.std)) == (mean, std)


def test_a_constant_channel_can_be_divided_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    black = np.zeros((6, 3, 8, 8), np.uint8)
    black[:, 0, 0, 0] = np.arange(6)  # keys come from pixels
    monkeypatch.setattr(make, "images", lambda count, **_: black[:count])
    mean, std = channel_statistics(make.write_store(tmp_path / "store", [[6]], size=8))
    assert mean[1:] == [0.0, 0.0]
    assert std == [round(1 / 255, 4)] * 3


def test_whether_to_mirror_travels_with_the_weights(
    train: Pretrain, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And distillation from such a teacher does the same."""
    report = train(tmp_path / "run", replace(config(), config=SupervisedConfig(epochs=6, batch_size=16, flip=False)))
    assert load_classifier(report["weights"]).metadata["flip"] == "false"
    for flip, path in ((False, Path(report["weights"])), (True, weights)):
        folder = toys.write_transfer_set(tmp_path / f"set-{flip}", path)
        method, *_ = build_method(toys.run_config("kd"), Material.of(folder), load_classifier(path), place=toys.PLACE)
        assert method.setup.flip is flip


def test_slices_add_up_to_the_undisturbed_run(train: Pretrain, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    slices = 0
    while not (report := train(tmp_path / "sliced", pace=Pace(stop_after_s=0.1)))["finished"]:
        slices += 1
        assert report["weights"] is None
        assert not (tmp_path / "sliced" / "teacher.safetensors").exists()
    assert report["sha256"] == whole["sha256"]
    assert (tmp_path / "sliced" / "teacher.safetensors").read_bytes() == Path(whole["weights"]).read_bytes()


def test_a_finished_run_can_still_be_tested(train: Pretrain, test_set: ShardFolder, tmp_path: Path) -> None:
    first = train(tmp_path / "run")
    assert first["test_accuracy"] is None
    assert "test_accuracy" not in load_classifier(first["weights"]).metadata
    again = train(tmp_path / "run", test=test_set)
    assert again["sha256"] == first["sha256"]
    assert again["seconds"] == first["seconds"]
    assert load_classifier(again["weights"]).metadata["test_accuracy"] == f"{again['test_accuracy']:.4f}"


def test_the_same_seed_gives_the_same_bytes(train: Pretrain, tmp_path: Path) -> None:
    bits = [
        Path(train(tmp_path / name, config(seed=seed))["weights"]).read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert bits[0] == bits[1] != bits[2]


def test_the_global_random_state_is_left_alone(train: Pretrain, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tmp_path / "run", pace=Pace(stop_after_s=1e-9))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])  # half a minute
def test_a_grey_network_learns_from_luma(tmp_path: Path, compile: bool) -> None:
    """And its file's normaliser is of one channel; through torch.compile it does the same."""
    big = [
        toys.write_labelled_store(tmp_path / name, toys.write_images(tmp_path / f"{name}-images", seed=n), size=32)
        for n, name in enumerate(("train", "test"))
    ]
    job = PretrainConfig(
        model="lenet5_half",
        config=SupervisedConfig(epochs=4, batch_size=16, lr=0.02, pad=0, flip=False),
        compile=compile,
    )
    report = pretrain(big[0], job, out=tmp_path / "run", device=toys.CPU, dataset="tiles", test=big[1])
    net = load_classifier(report["weights"])
    assert (net.channels, net.feature_dim, len(net.mean), len(net.std)) == (1, 84, 1, 1)
    pixels = np.concatenate([b.images_BCHW for b in Stream(LocalBlocks(big[0]), batch_size=64).one_epoch()]) / 255.0
    grey = pixels.transpose(0, 2, 3, 1) @ np.array([0.299, 0.587, 0.114])
    assert (net.mean[0], net.std[0]) == pytest.approx((grey.mean(), grey.std()), abs=6e-5)
    terms = [line["cross_entropy"] for line in read_metrics(tmp_path / "run")]
    assert terms[-1] < 1.3  # chance: ln 4 = 1.39
    assert report["run"]["compile"] is compile


def test_dropout_too_resumes_exactly(tmp_path: Path) -> None:
    data = toys.write_labelled_store(tmp_path, toys.write_images(tmp_path / "images", each=8), size=32)
    job = PretrainConfig(model="alexnet_half", config=SupervisedConfig(epochs=2, batch_size=8, lr=0.01))
    found = []
    for name, stop in (("whole", None), ("sliced", 1e-9)):
        report: dict[str, Any] = {"finished": False}
        while not report["finished"]:
            torch.rand(7)  # whatever else the process drew in between
            report = pretrain(
                data, job, out=tmp_path / name, device=toys.CPU, dataset="tiles", pace=Pace(stop_after_s=stop)
            )
        found.append(Path(report["weights"]).read_bytes())
    assert found[0] == found[1]


def test_a_size_that_the_network_cannot_take(train: Pretrain, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSize, match="lenet5 cannot work at 8 px; it takes images of at least 32 px a side"):
        train(tmp_path / "run", replace(config(), model="lenet5"))
    with pytest.raises(UnsupportedSize, match="alexnet cannot work at 8 px; it takes images of 31 to 38 px a side"):
        train(tmp_path / "run", replace(config(), model="alexnet"))
    assert not (tmp_path / "run").exists()


def test_the_page_shows_the_card(train: Pretrain, test_set: ShardFolder, tmp_path: Path) -> None:
    report = train(tmp_path / "run", test=test_set)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    card = load_classifier(report["weights"]).metadata
    assert all(value in page for name, value in card.items() if name != "classes")
    assert f"{100 * report['test_accuracy']:.2f} % of 20 images" in page
    assert "cross_entropy" in page


def test_equal_plans_share_a_default_folder(labelled: ShardFolder) -> None:
    plans = [config(seed=seed).plan(labelled, device=toys.CPU) for seed in (0, 0, 1)]
    outs = [default_out(plan, "pretrain", "wrn16_1", "tiles") for plan in plans]
    assert outs[0] == outs[1] != outs[2]
    assert outs[0].as_posix().startswith("runs/pretrain-wrn16_1-tiles-")
    assert len(default_out(plans[0], "kd", "nets/mine.py:make").parts) == 2


def test_what_is_refused(train: Pretrain, transfer_set: ShardFolder, tmp_path: Path) -> None:
    train(tmp_path / "run", pace=Pace(stop_after_s=1e-9))
    with pytest.raises(OutputConflict, match="was made differently: seed was 0, now 1"):
        train(tmp_path / "run", config(seed=1))
    one_class = toys.write_labelled_store(tmp_path, toys.write_images(tmp_path / "one", classes=["grey"]), name="one")
    with pytest.raises(DistillError, match=r"has 1 class\(es\); expected at least 2 to tell apart"):
        pretrain(one_class, config(), out=tmp_path / "x", device=toys.CPU, dataset="one")
    unlabelled = make.write_store(tmp_path / "store", [[20]], size=toys.SIZE)
    with pytest.raises(BadLabels, match="20 of 20 images in corpus 'one' have no label; labelled data is needed"):
        pretrain(unlabelled, config(), out=tmp_path / "x", device=toys.CPU, dataset="one")
    with pytest.raises(BadLabels, match="20 of 20 images in corpus 'one' have no label"):
        train(tmp_path / "x", test=unlabelled)  # before the training, not after it
    assert not (tmp_path / "x").exists()
