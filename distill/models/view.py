"""How a network is asked: images in, a `TeacherView` out. The one normaliser, and hooks instead of edits.

Nothing is asked of a network but that it is an `nn.Module` that turns normalised images into logits with a linear layer
at its end. What else is to be seen of it (the input of that layer, maps of chosen modules, what enters its batch norms)
is read by hooks on its modules, registered once and removable.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from distill.errors import DistillError

Precision = Literal["float32", "bfloat16"]
LUMA = (0.299, 0.587, 0.114)
"""weights of R, G and B in a grey image (ITU-R BT.601, as Pillow's mode L)"""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What entered a batch norm layer, beside what it remembers of its training."""

    mean_C: Tensor
    """of the batch, over images and positions; float32"""
    var_C: Tensor
    """the same, biased: what batch norm itself divides by"""
    running_mean_C: Tensor
    running_var_C: Tensor


@dataclass(frozen=True, kw_only=True)
class TeacherView:
    """What a network thinks of a batch."""

    logits_BK: Tensor
    """float32, before softmax"""
    features_BD: Tensor
    """float32, the input of the last linear layer"""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """outputs of the modules that `Probe.watch` was asked for, by name, in the type they were computed in"""
    batch_norm: Mapping[str, Moments] = field(default_factory=dict)
    """by name of the layer, in order of computation; if `Probe.watch` was asked for it"""


def normalise(images_BCHW: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """(x - mean) / std per channel, in float32: the one normaliser, for real and synthetic images alike.

    `images_BCHW` is uint8 (0 to 255) or float in [0, 1]; gradients reach float images. `mean` and `std` (C numbers) are
    of inputs in [0, 1]; given as tensors on the images' device, nothing waits for that device. Where they are of one
    channel and the images are RGB, the network is a grey one and takes their luma. Raises ValueError for other types
    and other numbers of channels.
    """
    if images_BCHW.dtype != torch.uint8 and not images_BCHW.is_floating_point():
        raise ValueError(f"images are {images_BCHW.dtype}; expected uint8, or float in [0, 1]")
    mean_C11 = torch.as_tensor(mean, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
    std_C11 = torch.as_tensor(std, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
    unit_BCHW = images_BCHW.float() / 255 if images_BCHW.dtype == torch.uint8 else images_BCHW.float()
    if len(mean_C11) == 1 and unit_BCHW.shape[1] == len(LUMA):
        unit_BCHW = luma(unit_BCHW)
    if unit_BCHW.shape[1] != len(mean_C11):
        raise ValueError(f"images have {unit_BCHW.shape[1]} channels and the normaliser has {len(mean_C11)}")
    return (unit_BCHW - mean_C11) / std_C11


def luma(images_BCHW: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) of float RGB ones, on the same scale."""
    red_BHW, green_BHW, blue_BHW = images_BCHW.unbind(dim=1)
    return (LUMA[0] * red_BHW + LUMA[1] * green_BHW + LUMA[2] * blue_BHW).unsqueeze(1)


class Probe:
    """A network with hooks on it, ready to be asked; `head` is the dotted name of its last linear layer.

    Threads may ask at the same time: what a hook sees belongs to the thread that asked.
    """

    def __init__(self, net: nn.Module, *, head: str) -> None:
        self.net = net
        self.head = net.get_submodule(head)
        self.watches: tuple[Watch, ...] = ()
        self._seen = _Seen()
        self._handle = self.head.register_forward_pre_hook(self._keep_features, with_kwargs=True)

    def __call__(self, images_BCHW: Tensor, *, mean_C: Tensor, std_C: Tensor, dtype: Precision) -> TeacherView:
        """Logits and features of uint8 or [0, 1] images, and what is being watched.

        With "bfloat16" the network runs under autocast in channels-last and its last linear layer is asked again in
        float32, because eight bits of logit would decide ties in the entropy. Nothing here waits for the device.
        """
        device_type, low, seen = images_BCHW.device.type, dtype == "bfloat16", self._seen
        if self.watches:
            seen.maps, seen.batch_norm = {}, {}  # what a forward that failed had left
        x_BCHW = normalise(images_BCHW, mean_C, std_C)
        if low:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=low):
            logits_BK = self.net(x_BCHW)
        if not isinstance(logits_BK, Tensor):  # as some do in training mode alone
            raise DistillError(f"the network returns a {type(logits_BK).__name__}; expected a tensor of logits (B, K)")
        features_BD, seen.features_BD = seen.features_BD.float(), _NOTHING
        if low:
            with torch.autocast(device_type, enabled=False):
                logits_BK = F.linear(features_BD, self.head.weight, self.head.bias)  # type: ignore[arg-type]
        if not self.watches:
            return TeacherView(logits_BK=logits_BK, features_BD=features_BD)
        # chosen by what is watched, though all that was seen was: a compiled forward is made anew when `watches`
        # changes, where hooks that come and go are overlooked (torch._dynamo.config.skip_nnmodule_hook_guards)
        names = {name for watch in self.watches for name in watch.maps}
        maps = {name: map_ for (_, name), map_ in seen.maps.items() if name in names}
        asked = any(watch.batch_norm for watch in self.watches)
        moments = {name: found for (_, name), found in seen.batch_norm.items()} if asked else {}
        seen.maps, seen.batch_norm = {}, {}
        return TeacherView(logits_BK=logits_BK, features_BD=features_BD, maps=maps, batch_norm=moments)

    def watch(self, *, maps: Sequence[str] = (), batch_norm: bool = False) -> "Watch":
        """Show more in every view from now on: outputs of the modules named, moments of batch norm inputs.

        Raises DistillError for a name that the network lacks, or batch norms without running statistics.
        """
        modules = dict(self.net.named_modules())
        for name in maps:
            if name not in modules:
                known = [known for known, module in modules.items() if known and "." not in known]
                raise DistillError(f"the network has no module {name!r}; it has {', '.join(known)} and what is in them")
        taken = {watch.number for watch in self.watches}
        number = next(n for n in count() if n not in taken)  # used again: what was compiled for it holds
        handles = [modules[name].register_forward_hook(partial(self._keep_map, number, name)) for name in maps]
        if batch_norm:
            layers = {name: module for name, module in modules.items() if isinstance(module, _BatchNorm)}
            if bare := [name for name, layer in layers.items() if layer.running_mean is None]:
                raise DistillError(f"the batch norm {bare[0]!r} keeps no statistics of its training to compare with")
            handles += [
                layer.register_forward_pre_hook(partial(self._keep_moments, number, n)) for n, layer in layers.items()
            ]
        watch = Watch(self, handles, number=number, maps=tuple(maps), batch_norm=batch_norm)
        self.watches += (watch,)
        return watch

    def remove(self) -> None:
        """Take the hook off; the network is then as it came, and this object is of no more use."""
        self._handle.remove()

    def _keep_features(self, _: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        self._seen.features_BD = inputs[0] if inputs else named["input"]

    def _keep_map(self, watch: int, name: str, _: nn.Module, __: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            raise DistillError(f"module {name!r} gives a {type(output).__name__}, not a map; watch one inside it")
        if (watch, name) in self._seen.maps:
            raise DistillError(f"module {name!r} is used more than once in a forward; watch one that is used once")
        self._seen.maps[watch, name] = output.clone()  # the next layer may work in place, as torchvision's ReLUs do

    def _keep_moments(self, watch: int, name: str, layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        if (watch, name) in self._seen.batch_norm:
            raise DistillError(f"the batch norm {name!r} is used more than once in a forward, so has no one input")
        with torch.autocast(inputs[0].device.type, enabled=False):
            x_BCN = inputs[0].float().flatten(2) if inputs[0].ndim > 2 else inputs[0].float().unsqueeze(2)
            var_C, mean_C = torch.var_mean(x_BCN, dim=(0, 2), correction=0)
        running = {"running_mean_C": layer.running_mean, "running_var_C": layer.running_var}
        self._seen.batch_norm[watch, name] = Moments(mean_C=mean_C, var_C=var_C, **running)  # type: ignore[arg-type]


class Watch:
    """What `Probe.watch` began; `remove`, or the end of a `with`, ends it."""

    def __init__(
        self,
        probe: Probe,
        handles: Sequence[RemovableHandle],
        *,
        number: int,
        maps: tuple[str, ...],
        batch_norm: bool,
    ) -> None:
        self.number = number
        self.maps = maps
        self.batch_norm = batch_norm
        self._probe = probe
        self._handles = handles

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._probe.watches = tuple(watch for watch in self._probe.watches if watch is not self)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


_NOTHING = torch.empty(0)


class _Seen(threading.local):
    """What hooks saw in the forward that is under way in this thread."""

    def __init__(self) -> None:
        self.features_BD = _NOTHING
        self.maps: dict[tuple[int, str], Tensor] = {}  # by number of the watch and name of the module
        self.batch_norm: dict[tuple[int, str], Moments] = {}

    def __reduce__(self) -> tuple[type["_Seen"], tuple[()]]:
        """A copy of a network is asked on its own: it begins with nothing seen."""
        return _Seen, ()
