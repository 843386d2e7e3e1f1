"""Blocks through a teacher, a few under way at a time."""

import time
from collections.abc import Generator
from typing import cast

import torch

from curate.forwards import look_at
from shards.layout import Block
from tests.shards import make


def test_who_stops_waits_for_what_has_begun_and_no_more() -> None:
    """Of a slow teacher the batches that wait in line are minutes between a Ctrl-C and the end."""
    begun: list[int] = []

    def look(images_BCHW: torch.Tensor, block: Block) -> int:
        begun.append(len(block))
        time.sleep(0.5 * (len(block) > 1))
        return len(images_BCHW)

    blocks = (make.block(rows) for rows in range(1, 9))
    found = look_at(blocks, look, size=make.SIZE, device=torch.device("cpu"), threads=1)
    next(found)  # of three that were asked for
    cast("Generator[object]", found).close()
    assert 3 not in begun
