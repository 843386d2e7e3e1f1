"""`python -m manifests`: the same as the command `manifests`."""

from manifests.cli import main

main()
