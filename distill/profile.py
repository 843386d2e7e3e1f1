"""Where a network's time goes: by its parts, and by kind of layer.

What a module takes is read by hooks around it, its children's share left out, so each moment of the forward belongs to
one module; what calls no module (a functional ReLU, a sum, a mean) is its caller's own. Reading a clock around every
module takes time too, most of it on a GPU, which must then wait for each; so passes with clocks and without take turns:
`Profile.forward` is without, `Profile.clocked_ms` the sum with them.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from distill.models.counts import counting
from distill.speed import WARM_UP, Bench, Speed, Workload, now, timed

OUTSIDE = "(outside)"
"""name of what no part and no layer did: the modules that hold them did it themselves"""
MOST_ROWS = 24
"""a table of parts that a screen holds"""


class Cost(NamedTuple):
    """What modules weigh and take, all together."""

    params: int
    """trainable"""
    macs: int
    """multiply-adds for one image"""
    ms: float
    """of the forward of a batch, by a clock around every module"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module with all that is in it, or `OUTSIDE`: what the modules that hold the parts do themselves."""

    name: str
    """dotted"""
    kind: str
    """its class"""
    shape: tuple[int, ...] | None
    """of its output for one image; None: it gives no tensor, or is never called as a whole"""
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Kind:
    """All layers of a class, or `OUTSIDE`: what is done in no layer."""

    name: str
    layers: int
    """how many the network has; 0 for `OUTSIDE`"""
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where a network's time goes; parts and kinds are two divisions of the same sums."""

    parts: tuple[Part, ...]
    """in the network's order, `OUTSIDE` last"""
    kinds: tuple[Kind, ...]
    """slowest first"""
    forward: Speed
    """in eval mode, without clocks inside"""
    training: Speed | None
    """forward and backward of a cross-entropy in training mode, no optimiser; None if not asked for"""

    @property
    def clocked_ms(self) -> float:
        """The forward with its clocks: the sum of the parts, and of the kinds."""
        return sum(part.cost.ms for part in self.parts)


def profile_network(
    work: Workload, *, depth: int | None = None, backward: bool = True, seconds: float = 0.5
) -> Profile:
    """Measure a network and all its modules, forward for about `seconds`, and as long with the backward.

    Its parts are the modules `depth` levels below it, a module with a single member not counted as a level; by default
    as deep as `MOST_ROWS` parts allow. Raises DistillError if a batch does not fit into memory, or cannot be trained
    on.
    """
    bench = Bench(work)
    macs, shapes = _weigh(bench)
    forward, ms = _clock(bench, work, seconds)
    training = timed(bench.train, work, seconds) if backward else None  # last, as it leaves gradients and a used heap
    costs = {name: Cost(params, macs.get(name, 0), ms[name]) for name, params in _params(bench.net).items()}
    parts = _cut(bench.net, depth)
    by_part = _sums(costs, {name: _owner(name, parts) for name in costs})
    kinds, layers = _kinds(bench.net)
    by_kind = _sums(costs, kinds)
    return Profile(
        parts=tuple(
            Part(name=name, kind=kind, shape=shapes.get(name), cost=by_part.get(name, Cost(0, 0, 0.0)))
            for name, kind in [*((n, type(m).__name__) for n, m in parts.items()), (OUTSIDE, "")]
        ),
        kinds=tuple(
            Kind(name=name, layers=layers[name], cost=cost)
            for name, cost in sorted(by_kind.items(), key=lambda item: -item[1].ms)
        ),
        forward=forward,
        training=training,
    )


class _Meter:
    """Reads a meter before and after every module, and so knows what each took itself, without its children.

    In a `with`, which gives that by name of the module, complete when it ends.
    """

    def __init__(self, net: nn.Module, read: Callable[[], float]) -> None:
        self._net, self._read = net, read
        self.shapes: dict[str, tuple[int, ...]] = {}
        """of the tensors that modules gave, for one image"""

    def __enter__(self) -> dict[str, float]:
        self._own: dict[str, float] = defaultdict(float)
        self._under_way: list[list[float]] = []  # modules being computed: what children took, the reading at the start
        self._hooks = [module.register_forward_pre_hook(self._start) for module in self._net.modules()]
        self._hooks += [module.register_forward_hook(self._stopper(name)) for name, module in self._net.named_modules()]
        return self._own

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _start(self, *_: object) -> None:
        self._under_way.append([0.0, self._read()])

    def _stopper(self, name: str) -> Any:
        def stop(_: nn.Module, __: object, output: object) -> None:
            end = self._read()
            children, start = self._under_way.pop()
            self._own[name] += end - start - children
            if self._under_way:
                self._under_way[-1][0] += end - start
            if isinstance(output, Tensor):
                self.shapes[name] = tuple(output.shape[1:])

        return stop


