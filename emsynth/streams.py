"""Named random streams, keyed by ``(seed, index, name)`` and never by the order of calls."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np


def stream_key(seed: int, index: int, name: str) -> int:
    """Key of one named random stream.

    Parameters
    ----------
    seed : int
        Seed of the recipe.
    index : int
        Index of the field or of the sample.
    name : str
        What the numbers are for, e.g. ``"distort.poisson"``.

    Returns
    -------
    int
        128-bit key, a BLAKE2b digest of the three, good for a Philox generator.
    """
    text = f"{seed}/{index}/{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def generator(seed: int, index: int, name: str) -> np.random.Generator:
    """NumPy generator (Philox) of one named stream; see `stream_key`."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, index, name)))


_own = threading.local()


def passing_generator(seed: int, index: int, name: str) -> np.random.Generator:
    """As `generator`, six times as quick: the thread's own, good until its next call, which is for another stream."""
    made: tuple[np.random.Generator, Any] | None = getattr(_own, "made", None)
    if made is None:
        bits = np.random.Philox(key=0)
        made = _own.made = np.random.Generator(bits), bits.state
    chosen, state = made
    key = stream_key(seed, index, name)
    state["state"]["key"][:] = key & 0xFFFFFFFFFFFFFFFF, key >> 64
    chosen.bit_generator.state = state
    return chosen


@dataclass(frozen=True)
class Streams:
    """The random streams of one field or of one sample.

    Attributes
    ----------
    seed : int
        Seed of the recipe.
    index : int
        Index of the field or of the sample.
    turn : int
        How many earlier fields came from the same specimen; `Deal` hands out its values by it.
    """

    seed: int
    index: int
    turn: int = 0

    def generator(self, name: str) -> np.random.Generator:
        """Generator of the stream `name`."""
        return generator(self.seed, self.index, name)

    def uniform(self, name: str) -> float:
        """One uniform number strictly between 0 and 1 from the stream `name`, straight from its key."""
        text = f"{self.seed}/{self.index}/{name}".encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        return ((int.from_bytes(digest[8:], "little") >> 11) + 0.5) * 2.0**-53
