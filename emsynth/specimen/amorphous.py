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


def film(material: str, thickness: float, tiles: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Positions (n, 3) in Å of a film, periodic sideways with `tiles` boxes, 0 <= z < thickness.

    The box is turned by one of the 48 symmetry operations of the cube and shifted at random, so that films differ
    though they come from one quench; within a film wider than the box the pattern repeats.
    """
    box = quenched_box(material)
    turns = list(itertools.permutations(range(3)))
    order = turns[int(rng.integers(len(turns)))]
    signs = rng.choice([-1.0, 1.0], size=3)
    position = np.mod(box.position[:, order] * signs + rng.uniform(0, box.side, 3), box.side)
    depth = max(1, math.ceil(thickness / box.side))
    shifts = np.array(list(itertools.product(range(tiles), range(tiles), range(depth)))) * box.side
    whole = (shifts[:, None] + position[None]).reshape(-1, 3)
    kept: NDArray[np.float64] = whole[whole[:, 2] < thickness]
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
        """The film; its turn and shift come from the stream ``specimen.film``."""
        from ase import Atoms

        from emsynth.specimen.base import Columns, Specimen
        from emsynth.specimen.thermal import SOURCE, default_displacement

        material, thickness = cast(str, self.material), number(self.thickness)
        side = quenched_box(material).side
        position = film(material, thickness, 1, streams.generator("specimen.film"))
        position[:, 2] += MARGIN
        cell = [side, side, math.ceil(thickness + 2 * MARGIN)]
        atoms = Atoms(f"{material}{len(position)}", positions=position, cell=cell, pbc=True)
        return Specimen(atoms=atoms, tile=(side, side), columns=Columns.none(),
                        thermal={material: default_displacement(material)}, mistilt=(0.0, 0.0), kind="amorphous",
                        structure=f"a-{material}", prototype=PROTOTYPE, thickness=thickness,
                        about={"thermal_source": SOURCE, "density": round(density(material), 3)})


def density(material: str) -> float:
    """Density of the shipped box in g/cm³."""
    from ase.data import atomic_masses, atomic_numbers

    box = quenched_box(material)
    return float(len(box.position) * atomic_masses[atomic_numbers[material]] * 1.66053907 / box.side**3)
