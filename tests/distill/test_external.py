"""Networks from outside the zoo: torchvision's, timm's and a user's own, and what is refused of them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from distill.errors import BadWeights, UnknownModel, UnsupportedSize, WrongArchitecture
from distill.models import MODELS, build, spec
from distill.models.external import find, is_code
from distill.models.store import register
from distill.models.teachers import classifier_of, load_classifier, save_classifier
from distill.models.view import luma, normalise

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of inputs in [0, 1], as torchvision gives them
STATED = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
SMALL = "torchvision:shufflenet_v2_x0_5"  # the least of torchvision's that has a linear head
SOURCE = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Conv2d({channels}, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes){more},
    )
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a Python file and gives the name of the architecture that its factory makes."""

    def file(source: str = SOURCE.format(channels=3, more=""), *, factory: str = "make") -> str:
        (tmp_path / "mine.py").write_text(source)
        return f"{tmp_path / 'mine.py'}:{factory}"

    return file


# torchvision


def test_torchvisions_resnet18() -> None:
    row = spec("torchvision:resnet18")
    assert (row.params, row.macs) == (11_689_512, 1_814_073_344)  # torchvision prints 11.69 M and 1.81 G
    assert (row.name, row.family, row.head, row.feature_dim) == ("torchvision:resnet18", "torchvision", "fc", 512)
    assert (row.input_size, row.largest, row.channels, row.classes) == (224, None, 3, 1000)
    assert row.source.startswith("https://github.com/pytorch/vision/")
    assert row is spec("torchvision:resnet18")  # looked at once
    net = build("torchvision:resnet18", 7).eval()
    assert net(torch.zeros(2, 3, row.smallest, row.smallest)).shape == (2, 7)


def test_published_weights_need_not_say_their_normaliser_and_classes() -> None:
    state = torchvision_models.shufflenet_v2_x0_5(weights=None).state_dict()
    teacher = classifier_of(state, {}, arch=SMALL, source="x.pth")
    assert teacher.classes == tuple(torchvision_models.ShuffleNet_V2_X0_5_Weights.DEFAULT.meta["categories"])
    assert (teacher.num_classes, teacher.classes[0], teacher.classes[134]) == (1000, "tench", "crane bird")
    assert ((teacher.mean, teacher.std), teacher.input_size, teacher.channels) == (IMAGENET, 224, 3)
    assert teacher(torch.zeros(1, 3, 64, 64)).features_BD.shape == (1, teacher.feature_dim) == (1, 1024)


def test_what_is_published_is_not_of_heads_of_another_width() -> None:
    """Somebody trained that head, on other images, with a normaliser that only they know."""
    state = torchvision_models.shufflenet_v2_x0_5(weights=None, num_classes=7).state_dict()
    with pytest.raises(BadWeights, match=f"no mean and no std: .*\nSay what is right once: .* --arch {SMALL} --mean"):
        classifier_of(state, {}, arch=SMALL, source="x.pth")


