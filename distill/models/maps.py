"""Where a network's maps are, found by one look at it: the ends of its stages, and the map behind its features.

Methods that compare maps (hints, attention, alignment) ask here for the names that `Probe.watch` takes, so that they
work on any network and name none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models.view import TeacherView

Shape = tuple[int, int, int]
"""channels, height, width of a map"""

_CLOSE = 1e-3  # of the largest feature: two ways to average the same map in float32


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """The map whose mean over positions is the input of the last linear layer."""

    name: str | None
    """of the module to watch; None: there is no such map, and the features themselves are taken as one of 1x1"""
    relu: bool
    """whether it is to be rectified first, because the network does so outside of its modules"""
    channels: int

    @property
    def watched(self) -> Sequence[str]:
        """Names for `Probe.watch`."""
        return () if self.name is None else (self.name,)

    def __call__(self, view: TeacherView) -> Tensor:
        """The map (B, C, h, w) in a view of the network that is being watched for it."""
        return self.of(None if self.name is None else view.maps[self.name], view.features_BD)

    def of(self, map_BCHW: Tensor | None, features_BD: Tensor) -> Tensor:
        """The same from what the module gave, and the features."""
        if map_BCHW is None:
            return features_BD[:, :, None, None]
        return F.relu(map_BCHW) if self.relu else map_BCHW


def feature_map(net: nn.Module, *, head: str, size: int, channels: int) -> FeatureMap:
    """Find the last map whose mean, rectified or not, is what enters the linear layer called ``head``.

    Most networks end in global average pooling and have one. Others (LeNet, AlexNet, transformers) do not: see `name`.
    """
    seen, features_BD = _look(net, size=size, channels=channels, head=head)
    ways: list[tuple[bool, Callable[[Tensor], Tensor]]] = [(False, torch.Tensor.float), (True, F.relu)]
    spread = {name: map_BCHW for name, map_BCHW in seen.items() if map_BCHW.shape[2:].numel() > 1}  # not yet averaged
    for name, map_BCHW in reversed(spread.items()):
        for relu, way in ways:
            mean_BC = way(map_BCHW).mean(dim=(2, 3))
            if mean_BC.shape == features_BD.shape and _largest(mean_BC - features_BD) < _CLOSE * _largest(features_BD):
                return FeatureMap(name=name, relu=relu, channels=features_BD.shape[1])
    return FeatureMap(name=None, relu=False, channels=features_BD.shape[1])


def _largest(values: Tensor) -> float:
    return values.abs().max().item()


def map_shapes(net: nn.Module, *, size: int, channels: int) -> dict[str, Shape]:
    """Shape of the map that each module gives, by name, in order of computation; modules used twice are left out."""
    seen, _ = _look(net, size=size, channels=channels)
    return {name: (map_.shape[1], map_.shape[2], map_.shape[3]) for name, map_ in seen.items()}


def stages(net: nn.Module, shapes: Mapping[str, Shape]) -> list[str]:
    """Names of the modules that end a stage: the last of the network's parts at each resolution above 1x1.

    Its parts are its children, and of a `Sequential` in which the resolution changes the children of that.
    """
    last: dict[int, str] = {}
    for name in sorted(_parts(net, shapes), key=list(shapes).index):
        side = shapes[name][1]
        last.pop(side, None)
        last[side] = name
    return [name for side, name in last.items() if side > 1]


def _parts(module: nn.Module, shapes: Mapping[str, Shape], prefix: str = "") -> list[str]:
    found: list[str] = []
    for child_name, child in module.named_children():
        name = prefix + child_name
        sides = {shapes[inner][1] for inner, _ in _children(child, name) if inner in shapes}
        if name in shapes and not (isinstance(child, nn.Sequential) and len(sides) > 1):
            found.append(name)
        else:
            found += _parts(child, shapes, f"{name}.")
    return found


def _children(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{inner}", child) for inner, child in module.named_children()]


def _look(net: nn.Module, *, size: int, channels: int, head: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Maps by module, and what enters ``head``, of two images of noise; the network is left as it was."""
    outputs: dict[str, list[Tensor | None]] = {}
    entered = [torch.empty(0)]

    def keep(name: str, output: object) -> None:  # cloned, because the next layer may work in place
        outputs.setdefault(name, []).append(output.clone() if isinstance(output, Tensor) and output.ndim == 4 else None)

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in net.named_modules()
        if name
    ]
    if head is not None:
        layer = net.get_submodule(head)
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs: entered.__setitem__(0, inputs[0].float())))
    modes = {module: module.training for module in net.modules()}
    noise_BCHW = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            net.eval()(noise_BCHW.to(next(net.parameters()).device))
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    once = {name: found[0] for name, found in outputs.items() if len(found) == 1}
    return {name: map_BCHW for name, map_BCHW in once.items() if map_BCHW is not None}, entered[0]
