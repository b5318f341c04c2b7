"""Files that stay open while a data set is read: a process may have only so many, over all arrays and streams."""

from __future__ import annotations

import itertools
import os
import resource
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MOST = 512  # at most, and a quarter of what the system allows


@dataclass(frozen=True, eq=False)
class Shard:
    """An open file of inner chunks; closed when nobody reads it any more.

    Attributes
    ----------
    descriptor : int
        Of the open file.
    name : str
        Its name in the store.
    places : (n, 2) int64
        Offset and length of each inner chunk.
    """

    descriptor: int
    name: str
    places: NDArray[np.int64]

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)

    @property
    def deleted(self) -> bool:
        """Whether its folder no longer has it."""
        return os.fstat(self.descriptor).st_nlink == 0


class Files:
    """The shards that were used last, by array and number."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, int], Shard] = OrderedDict()
        # An array may be collected, and its shards dropped, wherever this very thread makes a new object.
        self._lock = threading.RLock()
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = _MOST if allowed < 0 else max(4, min(_MOST, allowed // 4))

    def get(self, array: int, number: int) -> Shard | None:
        """A shard that is open; None where it is not."""
        with self._lock:
            shard = self._held.get((array, number))
            if shard is not None:
                self._held.move_to_end((array, number))
            return shard

    def keep(self, array: int, number: int, shard: Shard) -> None:
        """Hold an open shard, and let those go that were used longest ago."""
        with self._lock:
            self._held[array, number] = shard
            while len(self._held) > self.most:
                self._held.popitem(last=False)

    def drop(self, array: int, number: int | None = None) -> None:
        """Let one shard of an array go, or all of them."""
        with self._lock:
            for key in [k for k in self._held if k[0] == array and number in (None, k[1])]:
                del self._held[key]

    def clear(self) -> None:
        """Let all go."""
        with self._lock:
            self._held.clear()


_files = Files()
_tokens = itertools.count()


def files() -> Files:
    """The open shards of this process."""
    return _files


def token() -> int:
    """What tells an array of this process from all others."""
    return next(_tokens)


def forget(array: int) -> None:
    """Let all shards of an array go."""
    _files.drop(array)


def _after_fork() -> None:
    # Another thread of the parent may have held the lock.
    global _files
    _files = Files()


os.register_at_fork(after_in_child=_after_fork)


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another that was put in its place; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
