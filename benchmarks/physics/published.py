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
from emsynth.microscope import Detector, Microscope, TransmissionMicroscope  # noqa: E402
from emsynth.simulation import multislice, tem  # noqa: E402
from emsynth.simulation.field import Field  # noqa: E402
from emsynth.simulation.plan import Simulation  # noqa: E402
from emsynth.specimen.base import Columns, Specimen  # noqa: E402
from emsynth.specimen.crystal import Crystal  # noqa: E402

PAGE = Path(__file__).parent / "PUBLISHED.md"

# Kirkland, Advanced Computing in Electron Microscopy, fig. 5.12: extremes of the image.
KIRKLAND = (0.72, 1.03)
WITHIN = 0.01
ATOMS = ("C", "Si", "Cu", "Au", "U")
BOX = 50.0  # Å
STATIC = {"phonons": {"minimum": 0, "maximum": 0}, "thicknesses": 1, "slice_thickness": 2.0}

# Signal of an atom on an annular detector, Z^n: n = 1.64 of single atoms (Krivanek et al., Nature 464, 571, 2010) and,
# at the largest angles, 2 by Rutherford's formula (Pennycook and Jesson, Ultramicroscopy 37, 14, 1991).
EXPONENTS = (1.64, 2.0)


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
    atoms = Atoms(ATOMS, positions=[(col, BOX / 2, 1.0) for col in x], cell=[BOX, BOX, 2.0], pbc=True)
    columns = Columns(np.array([(BOX / 2, col) for col in x]), atoms.numbers.astype(np.uint8),
                      ATOMS, np.ones((5, 2)), np.ones(5, np.int32))
    return Specimen(atoms, (BOX, BOX), columns, dict.fromkeys(ATOMS, 0.08), (0.0, 0.0), "amorphous", "five atoms",
                    "five atoms", 2.0)


def kirkland_tem(max_angle: float = 30.0) -> NDArray[np.float64]:
    """Coherent bright-field phase contrast of the five atoms, (H, W), relative to the beam: a plane wave.

    200 keV, Cs 1.3 mm, 700 Å underfocus, an aperture of 10.37 mrad.
    """
    microscope = TransmissionMicroscope(energy=200e3, aperture=10.37, spherical=1.3e7, defocus=700.0, illumination=0.0)
    settings = Simulation.model_validate(STATIC | {"max_angle": max_angle})
    field = tem.simulate(five_atoms(), microscope, settings, Streams(1, 0))
    image: NDArray[np.float64] = field.image[0, 0].astype(np.float64)
    return image


def kirkland_stem(max_angle: float = 30.0) -> NDArray[np.float64]:
    """The same picture by a scanned probe.

    By reciprocity (Cowley, Appl. Phys. Lett. 15, 58, 1969) a probe of that aperture, seen by a detector of a single
    point on the axis, gives the picture that a plane wave gives through the same lens.

    Parameters
    ----------
    max_angle : float
        Of the grid in mrad; a single slice is exact within the aperture on any grid that carries it.
    """
    point = Detector(name="axis", inner=0.0, outer=0.01)
    microscope = Microscope(energy=200e3, convergence=10.37, spherical=1.3e7, defocus=700.0, source_size=0.0,
                            detectors=(point,))
    settings = Simulation.model_validate(STATIC | {"max_angle": max_angle})
    image = multislice.simulate(five_atoms(), microscope, settings, Streams(1, 0)).image[0, 0].astype(np.float64)
    # The beam at a single point of the detector: that of the middle of the aperture, whose share is 1 by its area.
    relative: NDArray[np.float64] = image * (np.pi * (10.37e-3 / microscope.wavelength * BOX) ** 2)
    return relative


