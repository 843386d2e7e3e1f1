"""What `distill train` is told: its options, and a file that holds them."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from distill.options import typed

NAMES = {"set": "setting"}
"""what a file calls an option whose parameter has another name"""
SETTINGS = "transferset.settings"
"""where typer's context keeps the table [set] of the file"""


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a file's values as the defaults of the options; what is typed wins, of the table [set] name by name."""
    from distill.errors import DistillError

    if path is None:
        return None
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistillError(f"--config {path} does not exist") from None
    except ValueError as error:
        raise DistillError(f"--config {path} is not TOML: {error}") from None
    known = {str(parameter.name) for parameter in context.command.params} - {"config", "help"}
    values = {NAMES.get(name, name).replace("-", "_"): value for name, value in told.items()}
    if unknown := sorted({*values} - known):
        raise DistillError(f"--config {path} has {unknown[0]!r}, which is no option of this command")
    settings = values.pop("setting", {})
    if not isinstance(settings, dict):
        raise DistillError(f"--config {path}: set is {settings!r}; expected a table [set] of NAME = VALUE")
    context.meta[SETTINGS] = [f"{name}={_word(value)}" for name, value in settings.items()]
    if isinstance(seeds := values.get("seeds"), list):
        values["seeds"] = ",".join(map(str, seeds))
    context.default_map = {**(context.default_map or {}), **values}
    return path


def settings_of(context: typer.Context, setting: list[str] | None, **options: Any) -> dict[str, Any]:
    """The settings of the file, by options of their own or in its table, and over them those that were typed."""
    sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in options}
    on_line = {name: value for name, value in options.items() if sources[name] == "COMMANDLINE"}
    in_file = {name: value for name, value in options.items() if name not in on_line}
    return typed(context.meta.get(SETTINGS), **in_file) | typed(setting, **on_line)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


Shards = Annotated[
    str | None, typer.Option(help="Transfer set (folder or URL), or tars of single images: 'data-{0000..0099}.tar'.")
]
Student = Annotated[str, typer.Option(help="Architecture of the student; `distill models` lists them.")]
Method = Annotated[str, typer.Option(help="How to distil; `distill methods` lists them.")]
Teacher = Annotated[
    str | None, typer.Option(help="Teacher's architecture or stored name; default: the transfer set's own teacher.")
]
TeacherWeights = Annotated[Path | None, typer.Option(help="The teacher's weights file.")]
Recipe = Annotated[
    str | None, typer.Option(help="paper, starter or one of the method's own; default: by the transfer set.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the train split.")]
Updates = Annotated[int | None, typer.Option(help="Student updates, for epochs; rounded up to steps.")]
BatchSize = Annotated[int | None, typer.Option(help="Images in a batch, of all ranks together.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate of the student.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(help="TOML file with any of these options and a table [set].", callback=_read_config, is_eager=True),
]
Seed = Annotated[int | None, typer.Option(help="Of initial weights, order, augmentation and noise; default: 0.")]
Seeds = Annotated[
    str | None, typer.Option(help="Several runs, in folders below --out: 0,1,2 or 0-4; with mean and spread.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder; default: runs/METHOD-STUDENT-HASH.")]
Logits = Annotated[
    str, typer.Option(help="auto: those that the set carries (--views), if it does; live: ask the teacher.")
]
Resident = Annotated[str, typer.Option(help="Where pixels lie: auto, device, memory or window.")]
OnDamage = Annotated[str, typer.Option(help="refuse, or skip: go on without what is damaged, up to --max-bad.")]
MaxBad = Annotated[float, typer.Option(help="Share of images that --on-damage skip may replace.", min=0, max=1)]
Resize = Annotated[str, typer.Option(help="How images of tars come to size, as for `curate ingest`.")]
AllowPipe = Annotated[bool, typer.Option("--allow-pipe", help="Let --shards 'pipe:COMMAND' run a shell.")]
Compile = Annotated[bool, typer.Option("--compile", help="Run the networks through torch.compile.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write TensorBoard's event files (extra `tensorboard`).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it costs.")]
