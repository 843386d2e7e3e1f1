"""Teachers: what a weights file must say, and what a classifier promises."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from distill.errors import BadWeights, DistillError, UnknownModel, UnknownTeacher, WrongArchitecture
from distill.models import build
from distill.models.teachers import (
    Precision,
    load_classifier,
    normalise,
    save_classifier,
    weights_sha256,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


def make(
    path: Path,
    *,
    arch: str = "wrn16_1",
    seed: int = 0,
    classes: tuple[str, ...] = ("a", "b"),
    extra: dict[str, str] | None = None,
) -> Path:
    """A weights file of fresh weights."""
    torch.manual_seed(seed)
    net = build(arch, len(classes))
    save_classifier(path, net, arch=arch, mean=MEAN, std=STD, classes=classes, input_size=32, **(extra or {}))
    return path


def rewrite(path: Path, *, drop: tuple[str, ...] = (), put: dict[str, str] | None = None) -> Path:
    """The same tensors under other metadata."""
    blob = path.read_bytes()
    kept = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"] | (put or {})
    for name in drop:
        del kept[name]
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(blob), kept))
    return path


# normalise


def test_normalise_by_hand() -> None:
    images_BCHW = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(images_BCHW, MEAN, STD).flatten().tolist() == pytest.approx([2.0, -2.0, -1.0])


def test_normalise_is_one_for_bytes_and_floats() -> None:
    images_BCHW = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    from_bytes = normalise(images_BCHW, MEAN, STD)
    assert torch.equal(from_bytes, normalise(images_BCHW.float() / 255, torch.tensor(MEAN), torch.tensor(STD)))
    assert normalise(images_BCHW.bfloat16() / 255, MEAN, STD).dtype == torch.float32


# a classifier


def test_shared_teacher_reaches_its_stated_accuracy(shared: Path) -> None:
    teacher = load_classifier(shared / "teachers" / "wrn40_2-cifar10.safetensors", dtype="bfloat16")
    assert (teacher.arch, teacher.num_classes, teacher.feature_dim, teacher.channels) == ("wrn40_2", 10, 128, 3)
    assert (teacher.classes[0], teacher.mean, teacher.input_size) == ("airplane", (0.4914, 0.4822, 0.4465), 32)
    assert teacher.name == f"wrn40_2-{teacher.sha256[:12]}"
    table = pq.read_table(shared / "data" / "cifar10" / "test.parquet").slice(0, 500)
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    images_BCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        view = teacher(images_BCHW)
    accuracy = (view.logits_BK.argmax(1) == torch.tensor(table["label"].to_pylist())).float().mean().item()
    assert abs(accuracy - float(teacher.metadata["test_accuracy"])) < 0.045  # three standard errors of 500 images


def test_view_is_float32_and_head_is_never_quantised(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors", classes=tuple("abcde"))
    images_BCHW = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    full, half = load_classifier(path), load_classifier(path, dtype="bfloat16")
    view = half(images_BCHW)
    assert view.logits_BK.dtype == view.features_BD.dtype == torch.float32
    assert not torch.equal(view.features_BD, full(images_BCHW).features_BD)  # the backbone did run in bfloat16
    assert torch.equal(
        view.logits_BK, torch.nn.functional.linear(view.features_BD, half.net.fc.weight, half.net.fc.bias)
    )
    assert not torch.equal(view.logits_BK, view.logits_BK.bfloat16().float())
    assert not torch.equal(view.features_BD, view.features_BD.bfloat16().float())  # and pooled in float32
    torch.testing.assert_close(view.logits_BK, full(images_BCHW).logits_BK, atol=0.05, rtol=0.05)


def test_float32_holds_inside_a_trainers_autocast(tmp_path: Path) -> None:
    teacher = load_classifier(make(tmp_path / "t.safetensors"))
    images_BCHW = torch.rand(2, 3, 16, 16)
    alone = teacher(images_BCHW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = teacher(images_BCHW)
    assert torch.equal(alone.logits_BK, inside.logits_BK)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_wait_for_the_device(tmp_path: Path, dtype: Precision) -> None:
    path = make(tmp_path / "t.safetensors")
    teacher = load_classifier(path, dtype=dtype, device="cuda")
    images_BCHW = torch.rand(2, 3, 32, 32, device="cuda")
    teacher(images_BCHW)  # the first call builds libraries' handles
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert teacher(images_BCHW).logits_BK.is_cuda
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_loading_leaves_the_random_state(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors")
    before = torch.get_rng_state()
    load_classifier(path)
    assert torch.equal(before, torch.get_rng_state())


def test_overwriting_the_file_does_not_change_a_loaded_teacher(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors")
    teacher = load_classifier(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert weights_sha256(teacher.net.state_dict()) == teacher.sha256


# identity


def test_same_input_same_bytes(tmp_path: Path) -> None:
    extra = {f"note{i}": str(i) for i in range(8)}  # the library writes metadata in an order that changes
    first = make(tmp_path / "1.safetensors", extra=extra).read_bytes()
    assert all(make(tmp_path / f"{i}.safetensors", extra=extra).read_bytes() == first for i in range(2, 6))
    header = first[8 : 8 + int.from_bytes(first[:8], "little")]
    names = list(json.loads(header)["__metadata__"])
    assert names == sorted(names)
    assert len(header) % 8 == 0
    assert not list(tmp_path.glob("*.part"))


def test_hash_is_of_the_weights_alone(tmp_path: Path) -> None:
    first = load_classifier(make(tmp_path / "1.safetensors", extra={"dataset": "x"}))
    second = load_classifier(make(tmp_path / "2.safetensors", extra={"dataset": "y"}))
    other = load_classifier(make(tmp_path / "3.safetensors", extra={"dataset": "x"}, seed=1))
    assert first.sha256 == second.sha256 != other.sha256


def test_hash_by_hand_and_what_changes_it() -> None:
    """Pinned: stored hashes must go on meaning the same weights."""
    golden = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3], dtype=torch.int16)}
    by_hand = b'["a", "int16", [1]]\n\x03\x00["b", "float32", [1, 2]]\n\x00\x00\x80\x3f\x00\x00\x00\x40'
    assert weights_sha256(golden) == hashlib.sha256(by_hand).hexdigest()
    counted = golden | {"bn.num_batches_tracked": torch.tensor(7)}
    assert weights_sha256(counted) == weights_sha256(golden)
    others = [
        golden | {"b": torch.tensor([[1.0], [2.0]])},
        golden | {"b": torch.tensor([[1.0, 2.5]])},
        golden | {"b": torch.tensor([[1.0, 2.0]], dtype=torch.float16)},
        {"c": golden["b"], "a": golden["a"]},
    ]
    assert len({weights_sha256(other) for other in [golden, *others]}) == 5


def test_class_names_survive_commas_and_quotes(tmp_path: Path) -> None:
    classes = ("tench, Tinca tinca", 'the "big" one', "plain", "größe")
    path = make(tmp_path / "t.safetensors", classes=classes, extra={"dataset": "x"})
    teacher = load_classifier(path)
    assert teacher.classes == classes
    assert teacher.metadata["dataset"] == "x"
    plain = load_classifier(make(tmp_path / "p.safetensors"))
    assert (plain.metadata["classes"], plain.metadata["mean"]) == ("a,b", "0.5,0.4,0.3")


# what a file must be


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"no weights file '.*gone.safetensors'; expected a safetensors file"):
        load_classifier(tmp_path / "gone.safetensors")


def test_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "t.pth")
    with pytest.raises(BadWeights, match=r"t.pth' is a pickle; weights must be safetensors(.|\n)*save_classifier"):
        load_classifier(tmp_path / "t.pth")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_cut_file(tmp_path: Path, keep: int) -> None:
    path = make(tmp_path / "t.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadWeights, match=r"t.safetensors' is not a whole safetensors file"):
        load_classifier(path)


def test_architecture_unsaid(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("arch",))
    with pytest.raises(BadWeights, match=r"does not say its architecture .* name one of wrn16_1, "):
        load_classifier(path)
    assert load_classifier(path, arch="wrn16_1").arch == "wrn16_1"


def test_architecture_unknown(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), put={"arch": "vgg99"})
    with pytest.raises(UnknownModel, match=r"unknown model 'vgg99'; known: wrn16_1"):
        load_classifier(path)


def test_architecture_contradicted(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors")
    with pytest.raises(WrongArchitecture, match=r"holds a wrn16_1 by its metadata, not the wrn40_2 asked for"):
        load_classifier(path, arch="wrn40_2")


def test_other_architecture_is_told_in_two_lines(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors", arch="wrn16_2"), put={"arch": "wrn40_1"})
    with pytest.raises(WrongArchitecture) as caught:
        load_classifier(path)
    first, second = str(caught.value).splitlines()
    assert "is not a wrn40_1 with 2 classes: " in first
    assert "of another shape, 120 absent, 1 unknown" in first  # 12 more blocks of 10 tensors; block1's shortcut
    assert second.startswith("such as: ")
    assert second.count(";") == 2
    assert "is (32, 16, 3, 3), not (16, 16, 3, 3)" in second


def test_head_of_other_width(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), put={"num_classes": "3", "classes": "a,b,c"})
    with pytest.raises(
        WrongArchitecture, match=r"2 tensors of another shape(.|\n)*fc.weight is \(2, 64\), not \(3, 64\)"
    ):
        load_classifier(path)


def test_normaliser_unsaid(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("mean", "std"))
    with pytest.raises(
        BadWeights, match=r"lacks mean and std in its metadata: the normaliser travels with the weights"
    ):
        load_classifier(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"mean": "0.5"}, r"mean and std need 3 numbers each; got \(0.5,\)"),
        ({"std": "0.1,0,0.1"}, r"std above 0; got .*\(0.1, 0.0, 0.1\)"),
        ({"mean": "nan,0,0"}, r"must be finite"),
        ({"mean": "red,0,0"}, r"cannot be used: could not convert string to float: 'red'"),
        ({"num_classes": "5"}, r"names 2 classes but says num_classes 5"),
        ({"input_size": "0"}, r"an input size >= 1; got 2 and 0"),
    ],
)
def test_metadata_that_cannot_be(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    with pytest.raises(BadWeights, match=words):
        load_classifier(rewrite(make(tmp_path / "t.safetensors"), put=metadata))


def test_what_the_metadata_may_leave_out(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("classes", "num_classes", "input_size"))
    teacher = load_classifier(path)
    assert (teacher.classes, teacher.input_size) == (("0", "1"), 32)


def test_saving_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongArchitecture, match=r"the network to save is not a wrn40_2 with 2 classes"):
        save_classifier(
            tmp_path / "t.safetensors",
            build("wrn16_1", 2),
            arch="wrn40_2",
            mean=MEAN,
            std=STD,
            classes=("a", "b"),
            input_size=32,
        )
    assert not (tmp_path / "t.safetensors").exists()


def test_errors_are_the_rooms() -> None:
    assert issubclass(WrongArchitecture, BadWeights)
    assert all(issubclass(error, DistillError) for error in (BadWeights, UnknownModel, UnknownTeacher))
    assert BadWeights.exit_code == 2
