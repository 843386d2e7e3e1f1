"""The card says what the set is in words that the Hub reads, and what it tells a reader to do works."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from shards.card import CARD, SIZES, card, some_classes
from shards.index import ShardFolder
from shards.pack import pack
from shards.verify import verify
from tests.shards import make
from tests.shards.conftest import Sources

SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def document(folder: ShardFolder, **other: Any) -> dict[str, Any]:
    return {**folder.document, **other}


def head(text: str) -> dict[str, Any]:
    """What the Hub's own library reads."""
    data: Any = DatasetCard(text).data
    found: dict[str, Any] = data.to_dict()
    return found


def test_the_hub_reads_its_head(packed: ShardFolder) -> None:
    found = head((packed.path / CARD).read_text())
    assert found["license"] == "unknown"
    assert found["pretty_name"] == "Transfer set for toy"
    assert found["task_categories"] == ["image-classification"]
    assert found["size_categories"] == ["n<1K"]
    assert "webdataset" in found["tags"]
    assert all((packed.path / config["data_files"]).exists() for config in found["configs"])


@pytest.mark.parametrize("text", ["cc-by-4.0", 'mine: "all" # of it', "1.0", "null"])
def test_a_licence_that_is_stated_is_told_and_changes_no_id(sources: Sources, packed: ShardFolder, text: str) -> None:
    folder = pack(sources.selection, sources.stores, packed.path, licence=text).folder
    told = (folder.path / CARD).read_text()
    assert head(told)["license"] == text
    assert f"As stated by who packed the set: {text}" in told
    assert (folder.id, folder.document["licence"]) == (packed.id, text)
    assert "licence" not in packed.document
    assert "Unknown: whoever packed the set did not state it" in card(document(packed))


@pytest.mark.parametrize(("images", "size"), [(0, 0), (999, 0), (1000, 1), (50_000, 2), (10**9 - 1, 6), (10**11, 7)])
def test_size_categories_are_those_of_the_hub(packed: ShardFolder, images: int, size: int) -> None:
    counts = {**packed.document["counts"], "selected": images}
    found = head(card(document(packed, counts=counts)))
    assert found["size_categories"] == [SIZES[size]]


def test_it_names_corpora_classes_teacher_rule_and_views(packed: ShardFolder) -> None:
    histogram = {"pipe | organ": 3, **{f"class {n}": 100 - n for n in range(30)}}
    views = {"count": 4, "seed": 7, "flip": False, "pad": 4}
    text = card(document(packed, class_histogram=histogram, views=views))
    assert "| one | 33 | 20 | 11 | 2 | 0 |" in text
    assert "| class 0 | 100 |" in text
    assert "| class 15 | " not in text
    assert "20 of 31 classes: the fullest and the emptiest" in text
    assert "| pipe \\| organ | 3 |" in text
    assert "| rule | entropy-topk, budget 20, seed 0 |" in text
    assert f"toy, SHA-256 of its tensors `{make.TEACHER['sha256']}`" in text
    assert "of 4 views of each image, float16 (seed 7, crop with 4 px of padding)" in text
    assert f"`{packed.id}`" in text


def test_few_classes_are_all_shown() -> None:
    assert some_classes({"a": 1, "b": 2}) == ([("b", 2), ("a", 1)], "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
@pytest.mark.parametrize("size", [4, 66])
def test_its_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    store = make.write_store(tmp_path / "store", [[3, 2]], size=size)
    folder = pack(make.write_selection(tmp_path / "s", [store], budget=4), {"one": store}, tmp_path / "out").folder
    monkeypatch.chdir(folder.path)
    snippets = SNIPPET.findall((folder.path / CARD).read_text())
    assert len(snippets) == 3
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet, names)
    assert len(names["block"]["keys.npy"]) == len(names["images_BCHW"]) == folder.rows("train")


def test_an_empty_set_has_a_card(sources: Sources, tmp_path: Path) -> None:
    selection = make.write_selection(tmp_path / "s", list(sources.stores.values()), budget=0, holdout=0)
    folder = pack(selection, sources.stores, tmp_path / "out").folder
    assert "Reading it" not in (folder.path / CARD).read_text()


def test_it_is_no_part_of_the_contents_and_still_covered(packed: ShardFolder) -> None:
    assert CARD not in packed.document["contents"]
    path = packed.path / CARD
    path.write_text(path.read_text().replace("33", "34", 1))
    (problem,) = verify(packed.path).problems
    assert f"{path} is damaged" in problem
