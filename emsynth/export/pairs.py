"""The pairs of a data set one by one, with everything that is kept of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.store import open_dataset, open_store
from emsynth.store.layout import LAYOUT
from emsynth.store.reading import Readable, open_reading

PICTURES = tuple(a for a in LAYOUT if a.sharded and "column" not in a.dims)
COLUMNS = tuple(a for a in LAYOUT if "column" in a.dims)
SCALARS = tuple(a for a in LAYOUT if not a.sharded)


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair.

    Attributes
    ----------
    index : int
        Of the sample.
    split : str
        Its split.
    values : dict
        What is kept of it, by array; atom columns with their padding.
    """

    index: int
    split: str
    values: dict[str, Any]


def pairs(path: str | os.PathLike[str], split: str | None = None) -> Iterator[Pair]:
    """Read the pairs in their order, every chunk of them checked; one is in memory at a time, and a shard's recipes.

    Parameters
    ----------
    path : path
        A finished data set.
    split : str, optional
        Only of this split.
    """
    reading, store = open_reading(path), open_store(path)
    scalars = {a.name: reading.array(a.name).whole() for a in SCALARS if a.name != "drawn"}
    with open_dataset(path) as held:
        for shard in range(store.shards):
            wanted = store.samples_of(shard)
            drawn = held["drawn"].isel(sample=slice(wanted.start, wanted.stop)).values
            for index in wanted:
                own = str(scalars["split"][index])
                if split in (None, own):
                    values = {name: column[index] for name, column in scalars.items()}
                    shaped = {a.name: _read(reading, a.name, index) for a in (*PICTURES, *COLUMNS)}
                    yield Pair(index, own, {**values, "drawn": str(drawn[index - wanted.start]), **shaped})


def _read(reading: Readable, name: str, index: int) -> NDArray[Any]:
    array = reading.array(name)
    out = np.empty((1, *array.shape[1:]), array.dtype)
    array.read(np.array([index], np.int64), out)
    pixels: NDArray[Any] = out[0]
    return pixels
