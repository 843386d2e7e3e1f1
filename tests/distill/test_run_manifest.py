"""Runs as rows: what SQL finds in a run's folder, and in a folder of runs."""

from pathlib import Path

from distill.evaluation import evaluate_networks, save_evaluation
from distill.material import Material
from distill.models.teachers import load_classifier
from distill.run import distill, load_run
from distill.train import Pace, read_metrics
from manifests.query import run_query
from shards.index import ShardFolder
from tests.distill import toys


def test_sql_over_runs(transfer_set: ShardFolder, labelled: ShardFolder, weights: Path, tmp_path: Path) -> None:
    teacher, reports = load_classifier(weights), {}
    for method, seed in (("kd", 0), ("kd", 1), ("mosaickd", 0)):
        out = tmp_path / f"{method}-{seed}"
        config = toys.run_config(method, seed=seed, updates=6)
        pace = Pace(log_every=2)
        reports[out.name] = distill(Material.of(transfer_set), teacher, config, out=out, place=toys.PLACE, pace=pace)
    rows = run_query("SELECT * FROM runs ORDER BY run", tmp_path).to_pylist()
    assert [row["run"] for row in rows] == ["kd-0", "kd-1", "mosaickd-0"]
    for row in rows:
        report = reports[row["run"]]
        assert row["agreement_last"] == report["agreement"]["last"]
        assert row["student_updates"] == report["student_updates"] >= 6
        assert (row["transfer_set"], row["accuracy_last"]) == (transfer_set.id, None)
    found = run_query("SELECT step, value FROM metrics WHERE run = 'kd-0' AND name = 'kl' ORDER BY step", tmp_path)
    assert found.to_pylist() == [
        {"step": line["step"], "value": line["kl"]} for line in read_metrics(tmp_path / "kd-0") if "kl" in line
    ]
    synthetic = run_query("SELECT count(*) AS n FROM metrics WHERE name = 'synthetic.entropy'", tmp_path)
    assert synthetic.to_pylist()[0]["n"] > 0

    networks = load_run(tmp_path / "kd-0", dtype="float32", device=toys.CPU)
    result = evaluate_networks(networks, teacher, labelled, device=toys.CPU)
    save_evaluation(tmp_path / "kd-0", result)
    (row,) = run_query("SELECT accuracy_last, evaluated_on FROM runs", tmp_path / "kd-0").to_pylist()
    assert row == {"accuracy_last": result["students"]["last"]["accuracy"], "evaluated_on": "tiles"}
