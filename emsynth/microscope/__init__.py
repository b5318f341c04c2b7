"""Microscopes: their parameters, and which of several looks at a field. No simulation here."""

from __future__ import annotations

import numpy as np

from emsynth.draw import Streams
from emsynth.errors import RecipeError
from emsynth.microscope.optics import KINDS as KINDS
from emsynth.microscope.optics import Kind as Kind
from emsynth.microscope.optics import Optics as Optics
from emsynth.microscope.optics import wavelength as wavelength
from emsynth.microscope.stem import Detector as Detector
from emsynth.microscope.stem import Microscope as Microscope
from emsynth.microscope.survey import SurfaceSem as SurfaceSem
from emsynth.microscope.survey import Survey as Survey
from emsynth.microscope.survey import SurveyStem as SurveyStem
from emsynth.microscope.survey import SurveyTem as SurveyTem
from emsynth.microscope.tem import TransmissionMicroscope as TransmissionMicroscope

# Those that look at atoms, and any.
Instrument = Microscope | TransmissionMicroscope
AnyMicroscope = Instrument | SurveyStem | SurveyTem | SurfaceSem


def choose(microscopes: tuple[AnyMicroscope, ...], kind: str, streams: Streams) -> tuple[int, AnyMicroscope]:
    """Number of one of several microscopes, by weight, and itself with every distribution in it drawn.

    Parameters
    ----------
    microscopes : tuple
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
    suited = [n for n, m in enumerate(microscopes) if kind in getattr(m, "looks_at", (kind,)) and m.weight > 0]
    if not suited:
        raise RecipeError(f"microscope: none of them looks at a specimen of kind {kind!r}; add {kind!r} to a looks_at "
                          f"(with a weight above 0)")
    weights = np.array([microscopes[n].weight for n in suited])
    weights /= weights.max()  # their sum may be beyond the largest float
    chosen = int(streams.generator("microscope").choice(len(suited), p=weights / weights.sum()))
    return suited[chosen], microscopes[suited[chosen]].draw(streams, "microscope")
