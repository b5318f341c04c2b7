"""Columns missed and invented: a blind search of the restored image, with a threshold from the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsynth.metrics.columns import disc, inside, spacing

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

THRESHOLD = 0.3  # of the 10th percentile of what the resolved columns of the truth answer: they may be blurred by half
DOUBTFUL = 0.5  # of that threshold: what the truth itself half shows is neither right nor invented
OWN = 2.355  # widths at which a spot is no column's own any more: the full width at half maximum


class Expected(NamedTuple):
    """What a search of the truth finds.

    Attributes
    ----------
    position : ndarray (n, 2)
        Columns that count, px.
    radius : ndarray (n,)
        Of the disc in which a column's spot must lie, px.
    doubtful : ndarray (m, 2)
        Other spots of the truth: columns at the rim or unresolved, and what is no column; px.
    threshold, width : float
        Smallest answer of a spot, and width of the search, px.
    sign : float
        1 for bright columns, -1 for dark ones.
    """

    position: Floats
    radius: Floats
    doubtful: Floats
    threshold: float
    width: float
    sign: float


class Tally(NamedTuple):
    """Columns of the truth that a search of the restored image finds, and does not, and spots that are none."""

    matched: int
    missed: int
    invented: int

    @property
    def precision(self) -> float:
        """Share of the spots that are columns; 0 where there is no spot."""
        return self.matched / max(self.matched + self.invented, 1)

    @property
    def recall(self) -> float:
        """Share of the columns that are found."""
        return self.matched / max(self.matched + self.missed, 1)


def answer(image: ArrayLike, width: float, sign: float = 1.0) -> Floats:
    """Negative Laplacian of Gaussian of an image times the width squared: what a blob of that width answers most to."""
    from scipy.ndimage import gaussian_laplace

    found: Floats = gaussian_laplace(np.asarray(image, np.float64), width, mode="nearest")
    return -sign * width**2 * found


def spots(answers: Floats, threshold: float) -> Floats:
    """Local maxima (n, 2) of at least `threshold` among their eight neighbours, px; equal neighbours are one."""
    from scipy.ndimage import label, maximum_filter

    peaks = (answers == maximum_filter(answers, 3, mode="nearest")) & (answers >= threshold)
    labels, count = label(peaks, np.ones((3, 3)))
    at, which = np.argwhere(peaks), labels[peaks] - 1
    size = np.bincount(which, minlength=count)
    return np.stack([np.bincount(which, axis, count) / size for axis in at.T], axis=1)


def expected(truth: ArrayLike, columns: ArrayLike, kept: Mask, width: float, sign: float = 1.0,
             radius: Floats | None = None) -> Expected | None:
    """Search the truth.

    Parameters
    ----------
    truth : array_like (H, W)
        In any units.
    columns : array_like (n, 2)
        All columns, px.
    kept : ndarray (n,), bool
        Which of them are resolved and inside the image.
    width : float
        Their standard deviation, px.
    sign : float
        1 for bright columns, -1 for dark ones.
    radius : ndarray (n,), optional
        Of the disc that is a column's own, px; half the distance to the nearest of the others where it is not given.

    Returns
    -------
    Expected or None
        None where the truth shows no column that counts.
    """
    at = np.asarray(columns, np.float64).reshape(-1, 2)
    answers = answer(truth, width, sign)
    row, col = np.rint(at[kept]).astype(int).T
    strength = answers[row, col]
    if not (strength > 0.0).any():
        return None
    threshold = THRESHOLD * float(np.percentile(strength[strength > 0.0], 10))
    found = spots(answers, DOUBTFUL * threshold)
    position, radius = at[kept], (disc(spacing(at), width) if radius is None else radius)[kept]
    row, col = np.rint(found).astype(int).T
    sure = answers[row, col] >= threshold
    owner = _owner(found[sure], position, radius)
    counted = np.isin(np.arange(len(position)), owner)
    if not counted.any():
        return None
    position, radius = position[counted], radius[counted]
    return Expected(position, radius, found[_owner(found, position, radius) < 0], threshold, width, sign)


def unlisted(truth: ArrayLike, columns: ArrayLike, width: float, sign: float = 1.0) -> Floats:
    """Spots (m, 2) of the truth, px, that no listed column explains, down to the threshold of what is doubtful.

    A spot is a column's own where it is the nearest to it and lies in the disc that would be its own, no farther away
    than its width at half maximum.
    """
    from scipy.spatial import cKDTree

    at = np.asarray(columns, np.float64).reshape(-1, 2)
    answers = answer(truth, width, sign)
    row, col = np.clip(np.rint(at), 0, np.asarray(answers.shape) - 1).astype(int).T
    strength = answers[row, col]
    if not (strength > 0.0).any():
        return np.zeros((0, 2))
    found = spots(answers, DOUBTFUL * THRESHOLD * float(np.percentile(strength[strength > 0.0], 10)))
    if len(found) == 0:
        return found
    away, nearest = cKDTree(found).query(at)
    own = away <= np.minimum(disc(spacing(at), width), OWN * width)
    return np.delete(found, nearest[own], axis=0)


def tally(truth: Expected, restored: ArrayLike) -> Tally:
    """Search a restored image and match spot by spot.

    A spot belongs to the column in whose disc it lies; discs do not overlap. A second spot in one disc is invented, and
    so is one in no disc, unless it lies at the rim or where the truth itself has a doubtful one.
    """
    image = np.asarray(restored, np.float64)
    found = spots(answer(image, truth.width, truth.sign), truth.threshold)
    owner = _owner(found, truth.position, truth.radius)
    matched = len(np.unique(owner[owner >= 0]))
    reach = float(np.median(truth.radius))
    doubtful = _owner(found, truth.doubtful, np.full(len(truth.doubtful), reach)) >= 0
    alone = (owner < 0) & ~doubtful & inside(found, reach, image.shape)
    second = int((owner >= 0).sum()) - matched
    return Tally(matched, len(truth.position) - matched, int(alone.sum()) + second)


def _owner(found: Floats, position: Floats, radius: Floats) -> NDArray[np.int64]:
    """Index of the position nearest to each spot, -1 where it is farther than its radius."""
    from scipy.spatial import cKDTree

    if len(position) == 0 or len(found) == 0:
        return np.full(len(found), -1)
    away, nearest = cKDTree(position).query(found)
    owner: NDArray[np.int64] = np.where(away <= radius[nearest], nearest, -1)
    return owner