def test_what_a_file_says_goes_before_what_is_published() -> None:
    state = torchvision_models.shufflenet_v2_x0_5(weights=None, num_classes=2).state_dict()
    own = {"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "classes": "cat,dog", "input_size": "64"}
    teacher = classifier_of(state, own, arch=SMALL, source="x.pth")
    assert (teacher.classes, teacher.mean, teacher.input_size) == (("cat", "dog"), (0.5, 0.5, 0.5), 64)


@pytest.mark.parametrize(
    ("model", "prefixes"), [("googlenet", {"aux1", "aux2"}), ("inception_v3", {"AuxLogits"})], ids=["google", "v3"]
)
def test_auxiliary_heads_in_a_file_are_dropped(model: str, prefixes: set[str]) -> None:
    net = torchvision_models.get_model(
        model, weights=None, num_classes=7, aux_logits=True, transform_input=True, init_weights=False
    ).eval()
    for parameter in net.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")  # or the image is lost on the way to the logits
    state = net.state_dict()
    assert {name.split(".")[0] for name in state if name.lower().startswith("aux")} == prefixes
    teacher = classifier_of(state, STATED, arch=f"torchvision:{model}", source="x.pth")
    assert prefixes.isdisjoint(name.split(".")[0] for name in teacher.net.state_dict())
    images_BCHW = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():  # with the inputs' other scale, too, that its published weights were trained on
        torch.testing.assert_close(teacher(images_BCHW).logits_BK, net(normalise(images_BCHW, *IMAGENET)))


def test_network_without_a_linear_head_is_refused() -> None:
    words = r"cannot be used: it returns a tensor that is not the output \(B, K\) of a linear layer"
    with pytest.raises(UnknownModel, match=f"torchvision:squeezenet1_1 {words}"):
        spec("torchvision:squeezenet1_1")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "torchvision:resnet17",
            r"torchvision has no classifier 'resnet17'; `torchvision.models.list_models\(\)` lists",
        ),
        ("torchvision:fcn_resnet50", r"torchvision has no classifier 'fcn_resnet50'"),  # segments
        ("torchvision:", r"torchvision has no classifier ''"),
        (
            "keras:resnet",
            r"unknown model 'keras:resnet'; with a colon it is one of torchvision:NAME, timm:NAME, path/to",
        ),
        ("mine.py", r"unknown model 'mine.py'; known: wrn16_1, .* path/to/file.py:factory"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(UnknownModel, match=words):
        spec(name)


# timm


def test_timms_resnet18() -> None:
    timm = pytest.importorskip("timm")
    row = spec("timm:resnet18")
    assert (row.params, row.macs) == (11_689_512, 1_814_073_344)
    assert (row.family, row.head, row.feature_dim, row.input_size) == ("timm", "fc", 512, 224)
    assert row.source == f"timm {timm.__version__}"
    net = timm.create_model("resnet18", num_classes=1000).eval()
    teacher = classifier_of(net.state_dict(), {}, arch="timm:resnet18", source="x.pth")
    assert (teacher.num_classes, teacher.mean, teacher.std) == (1000, *IMAGENET)
    images_BCHW = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(teacher(images_BCHW).logits_BK, net(normalise(images_BCHW, *IMAGENET)))


def test_timm_has_published_weights_with_several_normalisers() -> None:
    """Then only the name with its tag says which."""
    pytest.importorskip("timm")
    assert set(spec("timm:vit_tiny_patch16_224").published) == {"mean", "std"}
    assert spec("timm:vit_base_patch16_224").published == {}
    assert spec("timm:vit_base_patch16_224.augreg_in21k").published["mean"] == "0.5,0.5,0.5"


def test_timm_has_no_such_model() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UnknownModel, match=r"timm has no model 'resnet17'; `timm.list_models\(\)` lists them"):
        spec("timm:resnet17")


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UnknownModel, match=r"timm:resnet18 needs timm, which is not installed: pip install 'transferset"
    ):
        find("timm:resnet18")


# a user's own


def test_own_network(write: Write) -> None:
    row = spec(write())
    assert (row.params, row.macs) == (3 * 9 * 4 + 4 + 2 * 4 + 5 * 100, 4 * 30 * 30 * 27 + 4 * 100)
    assert (row.family, row.head, row.feature_dim, row.channels, row.input_size) == ("file", "5", 4, 3, 32)
    assert (row.smallest, row.largest) == (8, None)
    assert row.build(9)(torch.zeros(2, 3, 8, 8)).shape == (2, 9)


def test_own_grey_network_is_found_to_be_one_and_goes_round(write: Write, tmp_path: Path) -> None:
    arch, path = write(SOURCE.format(channels=1, more="")), tmp_path / "net.safetensors"
    assert spec(arch).channels == 1
    net = build(arch, 3).eval()
    card = {"mean": (0.4,), "std": (0.2,), "classes": ("a", "b", "c"), "input_size": 28}
    save_classifier(path, net, arch=arch, **card)  # type: ignore[arg-type]
    teacher = load_classifier(path, arch=arch)
    assert (teacher.arch, teacher.channels, teacher.mean, teacher.input_size) == (arch, 1, (0.4,), 28)
    assert (teacher.name.count("/"), teacher.name[-13:]) == (0, f"-{teacher.sha256[:12]}")
    images_BCHW = torch.rand(2, 3, 8, 8)
    assert torch.equal(teacher(images_BCHW).logits_BK, net((luma(images_BCHW) - 0.4) / 0.2))
    save_classifier(tmp_path / "again.safetensors", teacher.net, arch=arch, **card)  # type: ignore[arg-type]
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [28, 64, 224])
def test_own_network_of_a_fixed_size(write: Write, size: int) -> None:
    flat = f"from torch import nn\ndef make(n): return nn.Sequential(nn.Flatten(), nn.Linear({size * size}, n))\n"
    row = spec(write(flat))
    assert (row.input_size, row.channels, row.macs) == (size, 1, size * size * 100)
    assert (row.smallest, row.largest) == (size, size)
    with pytest.raises(UnsupportedSize, match=f"cannot work at 32 px; it takes images of {size} to {size} px a side"):
        row.check_size(32)


