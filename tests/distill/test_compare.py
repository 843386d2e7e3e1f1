"""Runs side by side: which belong together, their mean and spread by hand, and the page of it."""

from pathlib import Path
from typing import Any

import pytest

from distill.compare import compare, comparison_page, find_runs, in_words
from distill.errors import DistillError
from distill.train import METRICS
from manifests.commit import write_json


def write_run(folder: Path, *, seed: int = 0, last: float = 0.5, lr: float = 0.1, **changes: Any) -> Path:
    """A run folder as far as a comparison reads it."""
    folder.mkdir(parents=True)
    plan = {"method": "kd", "student": "wrn16_1", "transfer_set": "ab", "teacher": "cd", "seed": seed}
    report = {
        "run": {**plan, "config": {"lr": lr}, **changes.pop("plan", {})},
        "transfer_set": "somewhere",
        "teacher": {"name": "wrn40_2-cd", "sha256": "cd"},
        "finished": True,
        "steps": 10,
        "student_updates": 20,
        "teacher_queries": 160,
        "images": 40,
        "seconds": 2.0,
        "agreement": {"last": last, "chosen": None},
        "hardware": {"name": "a processor"},
        **changes,
    }
    write_json(folder / "report.json", report)
    (folder / METRICS).write_text('{"step": 5, "agreement": 0.25}\n{"step": 10, "agreement": 0.5}\n')
    return folder


def test_runs_that_differ_in_their_seed_alone_are_one_row(tmp_path: Path) -> None:
    for seed, last in enumerate((0.25, 0.5, 0.75)):
        write_run(tmp_path / f"a{seed}", seed=seed, last=last)
    write_run(tmp_path / "other", lr=0.2, last=0.9)
    write_run(tmp_path / "unfinished", seed=9, last=0.0, finished=False)
    compared = compare(find_runs([tmp_path]))
    first, second = compared["groups"]
    assert (first["seeds"], first["finished"]) == ([0, 1, 2, 9], 3)
    assert first["agreement_last"] == {"mean": 0.5, "sd": 0.25, "n": 3}
    assert first["agreement_chosen"] is None
    assert first["name"] == "kd wrn16_1"
    assert (second["name"], second["agreement_last"]) == ("other", {"mean": 0.9, "sd": 0.0, "n": 1})
    assert len(compared["runs"]) == 5


def test_another_plan_is_another_row_and_the_same_one_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", plan={"updates": 10, "dtype": "float32"})
    write_run(tmp_path / "b", plan={"updates": 10, "dtype": "bfloat16"})
    write_run(tmp_path / "c", plan={"updates": 99, "dtype": "float32"})
    write_run(tmp_path / "copy", plan={"updates": 10, "dtype": "float32"})
    compared = compare(find_runs([tmp_path]))
    assert [group["seeds"] for group in compared["groups"]] == [[0], [0], [0]]
    assert len(compared["runs"]) == 4


def test_runs_of_several_seeds_are_found_beside_single_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    for seed in range(2):
        write_run(tmp_path / "runs" / "many" / f"seed-{seed}", seed=seed, lr=0.2)
    write_json(tmp_path / "runs" / "many" / "seeds.json", {})
    found = find_runs([tmp_path / "runs"])
    assert [run.name for run in found] == ["one", "seed-0", "seed-1"]
    assert find_runs([tmp_path / "runs", tmp_path / "runs" / "many"]) == found


def test_accuracies_are_those_of_the_latest_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for number, accuracy in enumerate((0.1, 0.7)):
        result = {"corpus": "test", "students": {"last": {"accuracy": accuracy}}}
        write_json(run / f"eval-{number}.json", result)
    (row,) = compare([run])["runs"]
    assert (row["accuracy_last"], row["accuracy_chosen"], row["evaluated_on"]) == (0.7, None, "test")


def test_folders_of_runs_and_runs_are_found_once(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "runs" / "one"), write_run(tmp_path / "runs" / "two")
    (tmp_path / "runs" / "notes").mkdir()
    teacher = write_run(tmp_path / "runs" / "teacher")
    report = {"run": {"model": "wrn16_1"}, "finished": True}  # of `distill pretrain`
    write_json(teacher / "report.json", report)
    assert find_runs([two, tmp_path / "runs"]) == [two, one]
    with pytest.raises(DistillError, match=r"notes is no run and holds none \(no report.json\)"):
        find_runs([tmp_path / "runs" / "notes"])
    with pytest.raises(DistillError, match="teacher: only pretrained teachers; expected distillation runs"):
        find_runs([teacher])


def test_the_page_has_both_axes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{seed}", seed=seed, last=last) for seed, last in enumerate((0.5, 0.625))]
    page = comparison_page(runs, compare(runs))
    for words in ("Agreement by step", "Agreement by student update", "0.5625 ± 0.0884", str(runs[1])):
        assert words in page


def test_in_words() -> None:
    assert in_words({"mean": 0.58889, "sd": 0.01234, "n": 3}) == "0.5889 ± 0.0123"
    assert in_words({"mean": 0.58889, "sd": 0.0, "n": 1}) == "0.5889"
    assert in_words(None) == ""
