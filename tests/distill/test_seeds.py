"""Several seeds of one run: the figures by hand, and the time that they share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import seeds
from distill.material import Material
from distill.models.teachers import Classifier, load_classifier
from distill.ranks import Ranks
from distill.run import Place, RunConfig
from distill.seeds import SUMMARY, distill_seeds, spread
from distill.train import Pace
from tests.distill import toys


def test_spread_by_hand() -> None:
    """Mean of 1, 2 and 6 is 3, squares of differences 4, 1 and 9: variance 14 / 2."""
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(7**0.5), "n": 3}
    assert spread([0.5]) == {"mean": 0.5, "sd": 0.0, "n": 1}
    assert spread([None, 0.25, float("nan"), 0.75]) == {"mean": 0.5, "sd": pytest.approx(0.125**0.5), "n": 2}
    assert spread([None]) is None
    assert spread([]) is None


class Fake:
    """Stands for `distill`: 10 s a run, of which it does what the pace leaves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.asked = 0.0, list[tuple[int, Path, float | None]]()
        monkeypatch.setattr(seeds, "distill", self)
        monkeypatch.setattr("distill.seeds.time.monotonic", lambda: self.now)

    def __call__(
        self, material: Material, teacher: Classifier, run: RunConfig, *, out: Path, pace: Pace, **_: Any
    ) -> dict[str, Any]:
        self.asked.append((run.seed, out, pace.stop_after_s))
        took = min(10.0, pace.stop_after_s or 10.0)
        self.now += took
        agreement = {"last": run.seed / 10, "chosen": None}
        facts = {"student_updates": 5, "teacher_queries": 40, "seconds": took, "damage": None, "held_out_damage": None}
        return {"finished": took == 10, "agreement": agreement, **facts}


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path) -> Callable[..., tuple[Fake, dict[str, Any]]]:
    def run(*, place: Place = toys.PLACE, **pace: Any) -> tuple[Fake, dict[str, Any]]:
        fake, teacher = Fake(monkeypatch), load_classifier(weights)
        summary = distill_seeds(
            Material(), teacher, toys.run_config("kd"), seeds=(1, 2, 6), out=tmp_path, place=place, pace=Pace(**pace)
        )
        return fake, summary

    return run


Go = Callable[..., tuple[Fake, dict[str, Any]]]


def test_each_has_a_folder_and_all_a_summary(go: Go, tmp_path: Path) -> None:
    fake, summary = go()
    assert fake.asked == [(seed, tmp_path / f"seed-{seed}", None) for seed in (1, 2, 6)]
    assert summary["last"] == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.07**0.5), "n": 3}
    assert summary["chosen"] is None  # nothing was held out
    assert summary["unfinished"] == 0
    assert summary["runs"][2] == {
        "seed": 6,
        "out": str(tmp_path / "seed-6"),
        "finished": True,
        "student_updates": 5,
        "teacher_queries": 40,
        "seconds": 10.0,
        "damage": None,
        "held_out_damage": None,
        "last": 0.6,
        "chosen": None,
    }
    assert json.loads((tmp_path / SUMMARY).read_text()) == summary


def test_the_time_is_for_all_and_only_finished_runs_count(go: Go) -> None:
    fake, summary = go(stop_after_s=14.0)
    assert [left for *_, left in fake.asked] == [14, 4]
    assert summary["unfinished"] == 2
    assert summary["last"] == {"mean": 0.1, "sd": 0.0, "n": 1}


def test_only_the_first_rank_writes(go: Go, tmp_path: Path) -> None:
    fake, summary = go(place=Place(device=torch.device("cpu"), ranks=Ranks(1, 2)))
    assert len(fake.asked) == 3
    assert summary["runs"] == []
    assert not (tmp_path / SUMMARY).exists()
