"""A crystal that ends: lattice planes seen edge-on against vacuum, with steps, and thinner towards the edge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emsynth.draw import AnyChoice, Choice, Deal, Quantity, Streams, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.block import View, columns_there, dense_planes, edge_on, refuse_many, terraces
from emsynth.specimen.crystal import OfCrystal
from emsynth.specimen.table import Axis, Purpose

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen
    from emsynth.specimen.crystal import _Source

Floats = NDArray[np.float64]

# Among so many of the densest planes the edge is chosen at random.
PLANES = 3
# Å: the narrowest strip of crystal, and the largest box that terraces may ask for.
NARROWEST = 8.0
LARGEST_BOX = 120.0


class Edge(OfCrystal):
    """A strip of crystal in vacuum, its two edges along x (col) parallel to a lattice plane.

    The strip is `box` less `vacuum` wide, to whole lattice planes; across the border of the box its other edge
    follows, at least `vacuum` away. Terraces go through the whole thickness; a wedge thins the exit side.
    """

    kind: Literal["edge"] = "edge"
    plane: Axis | AnyChoice | None = Field(None, description="(h, k, l) of the facet, containing the zone axis; "
                                                                 "one of the three densest at random if not given")
    box: Quantity = quantity(30.0, unit="Å", low=14, high=120, about="side of the box across the edge, enlarged where "
                                                                     "terraces need it, and at least along it")
    vacuum: Quantity = quantity(12.0, unit="Å", low=3, high=100, about="vacuum across the edge, at least")
    steps: Quantity = quantity(0.0, unit="1", low=0, high=10, about="height of the terraces along each edge, in "
                                                                    "lattice planes (rounded)")
    wedge: Quantity = quantity(0.0, unit="Å", low=0, high=100, about="distance from the edge over which the crystal "
                                                                     "becomes as thick as it is, 0 for a blunt edge")
    edge_thickness: Quantity = quantity(10.0, unit="Å", low=2, high=200, about="thickness at the edge of a wedge")

    @field_validator("plane")
    @classmethod
    def _indices(cls, value: Any) -> Any:
        for plane in value.values if isinstance(value, Choice | Deal) else (value,):
            if plane is not None and not (len(plane) == 3 and all(type(n) is int for n in plane) and any(plane)):
                raise ValueError(f"{plane!r} is no plane; give three whole numbers h, k, l, not all 0")
        return value

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The strip; the facet comes from the stream ``specimen.facet``, its terraces from ``specimen.terraces``.

        Raises
        ------
        StructureError
            Where the plane does not contain the zone axis, the vacuum leaves no room for the crystal, the terraces
            need too large a box, or it holds too many atoms.
        """
        source = self.source(purpose)
        if source.box:
            raise StructureError(f"{source.name}: is a whole box, not a crystal, and has no facets to cut")
        box, vacuum = number(self.box), number(self.vacuum)
        room = box - vacuum
        if room < NARROWEST:
            raise StructureError(f"{source.name}: {vacuum:g} Å of vacuum in a box of {box:g} Å leaves "
                                 f"{max(room, 0):g} Å of crystal, at least {NARROWEST:g} Å are needed; enlarge `box` "
                                 f"or take less `vacuum`")
        if number(self.wedge) > 0 and number(self.edge_thickness) > number(self.thickness):
            raise StructureError(f"{source.name}: an edge {number(self.edge_thickness):g} Å thick is no wedge of a "
                                 f"crystal {number(self.thickness):g} Å thick")
        view = self._view(source, streams)
        periods = max(1, math.ceil(box / view.period - 1e-6))
        height = round(number(self.steps))
        # Wide lattice planes: a strip that keeps two whole planes between its terraces may need a larger box.
        planes = max(int(room / view.spacing), 2 * height + 2)
        across = max(box, planes * view.spacing + vacuum)
        if across > max(box, LARGEST_BOX):
            raise StructureError(f"{source.name}: terraces of up to {height} planes {view.spacing:.1f} Å apart need a "
                                 f"box of {across:.0f} Å across the edge, at most {LARGEST_BOX:g} Å are built; take "
                                 f"lower steps or a denser plane")
        refuse_many(source.name, source.lattice, periods * view.period * across * number(self.thickness))
        return _strip(self, source, view, (periods, planes), (across, height), streams)

    def _view(self, source: _Source, streams: Streams) -> View:
        if self.plane is not None:
            return edge_on(source.lattice, self.zone, source.cell, cast(Axis, self.plane))
        views = []
        for plane in dense_planes(source.lattice, self.zone, source.cell, PLANES):
            try:
                views.append(edge_on(source.lattice, self.zone, source.cell, plane))
            except StructureError:
                continue
        if not views:
            raise StructureError(f"{source.name}: no dense plane contains {list(self.zone)}; choose another zone axis")
        return views[int(streams.generator("specimen.facet").integers(len(views)))]


