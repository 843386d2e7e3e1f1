"""The command: one go over real files with real weights, a rerun, and every wrong use answered in a line or two."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import distill.cli
from curate import cli, corpora
from curate.options import MODES
from curate.select import SELECTORS
from distill.models import build
from distill.models.store import store_dir
from distill.models.teachers import save_classifier
from manifests.read import read_manifest
from manifests.schema import SCORES, SELECTION
from tests.curate.make import contents, encode, picture, pictures, write_folder, write_parquet, write_tar

ROOT = Path(__file__).parents[2]
SIDE = 16  # px; the network's stages halve it twice


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "judge.safetensors"
    card = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "classes": ("a", "b", "c"), "input_size": SIDE}
    save_classifier(path, build("wrn16_1", 3), arch="wrn16_1", **card)  # type: ignore[arg-type]  # one dict for all
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder and an empty store of teachers; three corpora beside them."""
    write_folder(tmp_path / "folder", pictures(9) | {"x.jpg": b"text"})
    write_tar(tmp_path / "x.tar", pictures(7, first=7))
    write_parquet(tmp_path / "x.parquet", [encode(picture(n)) for n in range(20, 26)])
    write_folder(tmp_path / "bad", {"a.png": b"", "b.jpg": b"text"})
    write_folder(tmp_path / "empty", {"notes.txt": b"no image"})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TRANSFERSET_HOME", str(tmp_path / "home"))


CORPORA = ("--corpus", "f=../folder", "--corpus", "t=../x.tar", "--corpus", "p=../x.parquet")


