"""A plane wave, an objective lens and a camera: what high-resolution TEM needs. Parameters only."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emsynth.draw import Quantity, number, quantity
from emsynth.microscope.optics import Optics


class TransmissionMicroscope(Optics):
    """A transmission electron microscope in bright-field imaging, and the foci of one through-focus series.

    Each exit wave of the specimen is imaged at every focus of the series; the images are the field's detectors, named
    ``F1``, ``F2``, ... from the lowest defocus on.
    """

    kind: Literal["tem"] = Field("tem", description="stem for a scanned probe, tem for a plane wave and a camera")
    foci: int = Field(1, ge=1, le=99, description="images of the through-focus series, from one exit wave")
    focus_step: Quantity = quantity(50.0, unit="Å", low=0, high=2000,
                                    about="step of the series, which has `defocus` in its middle")
    aperture: Quantity = quantity(30.0, unit="mrad", low=1, high=200, about="radius of the objective aperture")
    illumination: Quantity = quantity(0.1, unit="mrad", low=0, high=5,
                                      about="standard deviation of the illumination's angles")
    vibration: Quantity = quantity(0.0, unit="Å", low=0, high=3, about="standard deviation, along each axis, of the "
                                   "specimen's movement during the exposure")
    contrast: Quantity = quantity(1.0, unit="1", low=1, high=5, about="by how much measured contrast is below the "
                                  "simulated one: the Stobbs factor")

    @property
    def band_limit(self) -> float:
        """Highest spatial frequency of an image, 2α/λ of the aperture α, in 1/Å."""
        return 2e-3 * number(self.aperture) / self.wavelength

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the images of the series."""
        return tuple(f"F{n + 1}" for n in range(self.foci))

    def defoci(self) -> NDArray[np.float64]:
        """Defocus of each image in Å, ascending; positive is underfocus."""
        steps = np.arange(self.foci) - (self.foci - 1) / 2
        return np.asarray(number(self.defocus) + steps * number(self.focus_step), np.float64)
