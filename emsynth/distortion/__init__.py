"""Distortions of scan and detector: frozen stages, the chain that runs them, and the window on a field."""

from emsynth.distortion.chain import Chain, Distorted, Positions
from emsynth.distortion.detector import (
    BlackLevel,
    DetectorStage,
    Gain,
    LineNoise,
    Poisson,
    Quantise,
    ReadNoise,
    Saturation,
    Streak,
)
from emsynth.distortion.geometry import MARGIN, Window, prefilter
from emsynth.distortion.scan import Drift, FlyBack, Hum, RowJitter, ScanStage
from emsynth.distortion.split import affine_split
from emsynth.distortion.stage import Detection, MaskBit, ProbeMotion, Readout, ScanClock

__all__ = [
    "MARGIN",
    "BlackLevel",
    "Chain",
    "Detection",
    "DetectorStage",
    "Distorted",
    "Drift",
    "FlyBack",
    "Gain",
    "Hum",
    "LineNoise",
    "MaskBit",
    "Poisson",
    "Positions",
    "ProbeMotion",
    "Quantise",
    "ReadNoise",
    "Readout",
    "RowJitter",
    "Saturation",
    "ScanClock",
    "ScanStage",
    "Streak",
    "Window",
    "affine_split",
    "prefilter",
]
