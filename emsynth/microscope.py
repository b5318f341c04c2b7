"""The microscope: the probe, its aberrations and coherence, and the detectors. Parameters only."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from emsynth.draw import Distribution, Drawable, Quantity, Streams, extremes, number, quantity
from emsynth.errors import RecipeError

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


class Detector(Drawable):
    """A round or ring-shaped detector, centred on the beam."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")]
    inner: Quantity = quantity(unit="of `unit`", low=0, high=500, about="inner angle")
    outer: Quantity = quantity(unit="of `unit`", low=0.01, high=500, about="outer angle")
    unit: Literal["mrad", "convergence"] = Field(
        "mrad", description="mrad, or multiples of the convergence semi-angle (the usual way to say ABF and BF)")

    @model_validator(mode="after")
    def _is_a_ring(self) -> Self:
        # Inner and outer angle are drawn apart, so every pair of values can meet.
        inner, outer = max(extremes(self.inner)), min(extremes(self.outer))
        if inner >= outer:
            apart = isinstance(self.inner, Distribution) or isinstance(self.outer, Distribution)
            raise ValueError(f"detector {self.name}: inner {'up to ' if apart else ''}{inner:g} must be below outer "
                             f"{'from ' if apart else ''}{outer:g}")
        return self

    def angles(self, convergence: float) -> tuple[float, float]:
        """Inner and outer angle in mrad, for a convergence semi-angle in mrad."""
        scale = convergence if self.unit == "convergence" else 1.0
        return number(self.inner) * scale, number(self.outer) * scale


class Microscope(Drawable):
    """A scanning transmission electron microscope: probe, coherence, detectors.

    Aberrations follow the convention of Krivanek et al. (Ultramicroscopy 78, 1999) in polar form, as abTEM has
    it: χ(α, φ) = 2π/λ Σ αⁿ⁺¹/(n+1) Cₙₘ cos m(φ - φₙₘ), with C10 = -defocus (positive defocus is underfocus).
    """

    weight: float = Field(1.0, ge=0, allow_inf_nan=False,
                          description="share of the fields where several microscopes are listed")
    looks_at: Annotated[tuple[Literal["crystal", "nanoparticle", "amorphous"], ...], Field(min_length=1)] = Field(
        ("crystal", "nanoparticle", "amorphous"), description="kinds of specimen that it is used for")
    energy: Quantity = quantity(200e3, unit="eV", low=30e3, high=1000e3, about="beam energy")
    convergence: Quantity = quantity(20.0, unit="mrad", low=1, high=60, about="convergence semi-angle")
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
    source_size: Quantity = quantity(0.7, unit="Å", low=0, high=5,
                                     about="full width at half maximum of the demagnified, Gaussian source")
    detectors: Annotated[tuple[Detector, ...], Field(min_length=1)] = (
        Detector(name="HAADF", inner=60.0, outer=110.0),
        Detector(name="LAADF", inner=25.0, outer=55.0),
        Detector(name="ABF", inner=0.5, outer=1.0, unit="convergence"),
        Detector(name="BF", inner=0.0, outer=0.3, unit="convergence"),
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [d.name for d in self.detectors]
        if len(set(names)) < len(names):
            raise ValueError(f"two detectors have the same name among {', '.join(names)}; name each once")
        return self

    @property
    def wavelength(self) -> float:
        """Wavelength in Å."""
        return wavelength(number(self.energy))

    @property
    def band_limit(self) -> float:
        """Highest spatial frequency of a STEM image, 2α/λ, in 1/Å."""
        return 2e-3 * number(self.convergence) / self.wavelength

    @property
    def blur(self) -> float:
        """Radius in Å of the disc that spherical aberration and defocus make of the probe, by rays.

        The largest |Cs θ³ - Δf θ| within the aperture (the slope of χ), at its edge or where the two balance.
        """
        edge, cs, df = number(self.convergence) * 1e-3, number(self.spherical), number(self.defocus)
        angles = [edge]
        if cs * df > 0:
            angles.append(min(edge, math.sqrt(df / (3 * cs))))
        return max(abs(cs * angle**3 - df * angle) for angle in angles)

    def detector_angles(self) -> dict[str, tuple[float, float]]:
        """Inner and outer angle of each detector in mrad, by name."""
        return {d.name: d.angles(number(self.convergence)) for d in self.detectors}

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


def choose(microscopes: tuple[Microscope, ...], kind: str, streams: Streams) -> Microscope:
    """One of several microscopes, by weight, with every distribution in it drawn.

    Parameters
    ----------
    microscopes : tuple of Microscope
        The recipe's.
    kind : str
        Kind of the specimen; microscopes that are not used for it are left out.
    streams : Streams
        Random streams of the field.

    Raises
    ------
    RecipeError
        Where no microscope is used for that kind.
    """
    suited = [m for m in microscopes if kind in m.looks_at and m.weight > 0]
    if not suited:
        raise RecipeError(f"microscope: none of them looks at a specimen of kind {kind!r}; add {kind!r} to a looks_at "
                          f"(with a weight above 0)")
    weights = np.array([m.weight for m in suited])
    weights /= weights.max()  # their sum may be beyond the largest float
    chosen = int(streams.generator("microscope").choice(len(suited), p=weights / weights.sum()))
    return suited[chosen].draw(streams, "microscope")
