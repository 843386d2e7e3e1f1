"""CIFAR's AlexNet and half: the zoo's names, the papers' counts, its normalisations, dropout, the sides it takes."""

import pytest
import torch
from torch import Tensor, nn

from distill.models.alexnet import AlexNet, local_response_norm

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
WHOLE = (48, 128, 192, 192, 128, 512, 256)
HALF = (24, 64, 96, 96, 64, 256, 128)


def meta(widths: tuple[int, int, int, int, int, int, int]) -> AlexNet:
    with torch.device("meta"):
        return AlexNet(widths, num_classes=10)


@pytest.mark.parametrize(("widths", "flat"), [(WHOLE, 1152), (HALF, 576)])
def test_names_and_shapes_are_those_of_the_zoo(widths: tuple[int, int, int, int, int, int, int], flat: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in meta(widths).state_dict().items()}
    names = {f"{layer}.{part}" for layer in ("fc1", "fc2", "fc3") for part in ("weight", "bias")}
    names |= {f"conv{i}.{part}" for i in range(1, 6) for part in ("weight", "bias")}
    names |= {f"batch_norm{i}.{part}" for i in range(1, 8) for part in NORM}
    assert set(shapes) == names
    for i, (channels, into, side) in enumerate(zip(widths, (3, *widths), (5, 5, 3, 3, 3), strict=False), start=1):
        assert shapes[f"conv{i}.weight"] == (channels, into, side, side)
    assert [shapes[f"fc{i}.weight"] for i in (1, 2, 3)] == [(widths[5], flat), (widths[6], widths[5]), (10, widths[6])]


def test_parameters_are_those_that_the_docstring_weighs_against_zskds() -> None:
    """ZSKD prints 1.65e6 and 7.23e5."""
    whole, half = dict(meta(WHOLE).named_parameters()), dict(meta(HALF).named_parameters())
    assert sum(parameter.numel() for parameter in whole.values()) == 1_659_178
    assert sum(parameter.numel() for name, parameter in whole.items() if "norm" not in name) == 1_656_266
    assert sum(parameter.numel() for parameter in whole.values() if parameter.ndim > 1) == 1_654_800
    assert sum(whole[f"fc{i}.weight"].numel() for i in (1, 2, 3)) == 723_456
    assert sum(parameter.numel() for parameter in half.values()) == 417_434
    assert sum(parameter.numel() for parameter in half.values() if parameter.ndim > 1) == 415_240


def test_local_response_norm_is_torchs_over_two_channels() -> None:
    x_BCHW = (50 * torch.randn(2, 6, 4, 4)).requires_grad_()
    ours_BCHW, torchs_BCHW = local_response_norm(x_BCHW), nn.LocalResponseNorm(2)(x_BCHW)
    torch.testing.assert_close(ours_BCHW, torchs_BCHW)
    assert not torch.allclose(ours_BCHW, x_BCHW, rtol=0.05)  # at this scale it does something
    weight_BCHW = torch.randn_like(x_BCHW)
    gradients = [torch.autograd.grad((out * weight_BCHW).sum(), x_BCHW)[0] for out in (ours_BCHW, torchs_BCHW)]
    torch.testing.assert_close(*gradients)


def test_batch_norm_follows_relu_and_pooling() -> None:
    net = AlexNet(HALF, num_classes=10).eval()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    inputs: list[Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    net(torch.randn(2, 3, 32, 32))
    assert [norm.eps for norm in norms] == [1e-3] * 7
    assert [tuple(x.shape[1:]) for x in inputs] == [
        (24, 15, 15),
        (64, 7, 7),
        (96, 7, 7),
        (96, 7, 7),
        (64, 3, 3),
        (256,),
        (128,),
    ]
    assert all(x.min() >= 0 and x.max() > 0 for x in inputs)


def test_dropout_is_of_the_hidden_layers_and_of_training_only() -> None:
    net = AlexNet(HALF, num_classes=10)
    zeros: list[float] = []
    net.batch_norm7.register_forward_pre_hook(lambda module, args: zeros.append((args[0] == 0).float().mean().item()))
    with torch.no_grad():
        net.fc2.bias.fill_(100.0)  # every hidden unit is positive before dropout
    net(torch.randn(64, 3, 32, 32))
    net.eval()(torch.randn(2, 3, 32, 32))
    assert zeros == [pytest.approx(0.5, abs=0.03), 0.0]


@pytest.mark.parametrize("size", [31, 32, 38])
def test_sides_that_leave_3x3(size: int) -> None:
    assert AlexNet(HALF, num_classes=7)(torch.randn(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("size", [30, 39, 64])
def test_other_sides_fail_at_the_first_linear_layer(size: int) -> None:
    with pytest.raises(RuntimeError, match="576x256"):
        AlexNet(HALF, num_classes=7).eval()(torch.zeros(1, 3, size, size))


def test_fresh_biases_are_the_zoos() -> None:
    net = AlexNet(HALF, num_classes=10)
    biases = {name: set(bias.tolist()) for name, bias in net.named_parameters() if name.endswith("bias")}
    ones = {"conv2.bias", "conv4.bias", "conv5.bias"}
    assert biases == {name: {1.0} if name in ones else {0.0} for name in biases}
