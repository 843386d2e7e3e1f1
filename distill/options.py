"""Options that several commands of `distill` share, and what is read from their text."""

from typing import Annotated, Any

import typer

from distill.errors import DistillError

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16; auto is bfloat16 where the hardware has it.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: all cores.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
StopAfter = Annotated[str | None, typer.Option(help="Save and stop after this long: 90s, 9m, 1h; rerun to go on.")]
Replace = Annotated[bool, typer.Option("--replace", help="Move another run in --out aside.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: NAME=VALUE; repeat for more.")]


def typed(pairs: list[str] | None, **options: Any) -> dict[str, Any]:
    """The settings that a user typed, by options of their own or by --set."""
    found = {name: value for name, value in options.items() if value is not None}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DistillError(f"--set {pair!r}; expected NAME=VALUE, such as --set temperature=4")
        if name in found:
            raise DistillError(f"--set {pair!r}: {name} was given before, as {found[name]}; say it once")
        found[name] = value
    return found


def seconds(text: str | None) -> float | None:
    """The time that 90s, 9m, 1h or a bare number of seconds means; raises DistillError."""
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        found = float(number) * unit
    except ValueError:
        found = -1.0
    if not 0 < found < float("inf"):
        raise DistillError(f"--stop-after {text!r}; expected a time such as 90s, 9m or 1h")
    return found


def set_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads, or as many as it likes."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def whole_numbers(text: str) -> list[int]:
    """The numbers that 0,1,2 or 0-4 means; raises DistillError, also for one that is said twice."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or not (last.isdecimal() or not dash) or int(last or first) < int(first):
            raise DistillError(f"--seeds {text!r}; expected numbers such as 0,1,2 or 0-4")
        found += range(int(first), int(last or first) + 1)
    if twice := [number for number in found if found.count(number) > 1]:
        raise DistillError(f"--seeds {text!r} says {twice[0]} twice; expected each seed once")
    return found
