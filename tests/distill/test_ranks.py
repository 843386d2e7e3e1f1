"""Processes that train together: what each is given, and what they tell each other, in two that run at once."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from distill.errors import DistillError
from distill.ranks import ALONE, Ranks, average_gradients, join, own_device


def test_shares_are_the_whole_in_order() -> None:
    drawn = torch.arange(12).view(6, 2)
    shares = [Ranks(rank, 3).slice(drawn) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert torch.equal(torch.cat(shares), drawn)
    assert ALONE.slice(drawn) is drawn


def test_of_several_updates_each_has_the_same_images_at_any_number_of_ranks() -> None:
    drawn = torch.arange(12)  # two updates of six
    shares = [Ranks(rank, 3).slice(drawn, parts=2) for rank in range(3)]
    assert [share.tolist() for share in shares] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    first, second = (torch.cat([share.chunk(2)[update] for share in shares]) for update in range(2))
    assert torch.equal(torch.cat([first, second]), drawn)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_batch_that_cannot_be_shared_out(rows: int) -> None:
    with pytest.raises(DistillError, match=f"a batch of {rows} cannot be shared out to 3 ranks"):
        Ranks(0, 3).slice(torch.zeros(2 * rows, 1), parts=2)


def test_alone_there_is_nobody_to_ask() -> None:
    values, net = torch.ones(2), nn.BatchNorm1d(2)
    ALONE.wait()
    ALONE.same_buffers([net])
    assert ALONE.agree(True, torch.device("cpu"))
    assert torch.equal(ALONE.mean(values), values)
    assert (ALONE.first, Ranks(1, 2).first) == (True, False)


def test_the_first_batches_gradients_stay_without_others() -> None:
    net = nn.Linear(1, 1)
    net(torch.ones(1, 1)).sum().backward()
    assert net.weight.grad is not None
    before = net.weight.grad.clone()
    average_gradients(torch.optim.SGD(net.parameters()))
    assert torch.equal(net.weight.grad, before)


def test_join_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cpu") is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("auto") is ALONE


def test_each_process_has_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(device) for device in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device("auto") == "cuda:3"


def talk(rank: int, folder: Path) -> None:
    """One of two processes: what it heard goes into a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ranks, cpu = Ranks(rank, 2), torch.device("cpu")
    first, norm = nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1)
    net = nn.Sequential(first, norm)
    norm.load_state_dict({**norm.state_dict(), "running_mean": torch.tensor([rank + 5.0])})
    first(torch.tensor([[1.0, 3.0 * rank]])).sum().backward()  # the other layer has no gradient
    average_gradients(torch.optim.SGD(net.parameters(), lr=1))
    ranks.same_buffers([net, "not a network"])
    heard = {
        "mean": ranks.mean(torch.tensor([1.0, 10.0]) * (rank + 1)),
        "agreed": torch.tensor([ranks.agree(rank == 0, cpu), ranks.agree(rank == 1, cpu)]),
        "gathered": ranks.gather(torch.tensor([[rank * 2.0], [rank * 2.0 + 1]])),
        "gradient": first.weight.grad,
        "buffer": norm.running_mean,
    }
    ranks.wait()
    torch.save(heard, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_that_talk(tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.distill.toys", "torch._dynamo"])  # as test_kill.py: it is one server
    children = [server.Process(target=talk, args=(rank, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    for rank in range(2):
        heard = torch.load(tmp_path / f"{rank}.pt")
        assert heard["mean"].tolist() == [1.5, 15.0]
        assert heard["gathered"].flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
        assert heard["agreed"].tolist() == [True, False]  # what rank 0 says
        assert heard["gradient"].tolist() == [[1.0, 1.5]]  # of (1, 0) and (1, 3)
        assert heard["buffer"].tolist() == [5.0]
