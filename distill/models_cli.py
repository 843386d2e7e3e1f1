"""`distill models` and `distill profile`: what networks weigh, how fast they are here, and where their time goes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.console import emit_json, note, print_table
from manifests.progress import bar

if TYPE_CHECKING:
    from distill.profile import Cost, Profile, Speed, Workload

Size = Annotated[int | None, typer.Option(help="Pixels a side of the images; default: the network's own.")]
Classes = Annotated[int | None, typer.Option(help="Classes of the head; default: as the papers count.")]
BatchSize = Annotated[int | None, typer.Option(help="Images in a pass; default: by the network's weight.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16; auto is bfloat16 where the hardware has it.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: all cores.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
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

    how = {"--batch-size": batch_size, "--device": device, "--dtype": dtype, "--threads": threads}
    typed = [option for option, value in how.items() if value not in (None, "auto")]
    if typed and not speed:
        raise DistillError(f"{typed[0]} says how to measure, --no-speed not to measure; leave out one of them")
    from distill.profile import measure_speed

    works = _works(names, size=size, classes=classes, batch_size=batch_size, **_place(device, dtype, threads))
    speeds: list[Speed | None] = [None] * len(works)
    if speed:
        with bar("measure", len(works), unit="models") as advance:
            for i, work in enumerate(works):
                speeds[i] = measure_speed(work)
                advance(1)
    if json:
        rows = [_facts(work) | {"speed": _speed(speed)} for work, speed in zip(works, speeds, strict=True)]
        emit_json({**(_conditions(works[0]) if speed else {}), "models": rows})
        return
    header = ["name", "parameters", "MACs", "px", "channels", "classes", "features", "images/s"]
    table = [
        [w.model.name, w.counts.params, w.counts.macs, w.size, w.model.channels, w.classes, w.model.feature_dim]
        for w in works
    ]
    if speed:
        print_table(header, [[*row, _rate(s.images_per_s)] for row, s in zip(table, speeds, strict=True) if s])
        typer.echo(f"images/s: forward in eval mode, {_where(works[0])}")
    else:
        print_table(header[:-1], table)


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
        emit_json({**_facts(work), **_conditions(work), **_document(found)})
    else:
        _print_profile(work, found)


def _print_profile(work: "Workload", found: "Profile") -> None:
    total = found.clocked_ms
    print_table(
        ["part", "kind", "output", "parameters", "MACs", "ms", "share"],
        [
            [p.name, p.kind, "x".join(map(str, p.shape or ())), *_cells(p.cost), p.cost.ms / total]
            for p in found.parts
        ],
    )
    typer.echo()
    print_table(
        ["layer", "number", "parameters", "MACs", "ms", "share"],
        [[k.name, k.layers or None, *_cells(k.cost), k.cost.ms / total] for k in found.kinds],
    )
    typer.echo()
    passes = {"forward": found.forward, "forward + backward": found.training}
    # a multiply-add of the forward is two more in the backward, for the gradients of weights and inputs, but in the
    # first layer: that is not counted, so the rate is given for the forward alone
    print_table(
        ["pass", "images/s", "ms", "fastest", "slowest", "passes"],
        [[name, _rate(s.images_per_s), s.ms, s.ms_min, s.ms_max, s.passes] for name, s in passes.items() if s],
    )
    typer.echo()
    macs = work.counts.macs
    typer.echo(
        f"{work.model.name}, {work.size} px, {work.classes} classes: {work.counts.params:,} parameters, {macs:,} MACs; "
        f"forward at {macs * found.forward.images_per_s / 1e9:,.1f} GMAC/s"
    )
    typer.echo(f"ms: of a batch of {work.batch_size}, medians, {_where(work)}")
    typer.echo(
        f"parts and layers sum to {total:,.2f} ms with a clock around every module, the forward without takes "
        f"{found.forward.ms:,.2f} ms; (outside): sums, functional ReLU, pooling and the like"
    )


def _cells(cost: "Cost") -> list[Any]:
    return [cost.params, cost.macs, cost.ms]
