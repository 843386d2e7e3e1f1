"""Memory stays where it is while a set is streamed over and over."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards.bench import write_noise

EPOCHS = 200
STREAMED = """
import os, sys
from pathlib import Path
from shards.index import open_folder
from shards.sources import LocalBlocks
from shards.stream import Stream

stream = Stream(LocalBlocks(open_folder(sys.argv[1])), batch_size=256, resident=sys.argv[2] == "resident")
for epoch in range(int(sys.argv[3])):
    for batch in stream.one_epoch():
        pass
    stream.epoch += 1
    print(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("held", ["window", "resident"])
def test_memory_is_flat_after_the_first_epoch(held: str, tmp_path: Path) -> None:
    """200 epochs of 20,000 images at 32 px: 4 million in 15,600 batches; benchmarks/scale.py takes 36 million."""
    write_noise(tmp_path / "set", images=20_000, size=32)
    command = [sys.executable, "-c", STREAMED, str(tmp_path / "set"), held, str(EPOCHS)]
    found = [int(line) for line in subprocess.run(command, check=True, capture_output=True).stdout.split()]
    assert len(found) == EPOCHS
    assert max(found[1:]) < 1.05 * found[0], [round(size / 1e6) for size in found[::20]]
