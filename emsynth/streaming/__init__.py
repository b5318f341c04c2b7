"""Streaming a data set into training: shuffled batches of stored pairs or of fresh distortions."""

from emsynth.streaming.batch import Batch as Batch
from emsynth.streaming.feed import Stream as Stream
from emsynth.streaming.feed import stream as stream
