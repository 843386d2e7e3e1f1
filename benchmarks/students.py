"""Students of real images: what `distill train` makes of which transfer set and method, in runs that may be stopped.

    python benchmarks/students.py [mnist] [cifar10] --data DIR [--teacher wrn40_2-cifar10.safetensors]
                                  [--work .students] [--stop-after 9m]

DIR holds `mnist` (IDX), `cifar10` (train.parquet, test.parquet), `tiny_imagenet` (tars) and `scenes` (Parquet). The
rows are in students_plan.py. Each is made by our own commands, here in one process: `curate select` for its transfer
set, `curate distance` from the training set to it, `distill train --seeds`, `distill eval` on the test set, which
nothing else looks at. Everything lies below --work, where a folder that is finished is not made again; so after
SIGTERM, Ctrl-C, a kill or --stop-after the same command goes on. After every row, and without a tier named at once,
it writes benchmarks/results/distill-TIER.json and the tables of docs/results.md from what is there; a row that is not
there is pending. The times of processor are of training alone, all seeds together, and of slices that were not killed.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from benchmarks.students_plan import TIERS, Row, Tier
from benchmarks.students_tables import write_tables
from distill.options import seconds
from distill.seeds import spread
from manifests.commit import write_json
from manifests.console import INTERRUPTED

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("curate", "distill", "manifests", "shards")
RESULTS = ROOT / "benchmarks" / "results"
Document = dict[str, Any]


class OutOfTime(Exception):
    """--stop-after is over."""


def command(*words: object) -> str:
    """Run one of our commands in this process, tell which, and return what it printed."""
    room, *rest = map(str, words)
    print(f"$ {room} {' '.join(rest)}", file=sys.stderr, flush=True)
    app = importlib.import_module(f"{room}.cli").app
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = app(args=rest, prog_name=room, standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        sys.exit(code)
    return told.getvalue()


def read(path: Path) -> Document | None:
    """A JSON document, if it is there."""
    return json.loads(path.read_bytes()) if path.exists() else None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One tier, below one work folder."""

    tier: Tier
    data: Path
    given: Path | None
    """the teacher's weights, where the tier does not train its own"""
    work: Path
    ends: float
    """when to stop, on the monotonic clock"""

    @property
    def teacher(self) -> Path:
        return self.given or self.work / "teachers" / self.tier.teacher / "teacher.safetensors"

    @property
    def seeds(self) -> range:
        return range(self.tier.seeds)

    def folder(self, kind: str, name: str) -> Path:
        """Of a set, a distance, a row's runs."""
        return self.work / kind / f"{self.tier.name}-{name}"

    def judge(self) -> list[object]:
        """The options that name the teacher to `curate`."""
        return ["--teacher", self.tier.teacher, "--teacher-weights", self.teacher, "--work", self.work / "store"]

    def go(self) -> Iterator[Row]:
        """Make what is missing, row by row."""
        if self.given is None and not self.teacher.exists():
            corpora = ["--data", self.corpus(self.tier.train), "--test", self.corpus(self.tier.test)]
            place = ["--out", self.teacher.parent, "--work", self.work / "store", "--threads", 1]
            command("distill", "pretrain", self.tier.teacher, *corpora, *self.tier.pretrain, *place)
        for row in self.tier.rows:
            if self.left() <= 0:
                raise OutOfTime
            self.select(row.set)
            self.measure(row.set)
            self.train(row)
            self.evaluate(row)
            yield row

    def corpus(self, spec: str) -> str:
        """NAME=SCHEME:PATH below the data folder; noise has no path."""
        return spec.format(data=self.data)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def select(self, name: str) -> None:
        """The transfer set."""
        if (self.folder("sets", name) / "transfer-set.json").exists():
            return
        chosen = self.tier.sets[name]
        corpora = [word for spec in chosen.corpora for word in ("--corpus", self.corpus(spec))]
        options = [*chosen.options, "--views", self.tier.views, "--threads", 1]
        command("curate", "select", *self.judge(), *corpora, *options, "--out", self.folder("sets", name))

    def measure(self, name: str) -> None:
        """The distance from all training images to the transfer set, in the teacher's features."""
        path = self.folder("distances", name).with_suffix(".json")
        if path.exists():
            return
        corpus = ["--corpus", self.corpus(self.tier.train), "--threads", 1, "--json"]
        scores = json.loads(command("curate", "score", *self.judge(), *corpus))[0]["scores"]
        found = command("curate", "distance", scores, self.folder("sets", name), "--threads", 1, "--json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, json.loads(found))

    def train(self, row: Row) -> None:
        """All seeds; what each slice took of the processor, and at which commit, is kept beside them."""
        out = self.folder("runs", row.name)
        if (read(out / "seeds.json") or {"unfinished": 1})["unfinished"] == 0:
            return
        taken = read(out / "taken.json") or {"processor_seconds": 0.0, "commits": []}
        settings = [word for name, value in row.settings.items() for word in ("--set", f"{name}={value}")]
        options = ["--method", row.method, "--student", self.tier.student, *settings, "--threads", 1]
        options += ["--updates", row.updates or self.tier.updates, "--seeds", ",".join(map(str, self.seeds))]
        material = ["--shards", self.folder("sets", row.set), "--teacher-weights", self.teacher]
        began = time.process_time()
        try:
            pace = ["--stop-after", f"{max(1, int(min(self.left(), 1e6)))}s", "--out", out]
            command("distill", "train", *material, *options, *pace)
        finally:
            taken["processor_seconds"] += time.process_time() - began
            taken["commits"] = sorted({*taken["commits"], _commit()})
            if out.exists():
                write_json(out / "taken.json", taken)
        if (read(out / "seeds.json") or {"unfinished": 1})["unfinished"]:
            raise OutOfTime

    def evaluate(self, row: Row) -> None:
        """Accuracy of every seed's student on the test set."""
        name = self.tier.test.partition("=")[0]
        for run in sorted(self.folder("runs", row.name).glob("seed-*")):
            if not (run / f"eval-{name}.json").exists():
                where = ["--data", self.corpus(self.tier.test), "--work", self.work / "store", "--threads", 1]
                command("distill", "eval", run, *where)

    def document(self) -> Document:
        """What there is of the tier, and what is pending."""
        rows = {row.name: self.result(row) for row in self.tier.rows}
        found = [row for row in rows.values() if row]
        return {
            "command": f"benchmarks/students.py {self.tier.name}",
            "teacher": found[0]["teacher"] if found else None,
            "student": self.tier.student,
            "test_images": found[0]["test_images"] if found else None,
            "hardware": found[0]["hardware"] if found else None,
            "sets": {name: facts for name in self.tier.sets if (facts := self.facts(name))},
            "rows": {name: row for name, row in rows.items() if row},
            "pending": [name for name, row in rows.items() if not row],
        }

    def facts(self, name: str) -> Document | None:
        """Of a transfer set: its size, id, selection and distance."""
        document, chosen = read(self.folder("sets", name) / "transfer-set.json"), self.tier.sets[name]
        distance = read(self.folder("distances", name).with_suffix(".json"))
        if document is None or distance is None:
            return None
        return {
            "corpora": [spec.partition("=")[0] for spec in chosen.corpora],
            "options": list(map(str, chosen.options)),
            "images": sum(document["rows"].values()),
            "id": document["id"],
            "from_training_set": {n: distance["a_to_b"][n] for n in ("hausdorff", "mean_of_min", "q95")},
        }

    def result(self, row: Row) -> Document | None:
        """Of a row's seeds, if all are evaluated."""
        out, test = self.folder("runs", row.name), self.tier.test.partition("=")[0]
        folders = [out / f"seed-{seed}" for seed in self.seeds]
        tests = [read(folder / f"eval-{test}.json") for folder in folders]
        taken = read(out / "taken.json")
        if taken is None or None in tests:
            return None
        reports: list[Any] = [read(folder / "report.json") for folder in folders]
        runs = [_run(report, tested) for report, tested in zip(reports, tests, strict=True) if tested]
        first = reports[0]
        return {
            "method": row.method,
            "set": row.set,
            "settings": dict(row.settings),
            "student_updates": first["student_updates"],
            "teacher_queries": first["teacher_queries"],
            "commonest_class": first["agreement"]["majority"],
            **{name: spread([run[name] for run in runs]) for name in ("last", "chosen", "agreement")},
            "processor_seconds_a_run": round(taken["processor_seconds"] / len(runs), 1),
            "seconds_a_run": round(statistics.fmean(report["seconds"] for report in reports), 1),
            "runs": runs,
            "commits": taken["commits"],
            "teacher": {**first["teacher"], "test_accuracy": tests[0]["teacher_accuracy"]} if tests[0] else None,
            "test_images": tests[0]["images"] if tests[0] else None,
            "dtype": first["run"]["dtype"],
            "hardware": first["hardware"],
        }


def _run(report: Document, tested: Mapping[str, Any]) -> Document:
    """Of one seed: accuracy of the last and the chosen student, agreement of the last with the teacher on the test."""
    students = tested["students"]
    last, chosen = students["last"], students.get("chosen", students["last"])
    facts = {"last": last["accuracy"], "chosen": chosen["accuracy"], "agreement": last["agreement"]}
    return {"seed": report["run"]["seed"], **facts, "seconds": report["seconds"]}


def _commit() -> str:
    """Of the tree, with a + where the rooms are not as they were committed."""
    git = ["git", "-C", str(ROOT)]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *ROOMS], check=False).returncode
    said = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (said.stdout.strip() or "unknown") + ("+" if changed else "")


