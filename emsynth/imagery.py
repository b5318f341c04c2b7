"""Images of the user's own: which arrays can be distorted, and the files that images come from and go to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import FieldError, StoreError, StoreExistsError

SMALLEST = 4  # px on a side: the cubic spline's own width
READABLE = (".npy", ".npz", ".png", ".tif", ".tiff")
WRITABLE = (".npz", ".tif", ".tiff", ".png")
_PNG_KINDS = {"1": "two-level picture", "P": "palette picture"}


def check_image(image: Any, place: str = "image") -> NDArray[Any]:
    """An image as an array, once it is one that a detector could have counted.

    Parameters
    ----------
    image : array_like (R, C)
        Whole or floating-point numbers, at least 4 px on a side, finite, not negative, not all zero.
    place : str
        What a message calls it, such as the name of its file.

    Returns
    -------
    (R, C) array
        Of the same dtype; float64 where that was wider.

    Raises
    ------
    FieldError
        The image is anything else.
    """
    if isinstance(image, str | os.PathLike):
        raise FieldError(f"{place}: {os.fspath(image)!r}: that is a path; read it first, e.g. "
                         "emsynth.imagery.read_image(path)")
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        masked = int(np.ma.getmaskarray(image).sum())
        raise FieldError(f"{place}: {masked} pixels are masked; fill them first, e.g. image.filled(0)")
    try:
        array = np.asarray(image)
    except (ValueError, TypeError) as reason:
        raise FieldError(f"{place}: not an array of numbers ({reason}); give a 2-D array, rows by columns") from None
    _check_kind(array, place)
    _check_shape(array.shape, place)
    if array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what overflows is then named as infinite
            array = array.astype(np.float64)
    _check_values(array, place)
    return array


def _check_kind(array: NDArray[Any], place: str) -> None:
    if array.dtype.kind in "iuf":
        return
    ways = {"c": "a detector counts intensity: give abs(image)**2, or image.real where that is meant",
            "b": "that is a mask; give image.astype(float) where two levels are meant",
            "O": "give one 2-D array of numbers, with rows of equal length"}
    raise FieldError(f"{place}: holds {array.dtype.name} values, not whole or floating-point numbers; "
                     + ways.get(array.dtype.kind, "give a 2-D array of numbers"))


def _check_shape(shape: tuple[int, ...], place: str) -> None:
    shown = " × ".join(map(str, shape)) or "no axes"
    if len(shape) != 2:
        way = "give a 2-D array, rows by columns"
        if len(shape) == 3 and shape[-1] == 1:
            way = "one channel, on an axis of its own; give image[..., 0]"
        elif len(shape) == 3 and shape[-1] in (3, 4):
            way = "a colour image; make it grey first, e.g. image[..., :3].mean(axis=-1)"
        elif len(shape) > 2:
            way = "a stack; give one image of it, e.g. image[0]"
        raise FieldError(f"{place}: has {len(shape)} axes ({shown}), not 2: {way}")
    if min(shape) < SMALLEST:
        raise FieldError(f"{place}: {shown} px is too small to interpolate in; give at least "
                         f"{SMALLEST} × {SMALLEST} px")


def _check_values(array: NDArray[Any], place: str) -> None:
    low, high = array.min(), array.max()  # not a number where any pixel is not
    if not (np.isfinite(low) and np.isfinite(high)):
        wrong = ~np.isfinite(array)
        row, col = np.argwhere(wrong)[0]
        raise FieldError(f"{place}: {int(wrong.sum())} of {array.size} pixels are NaN or infinite, the first at row "
                         f"{row}, column {col}; replace them, e.g. by the median of their neighbours")
    if low < 0:
        raise FieldError(f"{place}: the lowest intensity is {low:g}, and no detector counts fewer than 0 electrons; "
                         "subtract the black level, e.g. image - image.min(), or clip at 0")
    if high == 0:
        raise FieldError(f"{place}: every pixel is 0, which no factor scales to an expected count; give an image that "
                         "shows something")


def read_image(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an image from `.npy`, `.npz` with one array, or grey `.png`, `.tif` or `.tiff`.

    Parameters
    ----------
    path : path
        The file. A JPEG is refused: its block artefacts would count as truth.

    Returns
    -------
    (R, C) array
        Of the file's own dtype, checked by `check_image`.

    Raises
    ------
    StoreError
        The file is absent, cannot be read, or is of another kind.
    FieldError
        What it holds is not an image that can be distorted.
    """
    path = Path(path)
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; give one image in it: {', '.join(READABLE)}")
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file; give an image: {', '.join(READABLE)}")
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg"):
        raise StoreError(f"{path}: a JPEG is lossy, and its block artefacts would count as truth; give the original as "
                         f"{', '.join(READABLE)}")
    if suffix not in READABLE:
        raise StoreError(f"{path}: {suffix or 'no suffix'} is not one of {', '.join(READABLE)}; other formats can be "
                         "read in Python, e.g. with rsciio, and given to emsynth.distort as an array")
    reader = {".npy": _read_npy, ".npz": _read_npz, ".png": _read_png}.get(suffix, _read_tiff)
    try:
        image = reader(path)
    except (StoreError, FieldError, MemoryError):
        raise
    except Exception as reason:  # a damaged file fails in a dozen ways, and each of them means the same
        said = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        raise StoreError(f"{path}: cannot be read as {suffix} ({said}); is it complete, and what its name "
                         "says?") from reason
    return check_image(image, str(path))