def strontium_titanate(thickness: float = 300.0, box: float = 11.0, tolerance: float = 0.05, planes: int = 15,
                       outer: float = 110.0, slice_thickness: float = 2.0, convergence: float = 20.0) -> Field:
    """HAADF (60 mrad to `outer`) of SrTiO3 along [001] at 200 kV, a series of thicknesses.

    With a tolerance as small as this, plane waves are cheaper than probes: every configuration is the mean of nine
    cells, and Sr and Ti-O are of nine columns each.
    """
    streams = Streams(1, 0)
    specimen = Crystal(structure="SrTiO3", zone_axis=(0, 0, 1), thickness=thickness, minimum_box=box).build(streams)
    detector = Detector(name="HAADF", inner=60.0, outer=outer)
    settings = Simulation.model_validate({
        "thicknesses": planes, "max_angle": outer, "slice_thickness": slice_thickness,
        "phonons": {"minimum": 2, "maximum": 32, "tolerance": tolerance}})
    return multislice.simulate(specimen, Microscope(convergence=convergence, detectors=(detector,)), settings, streams)


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


def expected_ratio(exponent: float) -> float:
    """Sr : Ti-O of a column so thin that its atoms scatter one by one."""
    return float(38.0**exponent / (22.0**exponent + 8.0**exponent))


def page(images: dict[str, NDArray[np.float64]], found: Ratio, error: float) -> str:
    """The whole page."""
    extremes = "\n".join(f"| {name} | {image.min():.4f} ({100 * (image.min() / KIRKLAND[0] - 1):+.2f} %) | "
                         f"{image.max():.4f} ({100 * (image.max() / KIRKLAND[1] - 1):+.2f} %) |"
                         for name, image in images.items())
    series = "\n".join(f"| {t:.0f} | {mean:.5f} | {peak:.2f} | {integrated:.2f} |" for t, mean, peak, integrated
                       in zip(found.thickness, found.mean, found.peak, found.integrated, strict=True))
    low, high = (expected_ratio(n) for n in EXPONENTS)
    rises = "rises monotonically" if (np.diff(found.mean) > 0).all() else "DOES NOT rise monotonically"
    inside = "inside" if low <= found.integrated[0] <= high else "OUTSIDE"
    return f"""# Published checks

Written by `python -m benchmarks.physics.published`.

## Kirkland's five atoms

C, Si, Cu, Au and U, 10 Å apart; 200 keV, Cs 1.3 mm, 700 Å underfocus, 10.37 mrad, coherent: the bright-field phase
contrast of Kirkland, Advanced Computing in Electron Microscopy, fig. 5.12, whose extremes are {KIRKLAND[0]} and
{KIRKLAND[1]}. {100 * WITHIN:g} % is required.

| | minimum | maximum |
|---|---:|---:|
{extremes}

By reciprocity the two are the same picture; they share the potential and little else.

## SrTiO3 along [001], HAADF

200 kV, 20 mrad, source of 0.7 Å, 60-110 mrad; standard error of the phonon mean (rms over the picture, at the worst
thickness) {100 * error:.1f} %. The cell mean {rises} from {found.thickness[0]:.0f} to {found.thickness[-1]:.0f} Å.

Sr : Ti-O in the thin limit, where atoms scatter one by one: 38ⁿ / (22ⁿ + 8ⁿ), {low:.2f} with n = {EXPONENTS[0]}
(single atoms: Krivanek et al., Nature 464, 571, 2010) to {high:.2f} with n = {EXPONENTS[1]:g} (Rutherford: Pennycook
and Jesson, Ultramicroscopy 37, 14, 1991). The thinnest slab, {found.integrated[0]:.2f}, is {inside}. With thickness it
falls: the heavier column focuses the probe more strongly and scatters it away sooner.

| thickness Å | cell mean, fraction of the beam | Sr : Ti-O, peaks | Sr : Ti-O, nearest signal |
|---:|---:|---:|---:|
{series}
"""


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    images = {"TEM, plane wave": kirkland_tem(), "STEM, one point on the axis": kirkland_stem()}
    field = strontium_titanate()
    text = page(images, ratio(field), field.provenance["standard_error"]["HAADF"])
    print(text)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
