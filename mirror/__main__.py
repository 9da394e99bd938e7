"""Run the command line as `python -m mirror`."""

from mirror.cli import main

main()
