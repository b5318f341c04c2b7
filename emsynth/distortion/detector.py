"""The detectors of scanning microscopes: which stages there are, in physical order."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emsynth.distortion.counting import BeamNoise, CompoundPoisson, Hits, Poisson, PulseSpread
from emsynth.distortion.digitiser import BlackLevel, Gain, Quantise, ReadNoise, Saturation, TubeSaturation
from emsynth.distortion.trace import (
    AcCoupling,
    LineNoise,
    PickUp,
    PixelDefects,
    RowDropout,
    RowGain,
    Streak,
)

# A new detector stage is one class in a module above and one entry here, at its place in the physical order.
DetectorStage = Annotated[
    BeamNoise
    | Poisson
    | CompoundPoisson
    | PulseSpread
    | Hits
    | Streak
    | TubeSaturation
    | AcCoupling
    | LineNoise
    | PickUp
    | RowGain
    | RowDropout
    | ReadNoise
    | Gain
    | PixelDefects
    | BlackLevel
    | Saturation
    | Quantise,
    Field(discriminator="stage"),
]
