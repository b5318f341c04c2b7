"""The table of samples: every scalar that is kept of a sample, as arrays and as CSV."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.store.layout import LAYOUT, ArrayLayout
from emsynth.store.reading import open_reading

# The drawn recipe is a document of its own for every sample, and as large as all the rest.
SCALARS: tuple[ArrayLayout, ...] = tuple(a for a in LAYOUT if a.dims == ("sample",) and a.name != "drawn")
INDEX = "index"


def scalars(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Scalars of all samples by name, each (sample,), and their ``index``.

    Parameters
    ----------
    path : path
        A data set.
    """
    reading = open_reading(path)
    return {INDEX: np.arange(reading.store.samples), **{a.name: reading.array(a.name).whole() for a in SCALARS}}


def write_csv(columns: dict[str, NDArray[Any]], out: Path) -> None:
    """Write one row for each sample: the same data set gives the same bytes.

    Parameters
    ----------
    columns : dict
        As `scalars` gives them.
    out : Path
        The file. Numbers are the shortest that read back as they were; one that is not known, NaN, is an empty cell.
    """
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(map(_cell, column.tolist()) for column in columns.values()), strict=True))


def _cell(value: float | int | str) -> str:
    return "" if isinstance(value, float) and math.isnan(value) else str(value)
