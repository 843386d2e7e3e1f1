"""One HTML file that is a whole report: no script, no request to anywhere, every name escaped, same input same bytes.

Builders (``picture``, ``funnel``, ``histogram``, ``lines``, ``table``, ``facts``) make figures; ``render`` sets them
under headings. What comes in as ``str`` is text, never HTML: corpus and file names are other people's input.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from shards import charts

FUNNEL_KINDS = ("kept", "left", "bad")  # goes on, was left out with a reason, could not be used
NEUTRAL = 128  # mid grey: the placeholder for "no images"
SHORT = 24  # characters of a table cell that is kept on one line
FIGURES = re.compile(  # 1,234 or 3.2e-7 or < 0.1 % or 61.0 +- 0.3 or the dash
    r"\u2013|(?:[<>+\u2212-] ?)?\d[\d.,]*(?:e\u2212?\d+)?(?: ?%| ?\u00b1 ?[\d.,]+)?"
)
# What no XML or UTF-8 file can hold: control characters, and the lone surrogates of undecodable file names.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Figure:
    """One thing to look at. An empty title or caption is left out of the page."""

    title: str
    caption: str
    body: Markup  # trusted HTML, made by a builder


def mosaic(images_NCHW: NDArray[np.uint8], *, columns: int = 16, scale: int = 2, pad: int = 1) -> bytes:
    """PNG bytes (RGBA) of a grid of images, row by row, each pixel enlarged to ``scale`` x ``scale``.

    Takes 1 (grey) or 3 (RGB) channels. ``pad`` transparent output pixels lie between neighbours and none around the
    grid: fewer images than ``columns`` make a narrower picture. No images make one grey tile.
    Raises ValueError for another dtype, shape or channel count.
    """
    if images_NCHW.dtype != np.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
        raise ValueError(f"mosaic takes uint8 images (N, 1 or 3, H, W), got {images_NCHW.dtype} {images_NCHW.shape}")
    if not len(images_NCHW):
        images_NCHW = np.full((1, *images_NCHW.shape[1:]), NEUTRAL, dtype=np.uint8)
    tiles_NHWC = images_NCHW.repeat(scale, axis=2).repeat(scale, axis=3).transpose(0, 2, 3, 1)
    count, height, width, _ = tiles_NHWC.shape
    across = min(columns, count)
    down = -(-count // across)
    cells = np.zeros((down * across, height + pad, width + pad, 4), dtype=np.uint8)
    cells[:count, pad:, pad:, :3] = tiles_NHWC
    cells[:count, pad:, pad:, 3] = 255
    grid = cells.reshape(down, across, height + pad, width + pad, 4).transpose(0, 2, 1, 3, 4)
    png = io.BytesIO()
    Image.fromarray(grid.reshape(down * (height + pad), across * (width + pad), 4)[pad:, pad:]).save(png, "PNG")
    return png.getvalue()


def picture(title: str, png_bytes: bytes, *, caption: str) -> Figure:
    """A PNG inside the page; its pixel size is the largest at which it is shown."""
    width, height = (int.from_bytes(png_bytes[at : at + 4], "big") for at in (16, 20))  # PNG: the IHDR chunk
    source = "data:image/png;base64," + base64.b64encode(png_bytes).decode("ascii")
    image = Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(source, width, height, title)
    return Figure(title, caption, image)


def funnel(title: str, rows: Sequence[tuple[str, int, str]], *, caption: str) -> Figure:
    """Horizontal bars of (label, count, kind), each with its share of the first; ValueError if not a known kind."""
    if not rows:
        return Figure(title, caption, charts.EMPTY)
    whole = rows[0][1]
    items = []
    for label, count, kind in rows:
        if kind not in FUNNEL_KINDS:
            raise ValueError(f"funnel row {label!r}: unknown kind {kind!r}, expected one of {', '.join(FUNNEL_KINDS)}")
        share = count / whole if whole else 0.0
        bar = Markup('<i class="{}" style="width:{:.3f}%"></i>').format(kind, 100 * min(share, 1.0))
        items.append(
            Markup(
                '<li><span class="label">{}</span><span class="track">{}</span>'
                '<span class="count">{}</span><span class="share">{}</span></li>'
            ).format(
                label,
                bar if count else "",  # a bar is never thinner than can be seen, so none has none
                charts.number(count),
                _percent(share) if whole else charts.NOTHING,
            )
        )
    return Figure(title, caption, Markup('<ul class="funnel">{}</ul>').format(Markup("").join(items)))


def histogram(
    title: str, edges: Sequence[float], series: Mapping[str, Sequence[int]], *, x_label: str, caption: str
) -> Figure:
    """Counts per bin, stacked, ``len(edges) - 1`` a series; of two series the second is the grey remainder."""
    return Figure(title, caption, charts.histogram(title, edges, series, x_label=x_label))


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float | None]]],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    caption: str,
) -> Figure:
    """(x, y) points per series; None, NaN, infinities and, with ``log_y``, y <= 0 are gaps."""
    return Figure(title, caption, charts.lines(title, series, x_label=x_label, y_label=y_label, log_y=log_y))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str) -> Figure:
    """Cells are text, numbers or None; a column of figures is right-aligned, its floats with the same decimals."""
    columns = [_column(cells) for cells in zip(*rows, strict=True)] or [("", [])] * len(header)
    heads = [
        Markup('<th scope="col" class="{}">{}</th>').format(kind, name)
        for name, (kind, _) in zip(header, columns, strict=True)
    ]
    cells = [[Markup('<td class="{}">{}</td>').format(kind, text) for text in texts] for kind, texts in columns]
    body = [Markup("<tr>{}</tr>").format(Markup("").join(row)) for row in zip(*cells, strict=True)]
    grid = Markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{}"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(title, Markup("").join(heads), Markup("").join(body))
    return Figure(title, caption, grid if rows else grid + charts.EMPTY)


def facts(pairs: Sequence[tuple[str, str]]) -> Figure:
    """A compact card of names and values, without title or caption."""
    items = [Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in pairs]
    return Figure("", "", Markup('<dl class="facts">{}</dl>').format(Markup("").join(items)))


def render(
    *, title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[tuple[str, Sequence[Figure]]]
) -> str:
    """The whole page. Characters that a UTF-8 file cannot hold become U+FFFD, so the result can always be written."""
    source = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    ).from_string(source)
    page = template.render(title=title, lead=lead, card=_card(facts) if facts else None, sections=sections)
    return UNPRINTABLE.sub("\ufffd", page)


_card = facts  # ``render`` has an argument of that name


def _column(cells: Sequence[object]) -> tuple[str, list[str]]:
    """CSS class and texts of one column; floats share the decimals that the longest of them needs."""
    floats = [charts.number(cell) for cell in cells if isinstance(cell, Real) and not isinstance(cell, Integral)]
    aligned = not any("e" in text for text in floats)
    decimals = max((len(text.partition(".")[2]) for text in floats), default=0) if aligned else None
    texts = [charts.number(cell, decimals=decimals) for cell in cells]
    if all(FIGURES.fullmatch(text) for text in texts):
        return "number", texts
    return "short" if max(map(len, texts)) <= SHORT else "long", texts


def _percent(share: float) -> str:
    """``31.1 %``; a share that rounds to nothing, or only just not to all, says so."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %" if share not in (0, 1) else f"{100 * share:.0f} %"
