"""The environment of the scripts: `.venv` in the checkout, made once, brought up to date when pyproject.toml changes.

Needs nothing but Python. With TRANSFERSET_PYTHON, an interpreter that has everything already, nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
INTERPRETER = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MARKER = VENV / "transferset.installed"
OLDEST = (3, 11)
RELEASE = ".".join(map(str, sys.version_info[:3]))
TAIL = 15  # lines of a failed step to show: pip's own explanation fits
INTERRUPTED = 130


def python() -> str:
    """The interpreter of the environment, which is made or updated first if it has to be."""
    given = os.environ.get("TRANSFERSET_PYTHON")
    if given:
        return given
    if sys.version_info < OLDEST:
        sys.exit(f"transferset needs Python 3.11 or later, this is {RELEASE} ({sys.executable}); run a later python3")
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    wanted = f"{RELEASE} {project}"
    found = MARKER.read_text() if MARKER.exists() else ""
    if found != wanted or not INTERPRETER.exists():
        _make(foreign=bool(found) and (found.split()[0] != RELEASE or not INTERPRETER.exists()))
        MARKER.write_text(wanted)  # last: an install that was cut short is done again
    return str(INTERPRETER)


def call(arguments: Sequence[str], *, cwd: Path = ROOT) -> int:
    """Run `python ARGUMENTS` in the environment and return its exit code; the rooms are importable from any folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        return subprocess.run(
            [python(), *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": path}, check=False
        ).returncode
    except KeyboardInterrupt:  # the command itself has said so
        return INTERRUPTED


def _make(*, foreign: bool) -> None:
    """Install the checkout with its tools; ``foreign``: our own environment is of another Python and is cleared."""
    print(f"environment: installing into .venv with Python {RELEASE} (torch is large: allow some minutes)", flush=True)
    began = time.monotonic()
    _step([sys.executable, "-m", "venv", *(["--clear"] if foreign else []), str(VENV)])
    _step([str(INTERPRETER), "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[dev]"])
    print(f"environment: ready after {time.monotonic() - began:.0f} s", flush=True)


def _step(command: list[str]) -> None:
    """Run one step in silence; if it fails, show the end of what it said and stop."""
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        lines = done.stdout.decode(errors="replace").splitlines()
        print("\n".join(lines[-TAIL:]), file=sys.stderr)
        sys.exit(f"environment: this failed with exit code {done.returncode}: {' '.join(command)}")
