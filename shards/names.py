"""File names: which are images, which are URLs or patterns, and what files a pattern stands for."""

import re
from glob import glob, has_magic
from pathlib import Path

from braceexpand import braceexpand

IMAGE_EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
        *(".avif", ".heic", ".heif", ".jp2", ".jxl"),  # not decoded here: counted and quarantined, not passed over
    )
)  # compared in lower case

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_image(name: str) -> bool:
    """Whether a file name ends as an encoded image does."""
    return Path(name).suffix.lower() in IMAGE_EXTENSIONS


def is_url(text: str) -> bool:
    """Whether a path is a URL, such as https://host/a.tar or s3://bucket/a.tar."""
    return _URL.match(text) is not None


def is_pattern(text: str) -> bool:
    """Whether a path that does not exist is meant as a glob or brace pattern."""
    return has_magic(text) or "{" in text


def printable(name: str) -> str:
    """A name from a file system or tar as valid Unicode (bytes that are not UTF-8 become escapes)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def expand_braces(pattern: str) -> list[str]:
    """The names that a brace pattern such as `train-{000..146}.tar` stands for; ValueError in words if it is none."""
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise ValueError(f"unbalanced braces in {pattern!r}; expected e.g. train-{{000..146}}.tar") from None


def expand(pattern: str) -> set[Path]:
    """The files that a pattern of braces and wildcards stands for; FileNotFoundError in words if one is not there."""
    found: set[Path] = set()
    for name in expand_braces(str(Path(pattern).expanduser())):
        # Not Path.glob: it takes no absolute pattern, and its * matches hidden files.
        matches = glob(name, recursive=True) if has_magic(name) else [name]  # noqa: PTH207
        files = {Path(match) for match in matches if Path(match).is_file()}
        if not files:
            origin = f" (from the pattern {pattern})" if name != pattern else ""
            raise FileNotFoundError(f"no such file: {name}{origin}")
        found |= files
    return found
