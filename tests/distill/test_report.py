"""The page of a run: what it says with and without generator, held-out slice, evaluations and transfer set."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distill.report import PAGE, REPORT, SYNTHETIC_MOSAIC, read_report, write_report
from distill.train import METRICS
from shards.index import ShardFolder

ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Text(HTMLParser):
    """The words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data.split()


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "run": {"method": "kd", "student": "wrn16_1", "transfer_set": "0123456789abcdef"},
        "teacher": {"name": "wrn40_2-0011223344ff"},
        "student_updates": 12_345,
        "teacher_queries": 1_580_160,
        "seconds": 1234.5,
        "agreement": {"images": 250, "last": 0.8125, "chosen": 0.875, "chosen_step": 1_200},
        "hardware": {"name": "A <fast> processor"},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines: list[dict[str, Any]] = [
        {"step": 20, "updates": 20, "seconds": 1.0, "kl": 2.5, "adv": -0.5},
        {"step": 20, "agreement": 0.5},
        {"step": 40, "updates": 40, "seconds": 2.0, "kl": 1.5},
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 60, "k')
    return tmp_path


def page(run: Path, report: dict[str, Any], folder: ShardFolder | None) -> Text:
    write_report(run, report, folder)
    return Text((run / PAGE).read_text(encoding="utf-8"))


def test_what_the_page_says(run: Path, report: dict[str, Any], transfer_set: ShardFolder) -> None:
    found = page(run, report, transfer_set)
    for words in (
        "kd: wrn40_2-0011223344ff to wrn16_1",
        "student updates 12,345",
        "teacher queries 1,580,160",
        "1,234 s on A <fast> processor",
        "On the 250 held-out images of the transfer set. Last 81.25 %; chosen 87.50 %, at step 1,200.",
        transfer_set.id[:12],
        "From corpora to transfer set",
    ):
        assert words in found.text
    headings = [
        heading
        for heading in ("Outcome", "Training", "Transfer set")
        if heading in found.words or heading in found.text
    ]
    assert headings == ["Outcome", "Training", "Transfer set"]


def test_one_curve_a_loss_term_and_none_for_the_clock(
    run: Path, report: dict[str, Any], transfer_set: ShardFolder
) -> None:
    found = page(run, report, transfer_set)
    captions = re.findall("Mean since the last line", found.text)
    assert len(captions) == 2
    assert "kl" in found.words
    assert "adv" in found.words
    assert "seconds" not in found.words


def test_it_asks_nobody_for_anything_and_trusts_no_name(run: Path, report: dict[str, Any]) -> None:
    report["teacher"]["name"] = "<script>alert(1)</script>"
    found = page(run, report, None)
    assert "script" not in found.tags
    assert "<script>alert(1)</script>" in found.text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", (run / PAGE).read_text())


def test_same_run_same_bytes(run: Path, report: dict[str, Any], transfer_set: ShardFolder) -> None:
    page(run, report, transfer_set)
    first = (run / PAGE).read_bytes()
    page(run, report, transfer_set)
    assert (run / PAGE).read_bytes() == first


def test_without_its_transfer_set(run: Path, report: dict[str, Any]) -> None:
    found = page(run, report, None)
    assert "transfer set 0123456789ab" in found.text
    assert "From corpora to transfer set" not in found.text


def test_without_a_held_out_slice(run: Path, report: dict[str, Any]) -> None:
    report["agreement"] = {"images": 0, "last": None, "chosen": None, "chosen_step": None}
    found = page(run, report, None)
    assert "Agreement" not in found.text
    assert "None" not in found.text


def test_stopped_before_the_first_judgement(run: Path, report: dict[str, Any]) -> None:
    (run / METRICS).write_text('{"step": 1, "kl": 1.0}\n')
    report["agreement"] |= {"chosen": None, "chosen_step": None}
    found = page(run, report, None)
    assert "Last 81.25 %." in found.text
    assert "None" not in found.text


def test_evaluations_are_shown(run: Path, report: dict[str, Any]) -> None:
    for corpus, accuracy in (("cifar", 0.9), ("svhn", None)):
        students = {
            "last": {"accuracy": 0.5, "agreement": accuracy},
            "chosen": {"accuracy": 0.625, "agreement": accuracy},
        }
        result = {"corpus": corpus, "images": 10_000, "students": students, "teacher_accuracy": accuracy}
        (run / f"eval-{corpus}.json").write_text(json.dumps(result))
    found = page(run, report, None)
    assert found.text.count("On 10,000 labelled images of") == 2
    assert "teacher 90.00 %" in found.text
    assert "student (chosen) 62.50 % 90.00 %" in found.text
    assert "None" not in found.text


def test_the_synthetic_images_are_shown_where_there_are_some(run: Path, report: dict[str, Any]) -> None:
    assert "img" not in page(run, report, None).tags
    (run / SYNTHETIC_MOSAIC).parent.mkdir()
    (run / SYNTHETIC_MOSAIC).write_bytes(ONE_PIXEL)
    found = page(run, report, None)
    assert found.tags.count("img") == 1
    assert "What the generator makes of one fixed z." in found.text


def test_read_report(run: Path, report: dict[str, Any]) -> None:
    assert read_report(run) is None
    (run / REPORT).write_text(json.dumps(report))
    assert read_report(run) == report
