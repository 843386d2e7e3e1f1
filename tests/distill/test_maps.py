"""Where a network's maps are: the ends of its stages, and the map behind its features."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models import MODELS, spec
from distill.models.maps import feature_map, map_shapes, stages
from distill.models.view import Probe

STAGES = {
    "wrn16_1": ["block1", "block2", "bn1"],
    "resnet8x4": ["layer1", "layer2", "layer3"],
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "vgg8_bn": ["block0", "block1", "block2", "block4"],
    "mobilenetv2_half": ["blocks.1", "blocks.2", "blocks.4", "conv2"],
    "shufflenetv2": ["bn1", "layer1", "layer2", "bn2"],
    "alexnet": ["conv1", "conv2", "conv5", "batch_norm5"],
    "lenet5": ["conv1", "conv2"],
}
MAPS = {
    "wrn16_1": ("bn1", True),
    "resnet8x4": ("layer3", False),
    "resnet18": ("layer4", False),
    "vgg8_bn": ("block4", True),
    "mobilenetv2_half": ("conv2", False),
    "shufflenetv2": ("bn2", True),
    "alexnet": (None, False),
    "lenet5": (None, False),
}


def shapes_of(name: str) -> tuple[nn.Module, dict[str, tuple[int, int, int]]]:
    model = spec(name)
    net = model.skeleton(4)
    return net, map_shapes(net, size=model.input_size, channels=model.channels)


@pytest.mark.parametrize("name", STAGES)
def test_stages_end_where_the_resolution_changes(name: str) -> None:
    net, shapes = shapes_of(name)
    found = stages(net, shapes)
    assert found == STAGES[name]
    sides = [shapes[stage][1] for stage in found]
    assert sides == sorted(set(sides), reverse=True)


@pytest.mark.parametrize("name", MAPS)
def test_the_map_behind_the_features(name: str) -> None:
    model = spec(name)
    found = feature_map(model.skeleton(4), head=model.head, size=model.input_size, channels=model.channels)
    assert (found.name, found.relu, found.channels) == (*MAPS[name], model.feature_dim)


@pytest.mark.parametrize("name", sorted({model.family: name for name, model in MODELS.items()}.values()))
def test_its_mean_is_the_features_at_any_size(name: str) -> None:
    model = spec(name)
    net = model.skeleton(4).eval()
    found = feature_map(net, head=model.head, size=model.input_size, channels=model.channels)
    probe = Probe(net, head=model.head)
    size = model.largest or model.input_size + 16
    with probe.watch(maps=found.watched), torch.no_grad():
        mean_C, std_C = torch.full((model.channels,), 0.5), torch.full((model.channels,), 0.25)
        view = probe(torch.rand(3, model.channels, size, size), mean_C=mean_C, std_C=std_C, dtype="float32")
    torch.testing.assert_close(found(view).mean(dim=(2, 3)), view.features_BD, rtol=1e-4, atol=1e-7)


class Odd(nn.Module):
    """In-place ReLU on a map, a module used twice, and everything inside one child."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.AvgPool2d(2)])
        self.fc = nn.Linear(6, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        first, second, pool = self.body
        maps_BCHW = F.relu(second(second(pool(first(x_BCHW)))), inplace=True)
        logits_BK: Tensor = self.fc(maps_BCHW.mean(dim=(2, 3)))
        return logits_BK


def test_what_is_used_twice_or_changed_in_place() -> None:
    net = Odd()
    shapes = map_shapes(net, size=8, channels=3)
    assert shapes == {"body.0": (6, 8, 8), "body.2": (6, 4, 4)}
    assert stages(net, shapes) == ["body.0", "body.2"]
    assert feature_map(net, head="fc", size=8, channels=3).name is None
    net.body[1] = nn.Sequential(nn.Conv2d(6, 6, 1))
    net.body.append(nn.Identity())

    def once(x_BCHW: Tensor) -> Tensor:
        maps_BCHW = F.relu(net.body[1](net.body[2](net.body[0](x_BCHW))), inplace=True)
        logits_BK: Tensor = net.fc(maps_BCHW.mean(dim=(2, 3)))
        return logits_BK

    net.forward = once  # type: ignore[method-assign]
    found = feature_map(net, head="fc", size=8, channels=3)
    assert (found.name, found.relu) == ("body.1", True)  # as it left the module, not as the ReLU left it


def test_a_look_changes_nothing() -> None:
    net = spec("wrn16_1").skeleton(4)
    net.get_submodule("block1").eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    feature_map(net, head="fc", size=8, channels=3)
    map_shapes(net, size=8, channels=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert net.get_submodule("block2").training
    assert not net.get_submodule("block1").training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
