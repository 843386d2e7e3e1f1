"""`README.md`: what a transfer set is and how to read it, with the YAML that the Hugging Face Hub reads."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manifests.schema import FEATURES, LOGITS, SAMPLES, SCORES, SELECTION
from shards.layout import RAW_MAX, shard_name

CARD = "README.md"
UNKNOWN = "unknown"
TAGS = ("knowledge-distillation", "data-free", "transfer-set", "transferset", "webdataset")
CLASSES_SHOWN = 20
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
"""of the Hub"""


def title(document: Mapping[str, Any]) -> str:
    """What a person calls the set."""
    return f"Transfer set for {document['teacher']['name']}"


def licence(document: Mapping[str, Any]) -> str:
    """Of the images, as far as somebody stated it: their corpora say nothing of it."""
    return str(document.get("licence", UNKNOWN))


def description(document: Mapping[str, Any]) -> str:
    """What the set is, in two sentences."""
    images, size = document["counts"]["selected"], document["size"]
    return (
        f"{images:,} images of {size} x {size} px, chosen out of {document['counts']['seen']:,} so that the classifier "
        f"{document['teacher']['name']} can teach a smaller network on them, without the data that it was trained on "
        "itself. The images have no labels: what they are is what the teacher says of them."
    )


def card(document: Mapping[str, Any]) -> str:
    """The text of the card; ``document`` is `transfer-set.json`."""
    parts = [_front(document), f"# {title(document)}", description(document), *_images(document), *_made(document)]
    return "\n\n".join([*parts, *_licence(document), *_reading(document)]) + "\n"


def some_classes(histogram: Mapping[str, int]) -> tuple[list[tuple[str, int]], str]:
    """Images by class, most first, of many classes both ends; and a sentence that says so where some are left out."""
    classes = sorted(histogram.items(), key=lambda item: -item[1])
    if len(classes) <= CLASSES_SHOWN:
        return classes, ""
    half = CLASSES_SHOWN // 2
    return (
        [*classes[:half], *classes[-half:]],
        f" {CLASSES_SHOWN} of {len(classes)} classes: the fullest and the emptiest.",
    )


def _front(document: Mapping[str, Any]) -> str:
    """What the Hub reads. JSON's strings are YAML's."""
    images = document["counts"]["selected"]
    size = SIZES[min(max(0, len(str(images)) - 3), len(SIZES) - 1)]
    tables = (SAMPLES, SELECTION, SCORES, FEATURES, LOGITS)
    lines = [f"license: {_quoted(licence(document))}", f"pretty_name: {_quoted(title(document))}"]
    lines += ["task_categories:", "- image-classification", "size_categories:", f"- {size}"]
    lines += ["tags:", *(f"- {tag}" for tag in TAGS), "configs:"]
    lines += [line for table in tables for line in (f"- config_name: {table.name}", f"  data_files: {table.file}")]
    return "\n".join(["---", *lines, "---"])


def _images(document: Mapping[str, Any]) -> list[str]:
    columns = ("seen", "selected", "left_out", "quarantined", "duplicates")
    header = ["corpus", *(column.replace("_", " ") for column in columns)]
    rows = [
        [name, *(f"{numbers[column]:,}" for column in columns)]
        for name, numbers in [*((c["corpus"], c) for c in document["corpora"]), ("all", document["counts"])]
    ]
    splits = ", ".join(f"{split} {rows:,}" for split, rows in document["rows"].items())
    found = [
        "## Images",
        f"By split: {splits} (the holdout chooses a checkpoint). By corpus, duplicates among those left out:",
        _table(header, rows),
    ]
    classes, some = some_classes(document["class_histogram"])
    if classes:
        found += [
            f"By the teacher's first choice.{some}",
            _table(["class", "images"], [[n, f"{c:,}"] for n, c in classes]),
        ]
    return found


def _made(document: Mapping[str, Any]) -> list[str]:
    plan, teacher, views = document["plan"], document["teacher"], document.get("views")
    rows = [
        ["id, a hash of the contents", f"`{document['id']}`"],
        ["rule", f"{plan['mode']}, budget {plan['budget']:,}, seed {plan['seed']}"],
        ["teacher", f"{teacher['name']}, SHA-256 of its tensors `{teacher['sha256']}`"],
        ["its normaliser", f"mean {_numbers(teacher['mean'])}, standard deviation {_numbers(teacher['std'])}"],
        ["pixels", document["transform"]],
    ]
    if views:
        how = "crop and flip" if views["flip"] else "crop"
        facts = f"seed {views['seed']}, {how} with {views['pad']} px of padding"
        rows.append(["teacher's logits in the blocks", f"of {views['count']} views of each image, float16 ({facts})"])
    why = (
        f"Every sample seen has a row in `{SAMPLES.file}`, every one that could be used a reason in `{SELECTION.file}` "
        f"why it was kept or left out. `transfer-set.json` says the rest, `croissant.json` the SHA-256 of every file."
    )
    return ["## How it was made", _table(["", ""], rows), why]


def _licence(document: Mapping[str, Any]) -> list[str]:
    stated = licence(document)
    unknown = (
        "Unknown: whoever packed the set did not state it, and corpora are copied without asking for theirs. "
        "`--licence` of `curate select` or `shards pack` states it here; the id stays the same."
    )
    return ["## Licence of the images", unknown if stated == UNKNOWN else f"As stated by who packed the set: {stated}"]


def _reading(document: Mapping[str, Any]) -> list[str]:
    split = next((split for split, rows in document["rows"].items() if rows), None)
    if split is None:
        return []
    raw = document["size"] <= RAW_MAX
    name = "images.npy" if raw else "images.bytes.npy"
    holds = (
        f"`{name}` is uint8 (N, 3, H, W), RGB"
        if raw
        else f"`{name}` is N PNG files on end; the i-th begins at `images.offsets.npy`[i]"
    )
    logits = "; `logits.npy` float16 (N, V, K)" if document.get("views") else ""
    wds = [
        "import webdataset",
        "",
        f'for block in webdataset.WebDataset("{shard_name(0, split)}", shardshuffle=False).decode():',
        f'    images, keys = block["{name}"], block["keys.npy"]',
    ]
    ours = [
        "from shards import Stream, open_folder",
        "from shards.sources import LocalBlocks",
        "",
        f'stream = Stream(LocalBlocks(open_folder("."), "{split}"), batch_size={min(256, document["rows"][split])})',
        "images_BCHW, keys, labels, logits_BK = next(stream)",
    ]
    sql = [
        "import duckdb",
        "",
        'duckdb.sql("""',
        "    SELECT corpus, count(*) AS images, avg(entropy) AS nats",
        f"    FROM '{SAMPLES.file}' JOIN '{SELECTION.file}' USING (key) JOIN '{SCORES.file}' USING (key)",
        "    WHERE selected GROUP BY ALL ORDER BY ALL",
        '""").show()',
    ]
    return [
        "## Reading it",
        f"Shards are plain webdataset tars of blocks of images: {holds}; `keys.npy` S32, as in the manifests{logits}.",
        _python(wds),
        "With transferset, which checks every block before it hands it out; `distill train --shards .` trains on it:",
        _python(ours),
        "What is known of each image is Parquet, for DuckDB or anything else:",
        _python(sql),
    ]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; whatever a class is called, a row stays a row."""
    cells = [header, ["---"] * len(header), *([" ".join(c.replace("|", "\\|").split()) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _python(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
