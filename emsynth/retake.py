"""The user's own clean image, taken again by a real instrument: the distortion chain without any simulation."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator

from emsynth import document, imagery
from emsynth.complaints import explain
from emsynth.distortion import Chain, Distorted, MaskBit, Positions
from emsynth.distortion.geometry import Grid
from emsynth.distortion.resample import interpolate
from emsynth.draw import Deal, Drawable, Streams, number
from emsynth.errors import FieldError, RecipeError, StoreError
from emsynth.oversampling import oversample, parts
from emsynth.recipe import Recipe

Edge = Literal["mirror", "crop"]

_PICTURE = ".png"  # shows the distorted image only, so that the rest needs a file beside it
_BEYOND = 1e-6  # px by which rounding may put a position outside
WHOLE_BELOW = 2**63  # seed and index, as in a recipe and as a file can hold them


@dataclass(frozen=True, eq=False, kw_only=True)
class Retake(Distorted):
    """A clean image and what an instrument would have made of it, as `Distorted`, and how it was drawn.

    Attributes
    ----------
    drawn : Chain
        The drawn chain: plain numbers, present stages only.
    seed, index : int
        Key of every random number.
    corner : (int, int)
        Row and column of the image at which the window begins; (0, 0) unless cropped.
    """

    drawn: Chain
    seed: int
    index: int
    corner: tuple[int, int]

    @property
    def told(self) -> str:
        """What was drawn, on one line: the names of the stages."""
        names = [stage.stage for part in (self.drawn.scan, self.drawn.detector, self.drawn.camera, self.drawn.artefact)
                 for stage in part]
        if number(self.drawn.undistorted) == 1:
            what = "identity pair (undistorted), nothing was done"
        else:
            what = ", ".join(names) or "no stage was drawn, nothing was done"
        return f"seed {self.seed}, index {self.index}: {what}"

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the result; whole or not at all.

        Parameters
        ----------
        path : path
            `.npz`: truth, distorted, displacement (2, R, C), affine, mask, the drawn chain as JSON, and the numbers
            that belong to them, NaN where not known. `.tif` or `.tiff`: float32 pages truth, distorted, displacement
            along rows, along columns, and mask; the rest as JSON in the first page's description. `.png`: the
            distorted image alone, its range scaled to 16 bits, and beside it all of the above in an `.npz` of the same
            name, with `png_offset` and `png_step`: distorted ≈ png_offset + png_step · grey.
        overwrite : bool
            Replace what is there.

        Returns
        -------
        Path

        Raises
        ------
        StoreError
            The file cannot be written; `StoreExistsError` where it is there.
        """
        path = Path(path)
        check_outputs(path, overwrite)
        if path.suffix.lower() in (".tif", ".tiff"):
            about = {**self._numbers(), "affine": self.affine.tolist(), "drawn": self.drawn.model_dump(mode="json")}
            imagery.write_tiff(path, self._pages(), about)
            return path
        arrays = self._arrays()
        if path.suffix.lower() == _PICTURE:
            offset, step = imagery.write_png(path, self.distorted)
            arrays |= {"png_offset": np.array(offset), "png_step": np.array(step)}
        imagery.write_npz(outputs(path)[-1], arrays)
        return path

    def _pages(self) -> dict[str, NDArray[Any]]:
        row, col = self.displacement
        return {"truth": self.truth, "distorted": self.distorted, "displacement_row": row, "displacement_col": col,
                "mask": self.mask}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        images = {name: getattr(self, name) for name in ("truth", "distorted", "displacement", "affine", "mask")}
        slow = {} if self.slow is None else {"slow": self.slow}
        numbers = {name: np.array(np.nan if value is None else value) for name, value in self._numbers().items()}
        drawn = np.array(json.dumps(self.drawn.model_dump(mode="json"), sort_keys=True))
        return {**images, **slow, **numbers, "drawn": drawn}

    def _numbers(self) -> dict[str, Any]:
        return {"seed": self.seed, "index": self.index, "sampling": self.sampling, "corner": self.corner,
                "expected_counts": self.expected_counts, "scale": self.scale, "gain": self.gain,
                "black_level": self.black_level, "step": self.step}


