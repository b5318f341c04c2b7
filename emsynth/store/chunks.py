"""Chunks of a local Zarr v3 array, read straight from their files; no Zarr here.

For the few codecs that emsynth writes this is many times quicker than a general reader, it checks every chunk, and it
has neither threads nor an event loop, so that a process may fork after it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numcodecs.vlen import VLenUTF8  # type: ignore[import-untyped]
from numpy.typing import NDArray

from emsynth.errors import IntegrityError, StoreError
from emsynth.store import _chunk_kernels, open_files
from emsynth.store.open_files import Shard, identity

_CRC = 4  # bytes
_ABSENT = -1  # offset of an inner chunk that was not written: all bits set
_PLAIN = {"name": "bytes", "configuration": {"endian": "little"}}
_ONE_BYTE = {"name": "bytes"}
_TEXT = "vlen-utf8"


_rooms = threading.local()

_Placed = tuple[tuple[int, ...], NDArray[Any]]


class UnfamiliarError(Exception):
    """An array that emsynth would not have written so; a general reader may know how to read it."""


@dataclass(frozen=True)
class _Coding:
    """How a chunk becomes bytes."""

    text: bool
    compressed: bool
    checked: bool

    @classmethod
    def of(cls, codecs: list[dict[str, Any]]) -> _Coding:
        names = [codec["name"] for codec in codecs]
        first = {key: value for key, value in codecs[0].items() if value}
        text = names[0] == _TEXT
        if not (text or first in (_PLAIN, _ONE_BYTE)) or names[1:] not in ([], ["blosc"], ["crc32c"],
                                                                          ["blosc", "crc32c"]):
            raise UnfamiliarError(f"codecs {names}")
        return cls(text, "blosc" in names, names[-1] == "crc32c")


class LocalArray:
    """One array of a local store.

    Parameters
    ----------
    store : Path
        Folder of the store.
    name : str
        Name of the array in it, e.g. ``"truth"`` or ``"fields/3/image"``.

    Raises
    ------
    UnfamiliarError
        Where the array has codecs or a layout that emsynth does not write.
    IntegrityError
        Where its ``zarr.json`` is missing or damaged.

    Notes
    -----
    Sharding as in the Zarr v3 specification: inner chunks, and at the end of the file their offsets and lengths
    (little-endian uint64) with a crc32c of their own.
    """

    def __init__(self, store: Path, name: str) -> None:
        self.store, self.name = store, name
        try:
            about = json.loads((store / name / "zarr.json").read_text())
            self.shape = tuple(int(n) for n in about["shape"])
            outer = tuple(about["chunk_grid"]["configuration"]["chunk_shape"])
            codecs, kind = about["codecs"], about["data_type"]
            separator = about["chunk_key_encoding"]["configuration"]["separator"]
        except FileNotFoundError:
            raise IntegrityError(f"{store}: {name}: file is missing: {name}/zarr.json") from None
        except (OSError, ValueError, KeyError, TypeError) as reason:
            raise IntegrityError(f"{store}: {name}/zarr.json cannot be read ({reason}); emsynth verify looks at the "
                                 f"rest, and a copy of the data set has the file") from None
        self._sharded = codecs[0]["name"] == "sharding_indexed"
        inner = codecs[0]["configuration"] if self._sharded else {"codecs": codecs, "chunk_shape": outer}
        try:
            self.dtype: np.dtype[Any] = np.dtype(object if kind == "string" else kind)
        except TypeError:
            raise IntegrityError(f"{store}: {name}/zarr.json: data_type {kind!r} is none; emsynth verify looks at the "
                                 f"rest, and a copy of the data set has the file") from None
        self._outer, self._inner = outer, tuple(inner["chunk_shape"])
        self._coding = _Coding.of(inner["codecs"])
        index = [codec["name"] for codec in inner.get("index_codecs", ())]
        if separator != "/" or (self._sharded and (len(codecs) > 1 or index != ["bytes", "crc32c"]
                                                   or inner["index_location"] != "end")):
            raise UnfamiliarError(f"{name}: chunk keys or shards that emsynth does not write")
        self._cold = False  # whether the last batch had to wait for the disk
        self._token = open_files.token()
        self._folder = identity(store)
        weakref.finalize(self, open_files.forget, self._token)

    def read(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Read some samples, straight into a batch.

        Parameters
        ----------
        indices : (n,) int64
            Along the first axis.
        out : ndarray of shape ``(n, *shape[1:])``
            Contiguous, of the array's type.

        Raises
        ------
        IntegrityError
            Where the bytes of one are not those that were written, or not there; names file and sample. `out` is then
            undefined.
        """
        numbers, most = indices // self._outer[0], max(1, open_files.files().most // 2)
        there = np.unique(numbers)
        if len(there) <= most:
            self._read_some(indices, out)
            return
        # No more shards at a time than files may be open.
        for first in range(0, len(there), most):
            chosen = np.flatnonzero(np.isin(numbers, there[first:first + most]))
            rows = np.empty((len(chosen), *self.shape[1:]), self.dtype)
            self._read_some(indices[chosen], rows)
            out[chosen] = rows

    def _read_some(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        wanted = indices.tolist()
        shards = self._shards(wanted)
        if _chunk_kernels.USABLE:
            self._read_all(wanted, shards, out)
        else:
            for row, index in enumerate(wanted):
                number, place = divmod(index, self._outer[0])
                self._fetch(shards[number], place, out[row], index)
        for number, shard in shards.items():
            if shard.deleted:  # or replaced, by a build that mends it: then once more
                open_files.files().drop(self._token, number)
                for row, index in enumerate(wanted):
                    if index // self._outer[0] == number:
                        self._fetch(self._shard(number, index), index % self._outer[0], out[row], index)

    def expect(self, indices: NDArray[np.int64]) -> None:
        """Have the system bring some samples from the disk, where the last ones were not in memory already."""
        if self._cold and _chunk_kernels.USABLE:
            wanted = indices.tolist()
            with contextlib.suppress(IntegrityError):  # to be raised by who reads it
                files, places = self._places(wanted, self._shards(wanted))
                _chunk_kernels.ask(files, places[:, 0], places[:, 1])

    def _shards(self, wanted: list[int]) -> dict[int, Shard]:
        first = {index // self._outer[0]: index for index in reversed(wanted)}
        return {number: self._shard(number, index) for number, index in first.items()}

    def _places(self, wanted: list[int], shards: dict[int, Shard]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # File of each chunk, (n,), and its offset and length there, (n, 2).
        size = self._outer[0]
        return (np.array([shards[i // size].descriptor for i in wanted], np.int64),
                np.array([shards[i // size].places[i % size] for i in wanted]))

    def _read_all(self, wanted: list[int], shards: dict[int, Shard], out: NDArray[Any]) -> None:
        size, tail = self._outer[0], _CRC * self._coding.checked
        files, places = self._places(wanted, shards)
        lengths = places[:, 1] - tail
        whole = out.reshape(len(wanted), -1).view(np.uint8)
        if self._coding.compressed:
            starts = np.concatenate([[0], np.cumsum((lengths + 7) // 8 * 8)])
        else:
            starts = np.arange(len(wanted) + 1) * whole.shape[1]
        ends = starts[:-1] + lengths
        sound = np.zeros(len(wanted), np.bool_)
        # Whatever is wrong with a chunk, it is read again by itself, which says what.
        if lengths.min() >= 0 and places.min() >= 0 and (self._coding.compressed or (lengths == whole.shape[1]).all()):
            room = _room(int(starts[-1])) if self._coding.compressed else whole.reshape(-1)
            waited = _chunk_kernels.fetch(files, places[:, 0], lengths, starts[:-1], bool(tail), room, sound)
            self._cold = waited > 0
        for row, index in enumerate(wanted):
            if not sound[row]:
                self._fetch(shards[index // size], index % size, out[row], index)
            elif self._coding.compressed:
                self._expand(room[starts[row]:ends[row]], out[row], shards[index // size].name, index)

    def whole(self) -> NDArray[Any]:
        """All of the array.

        Raises
        ------
        IntegrityError
            As `read`.
        """
        out = np.empty(self.shape, self.dtype)
        for corner in product(*(range(-(-n // step)) for n, step in zip(self.shape, self._outer, strict=True))):
            start = tuple(c * step for c, step in zip(corner, self._outer, strict=True))
            for at, chunk in self._chunks(corner, start):
                part = tuple(slice(a, min(a + step, n)) for a, step, n in zip(at, self._inner, self.shape, strict=True))
                out[part] = chunk[tuple(slice(s.stop - s.start) for s in part)]
        return out

    def _chunks(self, corner: tuple[int, ...], start: tuple[int, ...]) -> Iterator[_Placed]:
        file = "/".join((self.name, "c", *map(str, corner)))
        if not self._sharded:
            raw = self._bytes_of(file)
            yield start, self._decoded(raw, file)
            return
        shard = self._opened(file)
        steps = [range(0, outer, inner) for outer, inner in zip(self._outer, self._inner, strict=True)]
        for place, within in enumerate(product(*steps)):
            at = tuple(a + b for a, b in zip(start, within, strict=True))
            if all(a < n for a, n in zip(at, self.shape, strict=True)):
                chunk = np.empty(self._inner, self.dtype)
                self._fetch(shard, place, chunk, None)
                yield at, chunk

    def _shard(self, number: int, index: int) -> Shard:
        shard = open_files.files().get(self._token, number)
        if shard is None:
            shard = self._opened("/".join((self.name, "c", str(number), *("0" for _ in self.shape[1:]))), index)
            open_files.files().keep(self._token, number, shard)
        return shard

    def _opened(self, name: str, index: int | None = None) -> Shard:
        count = 1
        for outer, inner in zip(self._outer, self._inner, strict=True):
            count *= outer // inner
        if identity(self.store) != self._folder:
            raise IntegrityError(f"{self.store}: it was replaced by another build while it was read; open it again")
        descriptor = self._descriptor(name, index)
        # As signed numbers an absent chunk lies at -1.
        shard = Shard(descriptor, name, np.zeros((0, 2), np.int64))
        try:
            start = os.fstat(descriptor).st_size - 16 * count - _CRC
            raw = os.pread(descriptor, 16 * count + _CRC, max(0, start))
        except OSError as reason:
            raise self._damage(name, _why(reason), index) from None
        if len(raw) != 16 * count + _CRC or not _sound(raw[:-_CRC], raw[-_CRC:]):
            raise self._damage(name, "truncated, or its index is damaged", index)
        object.__setattr__(shard, "places", np.frombuffer(raw[:-_CRC], "<i8").reshape(count, 2))
        return shard

    def _descriptor(self, name: str, index: int | None) -> int:
        for again in (True, False):
            try:
                return os.open(self.store / name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as reason:
                if reason.errno not in (errno.EMFILE, errno.ENFILE):
                    raise self._damage(name, _why(reason), index) from None
                if not again:
                    raise StoreError(f"{self.store}: {name}: too many files are open in this process; allow more with "
                                     f"`ulimit -n`, or use fewer streams and workers") from None
                open_files.files().clear()
        raise AssertionError("not reached")

    def _fetch(self, shard: Shard, place: int, out: NDArray[Any], index: int | None) -> None:
        offset, length = shard.places[place].tolist()
        if offset == _ABSENT:
            raise self._damage(shard.name, "it was never written", index)
        tail = bytearray(_CRC if self._coding.checked else 0)
        body: Any = bytearray(length - len(tail)) if self._coding.compressed else out.reshape(-1).view(np.uint8)
        if len(body) + len(tail) != length:
            raise self._damage(shard.name, f"{length} bytes where {len(body) + len(tail)} are needed", index)
        try:
            found = os.preadv(shard.descriptor, [body, tail] if tail else [body], offset)
        except OSError as reason:
            raise self._damage(shard.name, _why(reason), index) from None
        if found != length:
            raise self._damage(shard.name, f"truncated, {found} of {length} bytes", index)
        if tail and not _sound(body, tail):
            raise self._damage(shard.name, "checksum differs", index)
        if self._coding.compressed:
            self._expand(body, out, shard.name, index)

    def _expand(self, body: Any, out: NDArray[Any], name: str, index: int | None) -> None:
        try:
            numcodecs.blosc.decompress(body, out)
        except (RuntimeError, ValueError) as reason:
            raise self._damage(name, f"cannot be decompressed ({reason})", index) from None

    def _bytes_of(self, name: str) -> bytes:
        try:
            raw = (self.store / name).read_bytes()
        except OSError as reason:
            raise self._damage(name, _why(reason)) from None
        if not self._coding.checked:
            return raw
        if not _sound(raw[:-_CRC], raw[-_CRC:]):
            raise self._damage(name, "checksum differs")
        return raw[:-_CRC]

    def _decoded(self, raw: bytes, name: str) -> NDArray[Any]:
        try:
            plain = numcodecs.blosc.decompress(raw) if self._coding.compressed else raw
            if self._coding.text:
                return np.asarray(VLenUTF8().decode(plain), object).reshape(self._inner)
            return np.frombuffer(plain, self.dtype).reshape(self._inner)
        except (RuntimeError, ValueError) as reason:
            raise self._damage(name, f"cannot be decoded ({reason})") from None

    def _damage(self, file: str, why: str, index: int | None = None) -> IntegrityError:
        what = f"{self.name} of sample {index}" if index is not None else self.name
        return IntegrityError(f"{self.store}: {what}: {why}: {file}; emsynth verify looks at the rest, and emsynth "
                              f"build with --resume makes it again")


def _room(size: int) -> NDArray[np.uint8]:
    # This thread's own, used again and again: new memory costs as much as what is read into it.
    held: NDArray[np.uint8] | None = getattr(_rooms, "held", None)
    if held is None or held.size < size:
        held = _rooms.held = np.empty(size + size // 8, np.uint8)
    return held[:size]


def _why(reason: OSError) -> str:
    return "file is missing" if isinstance(reason, FileNotFoundError) else f"cannot be read ({reason.strerror})"


def _sound(body: Any, tail: Any) -> bool:
    """Whether bytes have the crc32c that follows them."""
    if isinstance(body, np.ndarray):  # a read-only view is checked where it lies
        body = body.view()
        body.flags.writeable = False
    elif not isinstance(body, bytes):
        body = np.frombuffer(memoryview(body).toreadonly(), np.uint8)
    return int(google_crc32c.value(body)) == int.from_bytes(tail, "little")
