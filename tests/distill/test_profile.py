"""Where a network's time goes: nothing is counted twice or lost, whichever way it is divided."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import profile as profiling
from distill.models import ModelSpec, spec
from distill.profile import MOST_ROWS, OUTSIDE, Profile, profile_network
from distill.speed import workload


class Odd(nn.Module):
    """A parameter and a product of its own, a layer used twice, a list of layers, attention, a layer without use."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))
        self.twice = nn.Linear(16, 16)
        self.several = nn.ModuleList([nn.Linear(16, 16), nn.LayerNorm(16)])
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.unused = nn.Linear(16, 16)
        self.fc = nn.Linear(16, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        tokens_BTD = self.twice(self.twice(images_BCHW.flatten(2)))
        tokens_BTD = tokens_BTD @ torch.diag(self.scale)
        for layer in self.several:
            tokens_BTD = F.relu(layer(tokens_BTD))
        logits_BK: Tensor = self.fc(self.attend(tokens_BTD, tokens_BTD, tokens_BTD)[0].mean(dim=1))
        return logits_BK


TOKENS, WIDTH = 3, 16  # of an image of 4x4 px
ODD = ModelSpec(
    name="file.py:odd", family="file", build=Odd, head="fc", feature_dim=16, params=0, macs=0, smallest=4, source="here"
)


def odd(**how: Any) -> Profile:
    return profile_network(workload(ODD, size=4, classes=10, batch_size=2), seconds=0.0, **how)


@pytest.mark.parametrize("name", ["wrn16_1", "mobilenetv2_half", "lenet5"])
@pytest.mark.parametrize("depth", [None, 1, 9])
def test_parts_and_kinds_are_the_whole_network(name: str, depth: int | None) -> None:
    work = workload(spec(name), batch_size=2)
    found = profile_network(work, depth=depth, backward=False, seconds=0.0)
    for division in (found.parts, found.kinds):
        assert sum(row.cost.params for row in division) == work.counts.params
        assert sum(row.cost.macs for row in division) == work.counts.macs
        assert sum(row.cost.ms for row in division) == pytest.approx(found.clocked_ms)
        assert all(row.cost.ms >= 0 for row in division)
        assert len({row.name for row in division}) == len(division)
    assert found.parts[-1].name == OUTSIDE


def test_a_small_network_is_opened_as_far_as_a_table_holds() -> None:
    found = profile_network(workload(spec("wrn16_1"), classes=10, batch_size=2), backward=False, seconds=0.0)
    blocks = [f"block{group}.layer.{n}" for group in (1, 2, 3) for n in (0, 1)]
    assert [part.name for part in found.parts] == ["conv1", *blocks, "bn1", "fc", OUTSIDE]
    shapes = {part.name: part.shape for part in found.parts}
    assert [shapes[n] for n in ("conv1", "block2.layer.0", "fc")] == [(16, 32, 32), (32, 16, 16), (10,)]
    assert [part.kind for part in found.parts][:2] == ["Conv2d", "Block"]
    layers = {kind.name: kind.layers for kind in found.kinds}
    assert layers == {"Conv2d": 15, "BatchNorm2d": 13, "Linear": 1, OUTSIDE: 0}


def test_a_deep_network_stays_a_short_table_and_depth_opens_it() -> None:
    work = workload(spec("resnet110"), batch_size=2)
    assert len(profile_network(work, backward=False, seconds=0.0).parts) <= MOST_ROWS + 1
    opened = profile_network(work, depth=2, backward=False, seconds=0.0)
    assert "layer1.17" in {part.name for part in opened.parts}


def test_what_a_network_does_itself_is_outside() -> None:
    found = odd(depth=1)
    parts = {part.name: part for part in found.parts}
    assert list(parts) == ["twice", "several", "attend", "unused", "fc", OUTSIDE]
    linear = TOKENS * WIDTH * WIDTH
    assert parts["twice"].cost[:2] == (WIDTH * WIDTH + WIDTH, 2 * linear)
    assert parts["several"].cost[:2] == (WIDTH * WIDTH + 3 * WIDTH, linear)  # never called as a whole
    assert parts["several"].shape is None
    assert parts["several"].cost.ms > 0
    assert parts["attend"].cost.macs == 4 * linear + 2 * TOKENS * TOKENS * WIDTH
    assert parts["attend"].shape is None  # gives a pair
    assert parts["unused"].cost == (WIDTH * WIDTH + WIDTH, 0, 0.0)
    assert parts[OUTSIDE].cost[:2] == (WIDTH, linear)
    assert parts[OUTSIDE].cost.ms > 0


def test_attention_is_one_layer_with_what_is_in_it() -> None:
    kinds = {kind.name: kind for kind in odd().kinds}
    assert {name: kind.layers for name, kind in kinds.items()} == {
        "Linear": 4,
        "LayerNorm": 1,
        "MultiheadAttention": 1,
        OUTSIDE: 0,
    }
    assert kinds["MultiheadAttention"].cost.params == 4 * (WIDTH * WIDTH + WIDTH)


def test_a_modules_time_is_without_its_childrens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks once a reading: every module spans one tick, and one more each time it calls another."""

    def ticks() -> Iterator[float]:
        tick = 0
        while True:
            yield tick / 1000
            tick += 1

    clock = ticks()
    monkeypatch.setattr(profiling, "now", lambda _: next(clock))
    costs = {part.name: part.cost.ms for part in odd(depth=2, backward=False).parts}
    calls = {"twice": 2, "several.0": 1, "several.1": 1, "attend.out_proj": 0, "unused": 0, "fc": 1}
    whole = {name: pytest.approx(calls[name]) for name in calls}
    # the root: a tick between any two of its six calls and around them; attention: one, as it opens no member
    assert costs == {**whole, OUTSIDE: pytest.approx(7 + 1)}


def test_the_backward_is_measured_if_asked_for() -> None:
    found = odd()
    assert found.training is not None
    for speed in (found.forward, found.training):
        assert 0 < speed.ms_min <= speed.ms <= speed.ms_max
        assert (speed.batch_size, speed.passes) == (2, 3)
    assert odd(backward=False).training is None


@pytest.mark.gpu
def test_profile_on_a_gpu() -> None:
    work = workload(spec("wrn16_1"), dtype="bfloat16", device="cuda")
    found = profile_network(work, seconds=0.1)
    assert sum(part.cost.macs for part in found.parts) == work.counts.macs
    assert found.clocked_ms > 0
