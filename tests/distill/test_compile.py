"""`--compile`: every question to student and teacher goes through torch.compile, and the student is the same one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from distill.material import Material
from distill.methods.base import Method
from distill.models.student import Student, fresh_student
from distill.models.teachers import load_classifier
from distill.run import RunConfig, build_method, distill
from distill.train import Pace, train
from shards.index import ShardFolder
from tests.distill import toys

SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {},
    "fitnet": {"hint": 0.1},
    "kd3": {"threshold": 0.3, "epochs": 20},
    "mosaickd": {"student_steps": 2, "epochs": 20},
    "mad": {"student_steps": 2},
}
UPDATES = 12


def config(method: str, *, compile: bool) -> RunConfig:
    return replace(toys.run_config(method, updates=UPDATES, **SETTINGS[method]), compile=compile)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled runs its graph in eager PyTorch: the same bits, without a minute of C++."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.fixture
def trained(transfer_set: ShardFolder, weights: Path, tmp_path: Path) -> Callable[..., tuple[Method, list[int]]]:
    """``trained(method, compile=...)``: after its run, and the graphs that there were after each step."""

    def go(method: str, *, compile: bool) -> tuple[Method, list[int]]:
        run, folder = config(method, compile=compile), tmp_path / str(compile)
        folder.mkdir()
        material = Material() if method == "mad" else Material.of(transfer_set)
        made, stream, _ = build_method(run, material, load_classifier(weights), place=toys.PLACE)
        graphs: list[int] = []
        counters.clear()
        count = lambda _: graphs.append(counters["stats"]["unique_graphs"])  # noqa: E731  # after each step
        train(made, stream, folder=folder, pace=Pace(log_every=100), advance=count)
        return made, graphs[1:]  # the first is of what was resumed

    return go


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own look at a generator's images
@pytest.mark.parametrize("method", SETTINGS)
def test_traced_methods_learn_the_same_bits_in_whole_graphs(
    eager: None, trained: Callable[..., tuple[Method, list[int]]], method: str
) -> None:
    """Hooks and all: no graph is broken, none is made anew in later stages, and nothing differs."""
    compiled, graphs = trained(method, compile=True)
    assert not counters["graph_break"]
    assert 2 <= graphs[0] <= graphs[3] == graphs[-1], graphs
    plain, none = trained(method, compile=False)
    assert none[-1] == 0
    for mine, theirs in zip(
        compiled.deployed().net.state_dict().values(), plain.deployed().net.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_student_that_is_compiled_is_so_whichever_way_it_is_asked(eager: None) -> None:
    student = fresh_student("wrn16_1", 4, mean=toys.MEAN, std=toys.STD, seed=0, dtype="float32", device=toys.CPU)
    images_BCHW = torch.randint(0, 256, (2, 3, toys.SIZE, toys.SIZE), dtype=torch.uint8)
    student.net.eval()
    asked: list[Callable[[], Any]] = [lambda: student(images_BCHW), lambda: student.view(images_BCHW)]
    before = [answer() for answer in asked]
    student.compile()
    for answer, was in zip(asked, before, strict=True):
        counters.clear()
        torch._dynamo.reset()
        found = answer()
        assert counters["stats"]["unique_graphs"] == 1
        torch.testing.assert_close(getattr(found, "logits_BK", found), getattr(was, "logits_BK", was))
    assert isinstance(student, Student)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("method", ["kd3", "mad"])
def test_compiled_runs_end_to_end(transfer_set: ShardFolder, weights: Path, tmp_path: Path, method: str) -> None:
    """By torch's own compiler, which fuses: equal to rounding. What is saved loads without it."""
    torch._dynamo.reset()
    material = Material() if method == "mad" else Material.of(transfer_set)
    found = []
    for asked in (True, False):
        run = replace(config(method, compile=asked), updates=4)
        out = tmp_path / str(asked)
        seldom = Pace(judge_every=1000)  # each shape of a look would be compiled
        report = distill(material, load_classifier(weights), run, out=out, place=toys.PLACE, pace=seldom)
        assert report["run"]["compile"] is asked
        found.append(load_classifier(out / "student.safetensors").net.state_dict())
    for name, mine in found[0].items():
        torch.testing.assert_close(mine, found[1][name], rtol=0.05, atol=0.02)
