"""Images of the user's own in place of simulation passes: which file is which field, and the field that it gives."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Declared

from emsynth.draw import Drawable, quantity
from emsynth.errors import FieldError
from emsynth.imagery import READABLE, read_image
from emsynth.simulation.field import Field
from emsynth.specimen.base import Columns

DETECTOR = "image"
PHYSICS = "user image"

# Pictures that cannot be read here; to pass over them silently would leave out what the user thinks is in.
_FOREIGN = (".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".dm3", ".dm4", ".mrc", ".ser", ".emd", ".hspy", ".zspy", ".emi")
_PROTOTYPE = "image "  # and 12 digits of the digest


class OwnImages(Drawable):
    """Fields that are clean images of the user's own, in the order of their names."""

    kind: Literal["images"] = "images"
    folder: str = Declared(description="folder of the images: grey .npy, .npz with one array, .png, .tif; relative to "
                           "the recipe")
    pixel_size: float = quantity(unit="Å", low=0.01, high=1e5, about="side of a pixel of these images")
    periodic: bool = Declared(False, description="whether each image tiles without end, as a simulated unit cell does")

    def files(self) -> list[Path]:
        """The images, sorted by name; other files, hidden ones and folders do not count.

        Raises
        ------
        FieldError
            Where there is none, or one of a kind that cannot be read, wherever it stands; contents are not looked at.
        """
        try:
            found = [path for path in Path(self.folder).iterdir() if path.is_file() and not path.name.startswith(".")]
        except OSError as reason:
            raise FieldError(f"simulate.folder: {self.folder}: cannot be read ({reason.strerror})") from None
        images = sorted(path for path in found if path.suffix.lower() in (*READABLE, *_FOREIGN))
        if not images:
            raise FieldError(f"simulate.folder: {self.folder}: there is no image in it; give a folder of "
                             f"{', '.join(READABLE)}")
        foreign = [path for path in images if path.suffix.lower() in _FOREIGN]
        if foreign:
            raise FieldError(_unreadable(foreign))
        return images

    def file_of(self, field: int) -> Path:
        """Image of field `field`; FieldError where there are not so many."""
        files = self.files()
        if field >= len(files):
            raise FieldError(f"fields: {field + 1} images are needed, and {self.folder} has {len(files)}; set fields "
                             f"to {len(files)} or less, or add images")
        return files[field]

    def digests(self, fields: int) -> dict[str, str] | str:
        """Digest of each image that is used, by name; the folder's name where it is not there."""
        if not Path(self.folder).is_dir():
            return self.folder
        return {path.name: file_digest(path) for path in self.files()[:fields]}

    def changed(self, fields: int, kept: dict[int, tuple[str, str]]) -> list[str]:
        """Which images are not the ones that a data set has, e.g. ``"im2.npy (changed)"``.

        Parameters
        ----------
        fields : int
            How many images are used.
        kept : dict
            Name and digest of the image of each field that the data set has.
        """
        digests = self.digests(fields)
        if isinstance(digests, str):
            return []
        here, said = list(digests.items()), []
        for field, (name, digest) in sorted(kept.items()):
            if field < len(here) and here[field][1] != digest:
                now = here[field][0]
                said.append(f"{name} (changed)" if now == name else f"field {field} ({name} there, {now} here)")
        return said


def _unreadable(files: list[Path]) -> str:
    suffix = files[0].suffix.lower()
    lossy = "a JPEG is lossy, and its block artefacts would count as truth"
    why = lossy if suffix in (".jpg", ".jpeg") else f"{suffix} is not one of {', '.join(READABLE)}"
    more = f", and {len(files) - 1} more like it" if len(files) > 1 else ""
    return (f"simulate.folder: {files[0]}: {why}{more}; save the original as {READABLE[0]} or {READABLE[-1]}, or "
            f"take it out of the folder")


def file_digest(path: Path) -> str:
    """SHA-256 of a file; read once as long as neither its size nor its time changes."""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=65536)
def _digest(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_of(prototype: str) -> Literal["train", "val", "test"] | None:
    """Split of all samples of one image: 80, 10 and 10 % by its digest; None of any other prototype."""
    if not prototype.startswith(_PROTOTYPE):
        return None
    digits = prototype.removeprefix(_PROTOTYPE)
    place = int(digits, 16) / 16 ** len(digits)
    return "train" if place < 0.8 else "val" if place < 0.9 else "test"


def read_field(images: OwnImages, field: int) -> Field:
    """The field that an image gives: its intensity relative to its brightest pixel, as it is sampled.

    Parameters
    ----------
    images : OwnImages
        What the recipe says.
    field : int
        Index j of the field: the j-th image.

    Returns
    -------
    Field
        ``image (1, 1, H, W)`` without columns; its thickness is not known, NaN.

    Raises
    ------
    FieldError, StoreError
        Where there is no such image, or it cannot be read or is not one that a detector could have counted; with its
        name.
    """
    path = images.file_of(field)
    clean = read_image(path)
    peak = float(clean.max())
    # So that no unit is too large or too small for float32.
    relative = np.divide(clean, peak, dtype=np.float64).astype(np.float32)
    prototype = _PROTOTYPE + content_of(relative)[:12]
    about = {"physics": PHYSICS, "specimen": {"kind": DETECTOR, "structure": path.name, "prototype": prototype},
             "image": {"file": path.name, "sha256": file_digest(path), "brightest": peak}}
    return Field(relative[None, None], (images.pixel_size, images.pixel_size), images.periodic, Columns.none(),
                 np.array([np.nan]), (DETECTOR,), 0.5 / images.pixel_size, (0.0, 0.0), 0.0,
                 (images.periodic, images.periodic), about)


def content_of(image: NDArray[np.float32]) -> str:
    """Digest of what an image shows, whatever the kind of file: copies of it then share a split."""
    digest = hashlib.sha256(np.array(image.shape, "<i8").tobytes())
    digest.update(np.ascontiguousarray(image, "<f4").tobytes())
    return digest.hexdigest()
