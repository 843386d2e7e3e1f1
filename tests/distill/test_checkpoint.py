"""Checkpoints: every kind of state comes back bit for bit, and what is damaged or another run's is refused in words."""

import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from distill import checkpoint
from distill.errors import BadCheckpoint, Diverged


class Part:
    """Anything stateful."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state_dict: Any, /) -> None:
        self.state = state_dict


def there_and_back(state: Any, path: Path) -> Any:
    checkpoint.save(path, {"part": Part(state)}, {"step": 1})
    into = Part(None)
    checkpoint.load(path, {"part": into})
    return into.state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.safetensors"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3),
        torch.tensor(1.5),
        torch.zeros(0, 4),
        torch.randn(3).bfloat16(),
        torch.tensor([1 << 62, -1]),
        torch.tensor([True, False]),
        torch.randn(4, 6)[:, ::2],
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        nn.Parameter(torch.tensor([5e-324, 1e-40, -0.0])),
    ],
    ids=[*map(str, range(9))],  # in words they would differ from process to process
)
def test_tensors_come_back(tensor: torch.Tensor, path: Path) -> None:
    back = there_and_back({"x": tensor}, path)["x"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(back, tensor)


def test_plain_values_come_back_with_their_types(path: Path) -> None:
    state = {
        "number": 1,
        "float": 0.1 + 0.2,
        "none": None,
        "true": True,
        "text": "größe",
        "list": [1, [2.0, ()]],
        "tuple": (0.5, 0.999),
        3: {"int key": "stays an int"},
        "mark": {"$tensor": "not one"},
        "nothing": {},
    }
    back = there_and_back(state, path)
    assert back == state
    assert type(back["tuple"]) is tuple
    assert type(back["true"]) is bool


def test_shared_tensors_are_saved_each(path: Path) -> None:
    one = torch.randn(4)
    back = there_and_back(OrderedDict(a=one, b=one, c=one[:2]), path)
    assert torch.equal(back["a"], one)
    assert torch.equal(back["b"], one)
    assert torch.equal(back["c"], one[:2])


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop], ids=lambda kind: kind.__name__
)
def test_an_optimiser_goes_on_as_if_nothing_had_been(kind: Any, path: Path) -> None:
    def fresh() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        return net, kind(net.parameters(), lr=0.01, **({} if kind is torch.optim.Adam else {"weight_decay": 0.1}))

    def learn(net: nn.Module, optimizer: Any, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            torch.autograd.backward(
                net(torch.randn(8, 3, generator=torch.Generator().manual_seed(step))).square().sum()
            )
            optimizer.step()

    net, optimizer = fresh()
    learn(net, optimizer, range(3))
    checkpoint.save(path, {"net": net, "optimizer": optimizer}, {"step": 3})
    learn(net, optimizer, range(3, 6))
    other, resumed = fresh()
    checkpoint.load(path, {"net": other, "optimizer": resumed})
    learn(other, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_facts_come_back_and_saving_changes_nothing(path: Path) -> None:
    net = nn.Linear(2, 2)
    before = copy.deepcopy(net.state_dict())
    facts = {"step": 7, "best": None, "stream": {"epoch": 1, "id": "ab"}, "seconds": 1.25}
    checkpoint.save(path, {"net": net}, facts)
    assert checkpoint.load(path, {"net": net}) == facts
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_is_loaded_is_no_window_into_the_file(path: Path) -> None:
    """A resumed optimiser works in place: neither the file nor a second reader may see it."""
    checkpoint.save(path, {"part": Part({"x": torch.zeros(4)})}, {"step": 1})
    first, second, before = Part(None), Part(None), path.read_bytes()
    checkpoint.load(path, {"part": first})
    first.state["x"].add_(1)
    checkpoint.load(path, {"part": second})
    assert second.state["x"].sum() == 0
    assert path.read_bytes() == before


# what is not finite


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_state_that_is_not_finite_is_not_written(path: Path, bad: float) -> None:
    good = {"step": 3}
    checkpoint.save(path, {"part": Part({"x": torch.ones(2)})}, good)
    before = path.read_bytes()
    with pytest.raises(Diverged, match=r"^part\.deep\.0 is not finite after step 1,200; the last checkpoint is from"):
        checkpoint.save(path, {"part": Part({"deep": [torch.tensor([1.0, bad])]})}, {"step": 1200})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_state_that_cannot_be_saved_is_our_mistake(path: Path) -> None:
    with pytest.raises(AssertionError, match=r"part\.x: a state of type set cannot be saved"):
        checkpoint.save(path, {"part": Part({"x": {1}})}, {"step": 1})
    assert not path.exists()


# what is refused


@pytest.fixture
def written(path: Path) -> Path:
    checkpoint.save(path, {"net": nn.Linear(4, 4), "part": Part({"n": 5})}, {"step": 12})
    return path


def refuse(path: Path, words: str) -> None:
    with pytest.raises(BadCheckpoint, match=words) as caught:
        checkpoint.load(path, {"net": nn.Linear(4, 4), "part": Part(None)})
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_file(written: Path, keep: int) -> None:
    written.write_bytes(written.read_bytes()[:keep])
    refuse(written, r"is damaged or no checkpoint \(.*\); delete it to start anew")


def test_a_flipped_bit_anywhere_in_the_numbers(written: Path) -> None:
    whole = written.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - start == 4 * (16 + 4)
    for position in range(start, len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        written.write_bytes(flipped)
        refuse(written, r"is damaged or no checkpoint \(its bytes are not those that were written\)")


@pytest.mark.parametrize(("old", "new"), [(rb"\"n\",5", rb"\"n\",6"), (rb"\"step\":12", rb"\"step\":13")])
def test_a_changed_value(written: Path, old: bytes, new: bytes) -> None:
    whole = written.read_bytes()
    assert whole.count(old) == 1
    written.write_bytes(whole.replace(old, new))
    refuse(written, "its bytes are not those that were written")


def test_a_file_of_something_else(written: Path, weights: Path) -> None:
    written.write_bytes(weights.read_bytes())
    refuse(written, r"is damaged or no checkpoint \('states'\)")


def test_another_methods_checkpoint(written: Path) -> None:
    with pytest.raises(
        BadCheckpoint, match="holds net, part; this run has net, optimizer: it belongs to another method"
    ):
        checkpoint.load(written, {"net": nn.Linear(4, 4), "optimizer": Part(None)})


def test_parts_of_another_shape(written: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"holds another net than this run's: .* delete it to start anew"):
        checkpoint.load(written, {"net": nn.Linear(4, 5), "part": Part(None)})


def test_nothing_is_pickled(written: Path) -> None:
    with safe_open(written, framework="pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"states", "facts", "checksum"}
    assert json.loads(metadata["facts"]) == {"step": 12}


def test_an_optimisers_momentum_keeps_the_layout_of_its_weights(path: Path) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    net, optimizer = made()
    net(torch.ones(2, 4, 5, 5)).sum().backward()
    optimizer.step()
    checkpoint.save(path, {"net": net, "optimizer": optimizer}, {"step": 1})
    other, fresh = made()
    checkpoint.load(path, {"net": other, "optimizer": fresh})
    for weight, restored in zip(net.parameters(), other.parameters(), strict=True):
        kept, back = (of.state[at]["momentum_buffer"] for of, at in ((optimizer, weight), (fresh, restored)))
        assert torch.equal(kept, back)
        assert back.stride() == restored.stride()
