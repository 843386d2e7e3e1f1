"""`python -m shards`: the same as the command `shards`."""

from shards.cli import main

if __name__ == "__main__":  # not in the processes that `shards bench` starts
    main()
