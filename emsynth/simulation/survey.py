"""Fields of morphologies: low magnification and SEM, by phenomenological models of the signal."""

from __future__ import annotations

import numpy as np

from emsynth.draw import Streams
from emsynth.microscope import SurfaceSem, SurveyStem, SurveyTem
from emsynth.simulation import phantom, surface
from emsynth.simulation.field import Field
from emsynth.simulation.plan import Phenomenological
from emsynth.specimen.base import Columns
from emsynth.specimen.morphology import Morphology

PHYSICS = "phenomenological"

# Of the sampling frequency: what the blur of the probe leaves above it is not worth mentioning.
_BAND = 0.45


def simulate(specimen: Morphology, microscope: SurveyStem | SurveyTem | SurfaceSem, settings: Phenomenological,
             streams: Streams) -> Field:
    """The field of a morphology.

    Parameters
    ----------
    specimen : Morphology
        Drawn.
    microscope : SurveyStem, SurveyTem or SurfaceSem
        Drawn.
    settings : Phenomenological
        Size of the field.
    streams : Streams
        Random streams of the field.

    Returns
    -------
    Field
        ``image (1, detector, H, W)`` without columns; its thickness is a map, so that the thickness axis says NaN.
        It is periodic, but a window must not see its repetition.

    Raises
    ------
    EmsynthError
        Where the specimen is too thick for the microscope, or its features are too small for the field.
    """
    relief = specimen.build(streams, (settings.size, settings.size))
    if isinstance(microscope, SurfaceSem):
        images = surface.image(relief, microscope, streams)
    else:
        images = phantom.image(relief, microscope, streams)
    about = {"physics": PHYSICS, "microscope": microscope.model_dump(mode="json"),
             "specimen": {"kind": specimen.kind, "structure": relief.structure, "prototype": relief.prototype,
                          **specimen.model_dump(mode="json")},
             "simulate": settings.model_dump(mode="json")}
    return Field(
        image=np.stack([images[name] for name in microscope.channels])[None].astype(np.float32),
        sampling=relief.sampling, periodic=True, columns=Columns.none(), thickness=np.array([np.nan]),
        detectors=microscope.channels, band_limit=_BAND / max(relief.sampling), mistilt=(0.0, 0.0), entrance=0.0,
        repeats=(False, False), provenance=about, classes=relief.class_map)