def _stop_like_ctrl_c() -> None:
    """SIGTERM as the loop of training takes Ctrl-C: it saves and stops; also for a process in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def main() -> int:
    """Make what is missing of the tiers that are named; write what is there of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # argparse holds "none" against the choices too, as a list
    parser.add_argument("tiers", nargs="*", choices=[*TIERS, []], metavar="TIER", help=f"some of {', '.join(TIERS)}")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher", type=Path, help="weights of cifar10's teacher")
    parser.add_argument("--work", type=Path, default=Path(".students"))
    parser.add_argument("--stop-after", help="such as 9m")
    options = parser.parse_args()
    os.environ["TRANSFERSET_HOME"] = str((options.work / "home").absolute())  # the user's teachers are not ours
    _stop_like_ctrl_c()
    ends = time.monotonic() + (seconds(options.stop_after) or float("inf"))
    benches = {
        name: Bench(
            tier=tier,
            data=options.data or Path(),
            given=None if tier.pretrain else options.teacher,
            work=options.work.absolute(),
            ends=ends,
        )
        for name, tier in TIERS.items()
    }
    if options.tiers and options.data is None:
        parser.error("--data says where the images are")
    if "cifar10" in options.tiers and options.teacher is None:
        parser.error("cifar10 needs --teacher")
    write(benches)
    try:
        for name in options.tiers:
            for row in benches[name].go():
                write(benches)
                print(f"{name}: {row.name} is there", file=sys.stderr, flush=True)
    except (KeyboardInterrupt, typer.Abort, OutOfTime) as stop:
        print("stopped; the same command goes on", file=sys.stderr)
        return 0 if isinstance(stop, OutOfTime) else 130
    return 0


def write(benches: Mapping[str, Bench]) -> None:
    """The JSON documents and the tables; of a tier of which nothing is in --work, what was committed stays."""
    for name, bench in benches.items():
        document = bench.document()
        if document["rows"]:
            write_json(RESULTS / f"distill-{name}.json", document)
    write_tables(ROOT / "docs" / "results.md", {name: read(RESULTS / f"distill-{name}.json") for name in benches})


if __name__ == "__main__":
    sys.exit(main())
