"""High-resolution TEM: one plane wave through multislice, and all images of a through-focus series from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emsynth.draw import Streams, number
from emsynth.microscope import TransmissionMicroscope
from emsynth.simulation.field import Field
from emsynth.simulation.multislice import Passage, made_field, settled
from emsynth.simulation.phonons import average
from emsynth.simulation.plan import Simulation, plan_transmission
from emsynth.simulation.transfer import Lens, finished
from emsynth.specimen.base import Specimen

_DIRECT = np.zeros((1, 2), np.int64)


def simulate(specimen: Specimen, microscope: TransmissionMicroscope, settings: Simulation, streams: Streams) -> Field:
    """Simulate the images of a TEM.

    Parameters
    ----------
    specimen : Specimen
        Atoms in their box.
    microscope : TransmissionMicroscope
        Drawn microscope.
    settings : Simulation
        Grid, exit planes, phonons.
    streams : Streams
        Random streams of the field; the phonons use the stream ``"phonons"``.

    Returns
    -------
    Field
        Each image of the through-focus series at each exit plane, intensity relative to the incident beam. Provenance
        has the defocus of each.

    Raises
    ------
    FieldError
        Where the objective aperture is beyond the simulated angle.
    """
    planned = plan_transmission(specimen, microscope, settings)
    lens = Lens(planned, microscope)

    def picture(seed: int | None) -> NDArray[np.float32]:
        passage = Passage(specimen, planned, number(microscope.energy), settings, seed)
        waves = passage.exits(1, lambda _: passage.plane_waves(_DIRECT), lens.points)[:, 0]
        return lens.images(waves)

    with settled():
        images, accuracy = average(picture, settings.phonons, streams, microscope.channels,
                                   tuple(range(microscope.foci)))
        pictures, limit = finished(images, planned, microscope, settings.oversampling)
    defoci = dict(zip(microscope.channels, (round(float(f), 3) for f in microscope.defoci()), strict=True))
    return made_field(specimen, planned, microscope, pictures, accuracy, {
        "detectors": microscope.channels, "band_limit": limit, "defocus": defoci,
        "method": "plane wave through abTEM multislice; focal spread summed over foci, illumination as an envelope"},
        settings)
