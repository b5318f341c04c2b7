"""Microscopes of the phenomenological models: STEM and TEM at low magnification, SEM. Parameters only."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from emsynth.draw import Drawable, LogUniform, Quantity, Uniform, quantity


class Survey(Drawable):
    """What the three have in common."""

    detectors: ClassVar[tuple[str, ...]] = ()

    weight: float = Field(1.0, ge=0, allow_inf_nan=False,
                          description="share of the fields where several microscopes are listed")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the detectors."""
        return self.detectors


class SurveyStem(Survey):
    """A scanning transmission microscope at low magnification: dark field (HAADF) and bright field (BF).

    Phenomenological: see `emsynth.simulation.phantom`.
    """

    detectors: ClassVar[tuple[str, ...]] = ("HAADF", "BF")

    kind: Literal["stem_survey"] = "stem_survey"
    energy: Quantity = quantity(200e3, unit="eV", low=20e3, high=400e3, about="beam energy")
    probe_size: Quantity = quantity(LogUniform(low=2, high=30), unit="Å", low=0, high=1e5,
                                    about="full width at half maximum of the probe; never below 2.4 px of the field")
    inner: Quantity = quantity(Uniform(low=50, high=80), unit="mrad", low=5, high=120, about="inner angle of HAADF")
    outer: Quantity = quantity(Uniform(low=180, high=220), unit="mrad", low=121, high=500, about="outer angle of HAADF")
    passed: Quantity = quantity(Uniform(low=0.05, high=0.4), unit="1", low=0, high=0.95,
                                about="part of the scattered electrons that the BF detector still catches")
    diffraction: Quantity = quantity(Uniform(low=0.0, high=0.6), unit="1", low=0, high=1,
                                     about="strength of diffraction contrast in BF")
    channelling: Quantity = quantity(Uniform(low=0.0, high=0.3), unit="1", low=0, high=1,
                                     about="how much brighter HAADF is in a grain along an axis")
    bending: Quantity = quantity(LogUniform(low=1, high=20), unit="mrad", low=0, high=200,
                                 about="deviation of the local tilt within the field, which makes bend contours")


class SurveyTem(Survey):
    """A transmission microscope at low magnification with an objective aperture.

    Phenomenological: see `emsynth.simulation.phantom`.
    """

    detectors: ClassVar[tuple[str, ...]] = ("camera",)

    kind: Literal["tem_survey"] = "tem_survey"
    energy: Quantity = quantity(200e3, unit="eV", low=20e3, high=400e3, about="beam energy")
    probe_size: Quantity = quantity(LogUniform(low=2, high=20), unit="Å", low=0, high=1e5,
                                    about="full width at half maximum of the blur by aberrations and vibration; never "
                                          "below 2.4 px of the field")
    passed: Quantity = quantity(Uniform(low=0.1, high=0.7), unit="1", low=0, high=0.95,
                                about="part of the scattered electrons that the objective aperture lets through")
    filtered: Quantity = quantity(Uniform(low=0.0, high=0.3), unit="1", low=0, high=1,
                                  about="part of the inelastically scattered electrons that is lost: 1 with a filter")
    diffraction: Quantity = quantity(Uniform(low=0.3, high=1.0), unit="1", low=0, high=1,
                                     about="strength of diffraction contrast")
    bending: Quantity = quantity(LogUniform(low=1, high=20), unit="mrad", low=0, high=200,
                                 about="deviation of the local tilt within the field, which makes bend contours")
    defocus: Quantity = quantity(Uniform(low=-2e4, high=4e4), unit="Å", low=-1e7, high=1e7,
                                 about="defocus, positive is underfocus: Fresnel fringes at edges")
    fringe: Quantity = quantity(0.25, unit="1", low=0, high=0.9, about="bound of the contrast of a Fresnel fringe")
    illumination: Quantity = quantity(Uniform(low=0.0, high=0.15), unit="1", low=0, high=0.9,
                                      about="fall of the illumination across the field, as a smooth map; 0 is even")


class SurfaceSem(Survey):
    """A scanning electron microscope: secondary (SE) and backscattered (BSE) electrons of a surface.

    Phenomenological: see `emsynth.simulation.surface`.
    """

    detectors: ClassVar[tuple[str, ...]] = ("SE", "BSE")

    kind: Literal["sem"] = "sem"
    energy: Quantity = quantity(LogUniform(low=1e3, high=20e3), unit="eV", low=200, high=50e3, about="beam energy")
    probe_size: Quantity = quantity(LogUniform(low=8, high=60), unit="Å", low=0, high=1e6,
                                    about="full width at half maximum of the probe; never below 2.4 px of the field")
    tilt_cap: Quantity = quantity(Uniform(low=60, high=75), unit="deg", low=45, high=88,
                                  about="steeper surfaces count as this steep")
    escape_length: Quantity = quantity(LogUniform(low=20, high=400), unit="Å", low=1, high=1e6,
                                       about="width of bright edges; never below 1.5 px of the field")
    edge: Quantity = quantity(Uniform(low=0.1, high=0.6), unit="1", low=0, high=3,
                              about="how much brighter a sharp edge is than a flat")
    shadow: Quantity = quantity(Uniform(low=0.3, high=0.95), unit="1", low=0, high=1,
                                about="part of the signal that a point without sight of the sky loses")
    shadow_radius: Quantity = quantity(Uniform(low=0.02, high=0.12), unit="of the field", low=0, high=0.4,
                                       about="how far away something still casts a shadow")
    asymmetry: Quantity = quantity(Uniform(low=0.0, high=0.7), unit="1", low=0, high=0.95,
                                   about="how much the detector favours surfaces that face it; 0 sits on the axis")
    azimuth: Quantity = quantity(Uniform(low=0, high=360), unit="deg", low=-360, high=360,
                                 about="where the detector is, from the column axis to the row axis")
    second_kind: Quantity = quantity(Uniform(low=0.3, high=1.0), unit="1", low=0, high=1,
                                     about="share taken of the secondaries that backscattered electrons release, "
                                           "spread over their range")
    channelling: Quantity = quantity(Uniform(low=0.0, high=0.25), unit="1", low=0, high=0.8,
                                     about="how much the grains of a crystal differ in brightness")
    charging: Quantity = quantity(0.0, unit="1", low=-1, high=1,
                                  about="how much brighter (or darker, below 0) insulating areas are")
    charging_radius: Quantity = quantity(0.03, unit="of the field", low=0.001, high=0.3, about="width of their halo")
