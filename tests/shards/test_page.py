"""The report page: nothing escapes the escaping, nothing is fetched, and no data makes a chart fall over."""

import io
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image

from shards import charts, page

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{0}{{ 7*7 }}\x00\x1b\udcff"
VOID = {"meta", "link", "img", "br"}


class Outline(HTMLParser):
    """Reads a page strictly enough to notice a tag that is not closed, and collects what tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


def every_figure(name: str) -> list[page.Figure]:
    """One of each builder, with ``name`` wherever a user's text can stand."""
    png = page.mosaic(np.zeros((2, 3, 4, 4), dtype=np.uint8))
    points = [(0.0, 1.0), (1.0, None), (2.0, 0.5), (3.0, 0.25)]
    return [
        page.picture(name, png, caption=name),
        page.funnel(name, [(name, 10, "kept"), (name, 3, "left"), (name, 1, "bad")], caption=name),
        page.histogram(name, [0, 1, 2], {name: [3, 0], name + "2": [1, 2]}, x_label=name, caption=name),
        page.lines(name, {name: points}, x_label=name, y_label=name, log_y=True, caption=name),
        page.table(name, [name, "n"], [[name, 1], [name, None]], caption=name),
        page.facts([(name, name)]),
    ]


def whole_page(name: str) -> str:
    return page.render(title=name, lead=name, facts=[(name, name)], sections=[(name, every_figure(name)), (name, [])])


def path_points(body: str, kind: str = "line") -> list[list[tuple[float, float]]]:
    """The strokes of the lines of a chart, in per cent."""
    drawn = "".join(re.findall(rf'<path class="{kind} [^"]*" d="([^"]*)"', body))
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([^ML,h]+),([^ML,h]+)", stroke)]
        for stroke in drawn.split("M")
        if stroke
    ]


def test_hostile_names_stay_text() -> None:
    html = whole_page(HOSTILE)
    outline = Outline(html)
    assert outline.open == []
    assert "script" not in outline.names()
    assert outline.names().count("img") == 1  # the picture, not the one in the name
    assert not [attrs for _, attrs in outline.tags if any(key.startswith("on") for key in attrs)]
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\udcff", "\ufffd")
    assert shown in outline.words  # in full, braces and all
    assert html.encode("utf-8").decode("utf-8") == html


def test_same_input_same_bytes() -> None:
    assert whole_page("corpus") == whole_page("corpus")
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    assert page.mosaic(images) == page.mosaic(images.copy())


def test_one_file_that_fetches_nothing() -> None:
    html = whole_page("corpus")
    assert not re.search(r"https?://|url\(|@import|<script|<iframe|<object", html)
    links = [attrs[key] or "" for _, attrs in Outline(html).tags for key in ("src", "href") if key in attrs]
    assert len(links) == 2
    assert all(link.startswith("data:") for link in links)
    assert "default-src 'none'" in html


def test_headings_descend_one_step_at_a_time_and_pictures_have_words() -> None:
    tags = Outline(whole_page("corpus")).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [attrs["alt"] for tag, attrs in tags if tag == "img"] == ["corpus"]
    assert [attrs["role"] for tag, attrs in tags if tag == "svg" and "role" in attrs] == ["img", "img"]


def test_charts_are_well_formed_xml_and_named() -> None:
    for figure in every_figure("a & b <c>")[2:4]:
        svg = ET.fromstring(re.search(r"<svg.*</svg>", figure.body, re.DOTALL)[0])  # type: ignore[index]
        assert svg[0].tag == "title"
        assert (svg[0].text or "").startswith("a & b <c>; a & b <c>: ")


def test_empty_inputs_say_so() -> None:
    empty = [
        page.funnel("f", [], caption=""),
        page.histogram("h", [], {}, x_label="x", caption=""),
        page.histogram("h", [0, 1, 2], {"a": [0, 0]}, x_label="x", caption=""),
        page.histogram("h", [0, math.nan, 2], {"a": [1, 1]}, x_label="x", caption=""),
        page.lines("l", {}, x_label="x", y_label="y", caption=""),
        page.lines("l", {"a": [], "b": [(0, math.nan), (1, None)]}, x_label="x", y_label="y", caption=""),
        page.lines("l", {"a": [(0, 0.0), (1, -1.0)]}, x_label="x", y_label="y", log_y=True, caption=""),
        page.table("t", ["a", "b"], [], caption=""),
    ]
    assert all("no data" in figure.body for figure in empty)
    html = page.render(title="t", lead="", facts=[], sections=[("s", empty), ("nothing", [])])
    assert Outline(html).open == []
    assert "nothing to show" in html
    assert '<dl class="facts">' not in html
    assert '<p class="lead">' not in html
    assert "<figcaption>" not in html


