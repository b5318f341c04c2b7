"""Memory of batches, used again once nobody holds the batch that lay in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_KEPT = 16  # free blocks of one size, at most


class Blocks:
    """Arrays whose memory comes back when the last reference to them is gone.

    New memory costs about as much as a copy into it, because the system hands it out page by page and clears each.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = {}

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array to be written, like `numpy.empty`; whoever gets it may keep it."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size == 0 or kind.hasobject:
            return np.empty(shape, kind)
        free = self._free.setdefault(size, [])
        try:
            block = free.pop()  # atomic, as is append: threads share these lists
        except IndexError:
            block = np.empty(size, np.uint8)
        return np.asarray(_Lease(block, free, shape, kind))


class _Lease:
    """Owner of a block as long as any array, view or tensor refers to it."""

    def __init__(self, block: NDArray[np.uint8], free: list[NDArray[np.uint8]], shape: tuple[int, ...],
                 kind: np.dtype[Any]) -> None:
        self._block, self._free = block, free
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": kind.str,
                                    "data": (block.ctypes.data, False)}

    def __del__(self) -> None:
        if len(self._free) < _KEPT:
            self._free.append(self._block)
