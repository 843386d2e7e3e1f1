"""What every architecture in MODELS must do, alone and as a frozen teacher.

At sizes near the smallest that it takes where the size does not matter: the large ones are slow.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill import models
from distill.errors import UnknownModel, UnsupportedSize
from distill.models import MODELS, ModelSpec, build, spec
from distill.models.counts import Counts, count
from distill.models.student import Student, fresh_student
from distill.models.teachers import Classifier, load_classifier, save_classifier
from distill.models.view import Precision, normalise
from distill.models.weights import weights_sha256

CLASSES = tuple(f"class {i}" for i in range(6))
FAMILIES = {row.family for row in MODELS.values()}
CHEAPEST = {min((row for row in MODELS.values() if row.family == f), key=lambda row: row.macs).name for f in FAMILIES}
EVERY = pytest.mark.parametrize("name", MODELS)
CHEAPEST_ELSE_SLOW = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CHEAPEST else pytest.mark.slow) for name in MODELS]
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network whose BN statistics are not the fresh ones, its file, and what was read from there."""

    row: ModelSpec
    net: nn.Module
    path: Path
    teacher: Classifier

    def images(self, number: int) -> Tensor:
        """RGB, uint8, of the smallest size."""
        size = self.row.smallest
        return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """One of each architecture, shared by the tests that leave it as it is."""
    row, folder = MODELS[request.param], tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    net, path = row.build(len(CLASSES)), folder / "net.safetensors"
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0  # takes over this batch's statistics: with half of them deep networks' maps explode
    with torch.no_grad():
        net(torch.randn(8, row.channels, row.smallest, row.smallest))
    save(net.eval(), row, path)
    yield Trained(row=row, net=net, path=path, teacher=load_classifier(path))
    shutil.rmtree(folder)  # hundreds of MB in all, and pytest keeps the folders of three runs


