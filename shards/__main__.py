"""`python -m shards`: the same as the command `shards`."""

from shards.cli import main

main()
