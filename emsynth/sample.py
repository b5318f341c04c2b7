"""One sample: a window on a clean field, and what a real instrument would have made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth import view
from emsynth.distortion import Distorted, Window
from emsynth.errors import RecipeError
from emsynth.oversampling import factor_of
from emsynth.passes import Outline, outline, simulate, split_of
from emsynth.recipe import Recipe
from emsynth.simulation.field import Field

__all__ = ["Outline", "Sample", "SampleColumns", "outline", "render", "simulate"]


@dataclass(frozen=True)
class SampleColumns:
    """Atom columns in one sample.

    Attributes
    ----------
    position : ndarray (n, 2), float64
        (row, col) in px of the truth; pixel centres are whole numbers.
    index : ndarray (n,), int32
        Index of the column in its field.
    number : ndarray (n,), uint8
        Atomic number of the heaviest element.
    formula : tuple of str
        Content of the column.
    intensity : ndarray (n,), float32
        Truth less its black level, integrated over a disc around the column, in ADU times px².
    radius : float
        Of that disc in px: half of the closest distance between columns of the structure.
    resolved : ndarray (n,), bool
        False where the tilt smears the column over more than 0.5 Å.
    """

    position: NDArray[np.float64]
    index: NDArray[np.int32]
    number: NDArray[np.uint8]
    formula: tuple[str, ...]
    intensity: NDArray[np.float32]
    radius: float
    resolved: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """A pair of truth and distorted image with everything that is known of it.

    Attributes
    ----------
    index, field : int
        Index i of the sample, index j of its field.
    truth, distorted : ndarray (rows, cols), float32
        Both in ADU, the detector's output.
    displacement : ndarray (2, rows, cols), float16
        (row, col) position of the probe minus position of the truth, in px.
    affine : ndarray (2, 3), float64
        Part of the displacement that truth and image share: affine @ [row, col, 1], in px.
    mask : ndarray (rows, cols), uint8
        Bits of `emsynth.distortion.MaskBit`.
    class_map : ndarray (rows, cols), uint8
        What the truth shows at each pixel: 0 vacuum, 1 amorphous, 2 + n grain n, 255 unknown.
    columns : SampleColumns
        Atom columns in the window.
    drawn : Recipe
        The drawn recipe: rendering it again gives this sample.
    split, prototype, structure, physics, detector : str
        Where it belongs and what made it.
    sampling : float
        Pixel size in Å.
    thickness : float
        Specimen thickness at the middle of the window in Å; with a thickness map it lies between exit planes, whose
        pictures are blended.
    expected_counts : float
        Mean number of electrons per pixel in the truth.
    gain, black_level, step : float
        Detector: ADU per electron, ADU at no electrons, quantisation step in ADU (0: none).
    """

    index: int
    field: int
    truth: NDArray[np.float32]
    distorted: NDArray[np.float32]
    displacement: NDArray[np.float16]
    affine: NDArray[np.float64]
    mask: NDArray[np.uint8]
    class_map: NDArray[np.uint8]
    columns: SampleColumns
    drawn: Recipe
    split: str
    prototype: str
    structure: str
    physics: str
    detector: str
    sampling: float
    thickness: float
    expected_counts: float
    gain: float
    black_level: float
    step: float


def render(recipe: Recipe, index: int, field: Field | None = None) -> Sample:
    """Render one sample of a recipe: a pure function of recipe and index.

    Parameters
    ----------
    recipe : Recipe
        Any recipe; a drawn one gives the sample that it was drawn for.
    index : int
        Index i of the sample, 0 to ``recipe.samples - 1``.
    field : Field, optional
        Its field, where it is at hand; else it is simulated or taken from the cache.

    Returns
    -------
    Sample

    Raises
    ------
    EmsynthError
        Where the field cannot be simulated, or the window does not fit it or shows nothing of a user's image.
    """
    if not 0 <= index < recipe.samples:
        raise RecipeError(f"sample {index} is outside 0 to {recipe.samples - 1}; the recipe has {recipe.samples} "
                          f"samples")
    clean = simulate(recipe, recipe.field_of(index)) if field is None else field
    drawn = recipe.draw(index)
    image, window = view.window_of(recipe, drawn, clean, index)
    drawn, detector = drawn.model_copy(update={"image": image}), str(image.detector)
    made = drawn.distort.run(view.Sight(clean, detector, window), window.shape, recipe.seed, index, window.pixel)
    middle = (np.asarray(window.shape) - 1) / 2
    seen = made.frame @ np.array([*middle, 1.0])
    return Sample(
        index=index, field=recipe.field_of(index), truth=made.truth, distorted=made.distorted,
        displacement=made.displacement, affine=made.affine, mask=made.mask,
        class_map=view.classes_at(window, clean, made.truth_grid()),
        columns=_columns(window, clean, made), drawn=drawn, split=split_of(clean.prototype),
        prototype=clean.prototype, structure=str(clean.provenance["specimen"]["structure"]),
        physics=str(clean.provenance["physics"]), detector=detector, sampling=float(made.sampling or window.pixel),
        thickness=float(view.thickness_at(window, clean, seen[None])[0]), expected_counts=made.expected_counts,
        gain=made.gain, black_level=made.black_level, step=made.step)


def _columns(window: Window, field: Field, made: Distorted) -> SampleColumns:
    position, column, resolved = view.columns_in(window, field, made.to_truth, made.reach())
    radius = max(1.0, field.column_radius / float(made.sampling or window.pixel))
    return SampleColumns(
        position=position, index=column.astype(np.int32), number=field.columns.number[column],
        formula=tuple(field.columns.formula[c] for c in column),
        intensity=view.integrated_intensity(made.truth - np.float32(made.black_level), position, radius),
        radius=radius, resolved=resolved)


def bytes_at_hand(field: Field) -> int:
    """Memory of a field that samples are cut from: its images, and the oversampled ones where splines need that."""
    rows, cols = field.image.shape[-2:]
    return field.image.nbytes * (1 + factor_of((rows, cols))**2 if field.critical else 1)
