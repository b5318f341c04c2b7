"""The `emsynth` command."""

from emsynth.cli import bench as bench  # its verbs join those of `commands`
from emsynth.cli import publishing as publishing
from emsynth.cli import restore as restore
from emsynth.cli import train as train
from emsynth.cli.commands import app as app
from emsynth.cli.commands import main as main
