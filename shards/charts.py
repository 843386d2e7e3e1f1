"""Numbers as inline SVG that fits any width: the plot is drawn in per cent, so it stretches and its text does not.

An outer ``<svg>`` of 100 % x a fixed height carries grid, bars and labels in percentages; lines live in a nested
``<svg viewBox="0 0 100 100" preserveAspectRatio="none">`` whose strokes do not scale. No script: the hover values
are ``<title>`` elements. Every string passes through ``Markup.format`` and is escaped there.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

COLOURS = 6  # --s0 ... --s5 in page.html.j2; further series use them again, dashed
LINE_POINTS = 600  # drawn per series: more than a 960 px page can show
HOVER_BANDS = 60  # columns of a line chart that answer to the pointer
HUGE = 1e150  # larger magnitudes, and on a log axis their inverses, are gaps: sums and ticks would overflow
MINUS, NOTHING = "\u2212", "\u2013"  # a true minus sign; the en dash that stands for "no value"
EMPTY = Markup('<p class="empty">no data</p>')


def number(value: object, *, decimals: int | None = None) -> str:
    """A value for people: ``12,345``, ``0.1235`` (4 significant digits, or ``decimals``), ``3.2e-7``; NaN is a dash."""
    if value is None or (isinstance(value, Real) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", MINUS)
    real = float(value)
    if decimals is not None:
        text = f"{real:,.{decimals}f}"
    elif real and not 1e-4 <= abs(real) < 1e10:
        mantissa, exponent = f"{real:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        places = max(0, 3 - math.floor(math.log10(abs(real)))) if real else 0
        text = f"{real:,.{places}f}"
        text = text.rstrip("0").rstrip(".") if places else text
    return text.replace("-", MINUS)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale from data to per cent of the plot, with the places and texts of its ticks."""

    low: float  # data value at 0 %
    high: float  # data value at 100 %
    ticks: tuple[tuple[float, str], ...]  # (data value, label)
    log: bool = False  # decades, base 10

    def at(self, value: float) -> float:
        """Per cent of the way from ``low`` to ``high``."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        return 100 * ((math.log10(value) if self.log else value) - low) / (high - low)


def linear_axis(low: float, high: float, *, widen: bool) -> Axis:
    """Ticks every 1, 2 or 5 x 10^n, at most 6 or so; ``widen`` moves both ends out to a tick."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-200):  # one value: a range around it
        pad = abs(low) / 2 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = (
        (math.floor(low / step), math.ceil(high / step))
        if widen
        else (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
    )
    places = [i * step for i in range(first, last + 1)]
    if widen:
        low, high = places[0], places[-1]
    return Axis(low=low, high=high, ticks=tuple(zip(places, _tick_labels(places, step=step), strict=True)))


def _tick_labels(places: Sequence[float], *, step: float) -> list[str]:
    """Labels of one axis, all with the same decimals; millions are written ``1.5M`` to stay narrow."""
    top = max(map(abs, places), default=0.0)
    if top >= 1e10 or step < 1e-4:
        return [number(place) for place in places]
    unit, suffix = (1e6, "M") if top >= 1e6 else (1.0, "")
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    return [f"{place / unit:,.{decimals}f}{suffix}".replace("-", MINUS) for place in places]


def log_axis(low: float, high: float) -> Axis:
    """Up to three decades: ticks at 1, 2 and 5 x 10^n; more: at every n-th power of ten. Both ends lie on a tick."""
    bottom, top = math.floor(math.log10(low)), math.floor(math.log10(high)) + 1
    every = math.ceil((top - bottom) / 8)
    places = [10.0**power for power in range(bottom, top + every, every)]
    if top - bottom <= 3:
        steps = [float(f"{digit}e{power}") for power in range(bottom - 1, top + 2) for digit in (1, 2, 5)]
        below, above = max(step for step in steps if step <= low), min(step for step in steps if step > high)
        places = [step for step in steps if below <= step <= above]
    ticks = tuple((place, number(place)) for place in places)
    return Axis(low=places[0], high=places[-1], ticks=ticks, log=True)


def histogram(title: str, edges: Sequence[float], series: Mapping[str, Sequence[int]], *, x_label: str) -> Markup:
    """Stacked bars of counts, one per bin; of two series the second is drawn as the grey remainder."""
    bins = list(pairwise(float(edge) for edge in edges))
    totals = [sum(counts) for counts in zip(*series.values(), strict=True)]
    if not any(totals) or not all(math.isfinite(edge) and abs(edge) < HUGE for pair in bins for edge in pair):
        return EMPTY
    x_axis = linear_axis(bins[0][0], bins[-1][1], widen=False)
    y_axis = linear_axis(0, max(totals), widen=True)
    kinds = ["s0", "rest"] if len(series) == 2 else [f"s{i % COLOURS}" for i in range(len(series))]
    columns = []
    for (left, right), counts in zip(bins, zip(*series.values(), strict=True), strict=True):
        x, width = x_axis.at(left), x_axis.at(right) - x_axis.at(left)
        bars, floor = [], 0
        for kind, count in zip(kinds, counts, strict=True):
            if count:
                box = _box(x, 100 - y_axis.at(floor + count), width=width, height=y_axis.at(count))
                bars.append(Markup('<rect class="bar {}" {}/>').format(kind, box))
            floor += count
        words = [f"{number(left)} to {number(right)}", *_named(zip(series, counts, strict=True))]
        columns.append(_hover(words, box=_box(x, 0, width=width, height=100), under=bars))
    summary = [title, *_named((name, sum(counts)) for name, counts in series.items())]
    plot = _plot(Markup("").join(columns), x_axis=x_axis, y_axis=y_axis, summary="; ".join(summary))
    return _framed(plot, keys=list(zip(kinds, series, strict=True)), x_label=x_label, y_label="samples")


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float | None]]], *, x_label: str, y_label: str, log_y: bool
) -> Markup:
    """One line per series, points in drawing order; a point that cannot be drawn is a gap, a lone point a dot."""
    drawn = {name: decimate(_points(points, positive=log_y)) for name, points in series.items()}
    finite = {name: points_N2[~np.isnan(points_N2[:, 1])] for name, points_N2 in drawn.items()}
    everything = np.concatenate([np.empty((0, 2)), *finite.values()])
    if not len(everything):
        return EMPTY
    (x_low, low), (x_high, high) = everything.min(axis=0).tolist(), everything.max(axis=0).tolist()
    x_axis = linear_axis(x_low, x_high, widen=False)
    # A linear axis starts at zero unless that would push the curve into the upper half.
    y_axis = log_axis(low, high) if log_y else linear_axis(0.0 if 0 < low < high / 2 else low, high, widen=True)
    kinds = [f"s{i % COLOURS}" + (" dashed" if i >= COLOURS else "") for i in range(len(series))]
    paths = [
        _drawn(points_N2, kind=kind, x_axis=x_axis, y_axis=y_axis)
        for kind, points_N2 in zip(kinds, drawn.values(), strict=True)
    ]
    stretched = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{}</svg>')
    seen = {name: points_N2 for name, points_N2 in finite.items() if len(points_N2)}
    marks = stretched.format(Markup("").join(paths)) + _bands(seen, x_axis=x_axis)
    summary = "; ".join([title, *_nearest(seen, x_axis=x_axis, percent=100)])
    plot = _plot(marks, x_axis=x_axis, y_axis=y_axis, summary=summary)
    return _framed(plot, keys=list(zip(kinds, series, strict=True)), x_label=x_label, y_label=y_label)


