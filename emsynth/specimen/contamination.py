"""Amorphous contamination on the faces of a specimen."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emsynth.draw import Drawable, Quantity, Streams, Uniform, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.amorphous import MARGIN, MATERIALS, film_in_box, folded
from emsynth.specimen.crystal import known_names

if TYPE_CHECKING:
    from emsynth.specimen.base import Columns, Specimen

Floats = NDArray[np.float64]

# Å: nearest approach of the layer's atoms and the specimen's, between a bond and van der Waals contact (ours).
CONTACT = 2.3
# Å: a thinner part of the layer goes to the other face: it would be single atoms.
THINNEST = 2.5


class Contamination(Drawable):
    """A layer that the beam, the air or the preparation left on a specimen: part on either face, as drawn."""

    share: Quantity = quantity(0.5, unit="1", low=0, high=1, about="probability that a specimen is contaminated")
    thickness: Quantity = quantity(Uniform(low=5, high=50), unit="Å", low=5, high=50,
                                   about="thickness of the layers on entrance and exit face together")
    material: Word = Field("C", description=f"element of the layer: {', '.join(MATERIALS)}")

    @field_validator("material")
    @classmethod
    def _known(cls, value: Word) -> Word:
        for name in known_names(value):
            if name not in MATERIALS:
                raise StructureError(f"no amorphous box of {name!r}; there are {', '.join(MATERIALS)}")
        return value

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Draw; `share` collapses to 0 or 1."""
        drawn = super().draw(streams, path)
        there = streams.generator(f"{path}.share.chance").random() < number(drawn.share)
        return drawn.model_copy(update={"share": float(there)})

    def apply(self, specimen: Specimen, streams: Streams) -> Specimen:
        """The specimen between its layers, or as it is where `share` has been drawn as 0.

        Parameters
        ----------
        specimen : Specimen
            Any; its box must be 10 to 150 Å wide.
        streams : Streams
            Random streams of the field: ``specimen.contamination`` for the part on the entrance face, uniform from
            none to all, and those of `film_in_box` for the two films.

        Returns
        -------
        Specimen
            Columns stay where they are, repeated over the whole box, which is the tile now and not endless. `entrance`
            moves with the specimen and `thickness` stays its own: exit planes of a slab under a layer hold the whole
            layer and a part of the slab. With a layer on the exit face it is no slab any more.

        Raises
        ------
        StructureError
            Where the box is too small or too large for a film without repetition.
        TypeError
            Where the share has not been drawn.

        Notes
        -----
        Each layer is a flat sheet as wide as the box, from the specimen's first (last) plane of atoms outwards by the
        layer's thickness and a contact distance. Atoms of the sheet nearer than that to the specimen's are left out:
        the layer follows a rough face, fills its hollows as far as its first plane, and spans vacuum beside it.
        """
        if number(self.share) not in (0.0, 1.0):
            raise TypeError("the share has not been drawn: call .draw(streams) first")
        if number(self.share) == 0:
            return specimen
        material, total = cast(str, self.material), number(self.thickness)
        before = total * streams.generator("specimen.contamination").random()
        before = 0.0 if before < THINNEST else total if total - before < THINNEST else before
        return _between(specimen, material, before, total - before, streams)


def _between(specimen: Specimen, material: str, before: float, behind: float, streams: Streams) -> Specimen:
    from emsynth.specimen.thermal import default_displacement

    side_x, side_y, height = specimen.atoms.cell.lengths()
    inner = specimen.atoms.positions.copy()
    shift = MARGIN + before + CONTACT - float(inner[:, 2].min()) if before else 0.0
    repeat = float(specimen.about.get("beam_repeat", 0.0))
    # By whole repeats, so that the planes lie in their slices as they did.
    lower = math.ceil(shift / repeat) * repeat - shift if repeat else 0.0
    shift += lower
    inner[:, 2] += shift
    height += shift
    sheets = [np.zeros((0, 3))]
    if before:
        sheet = film_in_box(material, side_x, side_y, before + CONTACT, streams, "contamination.entrance")
        sheets.append(_clear(sheet + np.array([0.0, 0.0, MARGIN + lower]), inner, (side_x, side_y)))
    if behind:
        sheet = film_in_box(material, side_x, side_y, behind + CONTACT, streams, "contamination.exit")
        last = float(inner[:, 2].max())
        sheets.append(_clear(sheet + np.array([0.0, 0.0, last]), inner, (side_x, side_y)))
        height = last + CONTACT + behind + MARGIN
    layer = np.concatenate(sheets)
    atoms = specimen.atoms.copy()
    atoms.positions = inner
    atoms.set_cell([side_x, side_y, math.ceil(height)])
    atoms += type(atoms)(f"{material}{len(layer)}", positions=layer)
    grain = np.zeros(len(inner), np.int16) if specimen.grain is None else specimen.grain
    said = {"material": material, "entrance": round(before, 3), "exit": round(behind, 3), "atoms": len(layer)}
    return dataclasses.replace(
        specimen, atoms=atoms, tile=(side_y, side_x), columns=_everywhere(specimen, shift),
        thermal={material: default_displacement(material)} | specimen.thermal,
        about=specimen.about | {"contamination": said}, entrance=specimen.entrance + shift,
        slab=specimen.slab and not behind, endless=(False, False),
        grain=np.concatenate([grain, np.full(len(layer), -1, np.int16)]))


def _clear(sheet: Floats, specimen: Floats, sides: tuple[float, float]) -> Floats:
    """The atoms of a sheet that are not nearer to the specimen's than a contact distance."""
    from scipy.spatial import cKDTree

    tree = cKDTree(folded(specimen, sides), boxsize=[*sides, 0.0])
    distance, _ = tree.query(folded(sheet, sides))
    kept: Floats = sheet[distance >= CONTACT]
    return kept


def _everywhere(specimen: Specimen, shift: float) -> Columns:
    """Columns of the whole box, `shift` Å deeper."""
    from emsynth.specimen.base import Columns

    own, (rows, cols) = specimen.columns, specimen.repeats
    steps = np.array([(row, col) for row in range(rows) for col in range(cols)]) * np.array(specimen.tile)
    copies = len(steps)
    return Columns((steps[:, None] + own.position[None]).reshape(-1, 2), np.tile(own.number, copies),
                   own.formula * copies, np.tile(own.depth, (copies, 1)) + shift, np.tile(own.count, copies))
