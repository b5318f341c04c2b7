"""High-resolution TEM: one plane wave through multislice, and all images of a through-focus series from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emsynth.draw import Streams, number
from emsynth.microscope import TransmissionMicroscope
from emsynth.simulation.field import Field
from emsynth.simulation.multislice import Passage, made_field, settled
from emsynth.simulation.phonons import average
from emsynth.simulation.plan import Plan, Simulation, plan_transmission
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
    back = _back_to_entrance(specimen, planned, lens)

    def picture(seed: int | None) -> NDArray[np.float32]:
        passage = Passage(specimen, planned, number(microscope.energy), settings, seed)
        waves = passage.exits(1, lambda _: passage.plane_waves(_DIRECT), lens.points)[:, 0]
        return lens.images(waves * back)

    with settled():
        images, accuracy = average(picture, settings.phonons, streams, microscope.channels,
                                   tuple(range(microscope.foci)), by_contrast=True)
        pictures, limit = finished(images, planned, microscope, settings.oversampling)
    defoci = dict(zip(microscope.channels, (round(float(f), 3) for f in microscope.defoci()), strict=True))
    return made_field(specimen, planned, microscope, pictures, accuracy, {
        "detectors": microscope.channels, "band_limit": limit, "defocus": defoci,
        "method": "plane wave through abTEM multislice; focal spread summed over foci, illumination as an envelope"},
        settings)


def _back_to_entrance(specimen: Specimen, planned: Plan, lens: Lens) -> NDArray[np.complex64]:
    """Phases (plane, n) that move the image back by what a tilted beam has been carried sideways on its way down.

    Columns are where they are seen along the beam at the entrance: an atom at depth z is displaced by -tilt·z. A slice
    acts at its top, half a slice too early.
    """
    row, col = (np.where(index > n // 2, index - n, index)
                for index, n in zip(np.divmod(lens.points, planned.grid[1]), planned.grid, strict=True))
    along_rows, along_cols = (np.tan(tilt * 1e-3) / side
                              for tilt, side in zip(specimen.mistilt, planned.box, strict=True))
    depth = (np.array(planned.planes) + 0.5) * planned.depth / planned.slices
    phases: NDArray[np.complex64] = np.exp(2j * np.pi * np.outer(depth, row * along_rows + col * along_cols)
                                           ).astype(np.complex64)
    return phases