def _strip(recipe: Edge, source: _Source, view: View, counts: tuple[int, int], across: tuple[float, int],
           streams: Streams) -> Specimen:
    """The crystal of so many periods and planes, in a box so wide, with terraces so high."""
    from ase import Atoms

    from emsynth.specimen.base import Specimen
    from emsynth.specimen.columns import cluster
    from emsynth.specimen.crystal import _stack
    from emsynth.specimen.reading import occupy
    from emsynth.specimen.zone import Period, cut_at_largest_gap

    (periods, planes), (box, height) = counts, across
    # The facets pass through the widest gap between the atoms' planes.
    above = cut_at_largest_gap(view.position[:, 1], view.spacing)[0]
    first = float(view.position[0, 1] - above[0]) - 5e-3
    position, kind = view.sheet(periods, first, first + planes * view.spacing)
    side = periods * view.period
    rng = streams.generator("specimen.terraces")
    low, high = (terraces(rng, position[:, :1] / side, height) for _ in range(2))
    plane = np.floor((position[:, 1] - first) / view.spacing + 1e-9)
    kept = (plane >= low) & (plane < planes - high)
    position, kind = position[kept], kind[kept]
    position[:, 1] += (box - planes * view.spacing) / 2 - first
    # Distance of each atom's column from the edge of its own terrace.
    inside = np.minimum(position[:, 1] - (box - planes * view.spacing) / 2 - low[kept] * view.spacing,
                        (box + planes * view.spacing) / 2 - high[kept] * view.spacing - position[:, 1])
    period = Period(position, kind, (side, box), view.depth, (0.0, 0.0))
    stack = _stack(source, period, number(recipe.thickness))
    numbers = occupy(kind[stack.parent], source.occupants, streams.generator("specimen.occupants"))
    there = numbers > 0
    ramp, thinnest = number(recipe.wedge), number(recipe.edge_thickness)
    wedged = ramp > 0 and stack.slab
    if wedged:
        local = thinnest + (stack.thickness - thinnest) * np.clip(inside / ramp, 0.0, 1.0)
        there &= stack.z < stack.entrance + local[stack.parent]
    parent, numbers = stack.parent[there], numbers[there]
    place = np.column_stack([position[parent, :2], stack.z[there]])
    clusters = cluster(position[:, :2], (side, box))
    columns = columns_there(clusters, clusters.label[parent], place, numbers, (side, box))
    about: dict[str, Any] = source.about | {
        "zone_axis": list(recipe.zone), "facet": list(view.plane), "vacuum": round(box - float(np.ptp(place[:, 1])), 3),
        "terrace_planes": height, "beam_repeat": round(view.depth, 4)}
    if abs(view.rise) > 0.05:
        about["border_shift_along_beam"] = [0.0, round(periods * view.rise, 4)]
    if wedged:
        about["wedge"] = round(ramp, 3)
    if stack.note:
        about["thickness"] = stack.note
    if clusters.smeared:
        about["atoms_without_column"] = round(clusters.smeared / len(position), 4)
    return Specimen(
        atoms=Atoms(numbers=numbers, positions=place, cell=[side, box, stack.height], pbc=True), tile=(box, side),
        columns=columns, thermal=source.thermal, mistilt=recipe.tilt, kind="edge", structure=source.name,
        prototype=source.prototype, thickness=stack.thickness, about=about, entrance=stack.entrance,
        slab=stack.slab and not wedged, grain=np.zeros(len(numbers), np.int16), endless=(False, height == 0))
