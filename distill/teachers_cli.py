"""`distill teachers`: what the user's store of teachers holds, and how a weights file gets into it."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill.errors import DistillError, UnknownTeacher
from distill.options import Json
from manifests.console import emit_json, new_app, note, print_table

if TYPE_CHECKING:
    from distill.models.store import Stored

app = new_app("List the stored teachers, which `--teacher NAME` finds; add, show or remove one.")

Name = Annotated[
    str, typer.Argument(help="Its name, a beginning of that which reaches into the hash, or its architecture.")
]
_NOT_SET = {"arch", "num_classes", "mean", "std", "classes", "input_size"}  # facts with options of their own


@app.callback(invoke_without_command=True, no_args_is_help=False)
def teachers(context: typer.Context, *, json: Json = False) -> None:
    """List the stored teachers, which `--teacher NAME` finds; add, show or remove one."""
    if context.invoked_subcommand is not None:
        if json:
            raise DistillError(f"--json stands after the command: distill teachers {context.invoked_subcommand} --json")
        return
    from distill.models.store import damaged, store_dir
    from distill.models.store import teachers as stored_teachers

    for path in damaged():
        note(f"{path.stem} is damaged: remove it with `distill teachers remove {path.stem}` and add it again")
    rows = [_row(stored) for stored in stored_teachers()]
    if json:
        emit_json(rows)
    elif rows:
        header = ["name", "arch", "classes", "input px", "trained on", "test accuracy"]
        print_table(header, [list(row.values()) for row in rows])
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
        str | None, typer.Option(help="Its architecture, such as wrn40_2, if the file does not say it.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="What is subtracted from inputs in [0, 1]: R,G,B, or one number for grey.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="What they are then divided by: R,G,B, or one number for grey.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names in label order: a file with one a line, or a,b,c; default: 0,1,2...")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Pixels a side of its inputs; default: the architecture's.", min=1)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another fact, KEY=VALUE: dataset=cifar10, test_accuracy=0.9, flip=false, resize=box; repeat."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Keep a weights file as a teacher, with what it does not say of itself. Adding it again corrects what is told."""
    from distill.models.store import Stored, register
    from distill.models.store import teachers as stored_teachers
    from distill.models.weights import read_metadata

    facts = _facts(setting, mean=mean, std=std, classes=_class_names(classes), input_size=input_size)
    before = {teacher.path: teacher.metadata for teacher in stored_teachers()}
    path = register(file, arch=arch, facts=facts)
    stored = Stored(path=path, metadata=read_metadata(path))
    row = _row(stored)
    if json:
        emit_json(row | {"path": str(path)})
        return
    typer.echo(f"{stored.name}: a {stored.arch} with {row['classes']} classes, inputs of {row['input_size']} px")
    for name, value in stored.metadata.items() if path in before else ():
        if (old := before[path].get(name)) != value:
            typer.echo(f"{name} is now {value}" + (f"; it was {old}" if old else ""))
    short = _shortest(stored)
    typer.echo(f"use it with --teacher {short}; try it with `distill eval {short} --data SPEC`")
    if stored.metadata["classes"] == ",".join(map(str, range(row["classes"]))):
        note("its classes are called by their numbers; if they have names, add it again with --classes")


@app.command()
def show(name: Name, *, json: Json = False) -> None:
    """Print all that is known of a stored teacher, after a look at its tensors."""
    from distill.models.store import check_sound, find
    from distill.models.weights import parameters, read_weights, weights_sha256

    stored = find(name)
    tensors = read_weights(stored.path)[0]
    sha256 = weights_sha256(tensors)
    check_sound(stored.path, sha256)
    facts = {"name": stored.name, "path": str(stored.path), "sha256": sha256, "parameters": parameters(tensors)}
    if json:
        emit_json(facts | {"metadata": stored.metadata})
    else:
        print_table(["fact", "value"], [*facts.items(), *sorted(stored.metadata.items())])


@app.command()
def remove(name: Name) -> None:
    """Delete a stored teacher."""
    from distill.models.store import remove as remove_stored

    typer.echo(f"removed {remove_stored(name)}")


def _row(stored: "Stored") -> dict[str, Any]:
    """What the list says of a teacher; None for what its file does not tell."""
    from distill.models.card import split_names

    facts = stored.metadata
    count = facts.get("num_classes") or (str(len(split_names(facts["classes"]))) if "classes" in facts else None)
    return {
        "name": stored.name,
        "arch": stored.arch,
        "classes": _number(count),
        "input_size": _number(facts.get("input_size")),
        "dataset": facts.get("dataset"),
        "test_accuracy": _number(facts.get("test_accuracy")),
    }


def _number(text: str | None) -> int | float | str | None:
    """The number that a fact is, or the fact itself: anybody's file may say anything."""
    if text is None:
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _shortest(stored: "Stored") -> str:
    """What `--teacher` needs to hear to find it: its architecture, if it is the only one of that."""
    from distill.models.store import find

    with contextlib.suppress(UnknownTeacher):
        return stored.arch if find(stored.arch).path == stored.path else stored.name
    return stored.name


def _class_names(text: str | None) -> str | None:
    """The line of CSV that a file has for `--classes`: of a file with one name a line, or of a,b,c itself."""
    from distill.models.card import join_names, split_names

    if text is None:
        return None
    if Path(text).is_file():
        try:
            names = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DistillError(f"--classes {text}: not UTF-8 text ({error}); expected one name a line") from None
    elif "," in text:
        names = list(split_names(text))
    else:
        raise DistillError(f"--classes {text!r}: no such file; expected one with a name a line, or names: a,b,c")
    return join_names([name.strip() for name in names if name.strip()])


def _facts(settings: list[str] | None, **options: str | int | None) -> dict[str, str]:
    """Facts by options of their own and by --set, as strings that a file's metadata hold."""
    facts = {name: str(value) for name, value in options.items() if value is not None}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise DistillError(f"--set {setting!r}; expected KEY=VALUE, such as --set dataset=cifar10")
        if key in _NOT_SET:
            option = "classes" if key == "num_classes" else key.replace("_", "-")
            raise DistillError(f"--set {setting!r}: that has an option of its own, --{option}")
        if key in facts:
            raise DistillError(f"--set {setting!r}: {key} was given before, as {facts[key]}; say it once")
        facts[key] = value
    accuracy = _number(facts.get("test_accuracy"))
    if accuracy is not None and not (isinstance(accuracy, int | float) and 0 <= accuracy <= 1):
        raise DistillError(f"--set test_accuracy={accuracy}; expected a fraction, such as 0.949")
    return facts