class Terminal:
    """What a person at a terminal does and sees."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `curate`."""
        self._monkeypatch.setattr(sys, "argv", ["curate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self._capsys.readouterr()
        return int(stop.value.code or 0), out, err

    def json(self, *arguments: object) -> Any:
        """The document of a command that succeeds."""
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def curate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(capsys, monkeypatch)


@pytest.fixture
def teacher(weights: Path) -> tuple[str, ...]:
    return ("--teacher", "wrn16_1", "--teacher-weights", str(weights), "--device", "cpu", "--dtype", "float32")


# ------------------------------------------------------------------------------------------------------------- one go


def test_one_go_and_again(curate: Terminal, teacher: tuple[str, ...], weights: Path) -> None:
    ask = ("select", *teacher, *CORPORA, "--budget", 12, "--out", "ts", "--max-bad", 0.1)
    found = curate.json(*ask)
    assert found["counts"] == {"seen": 23, "selected": 12, "left_out": 10, "quarantined": 1, "duplicates": 2}
    assert [c["corpus"] for c in found["corpora"]] == ["f", "t", "p"]
    assert (found["decoded"], found["teacher_forwards"], found["shards_written"]) == (23, 22, 1)
    assert found["rows"] == {"train": 12, "holdout": 0}
    assert found["out"] == "ts"
    selection = {row["key"]: row["reason"] for row in read_manifest(Path("ts"), SELECTION).to_pylist()}
    entropy = {row["key"]: row["entropy"] for row in read_manifest(Path("ts"), SCORES).to_pylist()}
    kept = [entropy[key] for key, reason in selection.items() if reason == "top-k"]
    assert min(kept) >= max(entropy[key] for key, reason in selection.items() if reason == "below cut")
    assert (Path("ts") / "report.html").exists()
    assert [path.read_bytes() for path in store_dir().iterdir()] == [weights.read_bytes()]
    before = contents(Path("ts"))
    again = curate.json(*ask)
    assert (again["decoded"], again["teacher_forwards"], again["shards_written"]) == (0, 0, 0)
    assert again["id"] == found["id"]
    assert contents(Path("ts")) == before
    other = curate.json(*ask[:-4], "--out", "elsewhere", "--work", "w", "--threads", 1, "--max-bad", 0.1)
    assert other["id"] == found["id"]
    assert contents(Path("elsewhere")) == before


def test_views_and_a_licence(curate: Terminal, teacher: tuple[str, ...]) -> None:
    ask = ("select", *teacher, *CORPORA, "--budget", 12, "--max-bad", 0.1)
    plain = curate.json(*ask, "--out", "plain")
    assert plain["views"] is None
    found = curate.json(*ask, "--views", 2, "--licence", "cc-by-4.0", "--out", "ts")
    assert found["views"] == {"count": 2, "seed": 0, "flip": True, "pad": 4}
    assert (found["decoded"], found["teacher_forwards"]) == (0, 24)
    assert 'license: "cc-by-4.0"' in (Path("ts") / "README.md").read_text()
    assert 'license: "unknown"' in (Path("plain") / "README.md").read_text()
    unstated = curate.json(*ask, "--views", 2, "--out", "ts")
    assert (unstated["id"], unstated["teacher_forwards"]) == (found["id"], 0)
    code, out, _ = curate(*ask, "--views", 5, "--out", "other", "--dry-run")
    (line,) = [line for line in out.splitlines() if line.startswith("views")]
    assert (code, " ".join(line.split()[:-1])) == (0, "views teacher forwards, 5 of each image to be made 60")


def test_what_a_person_reads(curate: Terminal, teacher: tuple[str, ...]) -> None:
    code, out, err = curate("select", *teacher, *CORPORA, "--max-bad", 0.1)
    assert code == 0
    table, line = out.splitlines()[:-1], out.splitlines()[-1]
    assert [row.split() for row in table] == [
        ["corpus", "seen", "selected", "left", "out", "quarantined", "duplicates"],
        ["f", "10", "9", "0", "1", "0"],
        ["t", "7", "5", "2", "0", "2"],
        ["p", "6", "6", "0", "0", "0"],
        ["all", "23", "20", "2", "1", "2"],
    ]
    assert line.startswith("transfer-set: 20 images, id ")
    assert line.endswith("(decoded 23; teacher forwards 22; shards written 2)")
    assert err == "--budget 50,000 is more than the 20 images that could be chosen: all were taken\n"


def test_another_budget_is_refused_and_replace_moves_the_old_set(curate: Terminal, teacher: tuple[str, ...]) -> None:
    ask = ("select", *teacher, "--corpus", "p=../x.parquet", "--out", "ts", "--budget")
    first = curate.json(*ask, 4)
    code, out, err = curate(*ask, 3)
    assert (code, out) == (2, "")
    assert err == (
        "curate: ts was made differently: budget was 4, now 3; "
        "choose another folder, or pass --replace to move the old one aside\n"
    )
    code, out, err = curate(*ask, 3, "--replace")
    assert (code, err) == (0, "the old ts is now ts.old-1\n")
    assert json.loads(Path("ts.old-1/transfer-set.json").read_text())["id"] == first["id"]
    assert "teacher forwards 0" in out


def test_another_mode_reuses_the_scores(curate: Terminal, teacher: tuple[str, ...]) -> None:
    ask = ("select", *teacher, "--corpus", "p=../x.parquet", "--budget", 3)
    first = curate.json(*ask, "--out", "ts")
    drawn = curate.json(*ask, "--mode", "random", "--seed", 1, "--out", "ts-random")
    assert (drawn["decoded"], drawn["teacher_forwards"]) == (0, 0)
    assert drawn["id"] != first["id"]
    assert drawn["plan"]["mode"] == "random"


def test_the_steps_one_by_one_are_the_one_go(curate: Terminal, teacher: tuple[str, ...]) -> None:
    ingested = curate.json("ingest", *CORPORA, "--size", SIDE, "--max-bad", 0.1)
    assert [(d["corpus"], d["seen"], d["usable"], d["decoded"]) for d in ingested] == [
        *(("f", 10, 9, 10), ("t", 7, 7, 7), ("p", 6, 6, 6))
    ]
    assert all((Path(d["store"]) / "store.json").exists() for d in ingested)
    code, out, err = curate("score", *teacher, *CORPORA)
    assert (code, err) == (0, "")
    assert [row.split()[:3] for row in out.splitlines()] == [
        ["corpus", "scored", "teacher"],
        *(["f", "9", "9"], ["t", "7", "7"], ["p", "6", "6"]),
    ]
    assert [d["teacher_forwards"] for d in curate.json("score", *teacher, *CORPORA)] == [0, 0, 0]
    found = curate.json("select", *teacher, *CORPORA, "--max-bad", 0.1)
    assert (found["decoded"], found["teacher_forwards"]) == (0, 0)


def test_a_teacher_used_once_is_found_by_name(curate: Terminal, teacher: tuple[str, ...]) -> None:
    ask = ("--corpus", "p=../x.parquet", "--device", "cpu", "--dtype", "float32", "--budget", 3)
    first = curate.json("select", *teacher[:4], *ask)
    again = curate.json("select", "--teacher", "wrn16_1", *ask)
    assert (again["id"], again["teacher_forwards"]) == (first["id"], 0)


def test_without_corpus_and_weights_the_starter_says_so(
    curate: Terminal, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill.cli, "starter_teacher", lambda arch, **how: weights)
    monkeypatch.setattr(corpora, "STARTER_CORPORA", ("digits",))
    code, out, err = curate("select", "--teacher", "wrn16_1", "--mode", "random", "--budget", 20)
    assert code == 0
    assert err.splitlines() == [
        "no --teacher-weights given: using the starter teacher judge, trained on scikit-learn's digits",
        "no --corpus given: using the built-in starter corpora digits",
    ]
    assert "transfer-set: 20 images" in out
    assert json.loads(Path("transfer-set/transfer-set.json").read_text())["builtin"] is True


# ---------------------------------------------------------------------------------------------------------- quarantine


def test_too_many_damaged_is_exit_3_and_done_all_the_same(curate: Terminal, teacher: tuple[str, ...]) -> None:
    words = "curate: 1 of 10 samples could not be used, more than --max-bad 0.01 allows;\n"
    where = 'see which: manifests sql "SELECT corpus, uri, error FROM samples WHERE error IS NOT NULL" '
    code, out, err = curate("ingest", "--corpus", "f=../folder", "--size", SIDE)
    assert (code, err) == (3, f"{words}{where}.transferset\n")
    assert out.splitlines()[1].split()[:6] == ["f", "10", "9", "1", "0", "10"]
    code, out, err = curate("select", *teacher, "--corpus", "f=../folder", "--json", "--budget", 3)
    assert (code, err) == (3, f"{words}{where}transfer-set\n")
    assert json.loads(out)["counts"]["quarantined"] == 1
    assert Path("transfer-set/transfer-set.json").exists()
    for fraction, wanted in ((0.1, 0), (0.09, 3)):
        assert curate("ingest", "--corpus", "f=../folder", "--size", SIDE, "--max-bad", fraction)[0] == wanted


# ----------------------------------------------------------------------------------------------------------- wrong use

P = ("--corpus", "p=../x.parquet")
TAKEN = "choose another folder, or pass --replace to move the old one aside"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--teacher", "convnet", *P), "unknown teacher 'convnet'; known: wrn16_1, wrn16_2, wrn40_1, wrn40_2"),
        (("--teacher", "convnet"), "unknown teacher 'convnet'; known: wrn16_1, wrn16_2, wrn40_1, wrn40_2"),
        (("--teacher", "wrn40_1", *P), "no weights for teacher 'wrn40_1' in the store (empty) or the working "),
        (
            ("--teacher", "wrn40_2", "--teacher-weights", "{weights}", *P),
            "' holds a wrn16_1 by its metadata, not the wrn40",
        ),
        (
            ("--teacher", "wrn16_1", "--teacher-weights", "none.st", *P),
            "no weights file 'none.st'; expected a safetens",
        ),
        (("--teacher", "wrn16_1", "--teacher-weights", "../x.tar", *P), "'../x.tar' is not a whole safetensors file"),
        (("--corpus", "nowhere"), "no such file or folder: nowhere; expected a path, or one of folder:"),
        (("--corpus", "n=folder:nowhere"), "corpus 'n': no such folder: nowhere"),
        (("--corpus", "e=../empty"), "nothing usable in ../empty: no image file, no .tar, no .parquet"),
        (
            ("--corpus", "e=folder:../empty"),
            "corpus 'e': no image file (.jpg, .png, .webp, ...) under the folder ../em",
        ),
        (
            ("--corpus", "a=../x.tar", "--corpus", "a=../folder"),
            "2 corpora are called 'a'; give each its own: --corpus",
        ),
        (("--corpus", "b=../bad"), 'none of the 2 samples in b could be used; see why: manifests sql "SELECT uri, er'),
        ((*P, "--budget", "0"), "--budget is 0; expected at least 1 image"),
        ((*P, "--mode", "entropy"), "unknown mode 'entropy'; known: entropy-topk, confidence-topk, "),
        ((*P, "--holdout", "1"), "--holdout is 1.0; expected a fraction from 0 to below 1"),
        ((*P, "--device", "tpu"), "unknown device 'tpu'; expected auto, cpu, cuda or cuda:N"),
        ((*P, "--dtype", "int8"), "unknown dtype 'int8'; expected auto, float32 or bfloat16"),
        ((*P, "--out", "../empty"), f"../empty holds something else (notes.txt); {TAKEN}"),
        ((*P, "--out", "../x.tar"), "../x.tar is a file; expected a folder, or a name that is free"),
        ((*P, "--work", "../x.tar"), "../x.tar/stores/p-"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_wrong_use_is_answered_in_a_line_or_two(
    curate: Terminal, weights: Path, teacher: tuple[str, ...], arguments: tuple[str, ...], words: str
) -> None:
    given = () if "--teacher" in arguments else teacher
    options = [argument.format(weights=weights) for argument in arguments]
    code, out, err = curate("select", *given, *options)
    assert (code, out) == (2, "")
    assert err.startswith("curate: ")
    assert words in err
    assert 1 <= len(err.splitlines()) <= 2
    assert not (Path("transfer-set") / "transfer-set.json").exists()


def test_weights_of_another_network_without_a_name_are_told_by_their_shapes(curate: Terminal, tmp_path: Path) -> None:
    import safetensors.torch

    net = build("wrn16_2", 3)
    path = tmp_path / "nameless.safetensors"
    metadata = {"mean": "0,0,0", "std": "1,1,1"}
    safetensors.torch.save_file(net.state_dict(), path, metadata)
    code, _, err = curate("select", "--teacher", "wrn16_1", "--teacher-weights", path, *P)
    assert code == 2
    assert "is not a wrn16_1 with 3 classes" in err
    assert len(err.splitlines()) == 2


def test_a_damaged_tar_is_exit_4(curate: Terminal, teacher: tuple[str, ...], tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "x.tar").read_bytes()[:3000])
    code, _, err = curate("select", *teacher, "--corpus", f"c={cut}")
    assert code == 4
    assert "cut.tar" in err
    assert len(err.splitlines()) <= 2


def test_as_a_process_there_is_no_traceback() -> None:
    ask = [sys.executable, "-m", "curate", "ingest", "--corpus", "b=folder:nowhere"]
    done = subprocess.run(ask, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "curate: corpus 'b': no such folder: nowhere\n"


@pytest.mark.parametrize("command", ["ingest", "score", "select"])
def test_help_names_every_option(curate: Terminal, command: str) -> None:
    code, out, _ = curate(command, "--help")
    assert code == 0
    shown = {"--corpus", "--work", "--threads", "--json"}
    shown |= {"--mode", "--budget", "--out", "--replace"} if command == "select" else set()
    assert all(option in out for option in shown)


# ------------------------------------------------------------------------------------------------ rules and their sides


def test_a_query_is_a_rule(curate: Terminal, teacher: tuple[str, ...]) -> None:
    sql = "SELECT key FROM scores WHERE corpus = 'p' ORDER BY entropy DESC, key LIMIT 4"
    found = curate.json("select", *teacher, *CORPORA, "--sql", sql, "--max-bad", 0.1)
    assert found["plan"]["mode"] == "sql"
    assert found["reasons"] == {"not in query": 16, "in query": 4, "duplicate": 2}
    assert {c["corpus"]: c["selected"] for c in found["corpora"]} == {"f": 0, "t": 0, "p": 4}


def test_limits_a_reference_and_what_must_not_come_in(curate: Terminal, teacher: tuple[str, ...]) -> None:
    sides = ("--reference", "ref=../x.parquet", "--exclude", "out=../x.parquet", "--exclude-within", 0)
    limits = ("--cap", "f=2", "--floor", "t=3", "--budget", 6)
    found = curate.json("select", *teacher, *CORPORA, *sides, *limits, "--mode", "hausdorff", "--max-bad", 0.1)
    assert found["filters"] == {"excluded": {"equal_pixels": 6, "near": 0}}
    assert {c["corpus"]: c["selected"] for c in found["corpora"]} == {"f": 2, "t": 4, "p": 0}
    rows = read_manifest(Path("transfer-set"), SELECTION).to_pylist()
    assert all(row["nn_dist"] is not None and row["nn_key"] for row in rows)
    assert {row["nn_dist"] for row in rows if row["reason"] == "excluded"} == {0.0}
    chosen = max(row["nn_dist"] for row in rows if row["selected"])
    assert chosen > 0
    page = (Path("transfer-set") / "report.html").read_text()
    assert "Distance to the reference" in page
    assert "corpus floor" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "hausdorff"), "--mode is hausdorff; expected --reference SPEC beside it"),
        (("--mode", "band"), "--mode band needs its band: --where"),
        (("--mode", "sql"), "--mode sql needs its query: --sql"),
        (("--mode", "random", "--sql", "SELECT key FROM scores"), "--sql belongs to --mode sql"),
        (("--base-limit", 5), "--base-limit belongs to --mode balanced"),
        (("--exclude-within", 0.1), "--exclude-within is 0.1; expected --exclude SPEC beside it"),
        (("--cap", "x=3"), "--cap is x; expected a corpus among f, t, p"),
        (("--cap", "f"), "--cap is 'f'; expected NAME=N, such as --cap places=20000"),
        (("--floor", "f=3", "--floor", "f=4"), "--floor f is given twice"),
        (("--floor", "f=3", "--cap", "f=2"), "--floor f is 3; expected no more than its --cap, 2"),
        (("--where", "entropi > 1"), '--where: Referenced column "entropi" not found'),
        (("--where", "true; DROP TABLE x"), "--where: "),
        (("--resize", "squash"), "no resize rule is called 'squash'; expected one of antialias, box, plain, imagenet"),
        (("--on", "pixels"), "--on is pixels; expected one of features, logits"),
    ],
)
def test_options_that_do_not_fit(
    curate: Terminal, teacher: tuple[str, ...], options: tuple[object, ...], words: str
) -> None:
    code, out, err = curate("select", *teacher, *CORPORA, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) <= 2


