"""Rendering a sample of a store again, to see whether it comes out the same."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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

_DRAWN = "drawn"
_KEYS = 6  # that are named, at most


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
        Largest difference, as a part of the array's range; infinite where it has another shape, is text, or is not a
        number on one side only.
    within : bool
        Whether it is within the tolerance that is allowed on another platform.
    said : str
        How it differs, where that is not a matter of its range.
    """

    name: str
    count: int
    size: int
    largest: float
    within: bool
    said: str = ""

    def __str__(self) -> str:
        if self.said:
            return f"{self.name}: {self.said}"
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
        Arrays that are not bit for bit the same; of the drawn recipe, where it means something else.
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
    size = max(kept.size, again.size)
    if kept.shape != again.shape:
        return Difference(name, size, size, math.inf, False, f"had shape {kept.shape}, and has {again.shape} now")
    if name == _DRAWN:
        return _compare_drawn(kept.item(), again.item())
    if kept.dtype.kind == "O":
        return Difference(name, size, size, math.inf, False, f"was {kept.item()!r}, and is {again.item()!r} now")
    one, two = kept.astype(np.float64), again.astype(np.float64)
    apart = np.where(np.isnan(one) & np.isnan(two), 0.0, np.abs(one - two))
    apart[np.isnan(apart)] = math.inf
    shown = one[np.isfinite(one)]
    span = (float(np.ptp(shown)) or float(np.abs(shown).max()) or 1.0) if shown.size else 1.0
    beyond, count = int(np.count_nonzero(apart > TOLERANCE * span)), int(np.count_nonzero(apart))
    largest = float(apart.max()) / span
    said = "" if math.isfinite(largest) else f"{count} of {size} values differ, and some are not finite"
    return Difference(name, count, size, largest, beyond <= EXEMPT * size, said)


def _compare_drawn(kept: str, again: str) -> Difference | None:
    """How two drawn recipes differ, by their keys; a key that has come since with a default says nothing."""
    one, two = (Recipe.model_validate_json(text).model_dump(mode="json") for text in (kept, again))
    keys = list(_keys_apart(one, two))
    if not keys:
        return None
    shown = ", ".join(keys[:_KEYS]) + (f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else "")
    return Difference(_DRAWN, len(keys), len(keys), math.inf, False, f"{shown} drawn otherwise")


def _keys_apart(one: Any, two: Any, at: str = "") -> Iterator[str]:
    # Dotted keys, stages by their names, as `--set` takes them.
    if isinstance(one, dict) and isinstance(two, dict):
        pairs = [(name, one.get(name), two.get(name)) for name in {**one, **two}]
    elif isinstance(one, list) and isinstance(two, list) and all(isinstance(v, dict) for v in (*one, *two)):
        first, second = ({v.get("stage", n): v for n, v in enumerate(part)} for part in (one, two))
        pairs = [(name, first.get(name), second.get(name)) for name in {**first, **second}]
    else:
        if one != two:
            yield at
        return
    for name, before, after in pairs:
        yield from _keys_apart(before, after, f"{at}.{name}" if at else str(name))


def _bits(values: NDArray[np.generic]) -> object:
    return values.tolist() if values.dtype.kind == "O" else values.tobytes()
