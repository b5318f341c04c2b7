"""The columns of a truth that its restored images are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsynth.metrics.columns import FLOOR, Fit, contrast, disc, fit_columns, resolved, spacing
from emsynth.metrics.detection import Expected, expected

Floats = NDArray[np.float64]

LOST = 0.1  # of the true peak: what is lower is not the column any more
WIDTHS = (0.4, 2.5)  # of the first guess: what a column's width may be where there is no noise


class Target(NamedTuple):
    """Columns of a truth, and all that the same fit of a restored image needs.

    Attributes
    ----------
    start : ndarray (n, 2)
        Where every fit begins, px.
    fit : Fit
        Of the truth.
    kept : ndarray (n,), bool
        Columns that are judged: resolved and inside the image.
    radius, width, sign : ndarray (n,)
        Disc that is a column's own and expected width, px; 1 where it is bright, -1 where it is dark.
    level, floor : float
        Of the law of the variance, as :func:`emsynth.metrics.columns.fit_columns` has it.
    expected : Expected
        What a blind search finds in the truth.
    """

    start: Floats
    fit: Fit
    kept: NDArray[np.bool_]
    radius: Floats
    width: Floats
    sign: Floats
    level: float
    floor: float
    expected: Expected

    def refit(self, image: ArrayLike) -> Fit:
        """The same fit of another image; what is not a tenth as high as in the truth is not found."""
        fit = fit_columns(image, self.start, self.width, sign=self.sign, level=self.level, floor=self.floor)
        return fit._replace(found=fit.found & (np.abs(fit.peak) >= LOST * np.abs(self.fit.peak)))


def aim(truth: ArrayLike, start: ArrayLike, width: float, level: float = 0.0) -> Target | None:
    """Fit the truth's columns, once to learn how wide they are and once as a restored image will be fitted.

    Parameters
    ----------
    truth : array_like (H, W)
        In any units.
    start : array_like (n, 2)
        (row, col) of all columns, px.
    width : float
        A guess of their standard deviation, px; at most three tenths of the distance between neighbours is used.
    level : float, optional
        Value of the image at which its variance would vanish.

    Returns
    -------
    Target or None
        None where no column can be judged.
    """
    image, at = np.asarray(truth, np.float64), np.array(start, np.float64).reshape(-1, 2)
    if len(at) == 0:
        return None
    nearest = spacing(at)
    guess = min(width, 0.3 * float(np.median(nearest)))
    height = contrast(image, at, guess)[0]
    sign = np.where(height < 0.0, -1.0, 1.0)
    floor = FLOOR * float(np.median(np.abs(height)))
    first = fit_columns(image, at, guess, sign=sign, level=level, floor=floor, widths=WIDTHS)
    if not first.found.any():
        return None
    wide = np.where(first.found, first.width, np.median(first.width[first.found]))
    fit = fit_columns(image, at, wide, sign=sign, level=level, floor=floor)
    kept = resolved(fit, at, (image.shape[0], image.shape[1]))
    if not kept.any():
        return None
    typical, most = float(np.median(fit.width[kept])), 1.0 if sign[kept].sum() >= 0.0 else -1.0
    spots = expected(image, at, kept & (sign == most), typical, most)
    return None if spots is None else Target(at, fit, kept, disc(nearest, wide), wide, sign, level, floor, spots)
