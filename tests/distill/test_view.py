"""Asking a network: what a view holds, what is watched, and that the network is left as it came."""

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import DistillError
from distill.models import build
from distill.models.student import Student
from distill.models.view import LUMA, Precision, Probe, TeacherView, luma, normalise

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.2, 0.1])


class Small(nn.Module):
    """Two batch norms, of which the one used first was made last, and ReLUs that work in place."""

    def __init__(self, *, channels: int = 3) -> None:
        super().__init__()
        self.late = nn.BatchNorm1d(4)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.early = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pooled_BD = F.relu(self.early(self.conv(x_BCHW)), inplace=True).mean(dim=(2, 3))
        logits_BK: Tensor = self.head(F.relu(self.late(pooled_BD), inplace=True))
        return logits_BK


def small(*, channels: int = 3) -> Small:
    """In evaluation, with BN statistics and affine parts that are not the fresh ones."""
    torch.manual_seed(0)
    net = Small(channels=channels)
    for layer in (net.early, net.late):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    net(torch.randn(8, channels, 6, 6))
    return net.eval()


def images(number: int = 3) -> Tensor:
    return torch.randint(0, 256, (number, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def ask(probe: Probe, images_BCHW: Tensor, dtype: Precision = "float32") -> TeacherView:
    return probe(images_BCHW, mean_C=MEAN, std_C=STD, dtype=dtype)


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


# grey


def test_luma_is_pillows() -> None:
    images_BCHW = images(5)
    grey_BHW = [np.asarray(Image.fromarray(np.moveaxis(image.numpy(), 0, 2)).convert("L")) for image in images_BCHW]
    off_B1HW = luma(images_BCHW.float()) - torch.from_numpy(np.stack(grey_BHW)).unsqueeze(1)
    assert off_B1HW.abs().max() < 0.51  # Pillow rounds to whole levels


def test_grey_network_is_shown_the_luma_of_rgb() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert normalise(red, (0.1,), (0.5,)).shape == (1, 1, 1, 1)
    assert normalise(red, (0.1,), (0.5,)).item() == pytest.approx((0.299 - 0.1) / 0.5)
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert normalise(white, [0.0], [1.0]).flatten().tolist() == pytest.approx([1.0] * 4)
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(normalise(grey, (0.1,), (0.5,)), (grey - 0.1) / 0.5)


def test_grey_probe_and_its_gradient() -> None:
    net = small(channels=1)
    images_BCHW = torch.rand(2, 3, 6, 6, requires_grad=True)
    view = Probe(net, head="head")(images_BCHW, mean_C=torch.tensor([0.4]), std_C=torch.tensor([0.2]), dtype="float32")
    assert torch.equal(view.logits_BK, net((luma(images_BCHW) - 0.4) / 0.2))
    (gradient_BCHW,) = torch.autograd.grad(view.logits_BK.sum(), images_BCHW)
    assert gradient_BCHW.any()
    torch.testing.assert_close(gradient_BCHW[:, 0] * LUMA[1], gradient_BCHW[:, 1] * LUMA[0])


# logits and features


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_view_is_of_the_bare_network(kind: str) -> None:
    net = small()
    probe = Probe(net, head="head")
    images_BCHW = images() if kind == "uint8" else images().float() / 255
    view = ask(probe, images_BCHW)
    x_BCHW = (images().float() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    features_BD = F.relu(net.late(F.relu(net.early(net.conv(x_BCHW))).mean(dim=(2, 3))))
    assert torch.equal(view.logits_BK, net(x_BCHW))
    assert torch.equal(view.features_BD, features_BD)
    assert (view.maps, view.batch_norm) == ({}, {})


def test_bfloat16_leaves_the_head_in_float32() -> None:
    net = build("wrn16_1", 5).eval()
    probe = Probe(net, head="fc")
    images_BCHW = torch.rand(4, 3, 16, 16)
    full, low = ask(probe, images_BCHW), ask(probe, images_BCHW, "bfloat16")
    assert low.logits_BK.dtype == low.features_BD.dtype == torch.float32
    assert not torch.equal(low.features_BD, full.features_BD)  # the backbone did run in bfloat16
    assert torch.equal(low.logits_BK, net.get_submodule("fc")(low.features_BD))
    torch.testing.assert_close(low.logits_BK, full.logits_BK, rtol=0.05, atol=0.05)


def test_networks_of_the_zoo_are_left_as_they_came() -> None:
    net = build("wrn16_1", 5)
    names = list(net.state_dict())
    probe = Probe(net, head="fc")
    with probe.watch(maps=["block1"], batch_norm=True):
        assert list(net.state_dict()) == names
        assert hooks(net) == 1 + 1 + 13  # the head's, the map's, and WRN-16's 13 batch norms
    assert hooks(net) == 1
    probe.remove()
    assert hooks(net) == 0
    assert list(net.state_dict()) == names


# what is watched


def test_maps_are_the_outputs_of_the_modules_named() -> None:
    net = small()
    probe = Probe(net, head="head")
    x_BCHW = normalise(images(), MEAN, STD)
    with probe.watch(maps=["late", "early"]):
        view = ask(probe, images())
    assert list(view.maps) == ["early", "late"]  # as computed
    assert torch.equal(view.maps["early"], net.early(net.conv(x_BCHW)))  # and not the ReLU that follows it in place
    assert view.maps["early"].min() < 0
    assert torch.equal(F.relu(view.maps["late"]), view.features_BD)
    assert view.batch_norm == {}


def test_moments_by_hand() -> None:
    net = small()
    probe = Probe(net, head="head")
    with probe.watch(batch_norm=True):
        view = ask(probe, images())
    assert list(view.batch_norm) == ["early", "late"]  # in order of computation, not of construction
    x_BCHW = net.conv(normalise(images(), MEAN, STD))
    x_BC = F.relu(net.early(x_BCHW)).mean(dim=(2, 3))
    for name, inputs in {"early": x_BCHW.transpose(0, 1).flatten(1), "late": x_BC.T}.items():
        moments, layer = view.batch_norm[name], net.get_submodule(name)
        torch.testing.assert_close(moments.mean_C, inputs.double().mean(1).float())
        torch.testing.assert_close(moments.var_C, inputs.double().var(1, correction=0).float())
        assert torch.equal(moments.running_mean_C, layer.get_buffer("running_mean"))
        assert torch.equal(moments.running_var_C, layer.get_buffer("running_var"))
    assert view.maps == {}


def test_moments_are_what_batch_norm_computes_in_training() -> None:
    """With momentum 1 a layer remembers its batch's own mean, and its variance with Bessel's correction."""
    net = small()
    probe = Probe(net, head="head")
    with probe.watch(batch_norm=True):
        moments = ask(probe, images()).batch_norm["early"]
    layer = nn.BatchNorm2d(4, momentum=1.0)
    layer(net.conv(normalise(images(), MEAN, STD)))
    number = 3 * 4 * 4  # images, positions
    torch.testing.assert_close(moments.mean_C, layer.get_buffer("running_mean"))
    torch.testing.assert_close(moments.var_C * number / (number - 1), layer.get_buffer("running_var"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_flow_through_moments_and_maps(dtype: Precision) -> None:
    probe = Probe(small().requires_grad_(False), head="head")
    images_BCHW = torch.rand(3, 3, 6, 6, requires_grad=True)
    with probe.watch(maps=["conv"], batch_norm=True):
        view = ask(probe, images_BCHW, dtype)
    seen = [view.maps["conv"], view.features_BD, *(m.mean_C for m in view.batch_norm.values())]
    seen += [m.var_C for m in view.batch_norm.values()]
    assert all(m.mean_C.dtype == m.var_C.dtype == torch.float32 for m in view.batch_norm.values())
    assert view.maps["conv"].dtype == {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    for tensor in seen:
        (gradient_BCHW,) = torch.autograd.grad(tensor.float().square().sum(), images_BCHW, retain_graph=True)
        assert gradient_BCHW.isfinite().all()
        assert gradient_BCHW.any()


def test_watching_ends() -> None:
    net = small()
    probe = Probe(net, head="head")
    watch = probe.watch(maps=["conv"])
    assert list(ask(probe, images()).maps) == ["conv"]
    watch.remove()
    watch.remove()  # once more does no harm
    assert ask(probe, images()).maps == {}
    with pytest.raises(ZeroDivisionError), probe.watch(maps=["conv"], batch_norm=True):
        _ = 1 / 0
    assert hooks(net) == 1


def test_two_watches_at_once_each_end_alone() -> None:
    net = small()
    probe = Probe(net, head="head")
    one, other = probe.watch(maps=["conv"]), probe.watch(maps=["conv", "late"], batch_norm=True)
    assert list(ask(probe, images()).maps) == ["conv", "late"]
    other.remove()
    view = ask(probe, images())
    assert (list(view.maps), view.batch_norm) == (["conv"], {})
    one.remove()
    assert hooks(net) == 1


def test_unknown_module_is_refused_in_words() -> None:
    net = small()
    probe = Probe(net, head="head")
    with pytest.raises(DistillError, match=r"no module 'layer9'; it has late, conv, early, head and what is in them"):
        probe.watch(maps=["conv", "layer9"], batch_norm=True)
    assert hooks(net) == 1  # nothing was begun
    assert ask(probe, images()).maps == {}


def test_module_without_a_map_is_refused_in_words() -> None:
    class Two(Small):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1)

        def forward(self, x_BCHW: Tensor) -> Tensor:
            x_BD = self.conv(x_BCHW).mean(dim=(2, 3))
            logits_BK: Tensor = self.head(self.attention(x_BD, x_BD, x_BD)[0])
            return logits_BK

    probe = Probe(Two(), head="head")
    with (
        probe.watch(maps=["attention"]),
        pytest.raises(DistillError, match=r"'attention' gives a tuple, not a map; watch one"),
    ):
        ask(probe, images())


def test_nothing_is_kept_alive_after_a_view() -> None:
    probe = Probe(small(), head="head")
    with probe.watch(maps=["conv"], batch_norm=True):
        view = ask(probe, images())
        held = [view.features_BD, view.maps["conv"], view.batch_norm["late"].var_C]
        refs = [weakref.ref(tensor) for tensor in held]
        del view, held
        gc.collect()
        assert [ref() for ref in refs] == [None] * 3


def test_threads_that_ask_at_once_get_their_own_views() -> None:
    meet = threading.Barrier(2, timeout=30)

    class Meeting(Small):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            pooled_BD = self.early(self.conv(x_BCHW)).mean(dim=(2, 3))
            meet.wait()  # both have shown their maps, and neither its features
            logits_BK: Tensor = self.head(self.late(pooled_BD))
            meet.wait()  # now both have
            return logits_BK

    torch.manual_seed(0)
    probe = Probe(Meeting().eval(), head="head")
    batches = [images(2), images(5)]
    views: dict[int, TeacherView] = {}
    with probe.watch(maps=["conv"], batch_norm=True):
        threads = [threading.Thread(target=lambda i=i: views.update({i: ask(probe, batches[i])})) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, batch in enumerate(batches):
        conv = probe.net.get_submodule("conv")(normalise(batch, MEAN, STD))
        assert torch.equal(views[number].maps["conv"], conv)
        assert views[number].features_BD.shape == (len(batch), 4)
        torch.testing.assert_close(views[number].batch_norm["early"].mean_C, conv.mean(dim=(0, 2, 3)))


def test_a_copy_is_asked_on_its_own() -> None:
    student = Student(small(), arch="small", head="head", mean=MEAN.tolist(), std=STD.tolist())
    other = copy.deepcopy(student)
    before = student(images())
    with torch.no_grad():
        other.net.get_parameter("head.bias").add_(1)
    assert torch.equal(student(images()), before)
    torch.testing.assert_close(other(images()), before + 1)
    assert hooks(other) == hooks(student) == 1


class Odd(nn.Module):
    """A head called by keyword, a module and a batch norm used twice, and one without statistics where asked for."""

    def __init__(self, *, bare: bool = False) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3, track_running_stats=not bare)
        self.head = nn.Linear(3, 5)

    def forward(self, x_BCHW: Tensor) -> Any:
        maps_BCHW = self.norm(self.twice(self.norm(self.twice(x_BCHW))))
        logits_BK = self.head(input=maps_BCHW.mean(dim=(2, 3)))
        return (logits_BK, maps_BCHW) if self.training else logits_BK


def test_a_head_may_be_called_by_keyword() -> None:
    view = ask(Probe(Odd().eval(), head="head"), images())
    assert view.features_BD.shape == (3, 3)
    assert view.logits_BK.shape == (3, 5)


def test_what_is_used_twice_has_no_one_view() -> None:
    probe = Probe(Odd().eval(), head="head")
    with probe.watch(maps=["twice"]), pytest.raises(DistillError, match="module 'twice' is used more than once in a f"):
        ask(probe, images())
    with probe.watch(batch_norm=True), pytest.raises(DistillError, match="batch norm 'norm' is used more than once"):
        ask(probe, images())
    assert ask(probe, images()).maps == {}


def test_a_batch_norm_without_statistics_cannot_be_watched() -> None:
    with pytest.raises(DistillError, match="the batch norm 'norm' keeps no statistics of its training"):
        Probe(Odd(bare=True).eval(), head="head").watch(batch_norm=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_that_returns_more_than_logits_is_refused(dtype: Precision) -> None:
    with pytest.raises(DistillError, match=r"the network returns a tuple; expected a tensor of logits \(B, K\)"):
        ask(Probe(Odd().train(), head="head"), images(), dtype)


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images are torch\.int64; expected uint8, or float in"):
        normalise(images().long(), MEAN, STD)
    with pytest.raises(ValueError, match="images have 1 channels and the normaliser has 3"):
        normalise(images()[:, :1], MEAN, STD)


# compiled


def compiled(probe: Probe, dtype: Precision = "float32") -> Callable[[Tensor], TeacherView]:
    torch._dynamo.reset()
    return torch.compile(lambda images_BCHW: ask(probe, images_BCHW, dtype), backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_watched_view_compiles_as_one_graph(dtype: Precision) -> None:
    probe = Probe(small().requires_grad_(False), head="head")
    asked = compiled(probe, dtype)
    images_BCHW = torch.rand(3, 3, 6, 6)
    with probe.watch(maps=["early"], batch_norm=True):
        have, want = asked(images_BCHW), ask(probe, images_BCHW, dtype)
    torch.testing.assert_close((have.logits_BK, have.features_BD), (want.logits_BK, want.features_BD))
    assert torch.equal(have.maps["early"], want.maps["early"])
    assert list(have.batch_norm) == list(want.batch_norm) == ["early", "late"]
    torch.testing.assert_close(have.batch_norm["late"].var_C, want.batch_norm["late"].var_C)


def test_compiled_view_shows_what_is_watched_from_then_on() -> None:
    """torch.compile looks at no hooks that come after it: the view must not be silently empty."""
    probe = Probe(small(), head="head")
    asked = compiled(probe)
    assert asked(images()).maps == {}
    with probe.watch(maps=["conv"], batch_norm=True):
        view = asked(images())
        assert (list(view.maps), list(view.batch_norm)) == (["conv"], ["early", "late"])
    assert (asked(images()).maps, asked(images()).batch_norm) == ({}, {})
    with probe.watch(maps=["late"], batch_norm=True):
        view = asked(images())
        assert (list(view.maps), list(view.batch_norm)) == (["late"], ["early", "late"])
        assert torch.equal(view.maps["late"], ask(probe, images()).maps["late"])
