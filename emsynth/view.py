"""Where a sample looks: its window on the field, with strain and thickness maps, and the columns in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain, Grid, Window, prefilter
from emsynth.distortion.chain import Part
from emsynth.distortion.exposure import Path
from emsynth.draw import generator, number
from emsynth.errors import FieldError
from emsynth.maps import plane_map, strain_map
from emsynth.oversampling import Oversampled, oversample, parts
from emsynth.reach import Reach, check_fit, fit, largest_pixel, origin, reach_of
from emsynth.recipe import Image, Recipe, SurveyWindow, largest, smallest
from emsynth.simulation.field import Field
from emsynth.simulation.images import OwnImages
from emsynth.streams import passing_generator

# Between the pixels of an area that is exactly zero, the series of a sharp image rings: beside a disc, windows of 48 px
# show 3e-5 to 3e-3 of the disc (ours). With a mean below this, it would be the ringing that is scaled to the counts.
_DIMMEST = 1e-3
_PLACES = 64  # that are tried before a sample is given up: enough where one in ten shows something

# Of the fields at hand, gone when the field is: the darkest and brightest pixel of each detector's images, and their
# spline coefficients, which thousands of samples share.
_ranges: WeakKeyDictionary[Field, dict[str, tuple[float, float]]] = WeakKeyDictionary()
_filtered: WeakKeyDictionary[Field, dict[str, NDArray[np.float32] | Oversampled]] = WeakKeyDictionary()

PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def fitted(drawn: Image, recipe: Image, field: Field, reach: Reach | None = None, index: int = 0) -> Image:
    """The drawn image section with a pixel and a rotation that fit the field.

    A window may not show a particle or an amorphous film twice. A pixel that was drawn too large is made as large as
    fits, where the recipe's distribution reaches down to it; where it does not, the rotation becomes the nearest
    quarter turn, at which the window fits best. With a `reach`, of sample `index`, its scan displacement must fit too.

    Raises
    ------
    FieldError
        Where the window does not fit even then.
    """
    if isinstance(recipe, SurveyWindow):
        return _spread(drawn, recipe, field)
    if all(field.repeats):
        return drawn
    if reach is not None:
        pixel, turn = fit(drawn, smallest(recipe.pixel_size), field, reach, index)
        return drawn.model_copy(update={"pixel_size": pixel, "rotation": turn})
    check_fit(recipe, field.bounds, str(field.provenance["specimen"]["structure"]))
    least, rotation = smallest(recipe.pixel_size), number(drawn.rotation)
    limit = largest_pixel(drawn.size, field.bounds, rotation)
    if limit < least:
        rotation = 90.0 * round(rotation / 90.0)
        limit = max(least, largest_pixel(drawn.size, field.bounds, rotation))
    return drawn.model_copy(update={"pixel_size": min(number(drawn.pixel_size), limit), "rotation": rotation})


def window_of(recipe: Recipe, drawn: Recipe, field: Field, index: int) -> tuple[Image, Window]:
    """The image section of sample `index` as it fits the field, and its window; see `placed`."""
    return placed(recipe, drawn.image, drawn.distort, field, recipe.seed, index)


def placed(recipe: Recipe, image: Image, chain: Chain, field: Field, seed: int, index: int, part: Part | None = None,
           views: int = 1) -> tuple[Image, Window]:
    """The image section of sample `index` as it fits the field, and its window.

    Of a user's image a window must show something: where the mean of the image's own pixels that the truth looks at is
    below 0.001 of its brightest pixel, another place is drawn.

    Parameters
    ----------
    recipe : Recipe
        What `image` and `chain` were drawn from.
    image, chain : Image, Chain
        Drawn.
    field : Field
        The field.
    seed, index : int
        Key of every random number.
    part : (int, int, int, int), optional
        First row and column, rows and columns of the part of the window that is looked at.
    views : int
        How many views of the truth must fit the field.

    Raises
    ------
    FieldError
        Where the window does not fit, or none of 64 places shows anything.
    """
    drawn = _with_detector(image, field, seed, index)
    dark = isinstance(recipe.simulate, OwnImages) and range_of(field, str(drawn.detector))[0] < _DIMMEST
    looks = reach_of(drawn, chain, seed, index, part, views) if dark or not field.periodic else None
    reach = None if field.periodic else looks
    fits = fitted(drawn, recipe.image, field, reach, index)
    window = first = place(fits, field, seed, index, reach)
    if not dark or looks is None:
        return fits, window
    for turn in range(1, _PLACES + 1):
        if brightness(window, field, looks.truth) >= _DIMMEST:
            return fits, window
        window = place(fits, field, seed, index, reach, turn)
    raise FieldError(_empty(fits, first, field, index))


def _spread(drawn: Image, recipe: SurveyWindow, field: Field) -> Image:
    """The drawn image section of a phenomenological field, which serves only a small part of all magnifications.

    The pixel keeps its place between the smallest and the largest of the recipe, on a logarithmic scale, within what
    the field serves: from its own pixel (a smaller one would show its blur) to what makes the window as wide as the
    field. A recipe's single pixel size is kept.
    """
    low, high = smallest(recipe.pixel_size), largest(recipe.pixel_size)
    own, widest = max(field.sampling), largest_pixel(drawn.size, field.extent, number(drawn.rotation))
    name = str(field.provenance["specimen"]["structure"])
    if low == high:
        check_fit(recipe, field.extent, name)
        return drawn.model_copy(update={"pixel_size": min(low, widest)}) if widest < low else drawn
    least, most = max(low, own), min(high, widest)
    if least > most:
        raise FieldError(f"image.pixel_size: {low:g} to {high:g} Å does not meet what the field of {name} serves, its "
                         f"own pixel of {own:.3g} Å to {widest:.3g} Å, at which a window of {drawn.size} px fills it; "
                         f"change image.pixel_size, specimen.extent or image.size")
    place = math.log(number(drawn.pixel_size) / low) / math.log(high / low)
    return drawn.model_copy(update={"pixel_size": least * (most / least) ** place})


def _with_detector(image: Image, field: Field, seed: int, index: int) -> Image:
    """The image section with one detector of the field's, each alike: where it says any, or one that the field's
    physics does not offer.
    """
    if image.detector in field.detectors:
        return image
    chosen = int(generator(seed, index, "image.detector.any").integers(len(field.detectors)))
    return image.model_copy(update={"detector": field.detectors[chosen]})


def range_of(field: Field, detector: str) -> tuple[float, float]:
    """Darkest and brightest pixel of one detector's images."""
    held = _ranges.setdefault(field, {})
    if detector not in held:
        images = field.image[:, field.detectors.index(detector)]
        held[detector] = float(images.min()), float(images.max())
    return held[detector]


