"""`distill models` and `distill profile`: what networks weigh, how fast they are here, and where their time goes."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill.options import Device, Dtype, Json, Threads
from manifests.console import emit_json, note, print_table
from manifests.progress import bar

if TYPE_CHECKING:
    from distill.profile import Profile
    from distill.speed import Speed, Workload

Size = Annotated[int | None, typer.Option(help="Pixels a side of the images; default: the network's own.")]
Classes = Annotated[int | None, typer.Option(help="Classes of the head; default: as the papers count.")]
BatchSize = Annotated[int | None, typer.Option(help="Images in a pass; default: by the network's weight.")]


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Architectures: of the list, wrnDEPTH_WIDTH, torchvision:NAME, timm:NAME or file.py:factory.",
        ),
    ] = None,
    *,
    size: Size = None,
    classes: Classes = None,
    speed: Annotated[bool, typer.Option(help="Measure images/s here.")] = True,
    batch_size: BatchSize = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """List architectures with parameters, multiply-adds (MACs) and the forward's speed here; by default all."""
    from distill.errors import DistillError
    from distill.speed import measure_speed

    how = {"--batch-size": batch_size, "--device": device, "--dtype": dtype, "--threads": threads}
    typed = [option for option, value in how.items() if value not in (None, "auto")]
    if typed and not speed:
        raise DistillError(f"{typed[0]} says how to measure, and --no-speed not to; leave out one of them")
    works = _works(names, size=size, classes=classes, batch_size=batch_size, **_place(device, dtype, threads))
    speeds: list[Speed] = []
    with bar("measure", len(works) if speed else 0, unit="models") as advance:
        for work in works if speed else ():
            speeds.append(measure_speed(work))
            advance(1)
    if json:
        measured = [asdict(s) for s in speeds] if speed else [None for _ in works]
        rows = [_facts(work) | {"speed": found} for work, found in zip(works, measured, strict=True)]
        emit_json({**_conditions(works[0]), "models": rows})
        return
    header = ["name", "parameters", "MACs", "px", "channels", "classes", "features", *(["images/s"] if speed else [])]
    rates = [[_rate(s)] for s in speeds] or [[] for _ in works]
    print_table(header, [[*_row(work), *rate] for work, rate in zip(works, rates, strict=True)])
    if speed:
        typer.echo(f"images/s: of the forward in eval mode, {_where(works[0])}")


def profile(
    model: Annotated[str, typer.Argument(help="Architecture, such as wrn40_2; see `distill models`.")],
    *,
    size: Size = None,
    classes: Classes = None,
    depth: Annotated[
        int | None, typer.Option(help="Levels of modules to open; default: as many as make a short table.", min=1)
    ] = None,
    backward: Annotated[bool, typer.Option(help="Measure also forward and backward in training mode.")] = True,
    batch_size: BatchSize = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Show where a network's time goes here: by its parts, and by kind of layer."""
    from distill.profile import profile_network

    how = _place(device, dtype, threads)
    (work,) = _works([model], size=size, classes=classes, batch_size=batch_size, **how)
    found = profile_network(work, depth=depth, backward=backward)
    if json:
        emit_json({**_facts(work), **_conditions(work), **_times(found)})
        return
    total, forward, counts = found.clocked_ms, found.forward, work.counts
    print_table(
        ["part", "kind", "output", "parameters", "MACs", "ms", "share"],
        [[p.name, p.kind, _by(p.shape), *p.cost, p.cost.ms / total] for p in found.parts],
    )
    typer.echo()
    print_table(
        ["layers", "number", "parameters", "MACs", "ms", "share"],
        [[k.name, k.layers or None, *k.cost, k.cost.ms / total] for k in found.kinds],
    )
    typer.echo()
    passes = {"forward": forward, "forward + backward": found.training}
    print_table(
        ["pass", "images/s", "ms", "fastest", "slowest", "passes"],
        [[name, _rate(s), s.ms, s.ms_min, s.ms_max, s.passes] for name, s in passes.items() if s],
    )
    typer.echo(
        f"\n{model}, {work.size} px, {work.classes} classes: {counts.params:,} parameters, {counts.macs:,} MACs; "
        f"forward at {counts.macs * forward.images_per_s / 1e9:,.1f} GMAC/s\n"
        f"ms: of a batch of {work.batch_size}, medians, {_where(work)}\n"
        f"the parts sum to {total:,.2f} ms, with a clock around every module; the forward without takes "
        f"{forward.ms:,.2f} ms\n"
        "(outside): in no part or layer of its own, such as sums, functional ReLU and pooling"
    )


def _place(device: str, dtype: str, threads: int | None) -> dict[str, Any]:
    """Where and how to compute, as the user has it."""
    import torch

    from distill.device import choose_device, choose_dtype

    if threads:
        torch.set_num_threads(threads)
    where = choose_device(device)
    return {"device": where, "dtype": choose_dtype(dtype, where)}


def _works(names: list[str] | None, *, size: int | None, **how: Any) -> "list[Workload]":
    """The networks to measure; of the whole list, those that take images of that size."""
    from distill.errors import UnsupportedSize
    from distill.models import MODELS, spec
    from distill.speed import workload

    if names:
        return [workload(spec(name), size=size, **how) for name in names]
    works, left_out = [], []
    for model in MODELS.values():
        try:
            works.append(workload(model, size=size, **how))
        except UnsupportedSize:
            left_out.append(model.name)
    if not works:
        raise UnsupportedSize(f"none of the architectures takes images of {size} px a side")
    if left_out:
        note(f"left out, as they take no images of {size} px: {', '.join(left_out)}")
    return works


def _row(work: "Workload") -> list[Any]:
    model, counts = work.model, work.counts
    return [model.name, *counts, work.size, model.channels, work.classes, model.feature_dim]


def _facts(work: "Workload") -> dict[str, Any]:
    """What is known of a network, and at which size and head it was counted."""
    model = work.model
    return {
        "name": model.name,
        "family": model.family,
        **work.counts._asdict(),
        "size": work.size,
        "channels": model.channels,
        "classes": work.classes,
        "feature_dim": model.feature_dim,
        "head": model.head,
        "smallest": model.smallest,
        "largest": model.largest,
        "source": model.source,
    }


def _times(found: "Profile") -> dict[str, Any]:
    return {
        "forward": asdict(found.forward),
        "training": asdict(found.training) if found.training else None,
        "clocked_ms": found.clocked_ms,
        "parts": [{"name": p.name, "kind": p.kind, "shape": p.shape, **p.cost._asdict()} for p in found.parts],
        "layers": [{"name": k.name, "number": k.layers, **k.cost._asdict()} for k in found.kinds],
    }


def _conditions(work: "Workload") -> dict[str, Any]:
    from distill.device import hardware

    return {"dtype": work.dtype, "hardware": hardware(work.device)}


def _where(work: "Workload") -> str:
    found = _conditions(work)["hardware"]
    return f"{work.dtype} on {found['name']}, CPU threads: {found['threads']}, torch {found['torch']}"


def _rate(speed: "Speed") -> float:
    """Images/s, without digits that are noise."""
    return round(speed.images_per_s) if speed.images_per_s >= 10 else speed.images_per_s


def _by(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ()))
