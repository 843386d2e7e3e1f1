"""What every architecture in MODELS must do, alone and as a frozen teacher."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distill.models import MODELS, build
from distill.models.teachers import Classifier, Precision, load_classifier, save_classifier, weights_sha256

pytestmark = pytest.mark.parametrize("name", MODELS)

CLASSES = tuple(f"class {i}" for i in range(6))


def trained(name: str, path: Path) -> nn.Module:
    """A network whose BN statistics are not the fresh ones, saved at path."""
    torch.manual_seed(0)
    net = build(name, len(CLASSES))
    net(torch.randn(4, 3, 16, 16))
    save_classifier(path, net, arch=name, mean=(0.5,) * 3, std=(0.25,) * 3, classes=CLASSES, input_size=16)
    return net


def snapshot(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in classifier.net.state_dict().items()}


def test_spec_is_of_its_name(name: str) -> None:
    spec = MODELS[name]
    assert spec.name == name
    assert spec.source


@pytest.mark.parametrize("size", [32, 16])
def test_forward_and_backward(name: str, size: int) -> None:
    torch.manual_seed(0)
    net = build(name, 6)
    images_BCHW = torch.randn(2, 3, size, size)
    features_BD = net.features(images_BCHW)
    assert features_BD.shape == (2, MODELS[name].feature_dim)
    assert net.fc.in_features == MODELS[name].feature_dim
    logits_BK = net(images_BCHW)
    assert logits_BK.shape == (2, 6)
    loss = nn.functional.cross_entropy(logits_BK, torch.tensor([0, 1]))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_one_image_is_scored_as_in_a_batch(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, 6).eval()
    images_BCHW = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(net(images_BCHW[:1]), net(images_BCHW)[:1])


def test_state_goes_round_bit_for_bit(name: str, tmp_path: Path) -> None:
    net = trained(name, tmp_path / "net.safetensors").eval()
    loaded = load_classifier(tmp_path / "net.safetensors")
    want, have = net.state_dict(), loaded.net.state_dict()
    assert want.keys() == have.keys()
    for key in want:
        assert key.endswith("num_batches_tracked") or torch.equal(want[key], have[key])
    save_classifier(
        tmp_path / "again.safetensors",
        loaded.net,
        arch=loaded.arch,
        mean=loaded.mean,
        std=loaded.std,
        classes=loaded.classes,
        input_size=loaded.input_size,
    )
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    assert loaded.sha256 == weights_sha256(want)
    images_BCHW = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images_BCHW).logits_BK, net((images_BCHW - 0.5) / 0.25))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_teacher_is_unchanged_by_use(name: str, dtype: Precision, tmp_path: Path) -> None:
    trained(name, tmp_path / "net.safetensors")
    teacher = load_classifier(tmp_path / "net.safetensors", dtype=dtype)
    before = snapshot(teacher)
    byte_images_BCHW = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    expected_BK = teacher(byte_images_BCHW).logits_BK

    teacher.train()
    teacher.net.train()
    teacher.net.bn1.train()
    images_BCHW = (byte_images_BCHW.float() / 255).requires_grad_()
    view = teacher(images_BCHW)
    torch.autograd.backward(view.logits_BK.square().sum() + view.features_BD.sum())

    assert torch.equal(view.logits_BK, expected_BK)
    assert view.logits_BK.dtype == view.features_BD.dtype == torch.float32
    assert images_BCHW.grad is not None
    assert images_BCHW.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    after = snapshot(teacher)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert weights_sha256(after) == teacher.sha256
