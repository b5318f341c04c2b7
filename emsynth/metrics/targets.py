"""The columns of a truth that its restored images are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsynth.metrics.columns import FLOOR, Fit, contrast, disc, fit_columns, heights, resolved, spacing
from emsynth.metrics.detection import Expected, expected, unlisted

Floats = NDArray[np.float64]

LOST = 0.1  # of the true peak: what is lower is not the column any more
WIDTHS = (0.4, 2.5)  # of the first guess: what a column's width may be where there is no noise
BLUR = 1.0  # px: standard deviation of the blur that a judged column must bear
SHARE = 0.1  # of the columns listed: with fewer that are judged, the list is not what the image shows
EVEN = 1e6  # of the typical peak: least variance of a pixel where all shall weigh alike


class Target(NamedTuple):
    """Columns of a truth, and all that the same fit of a restored image needs.

    Attributes
    ----------
    start : ndarray (n, 2)
        Where every fit begins, px: where the columns are listed.
    fit : Fit
        Of the truth.
    kept : ndarray (n,), bool
        Columns that are judged: resolved, inside the image, and where the fit is sure of them.
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
        # No test against the scatter about the fit: the truth says that there is a column, and a smoothed image has
        # little scatter, so that the test would lose columns of the untouched image only.
        fit = fit_columns(image, self.start, self.width, sign=self.sign, level=self.level, floor=self.floor,
                          significant=0.0)
        return fit._replace(found=fit.found & (np.abs(fit.peak) >= LOST * np.abs(self.fit.peak)))

    def heights(self, image: ArrayLike) -> Floats:
        """Heights (n,) of the columns in another image, at the places and widths of the truth."""
        return heights(image, self.fit.position, self.fit.width, self.radius)


def aim(truth: ArrayLike, start: ArrayLike, width: float, level: float | None = 0.0, beside: float = np.inf,
        moved: float = np.inf) -> Target | None:
    """Fit the truth's columns, once to learn how wide they are and once as a restored image will be fitted.

    Parameters
    ----------
    truth : array_like (H, W)
        In any units.
    start : array_like (n, 2)
        (row, col) of the columns listed, px.
    width : float
        A guess of their standard deviation, px; at most three tenths of the distance between neighbours is used.
    level : float or None, optional
        Value of the image at which its variance would vanish; None where the variance is even.
    beside, moved : float, optional
        How far a judged column may lie from where it is listed, and how far a blur by one pixel may move it, px: what
        goes farther is drawn aside by something that is no column, and an image that is no worse would move it too.

    Returns
    -------
    Target or None
        None where no column can be judged, or no more than a tenth of those listed.

    Notes
    -----
    A list may lack columns, such as those too near to one another. Spots that the truth shows beside those listed bound
    the discs; their Gaussians are no part of the fit, for among many that overlap it no longer follows a shift.
    """
    from scipy.ndimage import gaussian_filter

    image, at = np.asarray(truth, np.float64), np.array(start, np.float64).reshape(-1, 2)
    if len(at) == 0:
        return None
    guess = min(width, 0.3 * float(np.median(spacing(at))))
    height = contrast(image, at, guess)[0]
    sign, law = np.where(height < 0.0, -1.0, 1.0), _law(level, float(np.median(np.abs(height))))
    first = fit_columns(image, at, guess, sign=sign, level=law[0], floor=law[1], widths=WIDTHS)
    if not first.found.any():
        return None
    wide = np.where(first.found, first.width, np.median(first.width[first.found]))
    fit = fit_columns(image, at, wide, sign=sign, level=law[0], floor=law[1])
    kept = resolved(fit, at, (image.shape[0], image.shape[1])) & (np.hypot(*(fit.position - at).T) <= beside)
    if np.isfinite(moved):
        soft = fit_columns(gaussian_filter(image, BLUR), at, wide, sign=sign, level=law[0], floor=law[1])
        kept &= soft.found & (np.hypot(*(soft.position - fit.position).T) <= moved)
    if kept.sum() <= SHARE * len(at):
        return None
    return _searched(image, at, fit, kept, wide, sign, law)


def _law(level: float | None, height: float) -> tuple[float, float]:
    """Level and floor of the variance, for columns of a typical height."""
    return (0.0, EVEN * height) if level is None else (level, FLOOR * height)


def _searched(image: Floats, at: Floats, fit: Fit, kept: NDArray[np.bool_], wide: Floats, sign: Floats,
              law: tuple[float, float]) -> Target | None:
    """With the discs, and what a blind search finds."""
    typical, most = float(np.median(fit.width[kept])), 1.0 if sign[kept].sum() >= 0.0 else -1.0
    others = unlisted(image, at, typical, most)
    radius = disc(spacing(np.concatenate([at, others]))[:len(at)], wide)
    found = expected(image, at, kept & (sign == most), typical, most, radius)
    return None if found is None else Target(at, fit, kept, radius, wide, sign, *law, found)
