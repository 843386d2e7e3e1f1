"""Teachers: what a weights file must say, and what a classifier promises."""

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from distill.errors import BadWeights, DistillError, UnknownModel, UnknownTeacher, UnsupportedSize, WrongArchitecture
from distill.models import build
from distill.models.teachers import load_classifier, save_classifier, stored_name
from distill.models.view import Precision, normalise
from distill.models.weights import weights_sha256

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
    head = half.net.get_submodule("fc")
    assert isinstance(head, torch.nn.Linear)
    assert torch.equal(view.logits_BK, torch.nn.functional.linear(view.features_BD, head.weight, head.bias))
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
    extra = {f"note{i}": str(i) for i in range(8)}
    first = make(tmp_path / "1.safetensors", extra=extra).read_bytes()
    assert make(tmp_path / "2.safetensors", extra=extra).read_bytes() == first
    assert not list(tmp_path.glob("*.part"))


def test_hash_is_of_the_weights_alone(tmp_path: Path) -> None:
    first = load_classifier(make(tmp_path / "1.safetensors", extra={"dataset": "x"}))
    second = load_classifier(make(tmp_path / "2.safetensors", extra={"dataset": "y"}))
    other = load_classifier(make(tmp_path / "3.safetensors", extra={"dataset": "x"}, seed=1))
    assert first.sha256 == second.sha256 != other.sha256


def test_class_names_survive_commas_and_quotes(tmp_path: Path) -> None:
    classes = ("tench, Tinca tinca", 'the "big" one', "plain", "größe")
    path = make(tmp_path / "t.safetensors", classes=classes, extra={"dataset": "x"})
    teacher = load_classifier(path)
    assert teacher.classes == classes
    assert teacher.metadata["dataset"] == "x"
    plain = load_classifier(make(tmp_path / "p.safetensors"))
    assert (plain.metadata["classes"], plain.metadata["mean"]) == ("a,b", "0.5,0.4,0.3")


# what a file must be


def test_architecture_unsaid(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("arch",))
    with pytest.raises(BadWeights, match=r"does not say its architecture .* name one of wrn16_1, ") as caught:
        load_classifier(path)
    assert str(caught.value).endswith(f"\nSay it once: distill teachers add {path} --arch NAME")
    assert load_classifier(path, arch="wrn16_1").arch == "wrn16_1"


def test_architecture_unknown(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), put={"arch": "vgg99"})
    with pytest.raises(UnknownModel, match=r"unknown model 'vgg99'; known: wrn16_1"):
        load_classifier(path)


def test_architecture_contradicted(tmp_path: Path) -> None:
    path = make(tmp_path / "t.safetensors")
    with pytest.raises(WrongArchitecture, match=r"holds a wrn16_1 by its metadata, not the wrn40_2 asked for"):
        load_classifier(path, arch="wrn40_2")


def test_architecture_that_is_code_is_built_only_for_who_names_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()\nfrom distill.models.wrn import WideResNet\n"
    code += "def make(num_classes):\n    return WideResNet(16, 1, num_classes=num_classes)\n"
    (tmp_path / "net.py").write_text(code)
    arch = f"{tmp_path / 'net.py'}:make"
    path = rewrite(make(tmp_path / "t.safetensors"), put={"arch": arch})
    with pytest.raises(
        BadWeights, match=r"is made by code, .*net.py:make; a weights file may not have code run"
    ) as caught:
        load_classifier(path)
    assert not marker.exists()
    assert len(str(caught.value).splitlines()) == 2
    teacher = load_classifier(path, arch=arch)
    assert marker.exists()
    assert (teacher.arch, teacher.feature_dim) == (arch, 64)