def _read_npy(path: Path) -> NDArray[Any]:
    image: NDArray[Any] = np.load(path, allow_pickle=False)
    return image


def _read_npz(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as held:
        if len(held.files) != 1:
            raise StoreError(f"{path}: holds {len(held.files)} arrays ({', '.join(held.files)}); keep the image alone, "
                             "e.g. in a .npy")
        image: NDArray[Any] = held[held.files[0]]
    return image


def _read_png(path: Path) -> NDArray[Any]:
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a micrograph may be large
    try:
        with Image.open(path, formats=("PNG",)) as held:
            if held.mode not in ("L", "I", "I;16", "I;16B"):
                kind = _PNG_KINDS.get(held.mode, f"{held.mode} picture")
                raise StoreError(f"{path}: is a {kind}, not 8 or 16 bit grey; make it grey first, e.g. "
                                 f"with Pillow: Image.open(...).convert('L')")
            return np.asarray(held)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as held:
        photometric = tifffile.PHOTOMETRIC(held.pages[0].aspage().photometric)
        if photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE):
            raise StoreError(f"{path}: its numbers are not intensities ({photometric.name}); save it as plain grey")
        return np.asarray(held.asarray())


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot become an output, before anything is computed.

    Raises
    ------
    StoreError
        The kind of file is not known, its folder is absent, or it is one.
    StoreExistsError
        It is there and may not be replaced.
    """
    if path.suffix.lower() not in WRITABLE:
        raise StoreError(f"{path}: {path.suffix or 'no suffix'} is not one of {', '.join(WRITABLE)}; rename the output")
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not overwrite:
        raise StoreExistsError(f"{path}: is already there; give another name, or allow it to be replaced (--overwrite)")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` once it is whole, and leaves nothing behind where it fails.

    Raises
    ------
    StoreError
        The folder cannot be written, or is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            yield file
        os.replace(draft, path)
    except OSError as reason:
        raise StoreError(f"{path}: cannot be written ({reason.strerror or reason}); give another place") from reason
    finally:
        draft.unlink(missing_ok=True)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name; `numpy.load` reads it without pickle, and the same arrays give the same bytes."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_tiff(path: Path, pages: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Float32 pages (R, C), with `about` and the names of the pages as JSON in the first page's description."""
    import tifffile

    description = json.dumps({**about, "pages": list(pages)}, sort_keys=True)
    stack = np.stack([page.astype(np.float32) for page in pages.values()])
    with replacing(path) as file:
        tifffile.imwrite(file, stack, photometric="minisblack", description=description, metadata=None, software=False)


def write_png(path: Path, image: NDArray[np.float32]) -> tuple[float, float]:
    """An image (R, C) as 16-bit grey, its lowest value at 0 and its highest at 65535.

    Returns
    -------
    offset, step : float
        image ≈ offset + step · grey.
    """
    from PIL import Image

    low, high = float(image.min()), float(image.max())
    step = (high - low) / 65535 or 1.0
    grey = np.rint((image - np.float64(low)) / step).clip(0, 65535).astype(np.uint16)
    with replacing(path) as file:
        Image.fromarray(grey).save(file, format="PNG")
    return low, step