def test_lines_break_at_gaps_and_a_lone_point_is_a_dot() -> None:
    points = [(0, 0.0), (1, 10.0), (2, None), (3, 5.0), (4, math.inf), (5, 0.0), (6, 10.0), (math.nan, 3.0)]
    body = page.lines("l", {"a": points}, x_label="x", y_label="y", caption="").body
    assert path_points(body) == [[(0, 100), (16.67, 0)], [(83.33, 100), (100, 0)]]
    assert path_points(body, "dot") == [[(50, 50)]]


def test_lines_are_thinned_without_losing_peaks_or_ends() -> None:
    heights = np.zeros(50_000)
    heights[[12_345, 40_000]] = 7.0, -3.0
    body = page.lines("l", {"a": list(enumerate(heights.tolist()))}, x_label="x", y_label="y", caption="").body
    (stroke,) = path_points(body)
    assert len(stroke) <= charts.LINE_POINTS
    assert (stroke[0][0], stroke[-1][0]) == (0, 100)
    axis = charts.linear_axis(-3.0, 7.0, widen=True)
    for x, y in (12_345, 7.0), (40_000, -3.0):
        assert any(
            math.isclose(px, 100 * x / 49_999, abs_tol=0.01) and math.isclose(py, 100 - axis.at(y), abs_tol=0.01)
            for px, py in stroke
        )


def test_log_lines_put_equal_ratios_at_equal_distances() -> None:
    points = [(0, 1000.0), (1, 1.0), (2, 0.0), (3, 1e-3), (4, 1e-6)]
    body = page.lines("l", {"a": points}, x_label="x", y_label="y", log_y=True, caption="").body
    (first, second) = path_points(body)
    assert math.isclose(first[1][1] - first[0][1], second[1][1] - second[0][1], abs_tol=0.02)


anything = st.floats(allow_nan=True, allow_infinity=True) | st.none() | st.sampled_from([0.0, 1e9, 1e-9, 1.0])


@settings(max_examples=60, deadline=None)
@given(points=st.lists(st.tuples(st.floats(), anything), max_size=12), log_y=st.booleans())
def test_no_points_break_a_line_chart(points: list[tuple[float, float | None]], log_y: bool) -> None:
    body = page.lines("l", {"a": points}, x_label="x", y_label="y", log_y=log_y, caption="").body
    assert not re.search(r"\bnan\b|\binf\b", body)
    places = [place for kind in ("line", "dot") for stroke in path_points(body, kind) for place in stroke]
    assert all(-0.01 <= x <= 100.01 and -0.01 <= y <= 100.01 for x, y in places)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 16_080, ["0", "5,000", "10,000", "15,000", "20,000"]),
        (-0.3, 0.4, ["\u22120.4", "\u22120.2", "0.0", "0.2", "0.4"]),
        (0, 2_500_000, ["0.0M", "0.5M", "1.0M", "1.5M", "2.0M", "2.5M"]),
        (5, 5, ["2", "3", "4", "5", "6", "7", "8"]),
    ],
)
def test_ticks_are_round(low: float, high: float, labels: list[str]) -> None:
    axis = charts.linear_axis(low, high, widen=True)
    assert [label for _, label in axis.ticks] == labels
    assert axis.at(axis.low) == 0
    assert axis.at(axis.high) == 100


def test_log_ticks() -> None:
    assert [label for _, label in charts.log_axis(0.3, 4).ticks] == ["0.2", "0.5", "1", "2", "5"]
    assert [label for _, label in charts.log_axis(1e-5, 50).ticks][:3] == ["1e\u22125", "0.0001", "0.001"]
    assert len(charts.log_axis(1e-100, 1e100).ticks) <= 10


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (np.float32("inf"), "\u2013"),
        (0, "0"),
        (0.0, "0"),
        (np.int64(1_234_567), "1,234,567"),
        (-12, "\u221212"),
        (12_345.678, "12,346"),
        (0.123456, "0.1235"),
        (61.0, "61"),
        (3.2e-7, "3.2e\u22127"),
        (True, "yes"),
        ("as it is", "as it is"),
    ],
)
def test_numbers_read_well(value: object, text: str) -> None:
    assert charts.number(value) == text


def test_histogram_stacks_to_the_totals() -> None:
    series = {"selected": np.array([0, 50]), "left out": np.array([100, 50])}
    body = page.histogram("h", np.array([0.0, 1.0, 2.0]), series, x_label="nats", caption="").body  # type: ignore[arg-type]
    bars = re.findall(r'<rect class="bar (\w+)" x="([\d.]+)%" y="([\d.]+)%" width="([\d.]+)%" height="([\d.]+)%"', body)
    assert [(kind, *map(float, box)) for kind, *box in bars] == [
        ("rest", 0, 0, 50, 100),
        ("s0", 50, 50, 50, 50),
        ("rest", 50, 0, 50, 50),
    ]
    assert "1 to 2\nselected: 50\nleft out: 50" in body
    assert "<title>h; selected: 50; left out: 150</title>" in body