def test_other_architecture_is_told_in_two_lines(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors", arch="wrn16_2"), put={"arch": "wrn40_1"})
    with pytest.raises(
        WrongArchitecture, match=r"t.safetensors is not a wrn40_1 with 2 classes: \d+ tensors"
    ) as caught:
        load_classifier(path)
    assert len(str(caught.value).splitlines()) == 2


def test_head_of_other_width(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), put={"num_classes": "3", "classes": "a,b,c"})
    with pytest.raises(
        WrongArchitecture, match=r"2 tensors of another shape(.|\n)*fc.weight is \(2, 64\), not \(3, 64\)"
    ):
        load_classifier(path)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    net = build("wrn16_1", 2)
    net.get_parameter("fc.weight").data[0, 0] = torch.nan
    save_classifier(tmp_path / "t", net, arch="wrn16_1", mean=MEAN, std=STD, classes=("a", "b"), input_size=32)
    with pytest.raises(BadWeights, match=r"holds numbers that are not finite, in fc\.weight and 0 other tensors"):
        load_classifier(tmp_path / "t")


@pytest.mark.parametrize(
    ("arch", "numbers"), [("wrn16_1", "--mean R,G,B --std R,G,B"), ("lenet5", "--mean GREY --std GREY")]
)
def test_normaliser_unsaid_names_the_command_that_says_it(tmp_path: Path, arch: str, numbers: str) -> None:
    path = tmp_path / "my file.pth"
    torch.save(build(arch, 2).state_dict(), path)
    with pytest.raises(
        BadWeights, match=r"cannot be used: no mean and no std: the normaliser travels with the weights"
    ) as caught:
        load_classifier(path, arch=arch)
    told = str(caught.value).splitlines()
    assert told[1:] == [
        f"Say what is right once: distill teachers add {shlex.quote(str(path))} --arch {arch} {numbers}"
    ]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"std": "0.1,0,0.1"}, r"what is told of '.*t.safetensors' cannot be used: .* std above 0"),
        (
            {"num_classes": "5"},
            r"2 classes are named but the network has 5$",
        ),
        ({"flip": "no"}, r"flip is 'no'; expected true or false"),
        ({"mean": "0.5", "std": "0.2"}, r"a wrn16_1 wants mean and std of 3 channels; got \(0.5,\)"),
    ],
)
def test_metadata_that_cannot_be(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    with pytest.raises(BadWeights, match=words):
        load_classifier(rewrite(make(tmp_path / "t.safetensors"), put=metadata))


def test_a_size_that_the_network_cannot_take(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), put={"input_size": "4"})
    with pytest.raises(UnsupportedSize, match=r"wrn16_1 cannot work at 4 px; it takes images of at least 8 px"):
        load_classifier(path)


def test_flip_is_what_the_file_says(tmp_path: Path) -> None:
    said = [make(tmp_path / f"{flip}.safetensors", extra={"flip": flip}) for flip in ("true", "false")]
    assert [load_classifier(path).flip for path in (*said, make(tmp_path / "unsaid.safetensors"))] == [
        True,
        False,
        True,
    ]


def test_what_the_metadata_may_leave_out(tmp_path: Path) -> None:
    path = rewrite(make(tmp_path / "t.safetensors"), drop=("classes", "num_classes", "input_size"))
    teacher = load_classifier(path)
    assert (teacher.classes, teacher.input_size) == (("0", "1"), 32)


PUBLISHED = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is downloaded of a network whose files all have the same normaliser."""
    path = tmp_path_factory.mktemp("published") / "shufflenetv2_x0.5-f707e7126e.pth"
    torch.save(build(PUBLISHED, 1000).state_dict(), path)
    return path


def test_a_published_file_needs_no_normaliser(published: Path) -> None:
    teacher = load_classifier(published, arch=PUBLISHED)
    assert (teacher.mean, teacher.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (teacher.num_classes, teacher.classes[0], teacher.input_size) == (1000, "tench", 224)
    assert teacher.name == f"torchvision-shufflenet_v2_x0_5-{teacher.sha256[:12]}"
    assert teacher.card.arch == teacher.arch == PUBLISHED


@pytest.mark.parametrize(
    ("arch", "plain"),
    [
        ("wrn40_2", "wrn40_2"),
        ("torchvision:resnet18", "torchvision-resnet18"),
        ("timm:hf_hub/x.y", "timm-hf_hub-x.y"),
        ("../nets/my net.py:make", "nets-my-net.py-make"),
    ],
)
def test_a_stored_name_fits_a_file(arch: str, plain: str) -> None:
    assert stored_name(arch, "0123456789abcdef") == f"{plain}-0123456789ab"


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
