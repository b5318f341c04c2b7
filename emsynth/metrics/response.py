"""Response: how much of a change of a single column comes through a restorer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emsynth.metrics.columns import Fit

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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


def shift_response(truth: tuple[Fit, Fit], restored: tuple[Fit, Fit], columns: Integers) -> Response:
    """What is returned of columns' shifts.

    Parameters
    ----------
    truth, restored : tuple of Fit
        Of the unperturbed image and of the perturbed one.
    columns : ndarray (k,), int
        Which were shifted.

    Returns
    -------
    Response
        In px²; recovered shifts are projected on the true ones. A column that is not found in either restored image
        counts as not shifted; one that is not found in either truth is left out.
    """
    known = columns[truth[0].found[columns] & truth[1].found[columns]]
    seen = restored[0].found[known] & restored[1].found[known]
    change = truth[1].position[known] - truth[0].position[known]
    returned = (restored[1].position[known] - restored[0].position[known]) * seen[:, None]
    return Response(float((returned * change).sum()), float((change**2).sum()))


def intensity_response(truth: tuple[Floats, Floats], restored: tuple[Floats, Floats], columns: Integers) -> Response:
    """What is returned of changes of columns' integrated intensities.

    Parameters
    ----------
    truth, restored : tuple of ndarray (n,)
        Integrated intensities in the unperturbed image and in the perturbed one, from the same discs.
    columns : ndarray (k,), int
        Which were changed.

    Returns
    -------
    Response
        Of changes relative to the true intensity of the unperturbed column.
    """
    whole = truth[0][columns]
    known = whole > 0.0
    change = (truth[1][columns] - truth[0][columns])[known] / whole[known]
    returned = (restored[1][columns] - restored[0][columns])[known] / whole[known]
    return Response(float((returned * change).sum()), float((change**2).sum()))
