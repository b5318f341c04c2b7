"""Restored micrographs as files: TIFF as ImageJ writes it, NPY, or NCEM's EMD; with pixel size and metadata."""

from __future__ import annotations

import importlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from emsynth.errors import StoreError, StoreExistsError
from emsynth.imagery import replacing
from emsynth.restoration.micrograph import Micrograph

WRITABLE = (".tif", ".tiff", ".npy", ".emd")
_CLASSIC = 2**32 - 2**26  # bytes beyond which a TIFF needs 64-bit offsets
_FRACTIONS = 1e-7, 1e7  # units to a pixel that the two numbers of a TIFF's resolution can say to nine digits
_EMD_GROUPS = ("microscope", "sample", "user", "comments")


def target_for(source: Path, out: Path | None, several: bool, ending: str = "restored") -> Path:
    """Where a restored image goes.

    Parameters
    ----------
    source : Path
        Of the image.
    out : Path, optional
        A file, or a folder where there is one of that name or several images are restored; by default
        ``<name>-restored.tif`` beside the image.
    several : bool
        Whether more than one image is restored.
    ending : str
        What its name gets.

    Raises
    ------
    StoreError
        It is a file, and several images are restored.
    """
    name = f"{source.stem}-{ending}.tif"
    if out is None:
        return source.with_name(name)
    if several and out.suffix.lower() in WRITABLE and not out.is_dir():
        raise StoreError(f"{out}: is the name of one file, but several images are to be restored; give a "
                         "folder, or one image")
    return out / name if several or out.is_dir() or not out.suffix else out


def check_target(target: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse a file that cannot become the output, before anything is computed.

    Raises
    ------
    StoreError
        The kind of file cannot be written, it is a folder, or the image itself.
    StoreExistsError
        It is there and may not be replaced.
    """
    if target.suffix.lower() not in WRITABLE:
        raise StoreError(f"{target}: {target.suffix or 'no suffix'} is not one of {', '.join(WRITABLE)}; rename the "
                         "output")
    if target.is_dir():
        raise StoreError(f"{target}: is a folder; give another name")
    if source is not None and target.exists() and source.exists() and os.path.samefile(target, source):
        raise StoreError(f"{target}: is the image itself, which is never replaced; give another name")
    if target.exists() and not overwrite:
        raise StoreExistsError(f"{target}: is already there; give another name, or allow it to be replaced "
                               "(--overwrite)")


def write_micrograph(path: Path, micrograph: Micrograph, made: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Write a restored micrograph, whole or not at all.

    Parameters
    ----------
    path : Path
        ``.tif``: pages of one channel, pixel size and unit as ImageJ has them, and all else as JSON in what ImageJ
        shows as the image's info. ``.npy``: the array, and all else beside it as ``.npy.json``. ``.emd``: NCEM's
        format, by RosettaSciIO (``pip install 'emsynth[io]'``), the JSON as dataset ``comments/emsynth``. Its folder
        is made where it is absent.
    micrograph : Micrograph
        Restored pixels with the pixel size and the metadata of the original.
    made : mapping
        JSON values: how it was made.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    StoreError
        As `check_target`, or the folder cannot be written.
    """
    check_target(path, micrograph.source, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise StoreError(f"{path}: its folder cannot be made ({reason.strerror}); give another place") from reason
    about: dict[str, Any] = {"emsynth": dict(made), "pixel_size": None, "original": micrograph.metadata}
    if micrograph.pixel_size is not None:
        size = micrograph.pixel_size
        about["pixel_size"] = {"row": size.row, "col": size.col, "unit": size.unit}
    writer: Callable[[Path, Micrograph, str, dict[str, Any]], None] = {".npy": _write_npy, ".emd": _write_emd}.get(
        path.suffix.lower(), _write_tiff)
    writer(path, micrograph, json.dumps(about, allow_nan=False), about)
    return path


def _write_tiff(path: Path, micrograph: Micrograph, told: str, _: dict[str, Any]) -> None:
    import tifffile

    image, size = micrograph.image, micrograph.pixel_size
    size = None if size is None else size.within(*_FRACTIONS)
    unit: dict[str, Any] = {} if size is None else {"unit": _escaped(size.unit)}
    description = tifffile.imagej_description(image.shape, "YX" if image.ndim == 2 else "TYX", **unit)
    resolution: dict[str, Any] = {} if size is None else {"resolution": (1 / size.col, 1 / size.row)}
    with replacing(path) as file:
        # Not imagej=True, which would turn whole numbers of 16 bit with a sign, or of 32, away.
        tifffile.imwrite(file, image, photometric="minisblack", description=description, metadata=None, byteorder="<",
                         software=False, bigtiff=image.nbytes > _CLASSIC, resolutionunit="NONE",
                         extratags=tifffile.imagej_metadata_tag({"Info": told}, "<"), **resolution)


def _escaped(unit: str) -> str:
    r"""As ImageJ writes and understands it: \u00C5 for Å."""
    return "".join(sign if sign.isascii() else f"\\u{ord(sign):04X}" for sign in unit)


def _write_npy(path: Path, micrograph: Micrograph, told: str, _: dict[str, Any]) -> None:
    with replacing(Path(f"{path}.json")) as beside:
        beside.write(told.encode())
    with replacing(path) as file:
        np.save(file, micrograph.image, allow_pickle=False)


def _write_emd(path: Path, micrograph: Micrograph, told: str, about: dict[str, Any]) -> None:
    held = io.BytesIO()
    try:
        _fill_emd(held, micrograph, told, about)
    except ModuleNotFoundError as missing:
        raise StoreError(f"{path}: an EMD file needs {missing.name}, which is not installed; pip install 'emsynth[io]'"
                         ) from missing
    with replacing(path) as file:
        file.write(held.getbuffer())


def _fill_emd(file: IO[bytes], micrograph: Micrograph, told: str, about: dict[str, Any]) -> None:
    # Neither has types.
    h5py, emd = importlib.import_module("h5py"), importlib.import_module("rsciio.emd")
    image, size = micrograph.image, micrograph.pixel_size
    frames = [{"name": "frame", "scale": 1.0, "units": "", "navigate": True}] if image.ndim == 3 else []
    plane = [{"name": name, "scale": 1.0 if size is None else getattr(size, side), "navigate": False,
              "units": "" if size is None else size.unit} for name, side in (("y", "row"), ("x", "col"))]
    axes = [{**axis, "offset": 0.0, "size": count} for axis, count in zip(frames + plane, image.shape, strict=True)]
    original = about["original"].get("original_metadata", {})
    # Of one EMD in another: its own groups stay what they were.
    kept = {group: {name: value for name, value in original[group].items() if isinstance(value, int | float | str)}
            for group in _EMD_GROUPS if isinstance(original.get(group), dict)}
    title = str(about["emsynth"].get("source") or "restored").replace("/", "_")
    signal = {"data": image, "axes": axes, "original_metadata": kept,
              "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}}}
    opened = h5py.File(file, "w")
    opened.create_group("comments").create_dataset("emsynth", data=told)
    emd.file_writer(opened, signal)  # closes it
