"""Options that the commands of `curate` share, and what they mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from curate.errors import CurateError

Corpora = Annotated[
    list[str] | None,
    typer.Option("--corpus", help="NAME=SPEC or a path; repeat, in order. Default: the built-in starter corpora."),
]
Teacher = Annotated[str, typer.Option(help="Teacher's architecture, or its name among your teachers.")]
Weights = Annotated[Path | None, typer.Option(help="The teacher's weights file; default: looked up by name.")]
Work = Annotated[Path, typer.Option(help="Folder for what can be made again: stores, scores, selections.")]
Resize = Annotated[
    str | None,
    typer.Option(help="antialias, box, plain or imagenet: how images come to size. Default: the teacher's own rule."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16; auto is bfloat16 where the hardware has it.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; never changes a result. Default: all cores.", min=1)]
MaxBad = Annotated[float, typer.Option(help="Exit 3 if a larger fraction of samples is damaged.", min=0, max=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
On = Annotated[str, typer.Option("--on", help="features or logits: the vectors that distances are between.")]
DEFAULT_WORK = Path(".transferset")


def limits(option: str, texts: Sequence[str] | None) -> dict[str, int]:
    """`NAME=N`, repeated, as numbers by corpus; raises `CurateError` for anything else."""
    found: dict[str, int] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        if not equals or not number.isascii() or not number.replace("_", "").isdigit():
            raise CurateError(f"{option} is {text!r}; expected NAME=N, such as {option} places=20000")
        if name in found:
            raise CurateError(f"{option} {name} is given twice; give it once")
        found[name] = int(number)
    return found
