"""`python -m distill`: the same as the command `distill`."""

from distill.cli import main

main()
