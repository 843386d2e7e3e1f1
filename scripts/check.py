"""Everything but the tests that a change must pass: style, format, types, and generated pages that are up to date."""

import sys

from _env import call

CHECKS = (
    ("-m", "ruff", "check", "."),
    ("-m", "ruff", "format", "--check", "."),
    ("-m", "mypy"),
    ("scripts/docs.py", "--check"),
)


def main() -> int:
    """Run every check, also after one has failed, and return 1 if any did."""
    failed = []
    for check in CHECKS:
        name = " ".join(check).removeprefix("-m ")
        print(f"$ {name}", flush=True)
        if call(check):
            failed.append(name)
    if failed:
        print(f"failed: {'; '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
