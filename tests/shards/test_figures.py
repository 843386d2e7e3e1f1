"""The figures of a transfer set: the numbers they show are those of its manifests."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shards.figures
from manifests.commit import write_bytes
from shards.figures import BINS, LEFT_OUT_MOSAIC, SELECTED_MOSAIC, transfer_set_facts, transfer_set_figures
from shards.index import ShardFolder, open_folder
from shards.page import Figure, histogram, mosaic, render


def test_facts_name_set_rule_and_teacher(packed: ShardFolder) -> None:
    assert transfer_set_facts(packed) == [
        ("transfer set", packed.id[:12]),
        ("images", "20 at 4 px"),
        ("rule", "entropy-topk, budget 20, seed 0"),
        ("teacher", "toy"),
    ]


def test_figures_make_a_page(packed: ShardFolder) -> None:
    figures = transfer_set_figures(packed)
    assert [f.title for f in figures] == ["From corpora to transfer set", "Corpora", "Entropy of the teacher's softmax"]
    write_bytes(packed.path / SELECTED_MOSAIC, mosaic(np.zeros((2, 3, 4, 4), np.uint8)))
    assert [f.title for f in transfer_set_figures(packed)][3:] == ["Selected"]
    write_bytes(packed.path / LEFT_OUT_MOSAIC, mosaic(np.zeros((2, 3, 4, 4), np.uint8)))
    assert [f.title for f in transfer_set_figures(packed)][3:] == ["Selected", "Left out"]
    html = render(title="t", lead="", facts=transfer_set_facts(packed), sections=[("Curation", figures)])
    assert "two" in html
    assert "one" in html


@pytest.mark.parametrize("name", ["plain", "a [1] *? # 'quoted' {}"])
def test_the_histogram_counts_every_finite_entropy(
    packed: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: dict[str, Any] = {}

    def spy(title: str, edges: Sequence[float], series: Mapping[str, Sequence[int]], **rest: Any) -> Figure:
        seen.update(edges=edges, **series)
        return histogram(title, edges, series, **rest)

    monkeypatch.setattr(shards.figures, "histogram", spy)
    shutil.copytree(packed.path, tmp_path / name)
    transfer_set_figures(open_folder(tmp_path / name))
    assert len(seen["edges"]) == BINS + 1
    assert (seen["edges"][0], seen["edges"][-1]) == (0, pytest.approx(np.log(4)))
    assert (sum(seen["selected"]), sum(seen["left out"])) == (20, 10)  # of 31, one without a number
    assert seen["selected"][-1] > 0  # ln K itself, which float32 may round up, is in the last bin
    assert max(np.flatnonzero(seen["left out"])) <= min(np.flatnonzero(seen["selected"]))  # entropy falls with the rank
