"""Atom columns of an image: fitted as Gaussians where they should be, and summed over the disc that is their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW = 0.7  # of the distance to the nearest neighbour: radius of the disc that is fitted
WIDEST_WINDOW = 3.5  # widths: and its largest radius
WIDTHS = (0.7, 1.4)  # of the expected width: what a fitted width may be
FLOOR = 0.02  # of the typical peak: smallest variance of a pixel, so that no empty pixel weighs without end
LEAST = 1e-6  # of the image's range: and smallest of all
PULL = 0.3  # towards the expected width, of what the image itself does: see `fit_columns`
SWEEPS = 40
SETTLED = 0.05  # px: last step of a fit that counts
SIGNIFICANT = 4.0  # standard errors of the peak
RESOLVED = 2.355  # widths between neighbours: the full width at half maximum
FAINTEST = 0.1  # of the strongest peak
MARGIN = 0.5  # of the distance to the nearest neighbour: the disc that is a column's own


class Fit(NamedTuple):
    """Columns as they were fitted.

    Attributes
    ----------
    position : ndarray (n, 2)
        (row, col), px.
    peak, width, background : ndarray (n,)
        Height over the background (below 0 where the column is dark) and background, in units of the image; standard
        deviation, px.
    found : ndarray (n,), bool
        Whether there is a column: the fit has settled less than half the nearest neighbour's distance from its start,
        with a peak of the right sign and of at least four standard errors, or as many as were asked for.
    """

    position: Floats
    peak: Floats
    width: Floats
    background: Floats
    found: Mask

    @property
    def state(self) -> Floats:
        """(n, 5): row, col, peak, width, background."""
        return np.column_stack([self.position, self.peak, self.width, self.background])


def spacing(position: ArrayLike) -> Floats:
    """Distance of each position (n, 2) to its nearest neighbour, in its unit; infinite where there is no other."""
    from scipy.spatial import cKDTree

    at = np.asarray(position, np.float64).reshape(-1, 2)
    if len(at) < 2:
        return np.full(len(at), np.inf)
    nearest: Floats = cKDTree(at).query(at, k=2)[0][:, 1]
    return nearest


def around(image: Floats, position: Floats, distance: Floats | float) -> Floats:
    """Mean of an image on the circle of radius `distance` (px) around each position (n, 2), from 16 directions."""
    from scipy.ndimage import map_coordinates

    angle = np.arange(16) * (np.pi / 8)
    away = np.broadcast_to(np.asarray(distance, np.float64), (len(position),))[:, None]
    at = np.stack([position[:, :1] + away * np.sin(angle), position[:, 1:] + away * np.cos(angle)])
    found: Floats = map_coordinates(image, at, order=1, mode="nearest").mean(axis=1)
    return found


def contrast(image: ArrayLike, position: ArrayLike, width: Floats | float) -> tuple[Floats, Floats]:
    """Height of each column over what lies half way to its neighbour, and that background.

    Parameters
    ----------
    image : array_like (H, W)
        Any floats.
    position : array_like (n, 2)
        (row, col), px.
    width : array_like
        Standard deviation of a column, px, one for all or one each.
    """
    from scipy.ndimage import gaussian_filter

    at = np.asarray(position, np.float64).reshape(-1, 2)
    soft = gaussian_filter(np.asarray(image, np.float64), 0.5 * float(np.median(width)), mode="nearest")
    background = around(soft, at, disc(spacing(at), width))
    return around(soft, at, 0.25 * width) - background, background


def fit_columns(image: ArrayLike, start: ArrayLike, width: ArrayLike, *, sign: ArrayLike = 1.0, level: float = 0.0,
                floor: float | None = None, widths: tuple[float, float] = WIDTHS,
                significant: float = SIGNIFICANT) -> Fit:
    """Fit a round Gaussian on a constant background to each column, all of them side by side.

    Parameters
    ----------
    image : array_like (H, W)
        Any floats, below zero too.
    start : array_like (n, 2)
        (row, col) where the columns should be, px.
    width : array_like
        Expected standard deviation of a column, px, one for all or one each.
    sign : array_like, optional
        1 for bright columns, -1 for dark ones, one for all or one each.
    level : float, optional
        Value of the image at which its variance would vanish: the black level, less gain times the variance of what
        is added to the counts over their excess.
    floor : float, optional
        Smallest variance of a pixel, in units of the image above `level`; without it a fiftieth of the typical peak.
    widths : tuple of float, optional
        What a fitted width may be, times the expected one.
    significant : float, optional
        Standard errors that a peak must reach.

    Returns
    -------
    Fit

    Notes
    -----
    A pixel's variance is taken as proportional to its model's height above `level` (Poisson's law at any gain and
    offset), and the weights follow the model: Fisher scoring, which is maximum likelihood where the counts are Poisson.
    The window is a disc of 0.7 of the distance to the nearest neighbour, at most 3.5 widths; the neighbours' Gaussians
    are part of the model in it, so that their tails do not pull. Round, not elliptic: a position does not depend on
    it, and two parameters less are two ways less to fit noise. In a dense lattice wider columns are hardly told from
    more background, so widths are held: each to its expected one times a factor common to all, which is free, as a
    restorer may blur.
    """
    from emsynth.metrics._column_kernels import fit

    values = np.ascontiguousarray(image, np.float64)
    at = np.ascontiguousarray(start, np.float64).reshape(-1, 2)
    signs = np.broadcast_to(np.asarray(sign, np.float64), (len(at),)).copy()
    if len(at) == 0:
        none = np.zeros(0)
        return Fit(at, none, none, none, np.zeros(0, bool))
    nearest = spacing(at)
    wide = np.broadcast_to(np.asarray(width, np.float64), (len(at),)).copy()
    peak, background = contrast(values, at, wide)
    peak = signs * np.maximum(signs * peak, 0.0)
    if floor is None:
        floor = FLOOR * float(np.median(np.abs(peak)))
    state = np.column_stack([at, peak, wide, background])
    limit, window = disc(nearest, wide), np.minimum(WINDOW * nearest, WIDEST_WINDOW * wide)
    least = LEAST * float(np.ptp(values))
    if least == 0.0:
        return Fit(at, 0.0 * peak, wide, background, np.zeros(len(at), bool))
    last, error = fit(values, at, window, limit, signs, state, widths[0] * wide, widths[1] * wide, PULL,
                      level, max(floor, least), SWEEPS)
    away = np.hypot(*(state[:, :2] - at).T)
    found = (last < SETTLED) & (away < 0.999 * limit) & (signs * state[:, 2] > significant * error)
    return Fit(state[:, :2], state[:, 2], state[:, 3], state[:, 4], found)


def disc(nearest: Floats, width: Floats | float) -> Floats:
    """Radius of the disc that is a column's own, px: half the nearest neighbour's distance, at most 3.5 widths."""
    radius: Floats = np.minimum(MARGIN * nearest, WIDEST_WINDOW * np.asarray(width))
    return radius


def inside(position: Floats, margin: Floats | float, shape: tuple[int, int]) -> Mask:
    """Which positions (n, 2) lie at least `margin` px within the outermost pixels of an image of that shape."""
    away: Mask = np.minimum(position, np.asarray(shape) - 1.0 - position).min(axis=1, initial=np.inf) >= margin
    return away


def resolved(truth: Fit, start: ArrayLike, shape: tuple[int, int]) -> Mask:
    """Which columns of the truth a restorer can be asked for.

    Parameters
    ----------
    truth : Fit
        The columns as fitted in the truth.
    start : array_like (n, 2)
        Where all columns are, px.
    shape : tuple of int
        (H, W) of the image.

    Returns
    -------
    ndarray (n,), bool
        Those that are found in the truth, at least their width at half maximum from the nearest neighbour, half that
        neighbour's distance inside the image, and at least a tenth as high as the strongest (the 95th percentile).
    """
    at = np.asarray(start, np.float64).reshape(-1, 2)
    nearest = spacing(at)
    kept = truth.found & (nearest >= RESOLVED * truth.width)
    if not kept.any():
        return kept
    kept &= inside(at, disc(nearest, float(np.median(truth.width[kept]))), shape)
    if kept.any():
        kept &= np.abs(truth.peak) >= FAINTEST * np.percentile(np.abs(truth.peak[kept]), 95)
    return kept


def distances(truth: Fit, restored: Fit, radius: Floats) -> Floats:
    """Distance (n,) of each restored column from the true one, px; `radius` (n,) where it is not found."""
    away: Floats = np.hypot(*(restored.position - truth.position).T)
    return np.where(restored.found, np.minimum(away, radius), radius)


def integrated(image: ArrayLike, position: ArrayLike, radius: ArrayLike, black_level: float = 0.0) -> Floats:
    """Integrated intensity of each column: the sum over its disc, above the black level.

    Parameters
    ----------
    image : array_like (H, W)
        Any floats.
    position : array_like (n, 2)
        Centres, px; those of the truth for truth and restored alike, so that the sum is linear in the image.
    radius : array_like
        px, one for all or one each.
    black_level : float, optional
        Value of the image where nothing is detected.

    Returns
    -------
    ndarray (n,)
        In units of the image times pixels.

    References
    ----------
    E et al., Ultramicroscopy 133, 109 (2013): cross sections integrated over the probe's positions hardly depend on
    its shape.
    """
    from emsynth.metrics._column_kernels import sums

    at = np.ascontiguousarray(position, np.float64).reshape(-1, 2)
    reach: Any = np.broadcast_to(np.asarray(radius, np.float64), (len(at),)).copy()
    found: Floats = sums(np.asarray(image, np.float64) - black_level, at, reach)
    return found


def heights(image: ArrayLike, position: ArrayLike, width: ArrayLike, radius: ArrayLike) -> Floats:
    """Height of each column over its background, by linear least squares at a given place and width.

    Parameters
    ----------
    image : array_like (H, W)
        Any floats.
    position : array_like (n, 2)
        Centres, px; those of the truth for truth and restored alike, so that a height is linear in the image.
    width, radius : array_like
        Standard deviation of a column and disc that is looked at, px, one for all or one each.

    Returns
    -------
    ndarray (n,)
        In units of the image, negative where the column is dark; 0 where the disc holds no two pixels.
    """
    values, at = np.asarray(image, np.float64), np.asarray(position, np.float64).reshape(-1, 2)
    wide, reach = (np.broadcast_to(np.asarray(each, np.float64), (len(at),)) for each in (width, radius))
    half = int(np.ceil(reach.max(initial=0.0))) + 1
    near = np.rint(at).astype(int)[:, :, None] + np.arange(-half, half + 1)
    row, col = near[:, 0, :, None], near[:, 1, None, :]
    square = (row - at[:, 0, None, None]) ** 2 + (col - at[:, 1, None, None]) ** 2
    inner = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
    inner &= square <= (reach**2)[:, None, None]
    bell = inner * np.exp(-0.5 * square / (wide**2)[:, None, None])
    bell -= inner * (bell.sum((1, 2)) / np.maximum(inner.sum((1, 2)), 1))[:, None, None]
    seen = values[np.clip(row, 0, values.shape[0] - 1), np.clip(col, 0, values.shape[1] - 1)]
    scale = (bell**2).sum((1, 2))
    return np.where(scale > 0.0, (bell * seen).sum((1, 2)) / np.where(scale > 0.0, scale, 1.0), 0.0)
