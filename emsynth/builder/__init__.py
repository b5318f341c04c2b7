"""Building a data set: tasks, the processes that run them, and the plan of a build."""

from emsynth.builder.job import Progress as Progress
from emsynth.builder.job import build as build
from emsynth.builder.job import part_range as part_range
from emsynth.builder.job import plan as plan
from emsynth.builder.repetition import Replay as Replay
from emsynth.builder.repetition import replay as replay
