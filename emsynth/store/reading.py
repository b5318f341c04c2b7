"""Reading a data set wherever it lies: local files straight from the disk, everything else through zarr."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import IntegrityError, StoreError
from emsynth.simulation.field import Field, from_arrays
from emsynth.store import manifest
from emsynth.store.chunks import LocalArray, UnfamiliarError
from emsynth.store.dataset import Store, known, open_store
from emsynth.store.layout import FIELD_DIMS

_GONE_BY = "emsynth verify names what is damaged where the data set is local"


class SampleArray(Protocol):
    """An array of a data set along whose first axis the samples lie."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Read some samples into `out`, of shape ``(len(indices), *shape[1:])``, or raise IntegrityError."""

    def expect(self, indices: NDArray[np.int64]) -> None:
        """Prepare for a `read` of these that comes soon, as far as that helps."""

    def whole(self) -> NDArray[Any]:
        """All of the array."""


@dataclass(frozen=True, eq=False)
class Readable:
    """A data set that can be read.

    Attributes
    ----------
    store : Store
        What it is; its path says where only if that is a local folder.
    label : str
        Where it is, for messages.
    """

    store: Store
    label: str

    def array(self, name: str) -> SampleArray:
        """One of its arrays.

        Raises
        ------
        StoreError
            Where there is none of that name.
        """
        raise NotImplementedError

    def field(self, number: int) -> Field:
        """One of its clean stacks, checked.

        Raises
        ------
        StoreError
            Where it is not finished; IntegrityError where its bytes are not those that were written.
        """
        attributes, arrays = self.field_about(number), {}
        for name in FIELD_DIMS:
            arrays[name] = self.array(f"fields/{number}/{name}").whole()
        about = json.dumps(attributes, sort_keys=True).encode()
        return from_arrays({**arrays, "about": np.frombuffer(about, np.uint8)})

    def field_about(self, number: int) -> dict[str, Any]:
        """Attributes of a clean stack, provenance included."""
        raise NotImplementedError

    def missing(self, kind: str, count: int) -> list[int]:
        """Which of the first `count` fields or shards are not finished, as far as can be told without reading them."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class LocalReading(Readable):
    """A data set in a local folder, read straight from its files."""

    @cached_property
    def _arrays(self) -> dict[str, SampleArray]:
        return {}

    def array(self, name: str) -> SampleArray:
        if name not in self._arrays:
            if not (self.store.path / name / "zarr.json").is_file():
                raise StoreError(f"{self.store.path}: there is no array {name!r} in it")
            try:
                self._arrays[name] = LocalArray(self.store.path, name)
            except UnfamiliarError:  # of a copy that something else wrote
                self._arrays[name] = ZarrArray(_local_group(self.store.path), name, self.label)
        return self._arrays[name]

    def field_about(self, number: int) -> dict[str, Any]:
        manifest.check_complete(self.store.path, manifest.part_name("field", number))
        return _attributes(self.store.path / "fields" / str(number))

    def missing(self, kind: str, count: int) -> list[int]:
        finished = self.store.finished(kind)
        return [n for n in range(count) if n not in finished]


@dataclass(frozen=True, eq=False)
class ZarrReading(Readable):
    """A data set in any store that zarr can read."""

    group: Any

    @cached_property
    def _arrays(self) -> dict[str, ZarrArray]:
        return {}

    def array(self, name: str) -> SampleArray:
        if name not in self._arrays:
            self._arrays[name] = ZarrArray(self.group, name, self.label)
        return self._arrays[name]

    def field_about(self, number: int) -> dict[str, Any]:
        with _through_zarr(f"{self.label}: field {number}"):
            return dict(self.group[f"fields/{number}"].attrs)

    def missing(self, kind: str, count: int) -> list[int]:
        if kind == "field":
            with _through_zarr(f"{self.label}: fields"):
                return [n for n in range(count) if f"fields/{n}/zarr.json" not in self.group and
                        f"fields/{n}" not in self.group]
        # A sample that was not written has no split; a manifest cannot be listed everywhere.
        split = self.array("split").whole()
        size = self.store.shard_size
        return [n for n in range(count) if not all(split[n * size:(n + 1) * size])]


class ZarrArray:
    """One array of a data set through zarr; what was never written is an error here, and no fill value.

    Parameters
    ----------
    group : zarr.Group
        The data set.
    name : str
        Name of the array.
    label : str
        Of the data set, for messages.
    """

    def __init__(self, group: Any, name: str, label: str) -> None:
        self.name, self.label = name, label
        with _through_zarr(f"{label}: {name}"):
            self._array = group[name]
        self.shape = tuple(self._array.shape)
        self.dtype = np.dtype(object) if self._array.dtype.kind not in "fiub" else self._array.dtype
        self._there: set[tuple[int, ...]] = set()
        self._lock = threading.Lock()

    def read(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        size = (self._array.shards or self._array.chunks)[0]
        for row, index in enumerate(indices.tolist()):
            where = f"{self.label}: {self.name} of sample {index}"
            self._check_there((index // size, *(0 for _ in self.shape[1:])), where)
            with _through_zarr(where):
                out[row] = self._array[index]
            if out.dtype.kind == "f" and np.isnan(out[row].flat[0]):
                raise IntegrityError(f"{where}: it was never written; {_GONE_BY}")

    def expect(self, indices: NDArray[np.int64]) -> None:
        """Do nothing: zarr has its own ways."""

    def whole(self) -> NDArray[Any]:
        for corner in np.ndindex(*(-(-n // step) for n, step in zip(
                self.shape, self._array.shards or self._array.chunks, strict=True))):
            self._check_there(corner, f"{self.label}: {self.name}")
        with _through_zarr(f"{self.label}: {self.name}"):
            return np.asarray(self._array[...], self.dtype)

    def _check_there(self, corner: tuple[int, ...], where: str) -> None:
        if corner in self._there:
            return
        from zarr.core.sync import sync

        key = "/".join(["c", *map(str, corner)])
        with _through_zarr(where):
            there = sync((self._array.store_path / key).exists())
        if not there:
            raise IntegrityError(f"{where}: file is missing: {self.name}/{key}; {_GONE_BY}")
        with self._lock:
            self._there.add(corner)


def open_reading(where: Any) -> Readable:
    """Open a data set for reading.

    Parameters
    ----------
    where : path, str or zarr store
        A local folder, a ``.zip`` file of one, an address that fsspec understands (``s3://...``, ``memory://...``), or
        any `zarr.abc.store.Store`.

    Raises
    ------
    StoreError
        Where it is not a data set that this version reads.
    """
    if isinstance(where, str | os.PathLike):
        text = os.fspath(where)
        if "://" not in text and not (text.endswith(".zip") and Path(text).is_file()):
            return LocalReading(open_store(text), text)
    import zarr

    if isinstance(where, zarr.storage.LocalStore):
        return LocalReading(open_store(where.root), str(where.root))
    label = str(where)
    with _through_zarr(label):
        group = zarr.open_group(_zarr_store(where), mode="r", zarr_format=3)
        attributes = dict(group.attrs)
    return ZarrReading(known(Path(label), attributes), label, group)


def _zarr_store(where: Any) -> Any:
    import zarr

    if not isinstance(where, str | os.PathLike):
        return where
    text = os.fspath(where)
    if "://" in text:
        return zarr.storage.FsspecStore.from_url(text, read_only=True)
    return zarr.storage.ZipStore(text, mode="r")


def _local_group(path: Path) -> Any:
    import zarr

    return zarr.open_group(path, mode="r", zarr_format=3)


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "zarr.json").read_text())["attributes"])
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise IntegrityError(f"{folder}: zarr.json cannot be read ({reason}); emsynth build with --resume makes it "
                             f"again") from None


@contextlib.contextmanager
def _through_zarr(what: str) -> Iterator[None]:
    try:
        yield
    except (StoreError, IntegrityError):
        raise
    except FileNotFoundError as reason:
        raise StoreError(f"{what}: not an emsynth data set, or there is none ({reason})") from None
    # Each store and each codec has its own exceptions for what it cannot read.
    except Exception as reason:
        raise IntegrityError(f"{what}: cannot be read ({type(reason).__name__}: {reason}); {_GONE_BY}") from reason