class _Instrument(Drawable):
    """What a recipe says of the instrument, without what it looks at."""

    seed: int = Field(0, ge=0, lt=WHOLE_BELOW, description="same seed, same distortions")
    distort: Chain

    @field_validator("distort")
    @classmethod
    def _not_dealt(cls, chain: Chain) -> Chain:
        if any(isinstance(found, Deal) for found in chain.distributions()):
            raise ValueError("dist 'deal' hands out its values field by field, and a chain has no fields; use "
                             "{dist: choice, values: [...]}")
        return chain


def load_chain(path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> tuple[Chain, int]:
    """Read a chain: of a recipe, or of a document that holds nothing else.

    Parameters
    ----------
    path_or_name : path or str
        A recipe, or the name of a shipped one; a file with `distort` alone (and `seed`, if wanted); or a file whose
        keys are those of a chain, such as ``expected_counts`` and ``scan``.
    overrides : sequence of str
        ``"KEY=VALUE"`` with a dotted key; for the keys of a chain with or without ``distort.`` before them.

    Returns
    -------
    Chain, int
        The chain, its distributions not drawn, and the seed; 0 where none is given.

    Raises
    ------
    RecipeError
        With one line per error, ``file:line: path: message``.
    """
    read = document.read(document.find(path_or_name))
    # Of nothing but a mistyped key too: then the chain says which one was meant.
    bare = bool(read.content) and not read.content.keys() & Recipe.model_fields.keys()
    if not (bare or {"distort"} <= read.content.keys() <= _Instrument.model_fields.keys()):
        recipe = Recipe.load(path_or_name, overrides)
        return recipe.distort, recipe.seed
    for override in overrides:
        read.override(override.removeprefix("distort.") if bare else override)
    try:
        found = _Instrument.model_validate({"distort": read.content} if bare else read.content)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, read))) from None
    return found.distort, found.seed


def outputs(path: Path) -> tuple[Path, ...]:
    """The files that `Retake.save` writes for `path`."""
    return (path, path.with_suffix(".npz")) if path.suffix.lower() == _PICTURE else (path,)


def check_outputs(path: Path, overwrite: bool, image: Path | None = None) -> None:
    """Refuse what `Retake.save` could not write, or what would replace the `image` itself.

    Raises
    ------
    StoreError
        See `imagery.check_output`.
    """
    for output in outputs(path):
        imagery.check_output(output, overwrite)
        if image is not None and output.resolve() == image.resolve():
            raise StoreError(f"{output}: is the clean image itself, which is never replaced; give another name")


def distort(image: Any, chain: Chain, seed: int = 0, index: int = 0, sampling: float | None = None, *,
            edge: Edge = "mirror", periodic: bool = False) -> Retake:
    """Distort a clean image as an instrument would have done: a pure function of its arguments.

    Parameters
    ----------
    image : array_like (R, C)
        Clean intensity in any unit, its zero where nothing is detected; whole or floating-point numbers, at least
        4 × 4 px. Columns are the fast scan axis.
    chain : Chain
        What the instrument does, such as ``recipe.distort``; distributions are drawn as sample `index` of a recipe
        with this `seed` would draw them. The drawn expected counts scale the image's mean.
    seed, index : int
        Key of every random number, at least 0 and below 2**63: index i alone is index i among others.
    sampling : float, optional
        Size of a pixel, Å, for stages that need it.
    edge : {'mirror', 'crop'}
        Where the probe or the truth looks beyond the outermost pixel centres, the mirrored image is shown and the
        pixel is flagged `MaskBit.MIRRORED`. With 'crop' the scan is made smaller instead, around the image's middle,
        until it looks nowhere beyond; shorter scans drift less, so within a pixel or two it is the largest such scan.
    periodic : bool
        The image tiles without end, as a simulated unit cell does: wrap, without flags.

    Returns
    -------
    Retake
        Of the image's shape, unless cropped.

    Raises
    ------
    FieldError
        The image is not one that can be distorted, an argument is out of range, or cropping leaves nothing.

    Notes
    -----
    The image is interpolated by its cosine series (its Fourier series where periodic), through a cubic spline of the
    oversampled image; see `oversampling.oversample` for its accuracy. Between the pixels of a sharp image the series
    can ring below 0; there the truth is 0, and the factor that makes the mean right is then a little smaller.

    Memory, with the image as float32: about 95 bytes per pixel up to 4096², 46 from there to 16384² (12.4 GB), which is
    oversampled less.
    """
    if not isinstance(chain, Chain):
        raise FieldError(f"chain: {type(chain).__name__} is not a Chain; give emsynth.distortion.Chain(...), or the "
                         "distort section of a recipe: Recipe.load(...).distort")
    seed, index = _whole(seed, "seed"), _whole(index, "index")
    sampling = _positive(sampling, "sampling", "Å")
    if edge not in get_args(Edge):
        raise FieldError(f"edge: {edge!r} is not one of {', '.join(map(repr, get_args(Edge)))}")
    clean = imagery.check_image(image)
    drawn = chain.draw(Streams(seed, index), "distort")
    shape = (clean.shape[0], clean.shape[1])
    corner = (0, 0) if periodic or edge == "mirror" else _crop(drawn, shape, seed, index)
    window = (shape[0] - 2 * corner[0], shape[1] - 2 * corner[1])
    peak = float(clean.max())
    seen = oversample(_relative(clean, peak), periodic)
    result = drawn.run(lambda grid: seen.at(_shifted(grid, corner)), window, seed, index, sampling)
    if not periodic:
        _flag_border(result.mask, drawn.positions(window, seed, index), corner, shape)
    inherited = {field.name: getattr(result, field.name) for field in dataclasses.fields(Distorted)}
    return Retake(**inherited | {"scale": result.scale / peak}, drawn=drawn, seed=seed, index=index, corner=corner)


