"""Pictures of a curated set: mosaics of what was selected and what was left out, and its page."""

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.commit import write_bytes
from manifests.keys import draw
from manifests.read import read_batches, read_rows
from manifests.schema import SAMPLES, SELECTION
from shards.figures import LEFT_OUT_MOSAIC, SELECTED_MOSAIC, transfer_set_facts, transfer_set_figures
from shards.index import ShardFolder
from shards.layout import KEY_DTYPE
from shards.page import mosaic, render
from shards.read import read_block
from shards.selection import SelectionFolder

SHOWN = 128  # images a mosaic
PAGE = "report.html"


def write_previews(folder: ShardFolder, selection: SelectionFolder, stores: Mapping[str, ShardFolder]) -> None:
    """Write the mosaics and the page of a transfer set into its folder; not part of its contents or id."""
    for name, wanted in ((SELECTED_MOSAIC, True), (LEFT_OUT_MOSAIC, False)):
        write_bytes(folder.path / name, mosaic(_fetch(_drawn(selection, wanted), selection, stores)))
    page = render(
        title="Transfer set",
        lead="Which images were chosen to teach a student, out of which, and why.",
        facts=transfer_set_facts(folder),
        sections=[("Curation", transfer_set_figures(folder))],
    )
    write_bytes(folder.path / PAGE, page.encode())


def _drawn(selection: SelectionFolder, selected: bool) -> list[str]:
    """Keys of a seeded draw of the rows that were selected, or of the others."""
    keys = np.empty(0, KEY_DTYPE)
    for batch in read_batches(selection.path, SELECTION, columns=["key", "selected"]):
        more = batch["key"].filter(pc.equal(batch["selected"], selected)).to_pylist()
        keys = np.concatenate([keys, np.array(more, dtype=KEY_DTYPE)])
        if len(keys):
            keys = keys[np.argsort(draw(keys, "preview"), kind="stable")[:SHOWN]]
    found: list[str] = keys.astype(str).tolist()
    return found


def _fetch(keys: list[str], selection: SelectionFolder, stores: Mapping[str, ShardFolder]) -> NDArray[np.uint8]:
    """Pixels of a few samples (N, 3, size, size), straight from the stores."""
    wanted = np.sort(np.array(keys, dtype=KEY_DTYPE))
    samples = read_rows(selection.path, SAMPLES, wanted, columns=["key", "corpus", "shard", "block", "row"])
    images_NCHW = np.zeros((len(keys), 3, selection.size, selection.size), np.uint8)
    for sample in samples.to_pylist():
        store = stores[sample["corpus"]]
        shard = store.shards[sample["shard"]]
        block = read_block(store.path / shard.name, shard.blocks[sample["block"]])
        images_NCHW[keys.index(sample["key"])] = block.images_NCHW[sample["row"]]
    return images_NCHW
