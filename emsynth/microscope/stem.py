"""A scanned probe: its convergence and source, and the detectors. Parameters only."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from emsynth.draw import Distribution, Drawable, Quantity, extremes, number, optional_tag, quantity
from emsynth.microscope.optics import Optics


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


class Microscope(Optics):
    """A scanning transmission electron microscope: probe, coherence, detectors."""

    # Not written out, so that a recipe without it, and its digest, stay as they were when there was nothing else.
    kind: Literal["stem"] = Field("stem", exclude=True, json_schema_extra=optional_tag,
                                  description="stem for a scanned probe, tem for a plane wave and a camera")
    convergence: Quantity = quantity(20.0, unit="mrad", low=1, high=60, about="convergence semi-angle")
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
    def channels(self) -> tuple[str, ...]:
        """Names of the detectors."""
        return tuple(d.name for d in self.detectors)

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
