"""Amorphous films, cut from quenched periodic boxes that are shipped with the package."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emsynth.draw import Drawable, Quantity, Streams, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.crystal import known_names
from emsynth.specimen.table import Purpose

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen

MATERIALS = ("C", "Ge", "Si")
# Å: vacuum before and behind the film, so that its two surfaces do not touch across the box.
MARGIN = 1.5
# Å: at a seam of two boxes no pair of atoms is nearer; in the boxes themselves none is.
NEAREST = {"C": 1.2, "Ge": 2.0, "Si": 2.0}
# All amorphous films share one speckle, so they share one split.
PROTOTYPE = "amorphous"


class QuenchedBox(NamedTuple):
    """element : symbol; side : Å of the cubic box; position : (n, 3) Å"""

    element: str
    side: float
    position: NDArray[np.float64]


@lru_cache(maxsize=4)
def quenched_box(material: str) -> QuenchedBox:
    """The shipped box of `material`, made by ``python -m emsynth.specimen.quench``."""
    if material not in MATERIALS:
        raise StructureError(f"no amorphous box of {material!r}; there are {', '.join(MATERIALS)}")
    with resources.as_file(resources.files("emsynth.specimen").joinpath("boxes", f"{material}.npz")) as place, \
            np.load(place, allow_pickle=False) as kept:
        side = float(kept["side"])
        # Half a step: the middle of what the 16 bits stand for.
        return QuenchedBox(material, side, (kept["fraction"].astype(float) + 0.5) / 65536 * side)


def film(material: str, thickness: float, tiles: int, streams: Streams) -> NDArray[np.float64]:
    """Positions (n, 3) in Å of a film, periodic sideways with `tiles` boxes, 0 <= z < thickness.

    Parameters
    ----------
    material : str
        Element of the film.
    thickness : float
        Thickness in Å.
    tiles : int
        Boxes along x and along y; within a film wider than the box the pattern repeats.
    streams : Streams
        Random streams of the field: ``specimen.film`` for the first box along the beam, ``specimen.film.1`` for the
        second, and so on.

    Notes
    -----
    A film thicker than the box is a stack of boxes, each turned and shifted for itself: of equal ones the atoms would
    line up in projection, and the contrast would grow as the thickness instead of its square root. Of a pair of atoms
    nearer than `NEAREST` across a seam, the deeper one is left out.
    """
    box = quenched_box(material)
    layers = [_turned(box, streams.generator("specimen.film"))]
    for n in range(1, math.ceil(thickness / box.side)):
        layer = _turned(box, streams.generator(f"specimen.film.{n}")) + np.array([0.0, 0.0, n * box.side])
        layers.append(_without_contacts(layer, layers[-1], box))
    column = np.concatenate(layers)
    column = column[column[:, 2] < thickness]
    shifts = np.array(list(itertools.product(range(tiles), range(tiles), (0,)))) * box.side
    whole: NDArray[np.float64] = (shifts[:, None] + column[None]).reshape(-1, 3)
    return whole


def _turned(box: QuenchedBox, rng: np.random.Generator) -> NDArray[np.float64]:
    """Atoms (n, 3) in Å of the box after one of the 48 symmetry operations of the cube and a shift.

    Either way the box stays periodic, so that layers and films differ though they come from one quench.
    """
    turns = list(itertools.permutations(range(3)))
    order = turns[int(rng.integers(len(turns)))]
    signs = rng.choice([-1.0, 1.0], size=3)
    turned: NDArray[np.float64] = np.mod(box.position[:, order] * signs + rng.uniform(0, box.side, 3), box.side)
    return turned


def _without_contacts(layer: NDArray[np.float64], above: NDArray[np.float64],
                      box: QuenchedBox) -> NDArray[np.float64]:
    """The atoms of `layer` that are not too near to one of the layer above it."""
    from scipy.spatial import cKDTree

    # A period of 0 is none: the seam is open along the beam.
    distance, _ = cKDTree(above, boxsize=[box.side, box.side, 0.0]).query(layer)
    kept: NDArray[np.float64] = layer[distance >= NEAREST[box.element]]
    return kept


class Amorphous(Drawable):
    """An amorphous film over the whole field; the tile is the quenched box, about 30 Å wide."""

    kind: Literal["amorphous"] = "amorphous"
    material: Word = Field("C", description=f"element of the film: {', '.join(MATERIALS)}")
    thickness: Quantity = quantity(50.0, unit="Å", low=10, high=200, about="thickness of the film")

    @field_validator("material")
    @classmethod
    def _known(cls, value: Word) -> Word:
        for name in known_names(value):
            if name not in MATERIALS:
                raise StructureError(f"no amorphous box of {name!r}; there are {', '.join(MATERIALS)}")
        return value

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The film; see `film` for its random streams."""
        from ase import Atoms

        from emsynth.specimen.base import Columns, Specimen
        from emsynth.specimen.thermal import SOURCE, default_displacement

        material, thickness = cast(str, self.material), number(self.thickness)
        side = quenched_box(material).side
        position = film(material, thickness, 1, streams)
        position[:, 2] += MARGIN
        cell = [side, side, math.ceil(thickness + 2 * MARGIN)]
        atoms = Atoms(f"{material}{len(position)}", positions=position, cell=cell, pbc=True)
        return Specimen(atoms=atoms, tile=(side, side), columns=Columns.none(),
                        thermal={material: default_displacement(material)}, mistilt=(0.0, 0.0), kind="amorphous",
                        structure=f"a-{material}", prototype=PROTOTYPE, thickness=thickness,
                        about={"thermal_source": SOURCE, "density": round(density(material), 3)},
                        entrance=MARGIN, slab=True, grain=np.full(len(position), -1, np.int16))


def density(material: str) -> float:
    """Density of the shipped box in g/cm³."""
    from ase.data import atomic_masses, atomic_numbers

    box = quenched_box(material)
    return float(len(box.position) * atomic_masses[atomic_numbers[material]] * 1.66053907 / box.side**3)
