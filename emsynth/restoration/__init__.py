"""Restorers: one function from image to image; the classical baselines, and whatever else can be called."""

from emsynth.restoration.baselines import BASELINES
from emsynth.restoration.finding import find
from emsynth.restoration.protocol import Baseline, Parameter, Restorer, TunedBaseline, apply

__all__ = ["BASELINES", "Baseline", "Parameter", "Restorer", "TunedBaseline", "apply", "find"]