def _weigh(bench: Bench) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Multiply-adds of each module itself, and the shape of its output, by name."""
    with counting() as counter, (meter := _Meter(bench.net, counter.get_total_flops)) as flops:
        bench.net.eval()(bench.images_BCHW[:1])
    return {name: int(taken) // 2 for name, taken in flops.items()}, meter.shapes


def _clock(bench: Bench, work: Workload, seconds: float) -> tuple[Speed, dict[str, float]]:
    """The forward, and the milliseconds of each module itself, by name: the median of as many passes."""
    meter, passes = _Meter(bench.net, lambda: now(work.device)), list[dict[str, float]]()

    def clocked() -> None:
        with meter as taken:
            bench.forward()
        passes.append(taken)

    forward = timed(bench.forward, work, 2 * seconds, between=clocked)
    names = [name for name, _ in bench.net.named_modules()]
    return forward, {n: 1000 * statistics.median(taken[n] for taken in passes[WARM_UP:]) for n in names}


def _params(net: nn.Module) -> dict[str, int]:
    """Trainable parameters of each module itself, by name; shared ones where they are first met."""
    params = {name: 0 for name, _ in net.named_modules()}
    for name, parameter in net.named_parameters():
        params[name.rpartition(".")[0]] += parameter.numel() if parameter.requires_grad else 0
    return params


def _sums(costs: Mapping[str, Cost], groups: Mapping[str, str]) -> dict[str, Cost]:
    """The costs of modules, added up by the group of each."""
    sums: dict[str, Cost] = {}
    for name, cost in costs.items():
        old = sums.get(groups[name], Cost(0, 0, 0.0))
        sums[groups[name]] = Cost(old.params + cost.params, old.macs + cost.macs, old.ms + cost.ms)
    return sums


def _kinds(net: nn.Module) -> tuple[dict[str, str], Counter[str]]:
    """The kind of layer that each module is or belongs to, by name, and how many layers are of each kind."""
    kinds: dict[str, str] = {}
    layers: Counter[str] = Counter()
    for name, module in net.named_modules():
        holder = kinds.get(name.rpartition(".")[0], OUTSIDE)
        if holder != OUTSIDE:
            kinds[name] = holder
        elif _holds(module):
            kinds[name] = OUTSIDE
        else:
            kinds[name] = type(module).__name__
            layers[kinds[name]] += 1
    return kinds, layers


def _holds(module: nn.Module) -> bool:
    """Whether it has members, or is there to have some; attention is the one layer that has a layer inside."""
    if isinstance(module, nn.MultiheadAttention):
        return False
    return isinstance(module, nn.Sequential) or next(module.children(), None) is not None


def _owner(name: str, parts: Mapping[str, nn.Module]) -> str:
    return next((part for part in parts if name == part or name.startswith(f"{part}.")), OUTSIDE)


def _cut(net: nn.Module, depth: int | None) -> dict[str, nn.Module]:
    """Modules `depth` levels deep, by name, or as deep as a table holds; one without members stays as it is."""
    parts, level = _members("", net), 1
    while depth is None or level < depth:
        deeper = {n: m for name, part in parts.items() for n, m in (_members(name, part) or {name: part}).items()}
        if len(deeper) == len(parts) or (depth is None and len(deeper) > MOST_ROWS):
            break
        parts, level = deeper, level + 1
    return parts


def _members(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """What is in a module; if that is one module, what is in that one."""
    members = {f"{name}.{n}" if name else n: child for n, child in module.named_children()}
    if len(members) == 1:
        return _members(*next(iter(members.items()))) or members
    return members
