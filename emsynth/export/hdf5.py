"""HDF5: one file with the arrays of the store, their dimensions named, one pair in a chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emsynth.errors import StoreError
from emsynth.export.pairs import SCALARS, Pair
from emsynth.store import Store
from emsynth.store.layout import LABELS, LAYOUT, ArrayLayout
from emsynth.store.reading import open_reading

_TOGETHER = 1024  # scalars in a chunk


def write_hdf5(found: Iterable[Pair], out: Path, store: Store, about: dict[str, Any], indices: list[int],
               done: Callable[[Pair], None]) -> None:
    """Write one file; the same data set and version of HDF5 give the same bytes.

    Parameters
    ----------
    found : iterable of Pair
        In the order of `indices`.
    out : Path
        The file.
    store : Store
        The data set.
    about : dict
        Attributes of the file; what is no number or text becomes JSON.
    indices : list of int
        Of the samples that will come.
    done : callable
        Told each pair that is written.

    Raises
    ------
    StoreError
        Where h5py is not installed.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise StoreError("HDF5 needs h5py; pip install 'emsynth[export]'") from None
    reading = open_reading(store.path)
    # The format of HDF5 1.8, in which an attribute may be as long as a recipe.
    with h5py.File(out, "w", libver=("v108", "v108")) as file:
        for key, value in about.items():
            file.attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value)
        file["sample"] = np.asarray(indices, np.int64)
        for name, labels in LABELS.items():
            file.create_dataset(name, data=list(labels), dtype=h5py.string_dtype())
        for name in ("sample", *LABELS):
            file[name].make_scale(name)
        for layout in LAYOUT:
            _create(file, layout, reading.array(layout.name), len(indices), h5py.string_dtype())
        for row, pair in enumerate(found):
            for layout in LAYOUT:
                if layout.sharded or layout.name == "drawn":
                    file[layout.name][row] = pair.values[layout.name]
            done(pair)
        for layout in SCALARS:
            if layout.name != "drawn":
                values = reading.array(layout.name).whole()[indices]
                file[layout.name][:] = values.tolist() if layout.text else values


def _create(file: Any, layout: ArrayLayout, array: Any, count: int, text: Any) -> None:
    shape = (count, *array.shape[1:])
    chunks = (1, *shape[1:]) if layout.sharded else (min(count, _TOGETHER),)
    packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if layout.sharded else {}
    made = file.create_dataset(layout.name, shape, dtype=text if layout.text else layout.dtype, chunks=chunks, **packed)
    made.attrs["long_name"] = layout.about
    if layout.units:
        made.attrs["units"] = layout.units
    for number, dim in enumerate(layout.dims):
        made.dims[number].label = dim
        if dim in file and file[dim].is_scale:
            made.dims[number].attach_scale(file[dim])