def normaliser(row: ModelSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, of as many channels as the network has."""
    return (0.5, 0.4, 0.3)[: row.channels], (0.25, 0.2, 0.3)[: row.channels]


def save(net: nn.Module, row: ModelSpec, path: Path) -> None:
    mean, std = normaliser(row)
    save_classifier(path, net, arch=row.name, mean=mean, std=std, classes=CLASSES, input_size=row.input_size)


# the table


@EVERY
def test_row_says_what_is_so(name: str) -> None:
    row = MODELS[name]
    assert row.name == name
    assert spec(name) is row
    assert (Path(models.__file__).parent / f"{row.family}.py").is_file()
    assert row.source
    assert row.smallest <= row.input_size <= (row.largest or row.input_size)
    row.check_size(row.input_size)
    with pytest.raises(UnsupportedSize, match=f"{name} cannot work at {row.smallest - 1} px; .* {row.smallest} "):
        row.check_size(row.smallest - 1)
    assert row.channels in (1, 3)
    with torch.device("meta"):
        head = row.build(9).get_submodule(row.head)
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (row.feature_dim, 9)


@EVERY
def test_counts_are_exact(name: str) -> None:
    row = MODELS[name]
    with torch.device("meta"):
        net = row.build(row.classes)
    assert count(net, size=row.input_size, channels=row.channels) == Counts(params=row.params, macs=row.macs)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownModel) as caught:
        build("vgg99", 10)
    assert str(caught.value).startswith("unknown model 'vgg99'; known: wrn16_1, ")
    assert all(name in str(caught.value) for name in [*MODELS, "any wrnDEPTH_WIDTH", "torchvision:NAME", "timm:NAME"])


# the network


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, row in MODELS.items() for size in sorted({row.smallest, row.input_size})]
)
def test_forward_and_backward(name: str, size: int) -> None:
    torch.manual_seed(0)
    row = MODELS[name]
    net = row.build(6)
    logits_BK = net(torch.randn(4, row.channels, size, size))
    assert logits_BK.shape == (4, 6)
    loss = nn.functional.cross_entropy(logits_BK, torch.tensor([0, 1, 2, 3]))
    named = dict(net.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    assert [key for key, gradient in gradients.items() if not gradient.isfinite().all()] == []
    assert [key for key, gradient in gradients.items() if not gradient.any()] == []


def test_one_image_is_scored_as_in_a_batch(trained: Trained) -> None:
    images_BCHW = trained.images(3)
    with torch.no_grad():
        alone, together = trained.teacher(images_BCHW[:1]), trained.teacher(images_BCHW)
    torch.testing.assert_close(alone.logits_BK, together.logits_BK[:1], rtol=1e-4, atol=1e-4)


@CHEAPEST_ELSE_SLOW
def test_compiles_as_one_graph(name: str) -> None:
    """Hooks and all, traced forward and backward: logits, and the gradient that reaches the images."""
    student, images_BCHW = fresh_in_evaluation(name)
    compiled = torch.compile(student, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(answer(compiled, images_BCHW), answer(student, images_BCHW))


@pytest.mark.parametrize("name", sorted(CHEAPEST))
def test_compiles(name: str) -> None:
    """Of each family one, the whole way to generated code, which takes 3 to 15 s."""
    student, images_BCHW = fresh_in_evaluation(name)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(student, fullgraph=True)(images_BCHW), student(images_BCHW))


def fresh_in_evaluation(name: str) -> tuple[Student, Tensor]:
    """A student and images for it; nothing is compiled yet."""
    row = MODELS[name]
    mean, std = normaliser(row)
    student = fresh_student(name, 6, mean=mean, std=std, seed=0, dtype="float32", device=torch.device("cpu")).eval()
    torch.manual_seed(0)
    torch._dynamo.reset()
    return student, torch.rand(2, 3, row.smallest, row.smallest)


def answer(net: Callable[[Tensor], Tensor], images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    leaf_BCHW = images_BCHW.clone().requires_grad_()
    logits_BK = net(leaf_BCHW)
    return logits_BK.detach(), torch.autograd.grad(logits_BK.square().sum(), leaf_BCHW)[0]


# the teacher


def test_features_are_what_its_head_reads(trained: Trained) -> None:
    head = trained.teacher.net.get_submodule(trained.row.head)
    with torch.no_grad():
        view = trained.teacher(trained.images(2))
    assert view.features_BD.shape == (2, trained.row.feature_dim) == (2, trained.teacher.feature_dim)
    assert torch.equal(head(view.features_BD), view.logits_BK)


def test_state_goes_round_bit_for_bit(trained: Trained) -> None:
    want, have = trained.net.state_dict(), trained.teacher.net.state_dict()
    assert want.keys() == have.keys()
    assert all(torch.equal(want[key], have[key]) for key in want if not key.endswith("num_batches_tracked"))
    assert trained.teacher.sha256 == weights_sha256(want)
    again = trained.path.with_name("again.safetensors")
    save(trained.teacher.net, trained.row, again)
    assert again.read_bytes() == trained.path.read_bytes()
    images_BCHW = trained.images(2)
    with torch.no_grad():
        bare_BK = trained.net(normalise(images_BCHW, *normaliser(trained.row)))
        assert torch.equal(trained.teacher(images_BCHW).logits_BK, bare_BK)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_teacher_is_unchanged_by_use(trained: Trained, dtype: Precision) -> None:
    teacher = load_classifier(trained.path, dtype=dtype)
    before = snapshot(teacher)
    bytes_BCHW = trained.images(2)
    expected_BK = teacher(bytes_BCHW).logits_BK

    teacher.train()
    teacher.net.train()
    list(teacher.net.children())[-1].train()
    images_BCHW = (bytes_BCHW.float() / 255).requires_grad_()
    with teacher.watch(batch_norm=True):
        view = teacher(images_BCHW)
    moments = [moments.var_C.sum() for moments in view.batch_norm.values()]
    torch.autograd.backward(view.logits_BK.square().sum() + view.features_BD.sum() + sum(moments))

    assert torch.equal(view.logits_BK, expected_BK)
    assert view.logits_BK.dtype == view.features_BD.dtype == torch.float32
    assert len(moments) == sum(isinstance(module, _BatchNorm) for module in teacher.net.modules())
    assert images_BCHW.grad is not None
    assert images_BCHW.grad.isfinite().all()
    assert images_BCHW.grad.any()
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    after = snapshot(teacher)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert weights_sha256(after) == teacher.sha256


def snapshot(teacher: Classifier) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in teacher.net.state_dict().items()}
