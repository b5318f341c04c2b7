"""Arrays that never change again: a Zarr group in one zip file, written once and known by its SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import IntegrityError, StoreError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that zip knows
_MODE = 0o100644 << 16  # a plain file that everybody may read


@dataclass(frozen=True, eq=False)
class FrozenArray:
    """One array of a frozen file.

    Attributes
    ----------
    values : ndarray
    dimensions : tuple of str
        Name of each axis.
    chunks : tuple of int
        What is packed together.
    """

    values: NDArray[Any]
    dimensions: tuple[str, ...]
    chunks: tuple[int, ...]


def digest_of(path: Path) -> str:
    """SHA-256 of a file; StoreError where it cannot be read."""
    try:
        with open(path, "rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except OSError as wrong:
        raise StoreError(f"{path}: cannot be read: {wrong.strerror}") from None


def write_frozen(path: Path, arrays: dict[str, FrozenArray], attributes: dict[str, Any]) -> str:
    """Write arrays and attributes into one file, whole or not at all; the same content gives the same bytes.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    StoreError
        Where it cannot be written.
    """
    import zarr
    from zarr.codecs import BloscCodec

    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as draft:
            group = zarr.create_group(Path(draft, "group"), attributes=attributes)
            for name, array in arrays.items():
                size = array.values.dtype.itemsize
                made = group.create_array(
                    name, shape=array.values.shape, chunks=array.chunks, dtype=array.values.dtype, fill_value=0,
                    dimension_names=array.dimensions, config={"write_empty_chunks": True},
                    compressors=BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle", typesize=size))
                made[...] = array.values
            packed = Path(draft, "packed")
            _pack(Path(draft, "group"), packed)
            os.replace(packed, path)
    except OSError as wrong:
        raise StoreError(f"{path}: cannot be written: {wrong.strerror or wrong}") from None
    return digest_of(path)


def plain_entry(name: str) -> zipfile.ZipInfo:
    """Entry of a zip that says nothing of when and where it was written, so that equal content gives equal bytes."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr, entry.create_system = _MODE, 3
    return entry


def _pack(folder: Path, out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(name for name in folder.rglob("*") if name.is_file()):
            packed.writestr(plain_entry(file.relative_to(folder).as_posix()), file.read_bytes())


def _whole(path: Path) -> None:
    """Raise StoreError where the zip is none or damaged; zarr, met with that, leaves a page of warnings behind."""
    try:
        with zipfile.ZipFile(path) as packed:
            damaged = packed.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        raise StoreError(f"{path}: is not a frozen file of emsynth, or was cut off; get the file again") from None
    if damaged is not None:
        raise StoreError(f"{path}: bytes have changed in {damaged}; get the file again")


def read_frozen(path: Path, digest: str | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, Any], str]:
    """Arrays, attributes and SHA-256 of a frozen file.

    Parameters
    ----------
    path : Path
        The file.
    digest : str, optional
        What its SHA-256 must be.

    Raises
    ------
    IntegrityError
        Where its bytes are not the ones that were frozen.
    StoreError
        Where it cannot be read.
    """
    found = digest_of(path)
    if digest is not None and found != digest:
        raise IntegrityError(f"{path}: its SHA-256 is {found[:12]}..., and {digest[:12]}... was frozen: bytes have "
                             "changed; get the file again, e.g. by git checkout")
    import zarr
    from zarr.storage import ZipStore

    if digest is None:  # else every byte is known to be right
        _whole(path)
    try:
        with ZipStore(path, mode="r") as store:
            group = zarr.open_group(store, mode="r")
            arrays = {name: np.asarray(array[...]) for name, array in group.arrays()}
            return arrays, dict(group.attrs), found
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError) as wrong:
        raise StoreError(f"{path}: is not a frozen file of emsynth, or is damaged ({type(wrong).__name__}: {wrong}); "
                         "get the file again") from None
