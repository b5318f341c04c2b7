"""The order in which samples come: a pure function of seed, epoch, rank and step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StreamError
from emsynth.streams import generator


@dataclass(frozen=True, eq=False)
class Order:
    """Which samples are in each batch of one rank.

    All ranks share one order of the whole split; rank r of W takes every W-th sample of it from the r-th on, so that
    the ranks' samples are disjoint and together are the split.

    Attributes
    ----------
    samples : ndarray (n,), int64
        Indices of the samples of the split, ascending.
    batch_size : int
        Samples in a batch; the last of an epoch may have fewer.
    seed : int
        Key of the shuffling.
    rank, world : int
        Which of how many processes.
    shuffle : bool
        Whether each epoch has an order of its own; else it is that of the indices.
    drop_last : bool
        Leave out what does not fill a batch on every rank; else all ranks still have the same number of steps (with
        ``batch_size=1`` some may have one less).
    groups : tuple of ndarray
        Parts of `samples` (indices into it), each to be shuffled among its own before the next comes, the parts
        themselves in random order: `sets` of fields that fit into memory together. Empty: all of them are one part.
    sets : int
        How many groups are shuffled together.
    """

    samples: NDArray[np.int64]
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    shuffle: bool = True
    drop_last: bool = False
    groups: tuple[NDArray[np.int64], ...] = ()
    sets: int = 1
    _epochs: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise StreamError(f"rank: {self.rank} is outside 0 to world - 1 = {self.world - 1}")
        if self.batch_size < 1:
            raise StreamError(f"batch_size: {self.batch_size} is below 1")
        if not self.steps:
            least = self.world * (self.batch_size if self.drop_last else 1)
            raise StreamError(f"world: {len(self.samples)} samples do not fill one batch on each of {self.world} "
                              f"ranks, which takes {least}; use fewer ranks, more samples, or with drop_last a smaller "
                              f"batch_size")

    @property
    def own(self) -> int:
        """How many samples this rank has."""
        return len(range(self.rank, len(self.samples), self.world))

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        if self.drop_last:
            return len(self.samples) // self.world // self.batch_size
        if len(self.samples) < self.world:
            return 0
        most = len(range(0, len(self.samples), self.world))  # of any rank
        return self.own if self.batch_size == 1 else len(range(0, most, self.batch_size))

    @cached_property
    def digest(self) -> str:
        """Digest of all that the order depends on but seed, batch size and number of ranks."""
        found = hashlib.blake2b(f"{self.shuffle}/{self.drop_last}/{self.sets}".encode(), digest_size=8)
        for part in (self.samples, *self.groups):
            found.update(f"{len(part)}".encode() + np.ascontiguousarray(part, np.int64).tobytes())
        return found.hexdigest()

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Indices of the samples of one batch."""
        if not 0 <= step < self.steps:
            raise StreamError(f"step: {step} is outside 0 to {self.steps - 1}")
        first, last = self._edge(step), self._edge(step + 1)
        return self.epoch(epoch)[self.rank + self.world * first:self.rank + self.world * (last - 1) + 1:self.world]

    def _edge(self, step: int) -> int:
        edge = min(step * self.batch_size, self.own)
        # Where the last step would be empty, which it is not on another rank, the step before leaves it a sample.
        short = step == self.steps - 1 and edge == self.own and not self.drop_last and self.batch_size > 1
        return edge - 1 if short else edge

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """All samples of the split in the order of one epoch, (n,), the same on every rank."""
        if not self.shuffle:
            return self.samples
        made = self._epochs.get(epoch)
        if made is None:
            made = self.samples[self._shuffled(epoch)]
            for old in list(self._epochs)[:-1]:  # the next is begun while the last is still read
                self._epochs.pop(old, None)
            self._epochs[epoch] = made
        return made

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if not self.groups:
            return generator(self.seed, epoch, "stream.order").permutation(len(self.samples))
        turn = generator(self.seed, epoch, "stream.fields").permutation(len(self.groups))
        parts = []
        for n, start in enumerate(range(0, len(turn), self.sets)):
            part = np.concatenate([self.groups[g] for g in turn[start:start + self.sets]])
            parts.append(generator(self.seed, epoch, f"stream.order.{n}").permutation(part))
        return np.concatenate(parts)
