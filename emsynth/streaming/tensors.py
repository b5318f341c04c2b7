"""Batches as torch tensors, in pinned memory where there is a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emsynth.errors import StreamError
from emsynth.streaming.blocks import Blocks

_PILE = 3  # dimensions of a batch of pictures without a channel
_PICTURES = ("truth", "distorted", "mask", "class_map")


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

    def rooms(self, blocks: Blocks) -> Rooms:
        """Memory for one batch; `blocks` where it is not pinned."""
        return Rooms(None if self.pin else blocks)


class Rooms:
    """Memory of one batch, and the tensors that lie in it.

    Parameters
    ----------
    blocks : Blocks or None
        Where arrays are taken from; None for pinned memory, which torch keeps itself until a copy to the GPU is done
        with it.
    """

    def __init__(self, blocks: Blocks | None) -> None:
        self._blocks = blocks
        self._pinned: dict[int, torch.Tensor] = {}

    def array(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array to be written."""
        if self._blocks is not None:
            return self._blocks.array(shape, kind)
        tensor = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, kind)).dtype, pin_memory=True)
        pinned: NDArray[Any] = tensor.numpy()
        self._pinned[id(pinned)] = tensor
        return pinned

    def tensors(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The same as tensors, pictures with a channel; words stay arrays."""
        made = {}
        for name, array in arrays.items():
            if array.dtype == object:
                made[name] = array
                continue
            # The pinned tensor itself, by which torch knows which copies still read it.
            tensor = self._pinned.get(id(array))
            tensor = torch.from_numpy(array) if tensor is None else tensor
            made[name] = tensor.unsqueeze(1) if name in _PICTURES and tensor.ndim == _PILE else tensor
        return made
