"""Response: how much of a change of a single column comes through a restorer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emsynth.metrics.columns import Fit

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LOST = 0.1  # of the true contrast: with less there are no columns


class Response(NamedTuple):
    """Sums of a regression through zero, which add up over images.

    Attributes
    ----------
    recovered : float
        Sum of recovered times true changes.
    true : float
        Sum of the true changes squared.
    """

    recovered: float
    true: float

    @property
    def slope(self) -> float:
        """Recovered over true: 1 where everything is returned, 0 where nothing is; NaN where nothing was changed."""
        return self.recovered / self.true if self.true > 0.0 else float("nan")


def shift_response(truth: tuple[Fit, Fit], restored: tuple[Fit, Fit], columns: Integers,
                   within: tuple[float, float] = (0.0, np.inf)) -> Response:
    """What is returned of columns' shifts.

    Parameters
    ----------
    truth, restored : tuple of Fit
        Of the unperturbed image and of the perturbed one.
    columns : ndarray (k,), int
        Which were shifted.
    within : tuple of float, optional
        Smallest and largest shift in the truth that counts, px.

    Returns
    -------
    Response
        In px²; recovered shifts are projected on the true ones. A column that is not found in either restored image
        counts as not shifted; one that is not found in either truth is left out.
    """
    known = columns[truth[0].found[columns] & truth[1].found[columns]]
    change = truth[1].position[known] - truth[0].position[known]
    size = np.hypot(*change.T)
    usable = (size >= within[0]) & (size <= within[1])
    known, change = known[usable], change[usable]
    seen = restored[0].found[known] & restored[1].found[known]
    returned = (restored[1].position[known] - restored[0].position[known]) * seen[:, None]
    return Response(float((returned * change).sum()), float((change**2).sum()))


def height_response(truth: tuple[Floats, Floats], restored: tuple[Floats, Floats], columns: Integers,
                    contrast: float = 1.0, within: tuple[float, float] = (0.0, np.inf)) -> Response:
    """What is returned of changes of columns' heights.

    Parameters
    ----------
    truth, restored : tuple of ndarray (n,)
        Heights in the unperturbed image and in the perturbed one, at the same places.
    columns : ndarray (k,), int
        Which were changed.
    contrast : float, optional
        Height in the restored unperturbed image over that in its truth, of all columns together.
    within : tuple of float, optional
        Smallest and largest relative change in the truth, in size, that counts.

    Returns
    -------
    Response
        Of changes relative to the height of the unperturbed column in an image of the same kind: in a restored image,
        to `contrast` times the true height. Where the contrast is below a tenth nothing is returned.
    """
    known = columns[truth[0][columns] != 0.0]
    change = truth[1][known] / truth[0][known] - 1.0
    usable = (np.abs(change) >= within[0]) & (np.abs(change) <= within[1])
    known, change = known[usable], change[usable]
    returned = np.zeros(len(known))
    if contrast >= LOST:
        returned = (restored[1][known] - restored[0][known]) / (contrast * truth[0][known])
    return Response(float((returned * change).sum()), float((change**2).sum()))


def contrast(truth: Floats, restored: Floats) -> float:
    """Slope of restored heights (n,) over true ones, through zero."""
    total = float(truth @ truth)
    return float(truth @ restored) / total if total > 0.0 else 0.0
