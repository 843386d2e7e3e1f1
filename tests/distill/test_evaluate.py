"""Evaluation: labels by name or by position, accuracy and agreement, and a real teacher's figure on real images."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from curate.corpora import open_corpus
from curate.ingest import ingest
from distill.errors import BadLabels, BadWeights, DistillError, UnsupportedSize
from distill.evaluate import agreement, class_names, predictions, read_labels
from distill.evaluation import evaluate_networks, load_target, run_plan, save_evaluation
from distill.material import Material
from distill.models.teachers import Classifier, load_classifier
from distill.run import distill
from manifests.read import read_manifest
from manifests.schema import SAMPLES
from shards.index import ShardFolder
from shards.sources import LocalBlocks
from shards.stream import Stream
from tests.distill import toys
from tests.shards import make


def store_of(folder: Path, classes: Sequence[str], *, each: int = 2, name: str = "toys") -> ShardFolder:
    return toys.write_labelled_store(
        folder, toys.write_images(folder / "images", classes=classes, each=each), name=name
    )


def table_of(store: ShardFolder, classes: Sequence[str]) -> tuple[dict[str, set[int]], str]:
    """Numbers that each source label became, and how they were matched."""
    table = read_labels(store, classes)
    numbers = table.as_dict()
    rows = read_manifest(store.path, SAMPLES, columns=["key", "source_label"]).to_pylist()
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row["source_label"], set()).add(numbers[row["key"].encode()])
    return found, table.matched_by


# labels


def test_labels_are_matched_by_name_whatever_the_order(labelled: ShardFolder) -> None:
    classes = ("red", "blue", "pink", "grey", "green")
    assert table_of(labelled, classes) == ({"red": {0}, "blue": {1}, "grey": {3}, "green": {4}}, "name")


def test_some_of_the_classes_will_do(tmp_path: Path) -> None:
    assert table_of(store_of(tmp_path, ["red", "blue"]), toys.CLASSES) == ({"blue": {0}, "red": {3}}, "name")


def test_labels_are_matched_by_position_where_no_name_is_known(tmp_path: Path) -> None:
    """As many classes, none of one name: in the order of the corpus, numbers as numbers."""
    store = store_of(tmp_path, ["0", "2", "10"])
    assert class_names(store) == ("0", "2", "10")
    assert table_of(store, ("zero", "two", "ten")) == ({"0": {0}, "2": {1}, "10": {2}}, "position")


def test_names_that_only_partly_agree_are_refused(tmp_path: Path) -> None:
    """By position `cat` would become `dog`."""
    store = store_of(tmp_path, ["cat", "dog", "toad"])
    with pytest.raises(
        BadLabels,
        match=r"corpus 'toys' has classes that the network lacks, such as toad; it knows 3: dog, cat, frog$",
    ):
        read_labels(store, ("dog", "cat", "frog"))


def test_more_classes_than_the_network_knows(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["a", "b", "c"])
    with pytest.raises(BadLabels, match=r"such as c; it knows 2: a, b$"):
        read_labels(store, ("a", "b"))
    with pytest.raises(BadLabels, match=r"such as a, b, c; it knows 6: 0, 1, 2, 3, 4, \.\.\.$"):
        read_labels(store, tuple("012345"))


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    store = make.write_store(tmp_path / "store", [[5]])
    with pytest.raises(BadLabels, match="5 of 5 images in corpus 'one' have no label; labelled data is needed"):
        read_labels(store, ("a", "b"))


def test_class_order_is_the_corpus_own_else_sorted(labelled: ShardFolder, tmp_path: Path) -> None:
    stated = ShardFolder(path=labelled.path, id="", document={"classes": ["z", "a"]}, shards=())
    assert class_names(stated) == ("z", "a")
    assert class_names(labelled) == toys.CLASSES
    assert class_names(store_of(tmp_path / "numbers", ["10", "9", "-1"])) == ("-1", "9", "10")
    assert class_names(store_of(tmp_path / "mixed", ["10", "9", "x", "²"])) == ("10", "9", "x", "²")


def test_duplicates_keep_their_labels(tmp_path: Path) -> None:
    images = toys.write_images(tmp_path / "images", classes=["a", "b"], each=3)
    (images / "b" / "copy.png").write_bytes((images / "a" / "0.png").read_bytes())
    store = toys.write_labelled_store(tmp_path, images)
    assert store.rows() == 7
    assert sorted(read_labels(store, ("a", "b")).numbers.tolist()) == [0, 0, 0, 1, 1, 1, 1]


def test_a_batch_gets_its_own_labels(labelled: ShardFolder) -> None:
    table = read_labels(labelled, toys.CLASSES)
    colours = torch.tensor([toys.COLOURS[name] for name in toys.CLASSES]).float()
    for batch in Stream(LocalBlocks(labelled), batch_size=13, tail="short").one_epoch():
        colour_B3 = torch.from_numpy(batch.images_BCHW).float().mean((2, 3))
        assert torch.equal(table(batch), torch.cdist(colour_B3, colours).argmin(1))


# predictions


def test_predictions_are_those_of_the_network_by_key(labelled: ShardFolder, weights: Path) -> None:
    net = load_classifier(weights)
    seen: list[int] = []
    found = predictions(lambda x: net(x).logits_BK, LocalBlocks(labelled), device=toys.CPU, advance=seen.append)
    assert len(found) == labelled.rows() == sum(seen)
    for batch in Stream(LocalBlocks(labelled), batch_size=16, seed=5).one_epoch():
        expected = net(torch.from_numpy(batch.images_BCHW)).logits_BK.argmax(1).tolist()
        assert [found[key] for key in batch.keys.tolist()] == expected


def test_agreement_by_hand() -> None:
    assert agreement({b"a": 1, b"b": 2, b"c": 3, b"d": 0}, {b"a": 1, b"b": 0, b"c": 3, b"d": 4}) == 0.5


def oracle(classes: Sequence[str], *, size: int = toys.SIZE) -> Classifier:
    """A classifier of colours: it is right about every tile."""

    class Nearest(torch.nn.Module):
        name, sha256, dtype = "oracle", "ab" * 32, "float32"

        def __init__(self) -> None:
            super().__init__()
            self.classes, self.input_size = tuple(classes), size

        def forward(self, images_BCHW: torch.Tensor) -> Any:
            colours = torch.tensor([toys.COLOURS[name] for name in classes]).float()
            distances = torch.cdist(images_BCHW.float().mean((2, 3)), colours)
            return type("View", (), {"logits_BK": -distances})

    found: Any = Nearest()
    return found  # type: ignore[no-any-return]  # it walks like one


def test_evaluation_of_networks_and_teacher(labelled: ShardFolder, weights: Path) -> None:
    net, right = load_classifier(weights), oracle(toys.CLASSES)
    result = evaluate_networks({"last": net, "chosen": right}, right, labelled, device=toys.CPU)
    mine = predictions(lambda x: net(x).logits_BK, LocalBlocks(labelled), device=toys.CPU)
    truth = read_labels(labelled, toys.CLASSES).as_dict()
    expected = sum(mine[key] == number for key, number in truth.items()) / 64
    assert result["students"]["last"] == {"sha256": net.sha256, "accuracy": expected, "agreement": expected}
    assert result["students"]["chosen"]["accuracy"] == result["teacher_accuracy"] == 1.0
    assert (result["corpus"], result["images"], result["labels_matched_by"]) == ("tiles", 64, "name")
    assert result["dtype"] == "float32"
    alone = evaluate_networks({"x": net}, None, labelled, device=toys.CPU)
    assert (alone["teacher"], alone["teacher_accuracy"], alone["students"]["x"]["agreement"]) == (None, None, None)


def test_networks_of_other_classes_cannot_be_compared(labelled: ShardFolder, weights: Path) -> None:
    """Class 0 of the one is class 3 of the other: agreement by number would be nonsense."""
    other = oracle(toys.CLASSES[::-1])
    with pytest.raises(
        BadLabels, match=r"oracle names other classes than wrn16_1-\w+ \(red, grey, green, \.\.\. and blue"
    ):
        evaluate_networks({"last": load_classifier(weights)}, other, labelled, device=toys.CPU)


def test_images_of_another_size_are_refused(labelled: ShardFolder, weights: Path) -> None:
    for networks, teacher in (
        ({"last": oracle(toys.CLASSES, size=16)}, None),
        ({"last": load_classifier(weights)}, oracle(toys.CLASSES, size=16)),
    ):
        with pytest.raises(UnsupportedSize, match=r"oracle takes 16 px images; .* holds 8 px"):
            evaluate_networks(networks, teacher, labelled, device=toys.CPU)


# targets


@pytest.fixture(scope="module")
def finished(transfer_set: ShardFolder, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    distill(
        Material.of(transfer_set), load_classifier(weights), toys.run_config("kd", updates=2), out=out, place=toys.PLACE
    )
    return out


def test_a_target_is_a_run_or_a_file(finished: Path, weights: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"dtype": "float32", "device": toys.CPU}
    assert list(load_target(finished, **how)) == ["last", "chosen"]
    assert list(load_target(weights, **how)) == ["teacher"]
    with pytest.raises(
        BadWeights, match="gone does not exist; expected a run folder, a weights file or one of your teachers"
    ):
        load_target(tmp_path / "gone", **how)
    with pytest.raises(DistillError, match="is no finished run"):
        load_target(tmp_path, **how)


def test_the_plan_of_a_target(finished: Path, weights: Path) -> None:
    plan = run_plan(finished)
    assert plan is not None
    assert plan["teacher"] == load_classifier(weights).sha256
    assert run_plan(weights) is None


def test_an_evaluation_is_kept_and_shown(
    finished: Path, labelled: ShardFolder, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From any working folder; also when the transfer set has been moved away since."""
    net = load_classifier(weights)
    result = evaluate_networks({"last": net}, net, labelled, device=toys.CPU)
    monkeypatch.chdir(tmp_path)
    save_evaluation(finished, result)
    assert json.loads((finished / "eval-tiles.json").read_bytes()) == result
    page = (finished / "report.html").read_text()
    assert "On 64 labelled images of tiles." in page
    assert "From corpora to transfer set" in page
    report = json.loads((finished / "report.json").read_bytes())
    for moved in ({"transfer_set": str(tmp_path / "gone")}, {"run": report["run"] | {"transfer_set": "another id"}}):
        (finished / "report.json").write_text(json.dumps(report | moved))
        save_evaluation(finished, result)
        page = (finished / "report.html").read_text()
        assert "On 64 labelled images of tiles." in page
        assert "From corpora to transfer set" not in page
    (finished / "report.json").write_text(json.dumps(report))


