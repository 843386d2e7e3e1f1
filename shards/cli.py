"""The `shards` command: pack a selection; verify, show, export and measure a set."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from manifests.console import emit_json, new_app, note, print_table, run
from manifests.progress import bar

app = new_app("Pack selections into transfer sets, and check that shards are what was written.")

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def pack(
    selection: Annotated[Path, typer.Argument(help="A selection folder, as `curate select` leaves in --work.")],
    store: Annotated[list[Path], typer.Option("--store", help="A corpus store it was made from; repeat for each.")],
    out: Annotated[Path, typer.Option(help="Folder of the transfer set.")] = Path("transfer-set"),
    licence: Annotated[
        str | None, typer.Option(help="What the set's card says of the images' licence, such as cc-by-4.0.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Move another set in --out aside.")] = False,
    json: JSON = False,
) -> None:
    """Copy the selected images into a transfer set: shuffled block shards and their manifests."""
    from shards.errors import ShardError
    from shards.index import open_store
    from shards.pack import pack as pack_selection
    from shards.selection import open_selection

    order = open_selection(selection)
    stores = {str(opened.document["corpus"]): opened for opened in map(open_store, store)}
    if len(stores) < len(store):
        raise ShardError(f"two of the stores given are of one corpus; expected one --store each of {', '.join(stores)}")
    result = pack_selection(order, stores, out, licence=licence, replace=replace, progress=bar)
    if result.moved:
        note(f"the old {out} is now {result.moved}")
    facts: dict[str, Any] = {"out": str(out), "id": result.folder.id, "rows": dict(result.folder.document["rows"])}
    facts |= {"shards_written": result.shards_written, "shards_reused": result.shards_reused}
    if json:
        emit_json(facts)
    else:
        print(f"{out}: {result.folder.rows():,} images in {len(result.folder.shards)} shards, id {result.folder.id}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A transfer set or a corpus store.")] = Path("transfer-set"),
    fast: Annotated[bool, typer.Option("--fast", help="Sizes and counts only; no shard is read.")] = False,
    json: JSON = False,
) -> None:
    """Check every hash and decode every block; exit code 4 if anything differs from what was written."""
    from manifests.errors import IntegrityError
    from shards.verify import verify as verify_folder

    verdict = verify_folder(folder, full=not fast, progress=bar)
    if json:
        emit_json(dataclasses.asdict(verdict))
    else:
        for problem in verdict.problems:
            print(problem)
        state = "damaged: delete what is named above, then make or copy it again" if verdict.problems else "sound"
        speed = f"{verdict.bytes / 1e6 / verdict.seconds:,.0f} MB/s"
        depth = "sizes and counts, and no shard read" if fast else f"every hash and every block at {speed}"
        print(f"{folder}: {state}; {verdict.images:,} images in {verdict.shards} shards, checked {depth}")
    if verdict.problems:
        raise typer.Exit(IntegrityError.exit_code)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A transfer set or a corpus store.")] = Path("transfer-set"),
    mosaic: Annotated[
        Path | None, typer.Option("--mosaic", metavar="FILE.png", help="Draw 64 images from all over it.")
    ] = None,
    json: JSON = False,
) -> None:
    """Show what a set is: images by split, corpora, classes, teacher, bytes."""
    from shards.index import open_folder
    from shards.show import describe, lines, write_mosaic

    opened = open_folder(folder)
    facts = describe(opened)
    if mosaic is not None:
        note(f"{mosaic}: {write_mosaic(opened, mosaic)} images")
    if json:
        emit_json(facts)
    else:
        for name, value in lines(facts):
            print(f"{name:8}  {value}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A transfer set or a corpus store.")],
    to: Annotated[str, typer.Option(help="wds (tars of KEY.png, .cls, .json), folder (of classes) or parquet.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    image: Annotated[str, typer.Option(help="png or webp, without loss; or jpg, with.")] = "png",
    quality: Annotated[int | None, typer.Option(help="Of --image jpg, 1 to 100.  [default: 95]")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.  [default: all]")] = None,
    shard_rows: Annotated[
        int | None, typer.Option(help="Images in a tar or Parquet file.  [default: as in the set's own shards]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Move another export in --out aside.")] = False,
    json: JSON = False,
) -> None:
    """Write a set as others read it: webdataset tars, a folder of images, or Parquet for Hugging Face."""
    from shards.export import export as export_set
    from shards.index import open_folder

    options: dict[str, Any] = {"image": image, "quality": quality, "split": split, "rows": shard_rows}
    opened = open_folder(folder)
    done = export_set(opened, out, to=to, **options, replace=replace, progress=bar)
    if done.moved:
        note(f"the old {out} is now {done.moved}")
    if json:
        emit_json({"out": str(out), "set": opened.id, "to": to, "image": image, **dataclasses.asdict(done)})
        return
    images = ", ".join(f"{name} {count:,}" for name, count in done.images.items())
    loss = "without loss" if done.lossless else "with loss: the pixels are no longer those of the set"
    print(f"{out}: all {sum(done.images.values()):,} images ({images}) in {done.files:,} files, {image} {loss}")
    print(f"classes are {done.label}")


@app.command()
def bench(
    folder: Annotated[
        Path, typer.Argument(help="A transfer set or a store, or a folder on the disk that is meant.")
    ] = Path(),
    json: JSON = False,
) -> None:
    """Measure what this disk and machine give: reading, hashing, streaming; writing too, where there is no set.

    Takes some twenty seconds; of what it writes nothing is left.
    """
    from shards.bench import STEPS
    from shards.bench import bench as bench_folder

    with bar("bench", STEPS, unit="steps") as advance:
        found = bench_folder(folder, advance=advance)
    if json:
        emit_json([dataclasses.asdict(line) for line in found])
    else:
        cells = [[None if rate is None else round(rate) for rate in (m.mb_per_s, m.images_per_s)] for m in found]
        rows = [[line.what, *rates] for line, rates in zip(found, cells, strict=True)]
        print_table(["what", "MB/s", "images/s"], rows)


def main() -> None:
    """Entry point of the `shards` command."""
    run(app, "shards")
