"""Networks from outside the zoo: `torchvision:NAME`, `timm:NAME`, and a user's own `path/to/file.py:factory`.

They are described by one look at the network itself: its last linear layer is the one whose output it returns.
"""

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import UnknownModel
from distill.models import projected
from distill.models.card import join_names
from distill.models.counts import count
from distill.models.modelspec import ModelSpec

FORMS = ("torchvision:NAME", "timm:NAME", "path/to/file.py:factory")
_SMALLER = (8, 16, 32, 64, 128)  # px: among these lies the least that a network is said to take
_TRIED = (32, 28, 64, 224)  # px: sizes at which a user's network is tried, in this order


def is_code(arch: str) -> bool:
    """Whether building that architecture runs a file of the user's."""
    if inner := projected.parse(arch):
        return is_code(inner[0])
    return arch.rpartition(":")[0].endswith(".py")


def canonical(arch: str) -> str:
    """An architecture's one name: of a user's file, with its whole path."""
    if inner := projected.parse(arch):
        return projected.name_of(canonical(inner[0]), width=inner[1])
    path, _, factory = arch.rpartition(":")
    return f"{Path(path).absolute()}:{factory}" if is_code(arch) else arch


def find(name: str) -> ModelSpec:
    """Describe a network from outside; torch's random state stays. Raises UnknownModel: why it cannot be used."""
    with torch.random.fork_rng(devices=[]):
        return _find(name)


def _find(name: str) -> ModelSpec:
    place, _, rest = name.rpartition(":") if is_code(name) else name.partition(":")
    if is_code(name):
        return _from_file(name, Path(place), rest)
    if place == "torchvision":
        return _from_torchvision(name, rest)
    if place == "timm":
        return _from_timm(name, rest)
    raise UnknownModel(f"unknown model {name!r}; with a colon it is one of {', '.join(FORMS)}")


def _from_torchvision(name: str, model: str) -> ModelSpec:
    from torchvision import models

    if model not in models.list_models(module=models):
        raise UnknownModel(f"torchvision has no classifier {model!r}; `torchvision.models.list_models()` lists them")
    published = models.get_model_weights(model)
    weights = published["DEFAULT"]
    extra: dict[str, Any] = {}
    if model in ("googlenet", "inception_v3"):
        # as the published weights want it: they were trained on inputs of another scale, and with auxiliary heads
        extra = {"transform_input": True, "aux_logits": False, "init_weights": True}
    transform, classes = weights.transforms(), weights.meta["categories"]
    return _describe(
        name,
        lambda num_classes: models.get_model(model, weights=None, num_classes=num_classes, **extra),
        family="torchvision",
        sizes=(transform.crop_size[0],),
        classes=len(classes),
        published=_metadata({(tuple(w.transforms().mean), tuple(w.transforms().std)) for w in published}, classes),
        auxiliary=("aux1.", "aux2.", "AuxLogits."),
        source=str(weights.meta["recipe"]),
    )


def _from_timm(name: str, model: str) -> ModelSpec:
    try:
        import timm
    except ImportError:
        raise UnknownModel(f"{name} needs timm, which is not installed: pip install 'transferset[timm]'") from None
    if model not in timm.list_models() and model not in timm.list_pretrained():
        raise UnknownModel(f"timm has no model {model!r}; `timm.list_models()` lists them")
    config = timm.get_pretrained_cfg(model)
    tags = [model] if "." in model else timm.list_pretrained(f"{model}.*")
    normalisers = {(tuple(c.mean), tuple(c.std)) for c in map(timm.get_pretrained_cfg, tags) if c}
    return _describe(
        name,
        lambda num_classes: timm.create_model(model, pretrained=False, num_classes=num_classes),
        family="timm",
        sizes=(config.input_size[1] if config else 224,),
        classes=1000,
        published=_metadata(normalisers),
        source=f"timm {timm.__version__}",
    )


def _from_file(name: str, path: Path, factory: str) -> ModelSpec:
    """A user's own: `factory(num_classes) -> nn.Module`, for images of `factory.input_size` px if it says so."""
    if not path.is_file():
        raise UnknownModel(f"{name}: no file {str(path)!r}; expected path/to/file.py:factory")
    made = getattr(_load(path), factory, None)
    if not callable(made):
        raise UnknownModel(f"{path} has no function {factory!r}; expected one that takes num_classes, gives a network")
    code, own = hashlib.sha256(path.read_bytes()).hexdigest(), getattr(made, "input_size", None)
    sizes = (int(own),) if own else _TRIED
    return _describe(canonical(name), made, family="file", sizes=sizes, classes=100, code=code, source=str(path))


