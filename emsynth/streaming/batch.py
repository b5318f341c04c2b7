"""One batch of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Batch(Mapping[str, Any]):
    """Arrays of some samples by name, as keys and as attributes.

    Attributes
    ----------
    index : (N,) int64
        Indices of the samples.
    truth : (N, H, W) float32
        In ADU; a tensor has a channel, (N, 1, H, W).
    distorted : (N, H, W) float32
        In ADU; with several views (N, views, H, W), and as a tensor always with that axis.

    Others, by what was asked for with `also`.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        """How many arrays; ``len(batch.index)`` samples."""
        return len(self._arrays)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_arrays"][name]
        except KeyError:
            raise AttributeError(f"a batch has no {name!r}; ask for it with also=({name!r},)") from None

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {tuple(value.shape)}" if hasattr(value, "shape") else name
                          for name, value in self._arrays.items())
        return f"Batch({shown})"
