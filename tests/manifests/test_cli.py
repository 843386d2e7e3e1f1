import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import cli, console
from manifests.provenance import Provenance
from manifests.schema import SHARDS
from manifests.write import write_manifest

ROOT = Path(__file__).resolve().parents[2]
RUNAWAY = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = b.range % 11"
WriteScores = Callable[[Path, int], Path]


class Manifests:
    """The command `manifests`, run in this process: its exit code and what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.code: Any = 0
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path) -> "Manifests":
        self._monkeypatch.setattr(sys, "argv", ["manifests", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        self.code = stop.value.code
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        return self


@pytest.fixture
def manifests(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Manifests:
    """``manifests("sql", ...)`` gives `.code`, `.out` and `.err`."""
    return Manifests(monkeypatch, capsys)


def process(*arguments: str | Path, columns: int = 80, **options: Any) -> "subprocess.Popen[bytes]":
    """`python -m manifests` as its own process, anywhere."""
    command = [sys.executable, "-m", "manifests", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    return subprocess.Popen(command, env=environment, **options)


# -- manifests sql: what it prints ------------------------------------------------------------------------------------


def test_a_table_of_one_line_a_row(manifests: Manifests, store: Path) -> None:
    sql = """SELECT status, count(*) * 1000 AS n, avg(entropy) AS entropy, 2e-7 AS small, NULL AS none
             FROM scores GROUP BY status ORDER BY status"""
    assert manifests("sql", sql, store).out.splitlines() == [
        "status          n  entropy  small  none",
        "nonfinite  10,000           2e-07",
        "ok         90,000   0.4900  2e-07",
    ]
    assert (manifests.code, manifests.err) == (0, "")


def test_no_rows_are_a_header(manifests: Manifests, store: Path) -> None:
    assert manifests("sql", "SELECT key, pred FROM scores WHERE false", store).out == "key  pred\n"


def test_a_cell_is_one_line_and_commands_no_terminal(manifests: Manifests, store: Path) -> None:
    sql = "SELECT 'a\nb' AS \"[bold]x\", '[red]' AS y, chr(27) || '[2Jé' AS z"
    assert manifests("sql", sql, store).out == "[bold]x  y      z\na\\nb     [red]  \\x1b[2Jé\n"


def test_json_comes_back(manifests: Manifests, store: Path) -> None:
    sql = """SELECT key, pred, confidence, margin, pred = 1 AS b, [1, 2] AS l, sum(pred) OVER () AS s
             FROM scores ORDER BY key LIMIT 2"""
    wanted = {"confidence": 0.5, "margin": None, "l": [1, 2], "s": 360}
    assert json.loads(manifests("sql", sql, store, "--json").out) == [
        {"key": f"{i:032x}", "pred": i, "b": bool(i), **wanted} for i in (0, 1)
    ]
    assert manifests.err == ""


def test_json_has_no_word_for_infinity(manifests: Manifests, store: Path) -> None:
    sql = "SELECT 1 / 0 AS a, ['nan'::FLOAT, 1] AS b, {'c': '-inf'::FLOAT} AS s, DATE '2026-01-02' AS d"
    out = manifests("sql", sql, store, "--json").out
    refuse = pytest.fail
    assert json.loads(out, parse_constant=refuse) == [
        {"a": None, "b": [None, 1.0], "s": {"c": None}, "d": "2026-01-02"}
    ]


def test_no_rows_are_an_empty_list(manifests: Manifests, store: Path) -> None:
    assert json.loads(manifests("sql", "FROM scores WHERE false", store, "--json").out) == []


def test_columns_of_one_name_all_arrive(manifests: Manifests, store: Path) -> None:
    manifests("sql", "SELECT 1 AS a, 2 AS a, 3 AS A", store, "--json")
    assert json.loads(manifests.out) == [{"a": 1, "a_1": 2, "A": 3}]


def test_csv_comes_back(manifests: Manifests, store: Path) -> None:
    sql = """SELECT key, pred, 'a,"b"' || chr(10) || 'é' AS text, pred > 5 AS b, [1, 2] AS l, {'x': NULL} AS s
             FROM scores ORDER BY key LIMIT 10"""
    rows = list(csv.reader(io.StringIO(manifests("sql", sql, store, "--csv").out)))
    assert rows[0] == ["key", "pred", "text", "b", "l", "s"]
    assert rows[1] == ["0" * 32, "0", 'a,"b"\né', "false", "[1, 2]", '{"x": null}']
    assert rows[10] == ["0" * 31 + "9", "", 'a,"b"\né', "", "[1, 2]", '{"x": null}']  # NULL is empty


def test_parquet_comes_back(manifests: Manifests, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.parquet"
    manifests("sql", "SELECT * EXCLUDE status, 'x' AS status FROM scores ORDER BY key DESC", store, "--parquet", path)
    assert (manifests.code, manifests.out, manifests.err) == (0, "", f"100 rows written to {path}\n")
    table = pq.read_table(path)
    assert table["key"].to_pylist() == [f"{i:032x}" for i in reversed(range(100))]
    assert [str(t) for t in table.schema.types] == ["string", "int32", *["float"] * 5, "string"]
    assert [p.name for p in path.parent.iterdir()] == ["result.parquet"]


# -- manifests sql: what it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELCT 1", 'SQL not understood: syntax error at or near "SELCT"'),
        ("SELECT * FROM samples", "holds no samples manifest; views of "),
        ("DROP VIEW scores", "only SELECT is allowed here, this is DROP"),
        ("SELECT * FROM read_csv('/etc/passwd')", "a query reads only the registered views (scores)"),
        ("SELECT 1; SELECT 2", "expected one SELECT statement, got 2"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(manifests: Manifests, store: Path, sql: str, words: str) -> None:
    assert manifests("sql", sql, store).code == 2
    assert manifests.out == ""
    assert manifests.err.startswith("manifests: ")
    assert words in manifests.err
    assert manifests.err.count("\n") == 1


def test_limits_are_options(manifests: Manifests, store: Path) -> None:
    assert manifests("sql", RUNAWAY, store, "--timeout", "0.2").code == 2
    assert manifests.err == "manifests: the query ran longer than 0.2 s; narrow it, or raise --timeout\n"
    assert manifests("sql", "FROM scores", store, "--max-rows", "99").code == 2
    assert manifests.err == "manifests: the result has more than 99 rows; add a LIMIT, or raise --max-rows\n"
    assert manifests.out == ""
    assert manifests("sql", "FROM scores", store, "--max-rows", "100").code == 0


@pytest.mark.parametrize("option", ["--timeout=0", "--timeout=inf", "--timeout=soon", "--max-rows=0", "--tsv"])
def test_an_option_that_makes_no_sense_is_refused(manifests: Manifests, store: Path, option: str) -> None:
    assert manifests("sql", "SELECT 1", store, option).code == 2
    assert option.split("=", maxsplit=1)[0] in manifests.err
    assert manifests.out == ""


def test_one_form_at_a_time(manifests: Manifests, store: Path) -> None:
    assert manifests("sql", "SELECT 1", store, "--json", "--csv").code == 2
    assert manifests.err == "manifests: --json, --csv and --parquet exclude each other; give one\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("store/scores.parquet", "is what a manifest is called; choose another name, such as result.parquet"),
        ("store", "cannot be written: Is a directory; choose another file"),
        ("file/result", "cannot be written: File exists; choose another file"),
    ],
)
def test_a_result_never_takes_another_s_place(manifests: Manifests, store: Path, name: str, words: str) -> None:
    (store.parent / "file").write_text("mine")
    before = (store / "scores.parquet").read_bytes()
    assert manifests("sql", "SELECT 1", store, "--parquet", store.parent / name).code == 2
    assert manifests.err == f"manifests: {store.parent / name} {words}\n"
    assert (store / "scores.parquet").read_bytes() == before
    assert sorted(p.name for p in store.parent.rglob("*")) == ["file", "scores.parquet", "store"]


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["show"]])
def test_a_folder_that_cannot_be_asked(manifests: Manifests, tmp_path: Path, command: list[str]) -> None:
    assert manifests(*command, tmp_path / "absent").code == 2
    assert manifests.err.startswith(f"manifests: {tmp_path}/absent is not a folder; give a store, a scores folder or")
    assert manifests(*command, tmp_path).code == 2
    assert manifests.err.startswith(f"manifests: {tmp_path} holds no manifests (samples.parquet, scores.parquet, ")


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["show"]])
def test_damage_is_exit_code_4(manifests: Manifests, store: Path, command: list[str]) -> None:
    path = store / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert manifests(*command, store).code == 4
    assert manifests.err.startswith(f"manifests: {path} is damaged or no Parquet file: ")
    assert len(manifests.err.splitlines()) == 1
    assert manifests.out == ""


def test_the_default_folder(manifests: Manifests, tmp_path: Path, write_scores: WriteScores) -> None:
    """Here, else `transfer-set`, else what is below."""
    manifests._monkeypatch.chdir(tmp_path)
    write_scores(tmp_path / ".transferset" / "scores" / "tiny", 3)
    count = ["sql", "SELECT count(*) AS n FROM scores", "--json"]
    assert json.loads(manifests(*count).out) == [{"n": 3}]
    write_scores(tmp_path / "transfer-set", 2)
    assert json.loads(manifests(*count).out) == [{"n": 2}]
    write_scores(tmp_path, 1)
    assert json.loads(manifests(*count).out) == [{"n": 1}]


# -- manifests show ---------------------------------------------------------------------------------------------------


def test_show_lists_manifests_and_what_made_them(
    manifests: Manifests, tmp_path: Path, write_scores: WriteScores
) -> None:
    path = write_scores(tmp_path / "scores" / "tiny", 1234) / "scores.parquet"
    made = Provenance(step="pack", config={"seed": 1}, teacher={"name": "wrn40_2", "sha256": "cd"})
    write_manifest(tmp_path / "ts" / "x", SHARDS, SHARDS.plain_schema().empty_table(), provenance=made)
    lines = manifests("show", tmp_path).out.splitlines()
    assert [line.split() for line in lines] == [
        ["view", "file", "rows", "bytes", "made", "by", "teacher"],
        ["scores", "scores/tiny/scores.parquet", "1,234", f"{path.stat().st_size:,}", "score"],
        ["shards", "ts/x/shards.parquet", "0", lines[2].split()[3], "pack", "wrn40_2"],
    ]
    documents = json.loads(manifests("show", tmp_path, "--json").out)
    assert [(d["view"], d["rows"], d["step"]) for d in documents] == [("scores", 1234, "score"), ("shards", 0, "pack")]
    assert documents[1]["config"] == {"seed": 1}
    assert documents[1]["teacher"] == {"name": "wrn40_2", "sha256": "cd"}


def test_show_refuses_what_is_not_ours(manifests: Manifests, tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "scores.parquet")
    assert manifests("show", tmp_path).code == 2
    assert "scores.parquet was not written by transferset" in manifests.err


# -- as a process -----------------------------------------------------------------------------------------------------


def test_without_a_command_it_explains_itself() -> None:
    with process("--help", stdout=subprocess.PIPE) as running:
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert b"sql" in out
    assert b"show" in out


@pytest.mark.parametrize("form", ["", "--csv", "--json"])
def test_a_reader_may_leave_early(store: Path, form: str) -> None:
    """As `manifests sql ... | head -1`: no complaint, no exit code."""
    arguments = ["sql", "SELECT a.range FROM scores, range(900) a", str(store), *filter(None, [form])]
    with process(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 0


def works_in_a_thread(pid: int) -> bool:
    """Whether a thread other than the main one has computed for 0.3 s."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        ticks = sum(map(int, (task / "stat").read_text().rpartition(")")[2].split()[11:13]))  # utime, stime
        if int(task.name) != pid and ticks >= 0.3 * os.sysconf("SC_CLK_TCK"):
            return True
    return False


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Children that can be interrupted, also where these tests run in the background and so ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupted_query_ends_with_130_and_a_word(store: Path) -> None:
    with process("sql", RUNAWAY, store, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        if not Path(f"/proc/{running.pid}/task").exists():
            running.kill()
            pytest.skip("needs /proc to see how far the process is")
        while not works_in_a_thread(running.pid):  # the query has begun: a fixed wait is too short on a busy machine
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        sent = time.monotonic()
        err = running.stderr.read().decode()
        assert running.wait(60) == 130
        assert time.monotonic() - sent < 10
    assert err.startswith("manifests: interrupted; ")
    assert len(err.splitlines()) == 1


def on_a_terminal(columns: int, *arguments: str | Path) -> list[str]:
    """The lines that `python -m manifests` prints on a terminal of so many columns."""
    controller, terminal = os.openpty()
    with process(*arguments, columns=columns, stdout=terminal):
        os.close(terminal)
        shown = b""
        with open(controller, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor has no path
            try:
                while part := screen.read(4096):
                    shown += part
            except OSError:  # Linux: the other end is closed
                pass
    return shown.decode().splitlines()


@pytest.mark.skipif(os.name != "posix", reason="a terminal is made with os.openpty")
def test_a_narrow_terminal_gets_a_value_a_line(store: Path) -> None:
    sql = "SELECT key, pred, 'x' AS word FROM scores ORDER BY key LIMIT 2"
    table = on_a_terminal(44, "sql", sql, store)
    assert table == ["key" + " " * 31 + "pred  word", f"{0:032d}     0  x", f"{1:032d}     1  x"]
    records = on_a_terminal(43, "sql", sql, store)
    assert records == [f"key   {0:032d}", "pred  0", "word  x", "", f"key   {1:032d}", "pred  1", "word  x"]


# -- console.run ------------------------------------------------------------------------------------------------------

NO_SPACE = "No space left on device; make room, then run the same command again: what was committed is kept"


def run_raising(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    app = console.new_app("An app.")

    @app.command()
    def fail() -> None:
        """Fail."""
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["app"])
        with pytest.raises(SystemExit) as stop:
            console.run(app, "app")
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), f"a file cannot be read or written: {NO_SPACE}"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x cannot be read or written: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x cannot be read or written: Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/proc/x"), "/proc/x cannot be read or written: No such file"),
        (OSError(errno.EIO, "Input/output error"), "a file cannot be read or written: Input/output error"),
        (OSError(errno.ELOOP, "Too many links", "/x"), "/x cannot be read or written: Too many links"),
    ],
)
def test_what_a_disk_refuses_is_told_in_words(capsys: pytest.CaptureFixture[str], error: OSError, words: str) -> None:
    assert run_raising(error, capsys) == (2, f"app: {words}\n")


def test_ctrl_c_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run_raising(KeyboardInterrupt(), capsys)
    assert code == 130
    assert err == "app: interrupted; what was committed is kept, run the same command again to go on\n"


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "absent"), OSError("of Pillow's"), KeyError("x")])
def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    with pytest.raises(type(error)):
        run_raising(error, capsys)
