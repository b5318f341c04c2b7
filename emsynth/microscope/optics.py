"""What every transmission microscope has: an energy, aberrations, a spread of its focus. Parameters only."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emsynth.draw import Drawable, Quantity, number, quantity

# Kinds of specimen that are made of atoms.
Kind = Literal["crystal", "defects", "boundary", "edge", "nanoparticle", "layer", "amorphous"]
KINDS: tuple[Kind, ...] = ("crystal", "defects", "boundary", "edge", "nanoparticle", "layer", "amorphous")

# CODATA 2018: h²/2mₑe and e/2mₑc², for the relativistic wavelength.
_WAVELENGTH_SQUARED = 150.412_596
_RELATIVISTIC = 9.784_756e-7


def wavelength(energy: float) -> float:
    """Relativistic de Broglie wavelength.

    Parameters
    ----------
    energy : float
        Kinetic energy of the electrons in eV.

    Returns
    -------
    float
        Wavelength in Å (Kirkland, Advanced Computing in Electron Microscopy, 2020, eq. 2.5).
    """
    return math.sqrt(_WAVELENGTH_SQUARED / (energy * (1 + _RELATIVISTIC * energy)))


class Optics(Drawable):
    """Energy, aberrations and focal spread of a transmission microscope.

    Aberrations follow the convention of Krivanek et al. (Ultramicroscopy 78, 1999) in polar form, as abTEM has
    it: χ(α, φ) = 2π/λ Σ αⁿ⁺¹/(n+1) Cₙₘ cos m(φ - φₙₘ), with C10 = -defocus (positive defocus is underfocus).
    """

    weight: float = Field(1.0, ge=0, allow_inf_nan=False,
                          description="share of the fields where several microscopes are listed")
    looks_at: Annotated[tuple[Kind, ...], Field(min_length=1)] = Field(
        KINDS, description="kinds of specimen that it is used for")
    energy: Quantity = quantity(200e3, unit="eV", low=30e3, high=1000e3, about="beam energy")
    defocus: Quantity = quantity(0.0, unit="Å", low=-5000, high=5000, about="defocus, positive is underfocus")
    spherical: Quantity = quantity(0.0, unit="Å", low=-5e7, high=5e7, about="spherical aberration C30 (1 mm is 1e7 Å)")
    astigmatism: Quantity = quantity(0.0, unit="Å", low=0, high=1000, about="twofold astigmatism C12")
    astigmatism_azimuth: Quantity = quantity(0.0, unit="deg", low=-360, high=360, about="azimuth of C12")
    coma: Quantity = quantity(0.0, unit="Å", low=0, high=1e5, about="axial coma C21")
    coma_azimuth: Quantity = quantity(0.0, unit="deg", low=-360, high=360, about="azimuth of C21")
    trefoil: Quantity = quantity(0.0, unit="Å", low=0, high=1e5, about="threefold astigmatism C23")
    trefoil_azimuth: Quantity = quantity(0.0, unit="deg", low=-360, high=360, about="azimuth of C23")
    focal_spread: Quantity = quantity(0.0, unit="Å", low=0, high=300,
                                      about="standard deviation of the focus, Cc times relative energy spread")

    @property
    def wavelength(self) -> float:
        """Wavelength in Å."""
        return wavelength(number(self.energy))

    def aberration(self, angle: NDArray[np.float64], azimuth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Aberration function χ.

        Parameters
        ----------
        angle, azimuth : ndarray
            Polar angle in rad, azimuth in rad (from the column axis towards the row axis).

        Returns
        -------
        ndarray
            χ in rad; the probe's wave is exp(-iχ).
        """
        def lobe(amplitude: Quantity, azimuth_of: Quantity, fold: int) -> NDArray[np.float64]:
            return number(amplitude) * np.cos(fold * (azimuth - math.radians(number(azimuth_of))))

        second = angle**2 / 2 * (lobe(self.astigmatism, self.astigmatism_azimuth, 2) - number(self.defocus))
        third = angle**3 / 3 * (lobe(self.coma, self.coma_azimuth, 1) + lobe(self.trefoil, self.trefoil_azimuth, 3))
        return 2 * math.pi / self.wavelength * (second + third + angle**4 / 4 * number(self.spherical))
