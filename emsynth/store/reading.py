"""Reading a data set wherever it lies: local files straight from the disk, everything else through zarr."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
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

_PICTURES = ("truth", "distorted", "displacement")
_NAMED = 4  # of what is missing, at most
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
        part = manifest.part_name("field", number)
        (content,) = self.manifests([part])
        name = f"fields/{number}/zarr.json"
        raw = self.file(name)
        if content is None:
            raise StoreError(f"{self.label}: {manifest.spoken(part)} is not finished; build with --resume to go on")
        if raw is None:
            raise IntegrityError(f"{self.label}: {manifest.spoken(part)}: file is missing: {name}; build with --resume "
                                 f"to make it again")
        if hashlib.sha256(raw).hexdigest() != content["files"].get(name, {}).get("sha256"):
            raise IntegrityError(f"{self.label}: {manifest.spoken(part)}: checksum differs: {name}; build with "
                                 f"--resume to make it again")
        return dict(json.loads(raw)["attributes"])

    def check_metadata(self) -> None:
        """Raise IntegrityError where what describes the data set is not what was written."""
        (content,) = self.manifests([manifest.STORE])
        if content is None:
            raise IntegrityError(f"{self.label}: {manifest.FOLDER}/{manifest.STORE}.json is missing; restore it from a "
                                 f"copy of the data set")
        for name, entry in content["files"].items():
            raw = self.file(name) if name.endswith("zarr.json") else b""
            if raw != b"" and (raw is None or hashlib.sha256(raw).hexdigest() != entry["sha256"]):
                what = "is missing" if raw is None else "is not what was written: its checksum differs"
                raise IntegrityError(f"{self.label}: {name} {what}; restore it from a copy of the data set")

    def check_finished(self, kind: str, count: int) -> None:
        """Raise StoreError where one of the first `count` fields or shards is not finished.

        Raises
        ------
        StoreError
            Where some are not; IntegrityError where one is of another build.
        """
        parts = [manifest.part_name(kind, n) for n in range(count)]
        found = self.manifests(parts)
        missing = [n for n, content in enumerate(found) if content is None]
        if missing:
            shown = ", ".join(self._named(kind, n) for n in missing[:_NAMED])
            more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
            raise StoreError(f"{self.label}: {shown}{more} not finished; build with --resume to go on")
        digest = str(self.store.attributes["recipe_digest"])
        for part, content in zip(parts, found, strict=True):
            another = manifest.of_another_build(content or {}, digest)
            if another is not None:
                raise IntegrityError(f"{self.label}: {manifest.spoken(part)}: {another}; build with --resume to make "
                                     f"it again")

    def _named(self, kind: str, number: int) -> str:
        if kind != "shard":
            return f"{kind} {number}"
        samples = self.store.samples_of(number)
        return f"shard {number} (samples {samples.start} to {samples.stop - 1})"

    def manifests(self, parts: Sequence[str]) -> list[dict[str, Any] | None]:
        """Manifests of some parts; None for one that is not finished."""
        raise NotImplementedError

    def file(self, name: str) -> bytes | None:
        """Bytes of a small file of the data set; None where there is none."""
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

    def field(self, number: int) -> Field:
        # All of its files, whatever checksums their chunks have: they are read once.
        part = manifest.part_name("field", number)
        manifest.check_complete(self.store.path, part)
        manifest.check_sound(self.store.path, part)
        return super().field(number)

    def manifests(self, parts: Sequence[str]) -> list[dict[str, Any] | None]:
        return [manifest.read(self.store.path, part) for part in parts]

    def file(self, name: str) -> bytes | None:
        try:
            return (self.store.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise IntegrityError(f"{self.label}: {name}: cannot be read ({reason.strerror})") from None


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

    def manifests(self, parts: Sequence[str]) -> list[dict[str, Any] | None]:
        found: list[dict[str, Any] | None] = []
        for part, raw in zip(parts, self._files([f"{manifest.FOLDER}/{part}.json" for part in parts]), strict=True):
            try:
                found.append(None if raw is None else dict(json.loads(raw)))
            except ValueError:
                raise IntegrityError(f"{self.label}: {manifest.FOLDER}/{part}.json: this manifest is damaged; "
                                     f"{_GONE_BY}") from None
        return found

    def file(self, name: str) -> bytes | None:
        return self._files([name])[0]

    def _files(self, names: Sequence[str]) -> list[bytes | None]:
        import asyncio

        from zarr.core.sync import sync

        async def read() -> list[Any]:
            return await asyncio.gather(*((self.group.store_path / name).get() for name in names))

        with _through_zarr(f"{self.label}: {names[0] if names else ''}"):
            return [None if found is None else found.to_bytes() for found in sync(read())]


class ZarrArray:
    """One array of a data set through zarr; what is not there is an error here, and no fill value.

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

    def read(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        size = (self._array.shards or self._array.chunks)[0]
        for row, index in enumerate(indices.tolist()):
            where = f"{self.label}: {self.name} of sample {index}"
            with _through_zarr(where):
                out[row] = self._array[index]
            # A picture is nowhere NaN; of the others zarr does not say what it has made up.
            if self.name not in _PICTURES:
                self._check_there((index // size, *(0 for _ in self.shape[1:])), where)
            elif np.isnan(out[row].flat[0]):
                self._check_there((index // size, *(0 for _ in self.shape[1:])), where)
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
        from zarr.core.sync import sync

        key = "/".join(["c", *map(str, corner)])
        with _through_zarr(where):
            there = sync((self._array.store_path / key).exists())
        if not there:
            raise IntegrityError(f"{where}: file is missing: {self.name}/{key}; {_GONE_BY}")


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
    import fsspec
    import zarr
    from zarr.abc.store import Store as AnyStore

    if isinstance(where, zarr.storage.LocalStore):
        return LocalReading(open_store(where.root), str(where.root))
    label = str(where)
    if not isinstance(where, str | os.PathLike | AnyStore):
        raise StoreError(f"path: {where!r} is no data set; give a folder, a .zip file of one, an address or a zarr "
                         f"store")
    if isinstance(where, str) and "://" in where and where.split("://")[0] not in fsspec.available_protocols():
        raise StoreError(f"{where}: {where.split('://')[0]}:// is no kind of address that fsspec knows")
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


def portable(where: Any) -> Any:
    """The same place in a form that every process can open for itself: a zip file by its path."""
    path = getattr(where, "path", None)
    return path if type(where).__name__ == "ZipStore" and path is not None else where


@contextlib.contextmanager
def _through_zarr(what: str) -> Iterator[None]:
    try:
        yield
    except (StoreError, IntegrityError):
        raise
    except FileNotFoundError as reason:
        raise StoreError(f"{what}: not an emsynth data set, or there is none ({reason}); in a zip archive zarr.json "
                         f"lies at the top, as `emsynth export --to zip` writes it") from None
    except ImportError as reason:
        raise StoreError(f"{what}: a package is missing for addresses of this kind ({reason})") from None
    # Each store and each codec has its own exceptions for what it cannot read.
    except Exception as reason:
        raise IntegrityError(f"{what}: cannot be read ({type(reason).__name__}: {reason}); {_GONE_BY}") from reason
