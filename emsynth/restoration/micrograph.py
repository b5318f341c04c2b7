"""A micrograph: its pixels, their size, and what the instrument wrote about it; and which arrays are one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StoreError

# One Ångström is so much of each.
_ANGSTROM = {"Å": 1.0, "pm": 0.01, "nm": 10.0, "µm": 1e4, "mm": 1e7, "m": 1e10}
_SPELLINGS = {"a": "Å", "å": "Å", "ang": "Å", "angstrom": "Å", "ångström": "Å", "um": "µm", "μm": "µm", "µm": "µm",
              "micron": "µm", "microns": "µm", "nanometer": "nm", "nanometre": "nm", "meter": "m"}
_KEPT_VALUES = 64  # of an array within the metadata: what is longer is data, not a setting
_COLOURS = (3, 4)
# Where files say how the instrument was run, or with which detector this image was made.
_MODES = ("acquisition_mode", "operation mode", "illumination mode", "mode", "detector", "signal name")


@dataclass(frozen=True)
class PixelSize:
    """Distance between neighbouring pixels.

    Attributes
    ----------
    row, col : float
        Down a column and along a row.
    unit : str
        Of both, such as ``nm``; as the file has it where that is no length, such as ``1/nm``.
    """

    row: float
    col: float
    unit: str

    @property
    def angstrom(self) -> tuple[float, float] | None:
        """Row and column in Å; None where the unit is no length."""
        scale = _ANGSTROM.get(self.unit)
        return None if scale is None else (self.row * scale, self.col * scale)

    def within(self, low: float, high: float) -> PixelSize | None:
        """The same in a unit of length in which it is between two numbers; None where there is no such unit."""
        known = self.angstrom
        for unit, scale in [(self.unit, None), *_ANGSTROM.items()]:
            row, col = (self.row, self.col) if scale is None else [side / scale for side in known or (0.0, 0.0)]
            if low <= min(row, col) and max(row, col) <= high:
                return PixelSize(row, col, unit)
        return None

    def __str__(self) -> str:
        if math.isclose(self.row, self.col, rel_tol=1e-4):
            return f"{self.col:.4g} {self.unit}"
        return f"{self.row:.4g} × {self.col:.4g} {self.unit} (row, column)"

    @classmethod
    def of(cls, scales: tuple[Any, Any], units: tuple[Any, Any]) -> Self | None:
        """Of what a file says of its two axes (row, col); None where that is no size.

        Where the units differ, both are turned into that of the column.
        """
        try:
            row, col = abs(float(scales[0])), abs(float(scales[1]))
        except (TypeError, ValueError):
            return None
        down, along = (canonical(unit) for unit in units)
        if not (0 < row < math.inf and 0 < col < math.inf and down and along):
            return None
        if down != along:
            if down not in _ANGSTROM or along not in _ANGSTROM:
                return None
            row *= _ANGSTROM[down] / _ANGSTROM[along]
        return cls(row, col, along)


def canonical(unit: Any) -> str:
    """One spelling for each unit of length: ``Angstrom`` and ``A`` are Å, ``um`` and ``micron`` µm; px is none."""
    written = "".join(str(unit or "").split()).strip("[]").replace("_", "")
    if written.lower() in ("px", "pixel", "pixels", "none", "<undefined>"):
        return ""
    return _SPELLINGS.get(written.lower(), written)


@dataclass(frozen=True)
class Micrograph:
    """One image or a stack of them, as a file has it.

    Attributes
    ----------
    image : ndarray (H, W) or (N, H, W)
        Whole or floating-point numbers in the byte order of the machine; rows, columns.
    pixel_size : PixelSize or None
        None where the file does not say.
    metadata : dict
        What else is in the file, as JSON values.
    source : Path or None
        The file.
    dataset : str
        Which dataset of the file, such as ``HAADF``; empty where there is nothing to choose.
    choice : str
        Which others there were and how to have them; empty where there were none or a number was given.
    """

    image: NDArray[Any]
    pixel_size: PixelSize | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None
    dataset: str = ""
    choice: str = ""

    def __str__(self) -> str:
        """Shape, dtype and pixel size."""
        size = "of unknown size" if self.pixel_size is None else str(self.pixel_size)
        return f"{spoken_shape(self.image.shape)} {self.image.dtype}, pixel {size}"

    @property
    def mode(self) -> Literal["stem", "tem"] | None:
        """How it was recorded, where the metadata say so and do not contradict themselves."""
        said = " ".join(text for key, text in _texts(self.metadata) if key.lower() in _MODES).upper()
        scanned = re.search(r"\bSTEM|HAADF|\bSCANNING", said) is not None
        if scanned == (re.search(r"\bTEM\b", said) is not None):
            return None
        return "stem" if scanned else "tem"


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text in the metadata, with its key."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _texts(one, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, key)
    elif isinstance(value, str):
        yield key, value


def spoken_shape(shape: Iterable[int]) -> str:
    """``66 × 65 × 64``."""
    return " × ".join(map(str, shape))


def pixels(data: Any, place: str) -> NDArray[Any]:
    """An image or a stack of images as an array.

    Parameters
    ----------
    data : array_like
        What a file holds.
    place : str
        What a message calls it.

    Returns
    -------
    ndarray (H, W) or (N, H, W)
        In the byte order of the machine; axes of one pixel beyond the first three are gone.

    Raises
    ------
    StoreError
        It is complex, in colour, a mask, a line, empty, or has more axes than a stack.
    """
    array = np.asarray(data)
    _check_kind(array, place)
    shape = spoken_shape(array.shape)
    if array.size == 0:
        raise StoreError(f"{place}: is empty ({shape}); give an image with pixels")
    if array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    while array.ndim > 3 and 1 in array.shape[:-2]:
        array = array.squeeze(array.shape.index(1))
    if array.ndim < 2:
        raise StoreError(f"{place}: has no rows ({shape or 'one number'}), such as a spectrum or a line profile; "
                         "give rows × columns, or a stack of them")
    if array.ndim == 3 and array.shape[-1] in _COLOURS:
        raise StoreError(f"{place}: has {array.shape[-1]} colour channels ({shape}); a micrograph has one: save the "
                         "original in grey, not a screenshot or a coloured map")
    if array.ndim > 3:
        raise StoreError(f"{place}: has {array.ndim} axes ({shape}), such as 4D-STEM data or a map of spectra; give an "
                         "image (rows × columns) or a stack (frames × rows × columns)")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _check_kind(array: NDArray[Any], place: str) -> None:
    if array.dtype.names is not None:
        raise StoreError(f"{place}: its pixels have {len(array.dtype.names)} channels "
                         f"({', '.join(array.dtype.names)}), as a colour image has; a micrograph has one: save "
                         "the original in grey")
    ways = {"c": "such as a Fourier transform or a wave; give its modulus or its phase as an image of its own",
            "b": "a mask; there is nothing to restore in it"}
    if array.dtype.kind not in "iuf":
        raise StoreError(f"{place}: holds {array.dtype.name} values, {ways.get(array.dtype.kind, 'not intensities')}; "
                         "allowed: whole and floating-point numbers")


def plain(value: Any) -> Any:
    """Metadata as JSON values: numbers that are not finite as text, long arrays by their shape only."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist()) if value.size <= _KEPT_VALUES else f"<{spoken_shape(value.shape)} {value.dtype}>"
    if isinstance(value, list | tuple | set):
        return [plain(one) for one in value] if len(value) <= _KEPT_VALUES else f"<{len(value)} values>"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") if len(value) <= _KEPT_VALUES else f"<{len(value)} bytes>"
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