def decimate(points_N2: NDArray[np.float64], limit: int = LINE_POINTS) -> NDArray[np.float64]:
    """At most ``limit`` points: the first, the last, and the lowest and highest of each stretch between, in order.

    Peaks survive; a gap (NaN) survives if it fills a whole stretch.
    """
    if len(points_N2) <= limit:
        return points_N2
    kept = [0, len(points_N2) - 1]
    for stretch in np.array_split(np.arange(1, len(points_N2) - 1), (limit - 2) // 2):
        heights = points_N2[stretch, 1]
        both = {0} if np.isnan(heights).all() else {int(np.nanargmin(heights)), int(np.nanargmax(heights))}
        kept.extend(int(stretch[i]) for i in both)
    return points_N2[sorted(kept)]


def _points(points: Sequence[tuple[float, float | None]], *, positive: bool) -> NDArray[np.float64]:
    """(N, 2) float64; y is NaN wherever the point has no place on the plot."""
    points_N2 = np.array([[math.nan if v is None else float(v) for v in point] for point in points]).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        usable = (np.abs(points_N2) < HUGE).all(axis=1) & ((points_N2[:, 1] > 1 / HUGE) | (not positive))
    points_N2[~usable] = math.nan
    return points_N2


def _drawn(points_N2: NDArray[np.float64], *, kind: str, x_axis: Axis, y_axis: Axis) -> Markup:
    """A path per series: one stroke per run between gaps, and a dot for a run of one point."""
    strokes, dots = [], []
    for run_N2 in np.split(points_N2, np.flatnonzero(np.isnan(points_N2[:, 1]))):
        places = [
            f"{round(x_axis.at(x), 2):g},{round(100 - y_axis.at(y), 2):g}"
            for x, y in run_N2.tolist()
            if not math.isnan(y)
        ]
        if len(places) == 1:
            dots.append(f"M{places[0]}h0")  # a stroke without length shows its round cap
        elif places:
            strokes.append("M" + "L".join(places))
    path = Markup('<path class="{} {}" d="{}"/>')
    kinds = (("line", strokes), ("dot", dots))
    return Markup("").join(path.format(name, kind, "".join(parts)) for name, parts in kinds if parts)


def _bands(series: Mapping[str, NDArray[np.float64]], *, x_axis: Axis) -> Markup:
    """Invisible columns over the lines that tell the nearest values to the pointer."""
    width = 100 / HOVER_BANDS
    return Markup("").join(
        _hover(
            _nearest(series, x_axis=x_axis, percent=(i + 0.5) * width), box=_box(i * width, 0, width=width, height=100)
        )
        for i in range(HOVER_BANDS)
    )


def _nearest(series: Mapping[str, NDArray[np.float64]], *, x_axis: Axis, percent: float) -> list[str]:
    """What each series shows nearest to a place on the x axis, in words."""
    x = x_axis.low + percent / 100 * (x_axis.high - x_axis.low)
    points = {name: points_N2[np.abs(points_N2[:, 0] - x).argmin()].tolist() for name, points_N2 in series.items()}
    return [f"{name}: {number(y)} at {_whole(at)}" for name, (at, y) in points.items()]


def _whole(value: float) -> str:
    """Steps and epochs arrive as floats but are counted in whole numbers."""
    return number(int(value) if value.is_integer() and abs(value) < 1e10 else value)


def _named(pairs: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{name}: {number(count)}" for name, count in pairs]


def _box(x: float, y: float, *, width: float, height: float) -> Markup:
    return Markup('x="{:.3f}%" y="{:.3f}%" width="{:.3f}%" height="{:.3f}%"').format(x, y, width, height)


def _hover(words: Sequence[str], *, box: Markup, under: Iterable[Markup] = ()) -> Markup:
    return Markup('<g><title>{}</title>{}<rect class="hit" {}/></g>').format(
        "\n".join(words), Markup("").join(under), box
    )


def _plot(marks: Markup, *, x_axis: Axis, y_axis: Axis, summary: str) -> Markup:
    """Grid, marks and tick labels; the room for the labels is padding, measured in digits (``ch``)."""
    grid = [
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0:.3f}%" y2="{0:.3f}%"/>'
            '<text class="y" x="-8" y="{0:.3f}%" dy=".34em">{1}</text>'
        ).format(100 - y_axis.at(place), label)
        for place, label in y_axis.ticks
    ]
    feet = [
        Markup('<text class="x" x="{:.3f}%" y="100%" dy="1.7em">{}</text>').format(x_axis.at(place), label)
        for place, label in x_axis.ticks
    ]
    left, right = (max((len(label) for _, label in axis.ticks), default=1) for axis in (y_axis, x_axis))
    return Markup(
        '<div class="plot" style="padding-left:calc({left}ch + 8px);padding-right:{right}ch">'
        '<svg role="img" width="100%" height="100%"><title>{summary}</title>{grid}{marks}'
        '<line class="base" x1="0" x2="100%" y1="100%" y2="100%"/>{feet}</svg></div>'
    ).format(
        left=left, right=right / 2, summary=summary, grid=Markup("").join(grid), marks=marks, feet=Markup("").join(feet)
    )


def _framed(plot: Markup, *, keys: Sequence[tuple[str, str]], x_label: str, y_label: str) -> Markup:
    legend = [Markup('<li><i class="swatch {}"></i>{}</li>').format(kind, name) for kind, name in keys]
    return Markup(
        '<div class="chart"><div class="top"><span class="unit">{}</span><ul class="legend">{}</ul></div>'
        '{}<p class="foot">{}</p></div>'
    ).format(y_label, Markup("").join(legend), plot, x_label)