def test_the_modes_that_help_names_are_the_rules(curate: Terminal) -> None:
    listed = curate.json("modes")
    assert MODES.split(", ") == [row["mode"] for row in listed] == list(SELECTORS)
    assert all(row["what"] and row["source"] for row in listed)


def test_a_dry_run_makes_nothing(curate: Terminal, teacher: tuple[str, ...]) -> None:
    steps = curate.json("select", *teacher, *CORPORA, "--dry-run")
    assert [step["step"] for step in steps] == ["ingest"] * 3 + ["score"] * 3 + ["select", "pack"]
    assert {step["state"] for step in steps} == {"to be made"}
    assert not list(Path.cwd().iterdir())
    code, out, _ = curate("select", *teacher, *CORPORA, "--dry-run")
    assert code == 0
    assert out.splitlines()[0].split("  ")[0] == "step"
    assert not re.search(r"\d\.\d", out)  # megabytes are whole: they are estimates


def test_a_dry_run_that_would_be_refused_is_wrong_usage(curate: Terminal, teacher: tuple[str, ...]) -> None:
    ask = ("select", *teacher, "--corpus", "p=../x.parquet", "--out", "ts", "--budget")
    curate.json(*ask, 4)
    code, out, err = curate(*ask, 3, "--dry-run")
    assert code == 2
    assert "refused" in out.splitlines()[-1]
    assert err.startswith("curate: refused: ts was made differently: budget was 4, now 3")
    code, out, err = curate(*ask, 3, "--dry-run", "--replace")
    assert (code, err) == (0, "")
    assert "to be made, the old one moved aside" in out


def test_what_filters_took_is_told(curate: Terminal, teacher: tuple[str, ...]) -> None:
    sides = ("--exclude", "out=../x.parquet", "--exclude-within", 0, "--max-bad", 0.1, "--budget", 5)
    code, _, err = curate("select", *teacher, *CORPORA, *sides)
    assert (code, err) == (0, "taken out by the filters: 6 excluded\n")
