"""Rendering a sample of a store again, to see whether it comes out the same."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth import store
from emsynth.provenance import changed_since
from emsynth.recipe import Recipe
from emsynth.sample import render
from emsynth.store.layout import LAYOUT

# On another platform: values may differ by this part of the array's range, ...
TOLERANCE = 1e-3
# ... except for so many of the values, where rounding tips a count of electrons or a displacement over an edge.
EXEMPT = 0.01


@dataclass(frozen=True)
class Difference:
    """How one array differs.

    Attributes
    ----------
    name : str
        Name of the array.
    count, size : int
        Values that differ, of how many.
    largest : float
        Largest difference, as a part of the array's range; infinite where it has another shape or is text.
    within : bool
        Whether it is within the tolerance that is allowed on another platform.
    """

    name: str
    count: int
    size: int
    largest: float
    within: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.count} of {self.size} values differ, by up to {self.largest:.2g} of the range"


@dataclass(frozen=True)
class Replay:
    """A sample of a store against the same sample rendered again.

    Attributes
    ----------
    index : int
        Index of the sample.
    same : bool
        Bit for bit the same; on another platform, the same within the tolerance.
    platform_same : bool
        Whether this platform and these versions are those that made the store.
    changed : tuple of str
        What is not, e.g. ``"numpy 2.4.6 then, 2.5.0 now"``.
    differences : tuple of Difference
        Arrays that are not bit for bit the same.
    """

    index: int
    same: bool
    platform_same: bool
    changed: tuple[str, ...]
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        how = (f"on another platform ({'; '.join(self.changed)}), to within {TOLERANCE:.1%} of the range in all but "
               f"{EXEMPT:.0%} of the values") if self.changed else "bit for bit"
        verdict = f"sample {self.index}: {'the same' if self.same else 'not the same'} {how}"
        return "\n".join([verdict, *(f"  {d}" for d in self.differences)])


def replay(path: str | os.PathLike[str], index: int) -> Replay:
    """Render sample `index` of a store from its drawn recipe and its stored field, and compare every array.

    Parameters
    ----------
    path : path
        The store.
    index : int
        Index of the sample.

    Returns
    -------
    Replay
        On the platform and with the versions that made the store it is the same only bit for bit; elsewhere all but
        1 % of the values of an array must agree within 0.1 % of its range.

    Raises
    ------
    StoreError
        Where the sample is not in the store.
    """
    kept = store.read_kept(path, index)
    recipe = Recipe.model_validate_json(kept["drawn"].item())
    field = store.read_field(path, int(kept["field"]))
    again = store.as_kept(render(recipe, index, field))
    found = (compare(layout.name, kept[layout.name], again[layout.name]) for layout in LAYOUT)
    differences = tuple(d for d in found if d is not None)
    changed = changed_since(store.open_store(path).attributes)
    same = all(d.within for d in differences) if changed else not differences
    return Replay(index, same, not changed, changed, differences)


def compare(name: str, kept: NDArray[np.generic], again: NDArray[np.generic]) -> Difference | None:
    """How an array differs from the kept one; None where it does not in a single bit."""
    if kept.shape == again.shape and kept.dtype == again.dtype and _bits(kept) == _bits(again):
        return None
    if kept.shape != again.shape or kept.dtype.kind == "O":
        return Difference(name, max(kept.size, again.size), max(kept.size, again.size), float("inf"), False)
    one, two = kept.astype(np.float64), again.astype(np.float64)
    apart = np.abs(one - two)
    span = float(np.ptp(one)) or float(np.abs(one).max()) or 1.0
    beyond = int(np.count_nonzero(~(apart <= TOLERANCE * span)))
    return Difference(name, int(np.count_nonzero(~(apart == 0))), kept.size, float(apart.max()) / span,
                      beyond <= EXEMPT * kept.size)


def _bits(values: NDArray[np.generic]) -> object:
    return values.tolist() if values.dtype.kind == "O" else values.tobytes()
