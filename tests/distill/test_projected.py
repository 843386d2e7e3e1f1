"""Networks of a backbone, a projector and another's last layer: named, built, stored and loaded like any other."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.errors import BadWeights, UnknownModel
from distill.models import spec
from distill.models.external import canonical, is_code
from distill.models.projected import Projected, name_of, parse
from distill.models.teachers import load_classifier, save_classifier
from distill.models.wrn import WideResNet

NAME = "projected:wrn16_1:32"


def test_what_it_computes() -> None:
    net = spec(NAME).skeleton(4).eval()
    whole = spec("wrn16_1").skeleton(4).eval()
    assert isinstance(net, Projected)
    whole.load_state_dict(net.backbone.state_dict(), strict=False)  # all but the head
    x_BCHW = torch.randn(3, 3, 8, 8)
    assert isinstance(whole, WideResNet)
    phi_BCHW = F.relu(whole.bn1(whole.block3(whole.block2(whole.block1(whole.conv1(x_BCHW))))))
    assert [tuple(layer.weight.shape) for layer in net.projector if isinstance(layer, nn.Conv2d)] == [
        (16, 64, 1, 1),
        (16, 16, 3, 3),
        (32, 16, 1, 1),
    ]
    torch.testing.assert_close(net(x_BCHW), net.classifier(net.projector(phi_BCHW).mean(dim=(2, 3))))


def test_the_backbones_head_is_gone() -> None:
    model = spec(NAME)
    names = model.skeleton(4).state_dict()
    assert not [name for name in names if name.startswith("backbone.fc")]
    projector = 64 * 16 + 16 * 16 * 9 + 16 * 32 + 2 * (16 + 16 + 32)
    head = 100 * 33
    assert model.params == spec("wrn16_1").params - 100 * 65 + projector + head
    assert (model.head, model.feature_dim, model.classes, model.channels) == ("classifier", 32, 100, 3)


def test_stored_and_loaded(tmp_path: Path) -> None:
    net = spec(NAME).skeleton(4)
    path = tmp_path / "student.safetensors"
    save_classifier(path, net, arch=NAME, mean=(0.5,) * 3, std=(0.2,) * 3, classes="abcd", input_size=8)
    loaded = load_classifier(path)
    assert (loaded.arch, loaded.feature_dim, loaded.name[:21]) == (NAME, 32, "projected-wrn16_1-32-")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(images).logits_BK, net.eval()((images - 0.5) / 0.2))


def test_copies_are_asked_on_their_own() -> None:
    net = spec(NAME).skeleton(4).eval()
    twin = copy.deepcopy(net)
    assert isinstance(twin, Projected)
    x_BCHW = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        twin.get_parameter("projector.0.weight").zero_()
        net(x_BCHW)
        assert not torch.equal(net(x_BCHW), twin(x_BCHW))


def test_a_backbone_without_a_map_gives_its_features() -> None:
    net = spec("projected:lenet5_half:20").skeleton(4)
    assert isinstance(net, Projected)
    assert net.projector[0].weight.shape == (10, 84, 1, 1)
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 4)


def test_names() -> None:
    assert parse("projected:timm:resnet18:64") == ("timm:resnet18", 64)
    assert [parse(name) for name in ("wrn16_1", "projected:wrn16_1", "projected:wrn16_1:x", "timm:resnet18:64")] == [
        None
    ] * 4
    assert name_of("wrn16_1", width=64) == "projected:wrn16_1:64"
    assert spec("projected:torchvision:resnet18:8").input_size == 224


@pytest.mark.parametrize("name", ["projected:nonsense:8", "projected:wrn16_1", "projected:wrn16_1:1"])
def test_unknown(name: str) -> None:
    with pytest.raises(UnknownModel):
        spec(name)


def test_a_file_that_names_code_within_is_refused(tmp_path: Path) -> None:
    """The backbone may be the user's own, but not because a weights file says so."""
    code = tmp_path / "own.py"
    code.write_text(
        "from distill.models import build\n\n\ndef own(num_classes):\n    return build('wrn16_1', num_classes)\n"
    )
    name = f"projected:{code}:own:16"
    assert is_code(name)
    assert canonical(name) == name
    path = tmp_path / "student.safetensors"
    net = spec(name).skeleton(4)
    save_classifier(path, net, arch=name, mean=(0.5,) * 3, std=(0.2,) * 3, classes="abcd", input_size=32)
    with pytest.raises(BadWeights, match="may not have code run"):
        load_classifier(path)
    assert load_classifier(path, arch=name).code