def test_nothing_is_kept_for_a_weights_file(weights: Path) -> None:
    before = sorted(weights.parent.iterdir())
    save_evaluation(weights, {"corpus": "tiles"})
    assert sorted(weights.parent.iterdir()) == before


# a real teacher on real images

TEACHER, IMAGES = "teachers/wrn40_2-cifar10.safetensors", "data/cifar10/test.parquet"


def test_the_shared_teacher_on_its_first_test_images(shared: Path, tmp_path: Path) -> None:
    """Ours equals a plain loop over Pillow's pixels, and is near the stated figure."""
    table = pq.read_table(shared / IMAGES).slice(0, 500)
    pq.write_table(table, tmp_path / "first.parquet")
    store = ingest(open_corpus(f"first={tmp_path / 'first.parquet'}"), size=32, work=tmp_path, threads=1).store
    net = load_classifier(shared / TEACHER, dtype="bfloat16")
    result = evaluate_networks({"teacher": net}, net, store, device=toys.CPU)
    assert (result["images"], result["labels_matched_by"]) == (500, "name")
    assert result["students"]["teacher"]["agreement"] == 1.0
    accuracy = result["teacher_accuracy"]
    assert abs(accuracy - 0.8889) < 0.045  # three standard errors of 500 images
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()[:100]]
    with torch.inference_mode():
        logits_BK = net(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)).logits_BK
    right = (logits_BK.argmax(1) == torch.tensor(table["label"].to_pylist()[:100])).sum().item()
    hundred = tmp_path / "hundred.parquet"
    pq.write_table(table.slice(0, 100), hundred)
    few = ingest(open_corpus(f"few={hundred}"), size=32, work=tmp_path, threads=1).store
    assert evaluate_networks({"x": net}, None, few, device=toys.CPU)["students"]["x"]["accuracy"] == right / 100


@pytest.mark.slow
def test_the_shared_teacher_on_its_whole_test_set(shared: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        store = ingest(open_corpus(f"test={shared / IMAGES}"), size=32, work=tmp_path).store
        net = load_classifier(shared / TEACHER)
        result = evaluate_networks({"teacher": net}, None, store, device=toys.CPU)
    finally:
        torch.set_num_threads(1)
    assert result["images"] == 10_000
    assert result["students"]["teacher"]["accuracy"] == pytest.approx(0.8889, abs=0.003)
    assert float(net.metadata["test_accuracy"]) == pytest.approx(0.8889)