@dataclass(frozen=True, eq=False)
class Sight:
    """What one detector sees of a field through a window: the gather of a chain.

    A spline may ring below 0, where there is no beam at all; it is never seen below 0.
    """

    field: Field
    detector: str
    window: Window

    def __call__(self, grid: Grid) -> NDArray[np.float32]:
        """Fraction of the beam on the detector with the probe at the points of a grid, (rows, cols)."""
        return self.along(grid, ((0.0, 1.0),))

    def along(self, grid: Grid, path: Path) -> NDArray[np.float32]:
        """The same at shares of the way to the next pixel, each times its weight, added up."""
        seen, field = self._filtered, self.field
        if isinstance(seen, Oversampled):
            return seen.through(self.window, field.sampling[0], grid, path)
        return self.window.gather(seen, field.sampling, field.periodic, grid, path, 0.0)

    @cached_property
    def _filtered(self) -> NDArray[np.float32] | Oversampled:
        field, held = self.field, _filtered.setdefault(self.field, {})
        if self.detector not in held:
            stack = field.image[:, field.detectors.index(self.detector)]
            held[self.detector] = (oversample(stack[0], field.periodic) if field.critical
                                   else prefilter(stack, field.periodic))
        return held[self.detector]


def brightness(window: Window, field: Field, grid: Grid) -> float:
    """Mean of the pixels of a user's image next to where a grid looks: of nothing that lies between pixels."""
    own, total = field.image[0, 0], 0.0
    for _, part in parts(grid):
        at = np.rint(window.to_specimen(part.positions().reshape(2, -1).T) / field.sampling).astype(np.int64)
        at = np.mod(at, own.shape) if field.periodic else np.clip(at, 0, np.array(own.shape) - 1)
        total += float(own[at[:, 0], at[:, 1]].sum(dtype=np.float64))
    return total / (grid.shape[0] * grid.shape[1])


def _empty(image: Image, window: Window, field: Field, index: int) -> str:
    row, col = np.array(window.origin) / field.sampling
    name = field.provenance["specimen"]["structure"]
    return (f"image.size: {name} is empty where sample {index} looks, {image.size} px of {window.pixel:g} Å around row "
            f"{row:.0f}, column {col:.0f} of it, and at {_PLACES - 1} other places: the mean of its pixels there is "
            f"below {_DIMMEST:g} of its brightest; give the image its background, cut it down to what it shows, or "
            f"raise image.size")


