"""The Cramér-Rao bound: how well the dose allows a column's position to be known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsynth.metrics.columns import Fit

Floats = NDArray[np.float64]


def position_bound(electrons: ArrayLike, columns: Fit, excess: float = 1.0, variance: float = 0.0) -> Floats:
    """Smallest standard deviation of each column's position that an unbiased estimate can have.

    Parameters
    ----------
    electrons : array_like (H, W)
        Expected electrons per pixel.
    columns : Fit
        The columns as fitted in it; peak in electrons.
    excess : float, optional
        Variance over mean of what is counted.
    variance : float, optional
        Of what is added, electrons squared.

    Returns
    -------
    ndarray (n,)
        Root of the sum of the variances along rows and columns, px: the smallest rms distance from the true place.
        NaN where the image says nothing of a column.

    Notes
    -----
    The inverse of the Fisher information of a round Gaussian on a constant background, of position, peak, width and
    background, all unknown; the neighbours are taken as known, within four widths. A pixel's variance is `excess` times
    its electrons plus `variance`, and only its mean tells of the column: exact for Poisson counts, and slightly too
    large where the variance follows from a mean and is known to be normal.

    References
    ----------
    Van Aert et al., J. Struct. Biol. 138, 21 (2002); den Dekker et al., Ultramicroscopy 104, 83 (2005).
    """
    from emsynth.metrics._column_kernels import position_variance

    values = np.ascontiguousarray(electrons, np.float64)
    found: Floats = position_variance(values, np.ascontiguousarray(columns.state), excess, variance)
    return np.sqrt(found)
