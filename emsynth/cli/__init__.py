"""The `emsynth` command."""

from emsynth.cli import publishing as publishing  # its verbs join those of `commands`
from emsynth.cli.commands import app as app
from emsynth.cli.commands import main as main
