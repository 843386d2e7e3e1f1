"""`distill teachers`: what the user's store of teachers holds, and how a weights file gets into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.console import emit_json, new_app, note, print_table

if TYPE_CHECKING:
    from distill.models.store import Stored

app = new_app("List the stored teachers, which `--teacher NAME` finds; add, show or remove one.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[str, typer.Argument(help="A stored teacher's name, a beginning of it, or its architecture.")]
_OWN_OPTIONS = {"arch", "mean", "std", "classes", "num_classes", "input_size"}  # facts that are not --set
_CARD = ("name", "arch", "classes", "input_size", "dataset", "test_accuracy")


@app.callback(invoke_without_command=True, no_args_is_help=False)
def teachers(context: typer.Context, *, json: Json = False) -> None:
    """List the stored teachers, which `--teacher NAME` finds; add, show or remove one."""
    if context.invoked_subcommand is not None:
        return
    from distill.models.store import store_dir
    from distill.models.store import teachers as stored_teachers

    rows = [_row(stored) for stored in stored_teachers()]
    if json:
        emit_json(rows)
    elif rows:
        header = ["name", "arch", "classes", "input px", "trained on", "test accuracy"]
        print_table(header, [[row[field] for field in _CARD] for row in rows])
    else:
        note(
            f"no teachers in {store_dir()}; keep one that you have with `distill teachers add FILE --arch wrn40_2"
            " --mean R,G,B --std R,G,B`, or train one with `distill pretrain`"
        )


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A safetensors or .pth file; code in it is never run.")],
    *,
    arch: Annotated[
        str | None, typer.Option(help="Its architecture, such as wrn40_2; only if the file does not say it.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="What was subtracted from inputs in [0, 1]: R,G,B, or one number for grey.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="What inputs in [0, 1] were divided by then: R,G,B, or one number for grey.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names in label order: a,b,c, or a file with one a line. Default: 0,1,...")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Pixels a side of its inputs. Default: the architecture's.", min=1)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another fact, KEY=VALUE; repeat for more. dataset, test_accuracy (0 to 1), flip (true, false)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Keep a weights file as a teacher, with what it does not say of itself; again with other facts: corrects them."""
    from distill.models.store import Stored, find, register
    from distill.models.weights import read_metadata

    facts = _facts(setting, mean=mean, std=std, classes=classes, input_size=input_size)
    path = register(file, arch=arch, facts=facts)
    stored = Stored(path=path, metadata=read_metadata(path))
    if json:
        emit_json(_row(stored) | {"path": str(path)})
        return
    row = _row(stored)
    print_table(list(_CARD), [[row[field] for field in _CARD]])
    note(f"use it with --teacher {stored.name}")


@app.command()
def show(name: Name, *, json: Json = False) -> None:
    """Print all that is known of a stored teacher."""


@app.command()
def remove(name: Name) -> None:
    """Delete a stored teacher."""
