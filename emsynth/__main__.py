"""``python -m emsynth``: the command line."""

from emsynth.cli import main

main()
