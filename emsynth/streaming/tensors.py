"""Batches as torch tensors, in pinned memory where there is a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emsynth.errors import StreamError
from emsynth.streaming.blocks import Blocks
from emsynth.streaming.source import Room

_CHANNELLED = 3  # dimensions of a batch of pictures without a channel


class Tensors:
    """Makes tensors of the arrays of a batch, without a copy.

    Parameters
    ----------
    pin : bool or None
        Whether in pinned memory; None where there is a GPU.

    Raises
    ------
    StreamError
        Where memory is to be pinned without a GPU.
    """

    def __init__(self, pin: bool | None) -> None:
        self.pin = torch.cuda.is_available() if pin is None else pin
        if self.pin and not torch.cuda.is_available():
            raise StreamError("pin: pinned memory needs a GPU, and torch finds none; leave it out")

    def room(self, blocks: Blocks) -> Room:
        """Where arrays are to be written; torch keeps pinned memory itself, until a copy to the GPU is done with it."""
        return self._pinned if self.pin else blocks.array

    def _pinned(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        dtype = torch.from_numpy(np.empty(0, kind)).dtype
        pinned: NDArray[Any] = torch.empty(shape, dtype=dtype, pin_memory=True).numpy()
        return pinned

    def of(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The same as tensors, pictures with a channel; words stay arrays."""
        made = {}
        for name, array in arrays.items():
            if array.dtype == object:
                made[name] = array
                continue
            tensor = torch.from_numpy(array)
            made[name] = tensor.unsqueeze(1) if tensor.ndim == _CHANNELLED else tensor
        return made