def test_histogram_refuses_counts_that_do_not_fit_the_edges() -> None:
    with pytest.raises(ValueError, match="zip"):
        page.histogram("h", [0, 1, 2], {"a": [1, 2, 3]}, x_label="x", caption="")


def test_funnel_shares_are_of_the_first_row() -> None:
    rows = [("seen", 16_080, "kept"), ("bad", 3, "bad"), ("left", 11_077, "left"), ("kept", 5_000, "kept")]
    words = Outline(page.funnel("f", rows, caption="").body).words
    assert words[2::3] == ["100 %", "< 0.1 %", "68.9 %", "31.1 %"]
    assert words[1::3] == ["16,080", "3", "11,077", "5,000"]
    nothing = Outline(page.funnel("f", [("seen", 0, "kept")], caption="").body)
    assert nothing.words == ["seen", "0", "\u2013"]
    assert "i" not in nothing.names()  # no sliver of a bar


def test_funnel_names_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown kind 'lost', expected one of kept, left, bad"):
        page.funnel("f", [("seen", 1, "lost")], caption="")


def test_table_aligns_columns_of_figures() -> None:
    rows = [
        ["tiny", 10_000, 1.5, "31.2 %", 1e-9],
        ["scenes", 20, None, "< 0.1 %", 2.0],
        ["x" * 40, 1, 0.123456, "5", 3],
    ]
    body = page.table("t", ["corpus", "n", "mean", "share", "wide"], rows, caption="").body
    cells = re.findall(r'<td class="(\w+)">([^<]*)', body)
    assert [kind for kind, _ in cells[:5]] == ["long", "number", "number", "number", "number"]
    assert [text for _, text in cells[2::5]] == ["1.5000", "\u2013", "0.1235"]
    assert [text for _, text in cells[4::5]] == ["1e\u22129", "2", "3"]
    assert "&lt; 0.1 %" in body


def test_caption_and_title_of_a_figure_are_escaped_even_if_its_body_is_not() -> None:
    html = page.render(
        title="t", lead="", facts=[], sections=[("s", [page.Figure("<b>", "<i>", Markup("<em>ok</em>"))])]
    )
    assert "<h3>&lt;b&gt;</h3>" in html
    assert "<figcaption>&lt;i&gt;</figcaption>" in html
    assert "<em>ok</em>" in html


def pixels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_mosaic_places_every_pixel() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    grid = pixels(page.mosaic(images, columns=3, scale=3, pad=2))
    assert grid.shape == (2 * 12 + 2, 3 * 18 + 2 * 2, 4)
    covered = np.zeros(grid.shape[:2], dtype=bool)
    for i, image in enumerate(images):
        top, left = (i // 3) * 14, (i % 3) * 20
        cell = grid[top : top + 12, left : left + 18]
        covered[top : top + 12, left : left + 18] = True
        assert (cell[..., 3] == 255).all()
        for dy, dx in (0, 0), (1, 2), (2, 1):  # all nine copies of a pixel are alike
            assert (cell[dy::3, dx::3, :3] == image.transpose(1, 2, 0)).all()
    assert (grid[~covered] == 0).all()


def test_mosaic_narrows_to_few_images_and_shows_grey_ones() -> None:
    images = np.array([[[[0, 255], [7, 8]]]] * 2, dtype=np.uint8)
    grid = pixels(page.mosaic(images, scale=1, pad=0))
    assert grid.shape == (2, 4, 4)
    assert grid[0, 1].tolist() == [255, 255, 255, 255]
    assert grid[1, 2].tolist() == [7, 7, 7, 255]


def test_mosaic_of_nothing_is_one_neutral_tile() -> None:
    grid = pixels(page.mosaic(np.zeros((0, 3, 16, 16), dtype=np.uint8)))
    assert grid.shape == (32, 32, 4)
    assert (grid == [128, 128, 128, 255]).all()


@pytest.mark.parametrize(
    "images", [np.zeros((1, 3, 4, 4)), np.zeros((3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)]
)
def test_mosaic_names_what_it_cannot_draw(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(ValueError, match=r"uint8 images \(N, 1 or 3, H, W\), got .*4"):
        page.mosaic(images)


def test_picture_states_its_size() -> None:
    png = page.mosaic(np.zeros((3, 3, 8, 8), dtype=np.uint8))
    assert 'width="50" height="16"' in page.picture("p", png, caption="").body
