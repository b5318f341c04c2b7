"""WebDataset: plain tar files of one split each, in which the files of a pair stand behind each other under one key."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.export.pairs import COLUMNS, PICTURES, SCALARS, Pair

_DIGITS = 9  # of a key: so that the order of the names is that of the samples
_SIZE = 256e6  # bytes of a tar file, about


def write_tars(found: Iterable[Pair], folder: Path, name: str, done: Callable[[Pair], None]) -> None:
    """Write ``NAME-SPLIT-000000.tar`` and so on; the same data set gives the same bytes.

    Parameters
    ----------
    found : iterable of Pair
        In their order.
    folder : Path
        Where to; it exists.
    name : str
        Name of the data set.
    done : callable
        Told each pair that is written.
    """
    tars: dict[str, _Tars] = {}
    try:
        for pair in found:
            tars.setdefault(pair.split, _Tars(folder, f"{name}-{pair.split}")).add(pair)
            done(pair)
    finally:
        for each in tars.values():
            each.close()


class _Tars:
    """The tar files of one split, one open at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._number, self._open, self._size = 0, None, 0  # type: tuple[int, tarfile.TarFile | None, int]

    def add(self, pair: Pair) -> None:
        """Write one pair, into a new file where this one is full."""
        if self._open is not None and self._size >= _SIZE:
            self.close()
        if self._open is None:
            # USTAR: what every reader knows; and no time, user or machine in it.
            place = self._folder / f"{self._name}-{self._number:06d}.tar"
            self._open = tarfile.open(place, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115, closed by `close`
            self._number, self._size = self._number + 1, 0
        for ending, content in _files(pair):
            entry = tarfile.TarInfo(f"{pair.index:0{_DIGITS}d}.{ending}")
            entry.size = len(content)
            self._open.addfile(entry, io.BytesIO(content))
            self._size += len(content)

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _files(pair: Pair) -> list[tuple[str, bytes]]:
    count = int(pair.values["column_count"])
    scalars = {a.name: plain(pair.values[a.name]) for a in SCALARS if a.name != "drawn"}
    about = {"index": pair.index, **scalars, "drawn": json.loads(pair.values["drawn"])}
    return [*((f"{a.name}.npy", _npy(pair.values[a.name])) for a in PICTURES),
            *((f"{a.name}.npy", _npy(pair.values[a.name][:count])) for a in COLUMNS),
            ("json", json.dumps(about, allow_nan=False).encode())]


def plain(value: Any) -> Any:
    """A scalar as JSON has it: null for NaN, which JSON does not know."""
    own = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(own, float) and math.isnan(own) else own


def _npy(array: NDArray[Any]) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    return held.getvalue()
