"""Run the tests, one process a core: `python3 scripts/test.py [pytest arguments]`; `-n 0` keeps them in one process.

Makes the environment first if there is none. Slow tests are left out; `-m slow` runs them, `-m ""` runs everything.
"""

import os
import sys

from _env import call

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores
    sys.exit(call(["-m", "pytest", "-n", "auto", *sys.argv[1:]]))
