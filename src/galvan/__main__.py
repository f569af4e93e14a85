"""`python -m galvan` is the `galvan` command."""

from galvan.cli import main

main()
