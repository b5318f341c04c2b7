"""What others have published, and what emsynth finds: `python -m benchmarks.physics.published`.

Writes benchmarks/physics/PUBLISHED.md.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from ase import Atoms  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from emsynth.draw import Streams  # noqa: E402
from emsynth.microscope import Detector, Microscope  # noqa: E402
from emsynth.simulation.field import Field  # noqa: E402
from emsynth.simulation.multislice import simulate  # noqa: E402
from emsynth.simulation.plan import Simulation  # noqa: E402
from emsynth.specimen.base import Columns, Specimen  # noqa: E402
from emsynth.specimen.crystal import Crystal  # noqa: E402

PAGE = Path(__file__).parent / "PUBLISHED.md"

# Kirkland, Advanced Computing in Electron Microscopy (2nd ed. 2010), fig. 5.12: extremes of the image.
KIRKLAND = (0.72, 1.03)
FIVE = "CSiCuAuU"
BOX = 50.0  # Å


@dataclass(frozen=True)
class Ratio:
    """SrTiO3 along [001]: thickness in Å, cell mean, and Sr by Ti-O, of the peaks and of the signal around them."""

    thickness: NDArray[np.float64]
    mean: NDArray[np.float64]
    peak: NDArray[np.float64]
    integrated: NDArray[np.float64]


def five_atoms() -> Specimen:
    """One atom each of C, Si, Cu, Au and U, 10 Å apart, in a row across a box of 50 Å, as in the book."""
    x = BOX / 2 + 10.0 * (np.arange(5) - 2)
    atoms = Atoms(FIVE, positions=[(col, BOX / 2, 1.0) for col in x], cell=[BOX, BOX, 2.0], pbc=True)
    columns = Columns(np.array([(BOX / 2, col) for col in x]), atoms.numbers.astype(np.uint8),
                      tuple(atoms.get_chemical_symbols()), np.ones((5, 2)), np.ones(5, np.int32))
    return Specimen(atoms, (BOX, BOX), columns, dict.fromkeys(set(atoms.get_chemical_symbols()), 0.08), (0.0, 0.0),
                    "amorphous", "five atoms", "five atoms", 2.0)


def kirkland(max_angle: float = 30.0) -> NDArray[np.float64]:
    """Coherent bright-field phase contrast of the five atoms, (H, W), relative to the beam.

    200 keV, Cs 1.3 mm, 700 Å underfocus, an aperture of 10.37 mrad. By reciprocity (Cowley, Appl. Phys. Lett. 15, 58,
    1969) a probe of that aperture, seen by a detector of a single point on the axis, gives the picture that a plane
    wave gives through the same lens.

    Parameters
    ----------
    max_angle : float
        Of the grid in mrad; a single slice is exact within the aperture on any grid that carries it.
    """
    point = Detector(name="axis", inner=0.0, outer=0.01)
    microscope = Microscope(energy=200e3, convergence=10.37, spherical=1.3e7, defocus=700.0, source_size=0.0,
                            detectors=(point,))
    settings = Simulation.model_validate({"phonons": {"minimum": 0, "maximum": 0}, "max_angle": max_angle,
                                          "thicknesses": 1, "slice_thickness": 2.0})
    image = simulate(five_atoms(), microscope, settings, Streams(1, 0)).image[0, 0].astype(np.float64)
    # The beam at a single point of the detector: that of the middle of the aperture, whose share is 1 by its area.
    return image * (np.pi * (10.37e-3 / microscope.wavelength * BOX) ** 2)


def strontium_titanate(thickness: float = 300.0, box: float = 11.0, configurations: int = 4, planes: int = 15,
                       max_angle: float = 110.0, slice_thickness: float = 2.0) -> Field:
    """HAADF (60-110 mrad) of SrTiO3 along [001] at 200 kV and 20 mrad, a series of thicknesses."""
    streams = Streams(1, 0)
    specimen = Crystal(structure="SrTiO3", zone_axis=(0, 0, 1), thickness=thickness, minimum_box=box).build(streams)
    detector = Detector(name="HAADF", inner=60.0, outer=110.0)
    settings = Simulation.model_validate({
        "thicknesses": planes, "max_angle": max_angle, "slice_thickness": slice_thickness,
        "phonons": {"minimum": configurations, "maximum": configurations}})
    return simulate(specimen, Microscope(detectors=(detector,)), settings, streams)


def columns_of(field: Field) -> dict[str, NDArray[np.float64]]:
    """Positions (n, 2) in px of the columns of a field, by their content."""
    content = np.array(field.columns.formula)
    place = field.columns.position / np.asarray(field.sampling)
    return {name: place[content == name] for name in sorted(set(field.columns.formula))}


def ratio(field: Field) -> Ratio:
    """Cell mean and Sr : Ti-O, of peaks and of the signal within the cells of nearest columns.

    The oxygen columns have cells of their own.
    """
    image = field.image[:, 0].astype(np.float64)
    shape = image.shape[1:]
    places = columns_of(field)
    heavy, light = _by_element(places, "Sr"), _by_element(places, "Ti")
    others = np.concatenate(list(places.values()))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 1, 2)
    apart = grid - others
    apart -= np.round(apart / shape) * shape
    nearest = np.hypot(*(np.moveaxis(apart, -1, 0) * np.reshape(field.sampling, (2, 1, 1)))).argmin(axis=1)
    owner = others[nearest]
    flat = image.reshape(len(image), -1)

    def signal(places: NDArray[np.float64]) -> NDArray[np.float64]:
        mine = (owner[:, None] == places).all(axis=2).any(axis=1)
        total: NDArray[np.float64] = flat[:, mine].sum(axis=1) / len(places)
        return total

    def peak(places: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, cols = np.rint(places).astype(int).T
        height: NDArray[np.float64] = image[:, rows % shape[0], cols % shape[1]].mean(axis=1)
        return height

    return Ratio(field.thickness, image.mean(axis=(1, 2)), peak(heavy) / peak(light), signal(heavy) / signal(light))


def _by_element(places: dict[str, NDArray[np.float64]], symbol: str) -> NDArray[np.float64]:
    return np.concatenate([place for name, place in places.items() if name.startswith(symbol)])