def test_own_file_may_use_dataclasses_and_random_numbers(write: Write) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\n"
        "@dataclass\nclass Config:\n    seed: int = 3\ntorch.manual_seed(Config().seed)\n"
    )
    arch = write(source + SOURCE.format(channels=3, more=""))
    before = torch.get_rng_state()
    assert spec(arch).head == "5"
    assert torch.equal(before, torch.get_rng_state())


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no file '.*gone.py'; expected path/to/file.py:factory"):
        spec(f"{tmp_path / 'gone.py'}:make")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make(n) return 3", r"mine.py cannot be loaded: SyntaxError: expected ':' \(mine.py, line 1\)"),
        ("1 / 0", r"mine.py cannot be loaded: ZeroDivisionError: division by zero"),
        ("import no_such_thing", r"mine.py cannot be loaded: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("raise SystemExit(3)", r"mine.py cannot be loaded: SystemExit: 3"),
        ("other = 3", r"mine.py has no function 'make'; expected one that takes num_classes, gives a network"),
        ("make = 3", r"mine.py has no function 'make'; expected"),
        ("def make(): pass", r"mine.py:make cannot be built: TypeError: make\(\) takes 0 positional arguments"),
        ("def make(n): raise KeyError('a\\nb')", r"mine.py:make cannot be built: KeyError: 'a\\nb'$"),
        ("def make(n): return 3", r"mine.py:make gives a int; expected a torch.nn.Module"),
        (
            SOURCE.format(channels=3, more=", nn.Softmax(1)"),
            r"not the output \(B, K\) of a linear layer: expected plain logits$",
        ),
        (
            SOURCE.format(channels=1, more=", nn.Softmax(1)"),
            r"not the output \(B, K\) of a linear layer: expected plain logits$",
        ),
        (
            SOURCE.format(channels=6, more=""),
            r"mine.py:make cannot be used: at 32, 28, 64, 224 px it fails .RuntimeError: .* to have 6 channels[^\n]*$",
        ),
        (SOURCE.replace("4, num_classes", "4, 7").format(channels=3, more=""), r"gives 7 logits where .* 100 classes"),
        (
            "from torch import nn\ndef make(n): return nn.Sequential()",
            r"cannot be used: it returns a tensor that is not the",
        ),
    ],
    ids=lambda value: None,
)
def test_own_file_that_cannot_be_used(write: Write, source: str, words: str) -> None:
    arch = write(source)
    with pytest.raises(UnknownModel, match=words):
        spec(arch)
    half_loaded = arch.removesuffix(":make") in "".join(sys.modules)
    assert not (half_loaded and "cannot be loaded" in words)


# code that a weights file names


@pytest.fixture
def trap(write: Write, tmp_path: Path) -> tuple[str, Path, Path]:
    """An architecture, a weights file that names it, and a file that is there once the code has been run."""
    ran = tmp_path / "ran"
    arch = write(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n{SOURCE.format(channels=3, more='')}")
    said = {"arch": arch, "mean": "0,0,0", "std": "1,1,1"}
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Identity()] * 5, nn.Linear(4, 2))
    state: dict[str, Tensor] = {**net.state_dict(), "0.weight": torch.randn(4, 3, 3, 3), "0.bias": torch.zeros(4)}
    state |= {f"1.{part}": torch.ones(4) for part in ("weight", "bias", "running_mean", "running_var")}
    safetensors.torch.save_file(state, tmp_path / "t.safetensors", metadata=said)
    return arch, tmp_path / "t.safetensors", ran


def test_code_that_a_weights_file_names_is_not_run(trap: tuple[str, Path, Path]) -> None:
    arch, path, ran = trap
    words = r"t.safetensors' is made by code, .*mine.py:make; a weights file may not have code run.\nIf that file is"
    for use in (load_classifier, register):
        with pytest.raises(BadWeights, match=words):
            use(path)
    with pytest.raises(WrongArchitecture, match=r"holds a .*mine.py:make by its metadata, not the wrn16_1 asked for"):
        load_classifier(path, arch="wrn16_1")
    assert not ran.exists()
    assert load_classifier(path, arch=arch).classes == ("0", "1")  # asked for by name, it is
    assert ran.exists()


@pytest.mark.parametrize("arch", ["a.py:f", "/x/a.py:f", "torchvision:../a.py:f", "C:\\a.py:f", "timm:a.py:f"])
def test_what_is_code(arch: str) -> None:
    assert is_code(arch)
    state = {"fc.weight": torch.zeros(2, 2)}
    with pytest.raises(BadWeights, match="may not have code run"):
        classifier_of(state, {"arch": arch, "mean": "0,0,0", "std": "1,1,1"}, arch=None, source="x")


def test_what_is_not_code() -> None:
    assert not any(map(is_code, [*MODELS, "torchvision:resnet18", "timm:resnet18", "a.py", ":f", ""]))
