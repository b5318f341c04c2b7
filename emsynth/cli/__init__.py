"""The `emsynth` command."""

from emsynth.cli.commands import app as app
from emsynth.cli.commands import main as main
