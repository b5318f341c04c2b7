"""A field, the clean and wide picture of one simulation pass, and the cache that keeps it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from emsynth.errors import FieldError
from emsynth.specimen.base import Columns
from emsynth.specimen.classes import UNKNOWN

# Raise when a change of code changes the numbers in a field: old cache entries are then never read again.
FIELD_VERSION = 2


def _unknown() -> NDArray[np.uint8]:
    return np.full((1, 1), UNKNOWN, np.uint8)


@dataclass(frozen=True, eq=False)
class Field:
    """The clean images of one simulation pass, with their ground truth.

    Attributes
    ----------
    image : ndarray (thickness, detector, H, W), float32
        Fraction of the beam on each detector; sample [..., r, c] lies at (r, c)·sampling Å from the corner.
    sampling : tuple of float
        (row, col) step in Å; finer than Nyquist, see `band_limit`.
    periodic : bool
        Whether the image continues without end as its own repetition.
    columns : Columns
        Projected atom columns within the image, in Å from its corner, at the entrance surface.
    thickness : ndarray (thickness,), float64
        Thickness of the specimen above each exit plane in Å.
    detectors : tuple of str
        Names along the detector axis.
    band_limit : float
        Highest spatial frequency in the images, in 1/Å.
    mistilt : tuple of float
        (row, col) tilt of the beam against the columns in mrad: the projection of an atom at depth z is
        displaced by -tilt·z.
    entrance : float
        Depth in Å at which the specimen begins; the depths of columns count from the top of the box.
    repeats : tuple of bool
        Whether a window may be wider than the field along (row, col): true for a perfect crystal, and along a grain
        boundary; a box with a particle or an amorphous film in it is periodic too, but its repetition would be seen.
    provenance : dict
        What made it: physics, specimen, microscope, accuracy reached (plain JSON values).
    classes : ndarray (rows, cols), uint8
        Class map over the same extent as the image, at a resolution of its own: 0 vacuum, 1 amorphous, 2 + n grain n,
        255 unknown.
    """

    image: NDArray[np.float32]
    sampling: tuple[float, float]
    periodic: bool
    columns: Columns
    thickness: NDArray[np.float64]
    detectors: tuple[str, ...]
    band_limit: float
    mistilt: tuple[float, float]
    entrance: float
    repeats: tuple[bool, bool]
    provenance: dict[str, Any]
    classes: NDArray[np.uint8] = dataclasses.field(default_factory=_unknown)

    @property
    def critical(self) -> bool:
        """Whether the image is sampled at its Nyquist frequency, so that a spline alone cannot interpolate it."""
        return self.band_limit * max(self.sampling) > 0.49

    @property
    def extent(self) -> tuple[float, float]:
        """(row, col) side in Å."""
        rows, cols = self.image.shape[-2:]
        return rows * self.sampling[0], cols * self.sampling[1]

    @property
    def bounds(self) -> tuple[float, float]:
        """(row, col) side in Å that a window must stay within: infinite where the field repeats."""
        rows, cols = (math.inf if endless else side for side, endless in zip(self.extent, self.repeats, strict=True))
        return rows, cols

    @cached_property
    def prototype(self) -> str:
        """Prototype of the specimen's structure."""
        return str(self.provenance["specimen"]["prototype"])

    @cached_property
    def column_radius(self) -> float:
        """Half of the closest distance between two columns, across the border too, in Å; 1 Å without columns."""
        position = self.columns.position
        if len(position) == 0:
            return 1.0
        steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 1, 2)
        around = (position + steps * np.asarray(self.extent)).reshape(-1, 2)
        return float(cKDTree(around).query(position, k=2)[0][:, 1].min()) / 2

    def columns_at(self, thickness: float | NDArray[np.float64],
                   column: NDArray[np.int64] | None = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Where columns appear in a specimen of a given thickness.

        Parameters
        ----------
        thickness : float or ndarray (n,)
            Thickness of the specimen in Å, for all columns or for each.
        column : ndarray (n,), optional
            Indices of the columns; by default each once.

        Returns
        -------
        position : ndarray (n, 2)
            (row, col) in Å: the mean of the column's atoms above `thickness`, projected along the beam. In a tilted
            crystal a strongly channelling column is seen nearer to where it starts, by up to half of tilt times length.
        resolved : ndarray (n,), bool
            False where tilt times column length exceeds 0.5 Å, or where the column starts deeper.
        """
        chosen = slice(None) if column is None else column
        end = thickness + self.entrance
        top, bottom = self.columns.depth[chosen, 0], np.minimum(self.columns.depth[chosen, 1], end)
        tilt = np.tan(np.asarray(self.mistilt) * 1e-3)
        position = self.columns.position[chosen] - tilt * np.maximum(top, (top + bottom) / 2)[:, None]
        smear = float(np.hypot(*tilt)) * (bottom - top)
        return position, (smear <= 0.5) & (top <= end)


def cache_folder() -> Path:
    """Folder of the field cache: ``EMSYNTH_CACHE``, or the user's own cache."""
    named = os.environ.get("EMSYNTH_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(home) if home else Path.home() / ".cache") / "emsynth" / "fields"


def content_digest(determines: dict[str, Any]) -> str:
    """Digest of everything that determines a field (plain JSON values, in any order)."""
    text = json.dumps({"field_version": FIELD_VERSION, **determines}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(digest: str) -> Field | None:
    """Field of that digest from the cache; None where it is not there or cannot be read."""
    try:
        with np.load(cache_folder() / f"{digest}.npz", allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        return from_arrays(arrays)
    except Exception:  # a damaged zip fails in a dozen ways, and each of them means: simulate it again
        return None


def is_kept(digest: str) -> bool:
    """Whether the cache has a field of that digest."""
    return (cache_folder() / f"{digest}.npz").is_file()


def keep(digest: str, field: Field) -> None:
    """Put a field into the cache; whole or not at all, whoever else writes the same one.

    Raises
    ------
    FieldError
        Where the folder cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as draft:
            # Inside the folder of its own it has the permissions that any new file has.
            np.savez(Path(draft) / "field.npz", **cast(dict[str, Any], to_arrays(field)))
            os.replace(Path(draft) / "field.npz", folder / f"{digest}.npz")
    except OSError as reason:
        raise FieldError(f"{folder}: the field cache cannot be written ({reason.strerror}); set EMSYNTH_CACHE to a "
                         f"folder that can") from reason


def to_arrays(field: Field) -> dict[str, NDArray[Any]]:
    """The field as plain arrays, JSON as bytes; `from_arrays` is the way back."""
    about = {"sampling": field.sampling, "periodic": field.periodic, "detectors": field.detectors,
             "band_limit": field.band_limit, "mistilt": field.mistilt, "entrance": field.entrance,
             "repeats": list(field.repeats),
             "formula": field.columns.formula, "provenance": field.provenance}
    return {"image": field.image, "class_map": field.classes, "thickness": field.thickness,
            "column_position": field.columns.position, "column_number": field.columns.number,
            "column_depth": field.columns.depth, "column_atoms": field.columns.count,
            "about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)}


def from_arrays(arrays: dict[str, NDArray[Any]]) -> Field:
    """The field that `to_arrays` took apart."""
    about = json.loads(arrays["about"].tobytes())
    columns = Columns(arrays["column_position"], arrays["column_number"], tuple(about["formula"]),
                      arrays["column_depth"], arrays["column_atoms"])
    rows, cols = about["sampling"]
    row_tilt, col_tilt = about["mistilt"]
    along_rows, along_cols = about["repeats"]
    return Field(arrays["image"], (rows, cols), about["periodic"], columns, arrays["thickness"],
                 tuple(about["detectors"]), about["band_limit"], (row_tilt, col_tilt), about["entrance"],
                 (along_rows, along_cols), about["provenance"], arrays["class_map"])