def _shifted(grid: Grid, corner: tuple[int, int]) -> Grid:
    """A grid in px of a window, in px of the image in which the window begins at `corner`."""
    affine = grid.affine.copy()
    affine[:, 2] += corner
    return Grid(grid.shape, affine, grid.offsets)


def _flag_border(mask: NDArray[np.uint8], where: Positions, corner: tuple[int, int], shape: tuple[int, int]) -> None:
    """Flag the pixels that look beyond the outermost pixel centres of an image of `shape`."""
    outside = np.zeros(where.shape, np.bool_)
    for grid in (where.truth_grid(), where.probe_grid()):
        for rows, part in parts(_shifted(grid, corner)):
            for along, length in zip(part.positions(), shape, strict=True):
                outside[rows] |= (along < -_BEYOND) | (along > length - 1 + _BEYOND)
    if outside.shape != mask.shape:
        outside = interpolate(outside, (mask.shape[0], mask.shape[1]), "nearest")
    mask[outside] |= np.uint8(MaskBit.MIRRORED)


def _crop(drawn: Chain, shape: tuple[int, int], seed: int, index: int) -> tuple[int, int]:
    """Rows and columns to leave out on each side, so that a scan of the rest looks nowhere beyond the image."""
    margin = np.zeros(2, np.int64)
    while True:
        window = (shape[0] - 2 * int(margin[0]), shape[1] - 2 * int(margin[1]))
        if min(window) < imagery.SMALLEST:
            raise FieldError(f"edge: 'crop' leaves nothing of an image of {shape[0]} × {shape[1]} px, so far does the "
                             "probe stray; give a larger image, less displacement, or edge='mirror'")
        where, excess = drawn.positions(window, seed, index), np.zeros(2)
        for grid in (where.truth_grid(), where.probe_grid()):
            for _, part in parts(grid):
                at = part.positions()
                beyond = np.maximum(-at.min(axis=(1, 2)), at.max(axis=(1, 2)) - np.array(window) + 1)
                excess = np.maximum(excess, beyond - margin)
        if excess.max() <= _BEYOND:
            return int(margin[0]), int(margin[1])
        margin += np.ceil(np.where(excess > _BEYOND, excess, 0)).astype(np.int64)


def _relative(image: NDArray[Any], peak: float) -> NDArray[np.float32]:
    # Relative to the brightest pixel, so that no unit is too large or too small for float32.
    out = np.empty(image.shape, np.float32)
    np.divide(image, peak, out=out, dtype=np.float64, casting="unsafe")
    return out


def _whole(value: Any, name: str) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0 or isinstance(value, bool):
        raise FieldError(f"{name}: {value!r} is not a whole number of at least 0")
    if whole >= WHOLE_BELOW:
        raise FieldError(f"{name}: {whole} is too large: below 2**63 ({float(WHOLE_BELOW):g})")
    return whole


def _positive(value: Any, name: str, unit: str) -> float | None:
    if value is None:
        return None
    try:
        size = float(value)
    except (TypeError, ValueError):
        size = math.nan
    if not 0 < size < math.inf or isinstance(value, bool):
        raise FieldError(f"{name}: {value!r} {unit} is not a finite size above 0; leave it out where it is not known")
    return size
