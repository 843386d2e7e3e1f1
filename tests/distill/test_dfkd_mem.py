"""dfkd-mem: what is remembered, what is replayed, and from when."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill import checkpoint
from distill.methods.dfkd_mem import DFKDMem, DFKDMemConfig
from tests.distill.test_adversarial import BATCH, make


def dfkd_mem(weights: Path, **settings: Any) -> DFKDMem:
    method: DFKDMem = make(weights, "dfkd-mem", **settings)
    return method


def stages(method: DFKDMem, count: int) -> list[list[dict[str, Tensor]]]:
    """The images of every student update by source, stage by stage."""
    found: list[list[dict[str, Tensor]]] = []
    learn = method._learn

    def note(lessons: Any, *, lr: float) -> dict[str, Tensor]:
        found[-1].append({name: lesson.images_BCHW for name, lesson in lessons.items()})
        return learn(lessons, lr=lr)

    method._learn = note  # type: ignore[method-assign]
    for step in range(count):
        found.append([])
        method.step([], step)
    return found


def levels(images_BCHW: Tensor) -> set[bytes]:
    """The images as they are kept."""
    return {image.numpy().tobytes() for image in (images_BCHW * 255).round().to(torch.uint8)}


def test_past_images_are_replayed_beside_new_ones(weights: Path) -> None:
    """None in the first stage; then B of the last batches of the stages before, in every update."""
    found = stages(dfkd_mem(weights), 3)
    assert [[set(update) for update in stage] for stage in found] == [
        [{"kl"}] * 3,
        [{"kl", "kl_memory"}] * 3,
        [{"kl", "kl_memory"}] * 3,
    ]
    past: set[bytes] = set()
    for stage in found:
        for update in stage:
            if "kl_memory" in update:
                assert len(update["kl_memory"]) == BATCH
                assert levels(update["kl_memory"]) <= past
        past |= levels(stage[-1]["kl"])
    assert len(past) == 3 * BATCH


def test_the_memory_is_a_ring(weights: Path) -> None:
    method = dfkd_mem(weights, memory_size=2 * BATCH)
    found = stages(method, 4)
    kept_NCHW = method.memory.images(torch.arange(len(method.memory)))
    assert len(method.memory) == 2 * BATCH
    assert levels(kept_NCHW) == levels(found[2][-1]["kl"]) | levels(found[3][-1]["kl"])


def test_replay_has_its_weight_and_its_term(weights: Path) -> None:
    outcomes = []
    for replay in (0.0, 1.0):
        method = dfkd_mem(weights, replay=replay)
        terms = [method.step([], step) for step in range(2)]
        assert "kl_memory" not in terms[0]
        assert terms[1]["kl_memory"] > 0
        outcomes.append(method.setup.student.net.state_dict()["fc.weight"].clone())
    assert not torch.equal(*outcomes)


def test_the_memory_is_restored(weights: Path, tmp_path: Path) -> None:
    method = dfkd_mem(weights)
    for step in range(2):
        method.step([], step)
    checkpoint.save(tmp_path / "c.safetensors", method.parts(), {"step": 2})
    resumed = dfkd_mem(weights)
    checkpoint.load(tmp_path / "c.safetensors", resumed.parts())
    assert len(resumed.memory) == len(method.memory) == 2 * BATCH
    assert resumed.step([], 2) == method.step([], 2)


def test_counts_of_the_published_setting() -> None:
    """8,192 images of 8 bits; 2B an update, but for the first stage."""
    config = DFKDMemConfig()
    assert (config.memory_size, config.replay) == (8192, 1)
    assert config.queries_per_step == 3 * 256 + 60 * 512
    assert config.queries(1) == 3 * 256 + 60 * 256
    assert config.queries(0) == 0


def test_images_of_another_size_are_remembered_at_that_size(weights: Path) -> None:
    method = dfkd_mem(weights, image_size=16)
    method.step([], 0)
    assert method.memory.images(torch.tensor([0])).shape == (1, 3, 16, 16)
