"""Run the tests: `python3 scripts/test.py [pytest arguments]`.

Makes the environment first if there is none. Slow tests are left out; `-m slow` runs them, `-m ""` runs everything.
"""

import sys

from _env import call

if __name__ == "__main__":
    sys.exit(call(["-m", "pytest", *sys.argv[1:]]))
