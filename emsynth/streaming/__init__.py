"""Streaming a data set into training: shuffled batches of stored pairs or of fresh distortions."""

from typing import TYPE_CHECKING, Any

from emsynth.streaming.batch import Batch as Batch
from emsynth.streaming.feed import Stream as Stream
from emsynth.streaming.feed import stream as stream

if TYPE_CHECKING:
    from emsynth.streaming.adaptor import BatchDataset as BatchDataset
    from emsynth.streaming.adaptor import PairDataset as PairDataset


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and is an extra.
    if name not in ("BatchDataset", "PairDataset"):
        raise AttributeError(f"module 'emsynth.streaming' has no attribute {name!r}")
    from emsynth.errors import StreamError

    try:
        from emsynth.streaming import adaptor
    except ImportError as reason:
        raise StreamError(f"{name} needs torch ({reason}); pip install 'emsynth[train]'") from None
    return getattr(adaptor, name)