def _load(path: Path) -> ModuleType:
    module_spec = importlib.util.spec_from_file_location(f"factory of {path.resolve()}", path)  # no other's name
    if module_spec is None or module_spec.loader is None:
        raise AssertionError(f"{path} ends in .py and is no module")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module.__name__] = module  # where dataclasses, for one, look for the module of a class
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code may raise anything
        del sys.modules[module.__name__]
        raise UnknownModel(f"{path} cannot be loaded: {_reason(error)}") from None
    return module


def _metadata(normalisers: set[tuple[Any, Any]], classes: Sequence[str] = ()) -> dict[str, str]:
    """What all published weights of a network share, as a weights file would say it: no normaliser if they differ."""
    facts = {"classes": join_names(classes)} if classes else {}
    if len(normalisers) == 1:
        mean, std = normalisers.pop()
        facts |= {"mean": ",".join(map(str, mean)), "std": ",".join(map(str, std))}
    return facts


def _describe(
    name: str, build: Callable[[int], nn.Module], *, sizes: tuple[int, ...], classes: int, **facts: Any
) -> ModelSpec:
    """Build it once, show it an image, and write down what is there to see. Raises UnknownModel."""
    net = _build(name, build, classes)
    size, channels, head = _first_fit(name, net, [(size, channels) for channels in (3, 1) for size in sizes])
    counted = count(net, size=size, channels=channels)
    tried = sorted({*_SMALLER, size, size + 32})
    works = [trial for trial in tried if isinstance(_head(net, trial, channels), str)]
    outputs, feature_dim = net.get_parameter(f"{head}.weight").shape
    if outputs != classes:
        raise UnknownModel(f"{name} gives {outputs} logits where it was asked for {classes} classes")
    return ModelSpec(
        name=name,
        build=functools.partial(_build, name, build),
        head=head,
        feature_dim=feature_dim,
        params=counted.params,
        macs=counted.macs,
        classes=classes,
        input_size=size,
        smallest=works[0],
        largest=None if size + 32 in works else size,
        channels=channels,
        **facts,
    )


def _build(name: str, build: Callable[[int], nn.Module], classes: int) -> nn.Module:
    try:
        net = build(classes)
    except Exception as error:  # noqa: BLE001  # anybody's code may raise anything
        raise UnknownModel(f"{name} cannot be built: {_reason(error)}") from None
    if not isinstance(net, nn.Module):
        raise UnknownModel(f"{name} gives a {type(net).__name__}; expected a torch.nn.Module")
    return net


def _first_fit(name: str, net: nn.Module, trials: Sequence[tuple[int, int]]) -> tuple[int, int, str]:
    """The first size and channels that it takes, and its head. Raises UnknownModel: why none is as it should be."""
    refused: list[Exception] = []
    for size, channels in trials:
        found = _head(net, size, channels)
        if isinstance(found, str):
            return size, channels, found
        refused.append(found)
    ran = [error for error in refused if isinstance(error, UnknownModel)]  # it took the image: says more than a shape
    sizes = ", ".join(str(size) for size in dict.fromkeys(size for size, _ in trials))
    tried = f"at {sizes} px it fails ({_reason(refused[0])}); a factory may have an attribute input_size that says more"
    raise UnknownModel(f"{name} cannot be used: {ran[0] if ran else tried}")


def _reason(error: BaseException) -> str:
    """What somebody's code raised, in a line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _head(net: nn.Module, size: int, channels: int) -> str | Exception:
    """The name of the linear layer whose output the network returns, or why there is none."""
    outputs: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    was_training = net.training
    try:
        with torch.no_grad():
            logits = net.eval()(torch.zeros(1, channels, size, size))
    except Exception as error:  # noqa: BLE001  # anybody's code may raise anything
        return error
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    found = next((name for name, output in outputs.items() if output is logits and output.ndim == 2), None)
    kind = "a tensor that" if isinstance(logits, Tensor) else f"a {type(logits).__name__}, which"
    return found or UnknownModel(f"it returns {kind} is not the output (B, K) of a linear layer: expected plain logits")
