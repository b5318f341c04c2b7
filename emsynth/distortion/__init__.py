"""Distortions of scan, detector and camera: frozen stages, the chain that runs them, and the window on a field."""

from emsynth.distortion.artefact import ArtefactStage, Contrast, EightBit, ExtraNoise, Gamma, Jpeg, Smooth
from emsynth.distortion.camera import (
    CameraStage,
    Conversion,
    Counting,
    DarkCurrent,
    GainMap,
    OffsetMap,
    RowColumnOffsets,
)
from emsynth.distortion.camera_defects import DeadPixels, HotPixels, Seams, XRay
from emsynth.distortion.chain import Chain, Distorted
from emsynth.distortion.counting import BeamNoise, CompoundPoisson, Hits, Poisson, PulseSpread
from emsynth.distortion.detector import DetectorStage
from emsynth.distortion.digitiser import BlackLevel, Gain, Quantise, ReadNoise, Saturation, TubeSaturation
from emsynth.distortion.geometry import MARGIN, Grid, Window, prefilter
from emsynth.distortion.overlay import Border, Overlay
from emsynth.distortion.positions import Positions
from emsynth.distortion.resample import Resample
from emsynth.distortion.scan import Drift, FlyBack, Hum, RowJitter, ScanSpeed, ScanStage
from emsynth.distortion.split import affine_split
from emsynth.distortion.stage import (
    Artefact,
    Detection,
    MaskBit,
    Motion,
    Pair,
    ProbeMotion,
    Readout,
    ScanClock,
)
from emsynth.distortion.trace import (
    AcCoupling,
    LineNoise,
    PickUp,
    PixelDefects,
    RowDropout,
    RowGain,
    Streak,
)

__all__ = [
    "MARGIN",
    "AcCoupling",
    "Artefact",
    "ArtefactStage",
    "BeamNoise",
    "BlackLevel",
    "Border",
    "CameraStage",
    "Chain",
    "CompoundPoisson",
    "Contrast",
    "Conversion",
    "Counting",
    "DarkCurrent",
    "DeadPixels",
    "Detection",
    "DetectorStage",
    "Distorted",
    "Drift",
    "EightBit",
    "ExtraNoise",
    "FlyBack",
    "Gain",
    "GainMap",
    "Gamma",
    "Grid",
    "Hits",
    "HotPixels",
    "Hum",
    "Jpeg",
    "LineNoise",
    "MaskBit",
    "Motion",
    "OffsetMap",
    "Overlay",
    "Pair",
    "PickUp",
    "PixelDefects",
    "Poisson",
    "Positions",
    "ProbeMotion",
    "PulseSpread",
    "Quantise",
    "ReadNoise",
    "Readout",
    "Resample",
    "RowColumnOffsets",
    "RowDropout",
    "RowGain",
    "RowJitter",
    "Saturation",
    "ScanClock",
    "ScanSpeed",
    "ScanStage",
    "Seams",
    "Smooth",
    "Streak",
    "TubeSaturation",
    "Window",
    "XRay",
    "affine_split",
    "prefilter",
]
