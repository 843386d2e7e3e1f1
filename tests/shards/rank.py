"""One rank of a run that may be killed at any moment; started by torchrun, for test_torchrun.py.

`rank.py FOLDER OUT BATCHES`: goes on from `OUT/state.json` if it is there, and writes each batch's share and the state
after it to `OUT/rank-R.jsonl`, one line a batch, on disk before the next begins.
"""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
import xxhash

from shards import Stream, open_folder
from shards.sources import LocalBlocks
from shards.stream import Batch

OPTIONS = {"batch_size": 12, "seed": 4, "window": 2}


def rows(batch: Batch) -> list[list[str]]:
    """Each image's key and the hash of its pixels."""
    pixels = [xxhash.xxh3_64_hexdigest(image.tobytes()) for image in batch.images_BCHW]
    return [[key.decode(), digest] for key, digest in zip(batch.keys.tolist(), pixels, strict=True)]


def main() -> None:
    """Stream until the batch that is the last one."""
    folder, out, batches = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    stream = Stream(LocalBlocks(open_folder(folder), "all"), rank=rank, world=world, **OPTIONS)  # type: ignore[arg-type]
    if (saved := out / "state.json").exists():
        stream.load_state(json.loads(saved.read_text()))
    done = stream.epoch * stream.batches_per_epoch + stream.batch
    (out / f"pid-{rank}").write_text(str(os.getpid()))
    with (out / f"rank-{rank}.jsonl").open("w") as file:
        for number in range(done, batches):
            line = {"number": number, "rows": rows(next(stream)), "state": stream.state()}
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
            dist.barrier()  # as a step does
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