def place(image: Image, field: Field, seed: int, index: int, reach: Reach | None = None, turn: int = 0) -> Window:
    """The window of one sample.

    Parameters
    ----------
    image : Image
        Drawn and fitted image section.
    field : Field
        The field it looks at.
    seed, index : int
        Keys of the streams ``image.origin``, ``image.strain.map`` and ``image.thickness.map``.
    reach : Reach, optional
        How far it looks: with that it stays within the field.
    turn : int
        Which place: 0 the first; each has a stream of its own, ``image.origin.<turn>``.

    Returns
    -------
    Window
    """
    pixel, size, rotation = number(image.pixel_size), image.size, math.radians(number(image.rotation))
    turned = size * pixel * (abs(math.cos(rotation)) + abs(math.sin(rotation)))
    # A window that must not see the repetition stays within the field.
    slack = np.asarray(field.extent) - np.where(field.repeats, 0.0, turned)
    chosen = passing_generator(seed, index, f"image.origin.{turn}" if turn else "image.origin").random(2)
    centre = np.asarray(field.extent) / 2 + (chosen - 0.5) * np.maximum(slack, 0.0)
    at = (float(centre[0]), float(centre[1])) if reach is None else origin(image, field, reach, chosen)
    window = Window(shape=(size, size), pixel=pixel, rotation=rotation, origin=at, flip=number(image.flip) > 0.5)
    return replace(window, warp=strain_map(image, window, seed, index),
                   plane=plane_map(image, window, len(field.thickness), seed, index))


def classes_at(window: Window, field: Field, grid: Grid) -> NDArray[np.uint8]:
    """Class (rows, cols) of the place that each pixel of a grid looks at, from the class map."""
    if field.classes.size == 1:
        return np.full(grid.shape, field.classes[0, 0], np.uint8)
    out, counts = np.empty(grid.shape, np.uint8), np.array(field.classes.shape)
    for rows, part in parts(grid):
        at = window.to_specimen(part.positions().reshape(2, -1).T) * (counts / np.asarray(field.extent))
        # The map's pixels are areas, and begin at the corner.
        index = np.floor(at).astype(np.int64)
        index = np.mod(index, counts) if field.periodic else np.clip(index, 0, counts - 1)
        out[rows] = field.classes[index[:, 0], index[:, 1]].reshape(part.shape)
    return out


def thickness_at(window: Window, field: Field, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thickness in Å (n,) that the window's maps have at `points (n, 2)` px; between exit planes it is a blend."""
    plane = window.plane_at(points)
    thickness: NDArray[np.float64] = np.interp(plane, np.arange(len(field.thickness)), field.thickness)
    return thickness


def columns_in(window: Window, field: Field, to_truth: PointMap,
               shared: float) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Columns of a field that a window shows.

    Parameters
    ----------
    window : Window
        The window.
    field : Field
        The field; its columns repeat with it.
    to_truth : callable
        Window px to truth px (the part of the scan displacement that the truth shares).
    shared : float
        How far, in px, that part reaches: columns from outside of the window can be in the truth.

    Returns
    -------
    position : ndarray (n, 2)
        (row, col) in px of the truth, all within the truth.
    column : ndarray (n,)
        Index of the column in the field.
    resolved : ndarray (n,), bool
        Whether it appears as a column at its tilt and thickness.
    """
    position = field.columns.position
    if len(position) == 0:
        return np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    extent = np.asarray(field.extent)
    low, high = window.extent(margin=shared + 2.0)
    first, last = np.floor((low - position.max(0)) / extent), np.ceil((high - position.min(0)) / extent)
    shifts = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)), indexing="ij"), -1)
    points = (shifts.reshape(-1, 1, 2) * extent + position).reshape(-1, 2)
    near = np.all((points >= low) & (points <= high), axis=1)
    points, column = points[near], np.tile(np.arange(len(position)), shifts.size // 2)[near]
    # Each column has the thickness of its own place, and with it its own lean.
    thickness = thickness_at(window, field, window.to_window(points))
    appears, resolved = field.columns_at(thickness, column)
    seen = to_truth(window.to_window(points + appears - position[column]))
    inside = np.all((seen > -0.5) & (seen < np.asarray(window.shape) - 0.5), axis=1)
    inside &= field.columns.depth[column, 0] <= thickness + field.entrance
    return seen[inside], column[inside], resolved[inside]


def integrated_intensity(truth: NDArray[np.float32], position: NDArray[np.float64],
                         radius: float) -> NDArray[np.float32]:
    """Mean of the truth in a disc around each column, times its area.

    Parameters
    ----------
    truth : ndarray (rows, cols)
        Picture, without its black level.
    position : ndarray (n, 2)
        (row, col) in px.
    radius : float
        Of the disc in px, at least 1.

    Returns
    -------
    ndarray (n,), float32
        Truth's unit times px².
    """
    if len(position) == 0:
        return np.zeros(0, np.float32)
    reach = math.ceil(radius)
    step = np.arange(-reach, reach + 1)
    base = np.rint(position).astype(np.int64)
    rows, cols = base[:, 0, None, None] + step[:, None], base[:, 1, None, None] + step
    inside = (rows >= 0) & (rows < truth.shape[0]) & (cols >= 0) & (cols < truth.shape[1])
    inside &= np.hypot(rows - position[:, 0, None, None], cols - position[:, 1, None, None]) <= radius
    value = truth[np.clip(rows, 0, truth.shape[0] - 1), np.clip(cols, 0, truth.shape[1] - 1)]
    mean = (value * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
    integrated: NDArray[np.float32] = (mean * (math.pi * radius**2)).astype(np.float32)
    return integrated
