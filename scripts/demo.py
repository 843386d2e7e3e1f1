"""The main job on the built-in images: teacher -> select -> SQL -> train -> report, in the folder `demo/`.

Makes the environment first if there is none. Run again, it goes on where it stopped and does nothing twice.
"""

from __future__ import annotations  # an old Python must get as far as being told so

import shlex
import sys
import time

from _env import ROOT, call, python

FOLDER = ROOT / "demo"
RUN = "runs/demo"
QUERY = (
    "SELECT corpus, count(*) AS scored, count(*) FILTER (selected) AS chosen, avg(entropy) AS entropy, "
    "avg(entropy) FILTER (selected) AS entropy_chosen "
    "FROM selection JOIN scores USING (key) JOIN samples USING (key) GROUP BY corpus ORDER BY chosen DESC, corpus"
)
COMMANDS = (
    ("curate", "select", "--teacher", "wrn40_2", "--mode", "entropy-topk", "--budget", "3000"),
    ("manifests", "sql", QUERY, "transfer-set"),
    ("distill", "train", "--shards", "transfer-set", "--out", RUN),
    ("distill", "eval", RUN),
)


def shown(command: tuple[str, ...]) -> str:
    """The command as a person would type it."""
    return " ".join(f'"{word}"' if " " in word else shlex.quote(word) for word in command)


def main() -> int:
    """Run the commands one after another; returns the exit code of the first that fails, else 0."""
    python()  # made before the clock starts: the environment says its own time
    FOLDER.mkdir(exist_ok=True)
    began = time.monotonic()
    for command in COMMANDS:
        print(f"\n$ {shown(command)}", flush=True)
        code = call(["-m", *command], cwd=FOLDER)
        if code:
            print(f"demo: `{' '.join(command[:2])}` stopped with exit code {code}", file=sys.stderr)
            return code
    report = (FOLDER / RUN / "report.html").relative_to(ROOT)
    print(f"\nDone in {time.monotonic() - began:.0f} s. Open {report} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
