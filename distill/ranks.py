"""Several processes that train one student: who they are, and the few things that they tell each other.

Started by `torchrun`, each has a slice of every global batch; gradients are averaged before each update, so all hold
the same weights. What is no mean over images is computed on each rank's slice, as everywhere: batch norm (its running
statistics are those of rank 0), and losses of a whole batch, namely class balance, moments of batch norms, contrast
and DFND's surer half. So for these two ranks of 128 images are not one of 256.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from distill.errors import DistillError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def slice(self, whole: Tensor, *, parts: int = 1) -> Tensor:
        """This rank's share of what was drawn for all: of each of so many ``parts`` its rows, part after part."""
        if self.world == 1:
            return whole
        rows = len(whole) // parts
        if rows % self.world:
            raise DistillError(f"a batch of {rows} cannot be shared out to {self.world} ranks: change one of them")
        return whole.view(parts, rows, *whole.shape[1:]).chunk(self.world, dim=1)[self.rank].flatten(0, 1)

    def gather(self, share: Tensor) -> Tensor:
        """The shares of all ranks, of which `slice` makes them again; no gradient passes."""
        if self.world == 1:
            return share
        shares = [torch.empty_like(share) for _ in range(self.world)]
        distributed.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, said: bool, device: torch.device) -> bool:
        """What rank 0 says."""
        if self.world == 1:
            return said
        word = torch.tensor([int(said)], device=device)
        distributed.broadcast(word, 0)
        return bool(word.item())

    def mean(self, values: Tensor) -> Tensor:
        """Over ranks."""
        if self.world > 1:
            distributed.all_reduce(values)
            values = values / self.world
        return values

    def same_buffers(self, parts: Iterable[object]) -> None:
        """Give every network's buffers the values of rank 0."""
        if self.world == 1:
            return
        for part in parts:
            for buffer in part.buffers() if isinstance(part, nn.Module) else ():
                distributed.broadcast(buffer, 0)


ALONE = Ranks()


def join(device: str) -> Ranks:
    """This process's place in what `torchrun` started; alone, if it did not."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    if not distributed.is_initialized():
        own = own_device(device)
        if own.startswith("cuda"):
            torch.cuda.set_device(own)  # else the first exchange would be by device 0 in every process
            distributed.init_process_group("nccl", device_id=torch.device(own))
        else:
            distributed.init_process_group("gloo")
    return Ranks(distributed.get_rank(), world)


def own_device(device: str) -> str:
    """The device of this process: of several on one machine, each has the CUDA device of its number."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or not (device == "cuda" or (device == "auto" and torch.cuda.is_available())):
        return device
    return f"cuda:{local}"


def leave() -> None:
    """Take leave of the others, so that the process ends without a warning."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Make the gradients of all ranks their mean, in one exchange: these networks are small."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
