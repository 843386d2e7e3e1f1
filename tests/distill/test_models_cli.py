"""`distill models` and `distill profile`: what they print, and one line for everything that a user gets wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.models import MODELS
from distill.models_cli import models, profile
from manifests.console import new_app, run

Command = Callable[..., tuple[Any, str, str]]
NET = """
from torch import nn

def tiny(num_classes):
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *pool, nn.Linear(4, num_classes))
"""
FAST = ("--threads", "1", "--device", "cpu", "--batch-size", "2")


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """``distill("models", ...)`` gives exit code, stdout and stderr, with a network in tiny.py."""
    (tmp_path / "tiny.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    app = new_app("both commands")
    app.command()(models)
    app.command()(profile)

    def invoke(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["distill", *arguments])
        with pytest.raises(SystemExit) as stop:
            run(app, "distill")
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return invoke


def test_the_whole_list_without_speed(distill: Command) -> None:
    code, out, err = distill("models", "--no-speed")
    header, *rows = out.splitlines()
    assert (code, err) == (0, "")
    assert header.split() == ["name", "parameters", "MACs", "px", "channels", "classes", "features"]
    assert [row.split()[0] for row in rows] == list(MODELS)
    assert rows[0].split() == ["wrn16_1", "180,916", "26,663,168", "32", "3", "100", "64"]


def test_named_ones_are_measured(distill: Command) -> None:
    code, out, err = distill("models", "lenet5", "wrn10_1", "tiny.py:tiny", "--dtype", "float32", *FAST)
    header, *rows, where = out.splitlines()
    assert (code, err) == (0, "")
    assert header.split()[-1] == "images/s"
    assert [row.split()[0] for row in rows] == ["lenet5", "wrn10_1", f"{Path.cwd()}/tiny.py:tiny"]
    assert all(float(row.split()[-1].replace(",", "")) > 0 for row in rows)
    assert where.startswith("images/s: of the forward in eval mode, float32 on ")
    assert where.endswith(f"CPU threads: 1, torch {torch.__version__}")


def test_at_another_size_and_head(distill: Command) -> None:
    code, out, _ = distill("models", "lenet5", "--size", "36", "--classes", "3", "--no-speed", "--json")
    document = json.loads(out)
    (row,) = document["models"]
    assert code == 0
    assert document["hardware"]["torch"] == torch.__version__
    assert (row["size"], row["classes"], row["speed"]) == (36, 3, None)
    assert row["params"] == MODELS["lenet5"].params - 7 * 85  # weights and bias of seven classes
    assert row["macs"] > MODELS["lenet5"].macs
    assert (row["family"], row["source"]) == ("lenet", MODELS["lenet5"].source)


def test_json_tells_what_was_measured(distill: Command) -> None:
    _, out, _ = distill("models", "tiny.py:tiny", "--json", "--dtype", "bfloat16", *FAST)
    document = json.loads(out)
    speed = document["models"][0]["speed"]
    assert (document["dtype"], document["hardware"]["threads"]) == ("bfloat16", 1)
    assert speed["batch_size"] == 2
    assert speed["passes"] >= 3
    assert 0 < speed["ms_min"] <= speed["ms"] <= speed["ms_max"]


def test_of_the_whole_list_those_that_take_the_size(distill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: MODELS[name] for name in ("wrn16_1", "alexnet", "vgg8_bn", "lenet5")}
    monkeypatch.setattr("distill.models.MODELS", few)
    code, out, err = distill("models", "--no-speed", "--size", "16")
    assert code == 0
    assert err == "left out, as they take no images of 16 px: alexnet, lenet5\n"
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["wrn16_1", "vgg8_bn"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "convnet"], "unknown model 'convnet'; known: wrn16_1, "),
        (["models", "lenet5", "--size", "16"], "lenet5 cannot work at 16 px; it takes images of at least 32 px a side"),
        (["models", "--size", "4"], "none of the architectures takes images of 4 px a side"),
        (["models", "--no-speed", "--threads", "1"], "--threads says how to measure, and --no-speed not to"),
        (["models", "lenet5", "--batch-size", "0"], "batches must have at least 1 image; got 0"),
        (["models", "--device", "tpu"], "unknown device 'tpu'"),
        (["profile", "lenet5", "--classes", "0"], "a head has at least 1 class; got 0"),
        (["profile", "alexnet", "--size", "64"], "alexnet cannot work at 64 px; it takes images of 31 to 38 px a side"),
        (["profile", "lenet5", "--dtype", "half"], "unknown dtype 'half'; expected auto, float32 or bfloat16"),
    ],
)
def test_what_a_user_gets_wrong(distill: Command, arguments: list[str], words: str) -> None:
    code, out, err = distill(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("distill: ")
    assert len(err.splitlines()) == 1


def test_profile_prints_parts_layers_and_passes(distill: Command) -> None:
    code, out, err = distill("profile", "tiny.py:tiny", "--classes", "5", *FAST)
    assert (code, err) == (0, "")
    parts, layers, passes, words = (block.splitlines() for block in out.split("\n\n"))
    assert [row.split()[0] for row in parts] == ["part", "0", "1", "2", "3", "4", "(outside)"]
    assert parts[1].split()[:5] == ["0", "Conv2d", "4x30x30", "112", "97,200"]
    assert parts[5].split()[:5] == ["4", "Linear", "5", "25", "20"]
    kinds = {"Conv2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear", "(outside)"}
    assert {row.split()[0] for row in layers[1:]} == kinds
    assert sum(float(row.split()[-1]) for row in layers[1:]) == pytest.approx(1, abs=0.01)
    assert [row.rsplit(maxsplit=5)[0] for row in passes] == ["pass", "forward", "forward + backward"]
    assert words[0].startswith("tiny.py:tiny, 32 px, 5 classes: 137 parameters, 97,220 MACs; forward at ")
    assert words[1].startswith("ms: of a batch of 2, medians, ")
    assert "the parts sum to " in words[2]


def test_profile_as_json_and_without_the_backward(distill: Command) -> None:
    _, out, _ = distill("profile", "tiny.py:tiny", "--json", "--no-backward", "--depth", "1", *FAST)
    document = json.loads(out)
    assert document["training"] is None
    assert document["forward"]["images_per_s"] > 0
    assert document["hardware"]["threads"] == 1
    assert document["parts"][0].items() >= {"name": "0", "kind": "Conv2d", "shape": [4, 30, 30], "macs": 97_200}.items()
    assert sum(row["ms"] for row in document["layers"]) == pytest.approx(document["clocked_ms"])
