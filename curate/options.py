"""Options that the commands of `curate` share, and what they mean."""

import re
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
MODES = (
    "entropy-topk, confidence-topk, confidence-bottomk, margin-topk, margin-bottomk, energy-topk, energy-bottomk, "
    "dfnd, balanced, balanced-entropy, kcenter, hausdorff, band, random, sql"
)
"""of SELECTORS; here as words, so that `--help` loads no rule"""

Mode = Annotated[str | None, typer.Option(help=f"The rule: {MODES}. Default: entropy-topk, or sql with --sql.")]
Budget = Annotated[int, typer.Option(help="Images to select at most.")]
Seed = Annotated[int, typer.Option(help="Of draws: random's, the holdout's, the packing order's.")]
Holdout = Annotated[float, typer.Option(help="Fraction of the selected kept for choosing a checkpoint.")]
Where = Annotated[
    str | None, typer.Option(help="SQL condition on scores: only such rows. Example: entropy BETWEEN 0.5 AND 1.5")
]
Sql = Annotated[str | None, typer.Option(help="A SELECT whose first column is keys: the rule itself.")]
By = Annotated[str, typer.Option(help="balanced: the order within a class, such as entropy-topk.")]
BaseLimit = Annotated[
    int | None, typer.Option(help="balanced: images of the first corpus looked at, a seeded draw. Default: --budget.")
]
Cap = Annotated[list[str] | None, typer.Option(help="NAME=N: at most N images of a corpus; repeat.")]
Floor = Annotated[list[str] | None, typer.Option(help="NAME=N: at least N of a corpus, while it has them; repeat.")]
NearDuplicates = Annotated[
    float | None,
    typer.Option(help="Drop what lies this near to an earlier image, as a fraction of the spread of the vectors."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="SPEC of images that must not come in, such as the test set; repeat.")
]
ExcludeWithin = Annotated[
    float | None,
    typer.Option(help="Of --exclude: also drop what lies this near, as a fraction of their spread. Default: 0.1."),
]
Reference = Annotated[
    list[str] | None, typer.Option(help="SPEC that distances are measured to, as nn_dist and nn_key; repeat.")
]
Out = Annotated[Path, typer.Option(help="Folder of the transfer set.")]
Views = Annotated[
    int,
    typer.Option(
        help="Put the teacher's logits of so many augmented views of each image into the set: then training asks no "
        "teacher. Each costs a forward of every selected image.",
        min=0,
    ),
]
Licence = Annotated[
    str | None,
    typer.Option(help="What the set's card says of the images' licence, such as cc-by-4.0; corpora do not tell."),
]
Replace = Annotated[bool, typer.Option("--replace", help="Move another set in --out aside.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be read, reused and written, and stop.")]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Go on without the samples that cannot be read.")
]
DEFAULT_WORK = Path(".transferset")


def limits(option: str, texts: Sequence[str] | None) -> dict[str, int]:
    """`NAME=N`, repeated, as numbers by corpus; raises `CurateError` for anything else."""
    found: dict[str, int] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        if not equals or not re.fullmatch(r"[0-9]{1,12}", number):
            raise CurateError(f"{option} is {text!r}; expected NAME=N, such as {option} places=20000")
        if name in found:
            raise CurateError(f"{option} {name} is given twice; give it once")
        found[name] = int(number)
    return found
