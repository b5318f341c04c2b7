"""A stored field distorted afresh: truth and distorted images of a window, or of a patch of it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emsynth import view
from emsynth.distortion import Chain, Distorted, Grid, Window
from emsynth.distortion.chain import Part
from emsynth.draw import Streams, number, stream_key
from emsynth.errors import FieldError, RecipeError
from emsynth.recipe import Image, Recipe
from emsynth.simulation.field import Field
from emsynth.simulation.images import OwnImages
from emsynth.streams import passing_generator

__all__ = ["take"]

SMALLEST_PATCH = 16  # px, as of a recipe's images
# Of a sample that does not fit its field, or shows nothing of it, so many others are drawn in its place.
_ATTEMPTS = 4
_PLACES = 32  # of a patch in its window
# Of the field's brightest pixel, on average over a patch: below, it would be an interpolation's ringing, and the
# faintest tails of a distant particle, that are scaled to the counts.
_DIMMEST = 1e-3
_DARK = 1e-9  # of the beam: rounding
_LOOKS = 12  # along each side of a patch, to see whether it shows anything


def take(
    recipe: Recipe, field: Field, seed: int, index: int, patch: int | None = None, views: int = 1
) -> tuple[Distorted, ...]:
    """Distort a stored field afresh: a pure function of its arguments.

    The recipe's `image` and `distort` sections are drawn, specimen and microscope are the field's. With the recipe's
    own seed, the whole window and one view, it is what `emsynth.render` gives of sample `index` on this field.

    Parameters
    ----------
    recipe : Recipe
        Says which windows and which distortions.
    field : Field
        Any field of this recipe.
    seed, index : int
        Key of every random number.
    patch : int, optional
        Side of a square part of the window, px, that alone is rendered. Its place is drawn; there it keeps its place in
        the scan of the whole window, with the drift, hum and settling of that place. The split of the scan
        displacement and the scaling to the expected counts are those of the patch.
    views : int
        Independent distortions of the very same truth [1]_; see `Chain.run_views`.

    Returns
    -------
    tuple of Distorted
        One for each view; their truths are one and the same. Positions are px of the patch, and their `frame` leads to
        px of the window.

    Raises
    ------
    RecipeError
        The patch is larger than the window, or smaller than 16 px; `views` is below 1.
    FieldError
        Neither this sample nor any of three others that are drawn in its place fits the field and shows anything.

    References
    ----------
    .. [1] Lehtinen et al., Noise2Noise, Proc. ICML, PMLR 80, 2965 (2018).
    """
    side = recipe.image.size if patch is None else patch
    _check(recipe, side, views)
    first: FieldError | None = None
    for attempt in range(_ATTEMPTS):
        key = seed if attempt == 0 else stream_key(seed, index, f"again.{attempt}") >> 65
        streams = Streams(key, index)
        drawn = _drawn_image(recipe.image, streams), recipe.distort.draw(streams, "distort")
        try:
            return _Sample(recipe, field, *drawn, streams, views).run(side)
        except FieldError as reason:
            first = first or reason
    raise first or FieldError("no sample was drawn")


def _drawn_image(image: Image, streams: Streams) -> Image:
    # What `Image.draw` gives, without validating what its distributions have drawn, which cannot be out of range.
    values = image.drawn_values(streams, "image")
    for name in ("flip", "perfect"):
        chance = passing_generator(streams.seed, streams.index, f"image.{name}.chance").random()
        values[name] = float(chance < number(values.get(name, getattr(image, name))))
    if values["perfect"]:
        values |= {"strain": 0.0, "thickness_variation": 0.0}
    return image.plain(values)


def _check(recipe: Recipe, side: int, views: int) -> None:
    if side > recipe.image.size:
        raise RecipeError(f"patch: {side} px is more than the {recipe.image.size} px of image.size; give at most "
                          f"{recipe.image.size}, or a recipe with a larger image.size")
    if side < SMALLEST_PATCH:
        raise RecipeError(f"patch: {side} px is too small; give {SMALLEST_PATCH} to {recipe.image.size}")
    if views < 1:
        raise RecipeError(f"views: {views} is not a number of views; give 1 or more")


@dataclass(frozen=True)
class _Sample:
    # A drawn sample, which of its parts is rendered being open.
    recipe: Recipe
    field: Field
    image: Image
    chain: Chain
    streams: Streams
    views: int

    def run(self, side: int) -> tuple[Distorted, ...]:
        """The whole window, or a patch of `side` px at the first place that shows something."""
        size = self.recipe.image.size
        if side == size:
            return self._run(None, *self._place(None))
        for turn in range(_PLACES):
            part = self._part(size, side, f"patch.{turn}" if turn else "patch")
            detector, window = self._place(part)
            if self._shows(part, detector, window):
                return self._run(part, detector, window)
        raise FieldError(f"patch: {side} px show nothing but vacuum at {_PLACES} places of a window of {size} px on "
                         f"{self.field.provenance['specimen']['structure']}: their mean is below {_DIMMEST:g} of its "
                         f"brightest pixel; take larger patches, or give the field a background")

    def _part(self, size: int, side: int, name: str) -> Part:
        row, col = (int(self.streams.uniform(f"{name}.{axis}") * (size - side + 1)) for axis in ("row", "col"))
        return row, col, side, side

    def _place(self, part: Part | None) -> tuple[str, Window]:
        fits, window = view.placed(self.recipe, self.image, self.chain, self.field, self.streams.seed,
                                   self.streams.index, part, self.views)
        return str(fits.detector), window

    def _run(self, part: Part | None, detector: str, window: Window) -> tuple[Distorted, ...]:
        sight = view.Sight(self.field, detector, window)
        return self.chain.run_views(sight, window.shape, self.streams.seed, self.streams.index, window.pixel, part,
                                    self.views)

    def _shows(self, part: Part, detector: str, window: Window) -> bool:
        # By a few points of the patch; where the field is nowhere dark, or `placed` has looked already, by none.
        darkest, brightest = view.range_of(self.field, detector)
        if darkest >= _DIMMEST * brightest > 0 or isinstance(self.recipe.simulate, OwnImages):
            return True
        top, left, rows, cols = part
        step = np.array([rows, cols]) / _LOOKS
        affine = np.column_stack([np.diag(step), step / 2 - 0.5 + np.array([top, left])])
        seen = view.Sight(self.field, detector, window)(Grid((_LOOKS, _LOOKS), affine))
        return float(seen.mean(dtype=np.float64)) >= _DIMMEST * max(brightest, _DARK)
