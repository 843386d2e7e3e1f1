"""Speed here: what is counted and measured, and what a user is told who asks for what cannot be."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.errors import DistillError, UnsupportedSize
from distill.models import ModelSpec, spec
from distill.models.counts import Counts, count
from distill.profile import profile_network
from distill.speed import MOST_IMAGES, Bench, measure_speed, workload


class Pooled(nn.Module):
    """A linear layer on the mean of each channel; a batch norm in front of it, and what it was shown."""

    def __init__(self, classes: int, *, error: Exception | None = None) -> None:
        super().__init__()
        self.norm, self.fc, self.error = nn.BatchNorm1d(3), nn.Linear(3, classes), error
        self.seen: list[tuple[Any, ...]] = []

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.seen.append((self.training, torch.is_grad_enabled(), images_BCHW.is_contiguous()))
        if self.error is not None:
            raise self.error
        logits_BK: Tensor = self.fc(self.norm(images_BCHW.mean(dim=(2, 3))))
        return logits_BK


def pooled(**facts: Any) -> ModelSpec:
    build = facts.pop("build", Pooled)
    known: dict[str, Any] = {"params": 18, "macs": 9, "classes": 3, "head": "fc", "feature_dim": 3}
    return ModelSpec(name="file.py:pooled", family="file", build=build, source="here", **known | facts)


def test_a_workload_is_the_networks_own_unless_said() -> None:
    model = spec("wrn16_1")
    work = workload(model)
    assert (work.size, work.classes, work.counts) == (32, 100, Counts(params=model.params, macs=model.macs))
    assert work.batch_size == MOST_IMAGES["cpu"]


@pytest.mark.parametrize("name", ["wrn16_1", "lenet5"])
def test_counts_at_another_size_and_head_are_of_that_network(name: str) -> None:
    model = spec(name)
    work = workload(model, size=40, classes=7)
    assert work.counts == count(model.skeleton(7), size=40, channels=model.channels)
    assert work.counts.macs > model.macs


def test_heavy_networks_get_smaller_batches() -> None:
    sizes = [workload(pooled(macs=macs)).batch_size for macs in (0, 10**9, 10**10, 10**12)]
    assert sizes == [64, 16, 1, 1]
    assert workload(pooled(macs=10**9), device="cuda").batch_size == 256
    assert workload(pooled(macs=10**12), batch_size=12).batch_size == 12


def test_attention_is_counted_though_it_has_a_fused_kernel() -> None:
    tokens, width, hidden = 4, 16, 32  # an image of 4 channels and 4x4 px, its channels taken for tokens
    net = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True))
    linear = tokens * (4 * width * width + 2 * width * hidden)
    fused = torch.backends.mha.get_fastpath_enabled()
    assert count(net, size=4, channels=tokens).macs == linear + 2 * tokens * tokens * width
    assert torch.backends.mha.get_fastpath_enabled() == fused


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_speed_is_of_the_forward_in_eval_mode(dtype: Any) -> None:
    nets: list[Pooled] = []

    def build(classes: int) -> nn.Module:
        nets.append(Pooled(classes))
        return nets[-1]

    speed = measure_speed(workload(pooled(build=build), batch_size=5, dtype=dtype), seconds=0.0)
    assert speed.batch_size == 5
    assert speed.passes == 3
    assert 0 < speed.ms_min <= speed.ms <= speed.ms_max
    assert speed.images_per_s == pytest.approx(5 / speed.ms * 1000)
    assert set(nets[0].seen) == {(False, False, dtype == "float32")}


def test_a_longer_time_gives_more_passes() -> None:
    assert measure_speed(workload(pooled()), seconds=0.05).passes > 3


def test_torchs_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    measure_speed(workload(spec("lenet5"), batch_size=2), seconds=0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_leaves_gradients_and_moves_batch_norm() -> None:
    bench = Bench(workload(pooled(), batch_size=4))
    bench.train()
    assert bench.net.training
    assert all(parameter.grad is not None for parameter in bench.net.parameters())
    bench.forward()
    assert not bench.net.training


def test_sizes_that_a_network_cannot_take() -> None:
    with pytest.raises(UnsupportedSize, match=r"lenet5 cannot work at 16 px; it takes images of at least 32 px a side"):
        workload(spec("lenet5"), size=16)
    with pytest.raises(UnsupportedSize, match=r"alexnet cannot work at 64 px; it takes images of 31 to 38 px a side"):
        workload(spec("alexnet"), size=64)
    wrong = pooled(build=lambda classes: Pooled(classes, error=RuntimeError("32 px and\nno other")))
    with pytest.raises(UnsupportedSize, match=r"file.py:pooled cannot work at 48 px: 32 px and$"):
        workload(wrong, size=48)


def test_numbers_below_one() -> None:
    with pytest.raises(DistillError, match="a head has at least 1 class; got 0"):
        workload(pooled(), classes=0)
    with pytest.raises(DistillError, match="batches must have at least 1 image; got 0"):
        workload(pooled(), batch_size=0)


def test_a_batch_too_large_or_too_small_is_told_so() -> None:
    full = workload(pooled(build=lambda classes: Pooled(classes, error=torch.OutOfMemoryError())), batch_size=8)
    what = "file.py:pooled at 32 px in batches of "
    with pytest.raises(DistillError, match=f"{what}8 does not fit into memory; take a smaller batch"):
        measure_speed(full)
    single = workload(pooled(), batch_size=1)
    with pytest.raises(DistillError, match=f"{what}1 cannot be trained: batch norm needs more than one value"):
        profile_network(single, seconds=0.0)
    assert profile_network(single, seconds=0.0, backward=False).training is None


def test_other_errors_of_a_network_are_not_hidden() -> None:
    broken = workload(pooled(build=lambda classes: Pooled(classes, error=ValueError("a bug"))))
    with pytest.raises(ValueError, match="a bug"):
        measure_speed(broken)


@pytest.mark.gpu
def test_speed_on_a_gpu() -> None:
    speed = measure_speed(workload(spec("wrn16_1"), dtype="bfloat16", device="cuda"), seconds=0.1)
    assert speed.passes >= 3
    assert speed.images_per_s > 0
