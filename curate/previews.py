"""Pictures of a curated set: mosaics of what was selected and what was left out, and its page."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from manifests.commit import write_bytes
from manifests.keys import draw
from manifests.read import read_manifest
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
    rows = read_manifest(selection.path, SELECTION, columns=["key", "selected", "reason"])
    for name, wanted in ((SELECTED_MOSAIC, True), (LEFT_OUT_MOSAIC, False)):
        mask = np.array(rows["selected"].to_pylist()) == wanted
        keys = np.array(rows["key"].to_pylist(), dtype=KEY_DTYPE)[mask]
        chosen = keys[np.argsort(draw(keys, "preview"), kind="stable")[:SHOWN]] if len(keys) else keys
        write_bytes(folder.path / name, mosaic(_fetch(chosen, selection, stores)))
    page = render(
        title="Transfer set",
        lead="Which images were chosen to teach a student, out of which, and why.",
        facts=transfer_set_facts(folder),
        sections=[("Curation", transfer_set_figures(folder))],
    )
    write_bytes(folder.path / PAGE, page.encode())


def _fetch(
    keys: NDArray[np.bytes_], selection: SelectionFolder, stores: Mapping[str, ShardFolder]
) -> NDArray[np.uint8]:
    """Pixels of a few samples, straight from the stores."""
    samples = read_manifest(selection.path, SAMPLES, columns=["key", "corpus", "shard", "block", "row"])
    wanted = {key.decode(): number for number, key in enumerate(keys)}
    images = np.zeros((len(keys), 3, selection.size, selection.size), np.uint8)
    for key, corpus, shard, block, row in zip(*(c.to_pylist() for c in samples.columns), strict=True):
        if (number := wanted.get(key)) is not None:
            facts = stores[corpus].shards[shard]
            found = read_block(stores[corpus].path / facts.name, facts.blocks[block])
            images[number] = found.images_NCHW[row]
    return images
