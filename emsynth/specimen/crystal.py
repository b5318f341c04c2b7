"""A crystal in or near a zone axis, from the table or from the user's file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from emsynth.draw import AnyChoice, Choice, Deal, Drawable, Quantity, Streams, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.table import Axis, Purpose, refuse_reserved, structure, structures

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen
    from emsynth.specimen.reading import Occupants
    from emsynth.specimen.zone import Lattice, Period

ZoneAxis = Axis | AnyChoice | Literal["listed"]

# Å: the first layer lies this deep, and the box is so much higher than the slab is thick: thermal displacements leave
# no atom outside.
ENTRANCE = 0.5
EXIT = 1.0
# Å: vacuum before and behind a layer or a slab that is not repeated along the beam.
MARGIN = 2.0
# Å: atoms of one layer lie within FLAT; such a sheet is as thick as the distance of graphite's layers.
FLAT = 0.5
SHEET = 3.35
# Å: an empty gap along the beam that makes a cell a finite slab; less where all atoms lie in one plane. The wide
# gaps of layered crystals (3.0-3.5 Å, up to 4.4 Å as some calculations have it) are below.
VACUUM_GAP = 4.8
PLANE_GAP = 3.8
# A cell without symmetry that holds this many atoms is a box: a whole specimen, not a crystal to be repeated.
BOX_ATOMS = 40
LARGEST_ANALYSED = 2000


def known_names(word: Word | None) -> tuple[str, ...]:
    """Every structure that a word of a recipe may come to."""
    if word is None:
        return ()
    return tuple(str(value) for value in word.values) if isinstance(word, Choice | Deal) else (word,)


def checked_axis(value: Any) -> Any:
    """Refuse what is no zone axis: pydantic's validators call this with a list, a choice or ``"listed"``."""
    if value == "listed":
        return value
    for axis in value.values if isinstance(value, Choice | Deal) else (value,):
        if not (isinstance(axis, tuple) and len(axis) == 3 and all(type(n) is int for n in axis) and any(axis)):
            raise ValueError(f"{axis!r} is not a zone axis; give three whole numbers, not all 0, or 'listed'")
    return value


def dealt_axis(name: str, streams: Streams, path: str, rounds: int) -> Axis:
    """One of a structure's zone axes, dealt like cards over its appearances.

    A structure that is itself dealt comes once in `rounds` turns: its appearances are counted, not the turns.
    """
    turns = Streams(streams.seed, streams.index, streams.turn // rounds)
    return cast(Axis, Deal(values=structure(name).zone_axes).sample(turns, f"{path}.zone_axis {name}"))


class OfCrystal(Drawable):
    """Base of the specimens that are made of one crystal, seen along a zone axis."""

    structure: Word | None = Field(None, description="name in the table of structures")
    file: Word | None = Field(None, description="path of a structure file, any format of ASE")
    zone_axis: ZoneAxis = Field("listed", description="[u, v, w] of the conventional (or the file's) cell; 'listed': "
                                                      "one of the structure's own; [0, 0, 1] for a file")
    thickness: Quantity = quantity(100.0, unit="Å", low=20, high=500, about="thickness; a single layer has its own")
    mistilt: Quantity = quantity(0.0, unit="mrad", low=0, high=20, about="tilt of the zone axis against the beam")
    mistilt_azimuth: Quantity = quantity(0.0, unit="deg", low=0, high=360, about="its direction, from +col to +row")
    closest: Quantity = quantity(0.6, unit="Å", low=0, high=1, about="a file with atoms nearer than this is refused")

    @field_validator("structure")
    @classmethod
    def _known(cls, value: Word | None) -> Word | None:
        for name in known_names(value):
            structure(name)
        return value

    @field_validator("zone_axis")
    @classmethod
    def _directions(cls, value: Any) -> Any:
        return checked_axis(value)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.structure is None) == (self.file is None):
            raise ValueError("give either `structure`, a name of the table, or `file`, a path")
        return self

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Collapse every distribution; ``listed`` becomes one of the structure's zone axes, dealt in turn."""
        drawn = super().draw(streams, path)
        if drawn.zone_axis != "listed":
            return drawn
        if drawn.structure is None:
            return drawn.model_copy(update={"zone_axis": (0, 0, 1)})
        rounds = len(self.structure.values) if isinstance(self.structure, Deal) else 1
        return drawn.model_copy(update={"zone_axis": dealt_axis(cast(str, drawn.structure), streams, path, rounds)})

    def source(self, purpose: Purpose) -> _Source:
        """The crystal of a drawn recipe; StructureError where it is reserved or its axis is not a layer's."""
        if self.zone_axis == "listed":
            raise TypeError("the zone axis has not been drawn: call .draw(streams) first")
        found = _from_table(cast(str, self.structure)) if self.structure is not None else \
            _from_file(cast(str, self.file), number(self.closest))
        refuse_reserved(found.name, found.prototype, purpose)
        if found.layer and self.zone[:2] != (0, 0):
            raise StructureError(f"{found.name}: a single layer is seen along [0, 0, 1], not along {list(self.zone)}")
        return found

    @property
    def zone(self) -> Axis:
        """The drawn zone axis."""
        return cast(Axis, self.zone_axis)

    @property
    def tilt(self) -> tuple[float, float]:
        """(row, col) tilt of the specimen against the beam in mrad."""
        tilt, azimuth = number(self.mistilt), math.radians(number(self.mistilt_azimuth))
        return tilt * math.sin(azimuth), tilt * math.cos(azimuth)


class Crystal(OfCrystal):
    """A crystal slab, periodic sideways.

    The beam travels along +[uvw] of the zone axis; x (col) lies along the tile's side nearest to a, y (row) completes
    a right-handed frame.
    """

    kind: Literal["crystal"] = "crystal"
    minimum_box: Quantity = quantity(14.0, unit="Å", low=8, high=60, about="sides of the box are at least this")

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The slab.

        Parameters
        ----------
        streams : Streams
            Random streams of the field; only the occupants of shared sites are drawn from them.
        purpose : str
            ``"suite"`` or ``"tune"`` may use the prototypes that are reserved for it.

        Raises
        ------
        StructureError
            Where the structure cannot be read, is reserved, or has no rectangular tile along the zone axis.
        """
        return _slab(self, self.source(purpose), streams)


@dataclass(frozen=True)
class _Source:
    """What a crystal is made of, wherever it came from."""

    name: str
    prototype: str
    cell: NDArray[np.float64]
    lattice: Lattice
    occupants: tuple[Occupants, ...]
    thermal: dict[str, float]
    box: bool
    layer: bool
    about: dict[str, Any] = field(default_factory=dict)


def _from_table(name: str) -> _Source:
    from emsynth.specimen.reading import Occupants

    entry = structure(name)
    atoms = entry.atoms()
    elements = sorted(set(atoms.numbers.tolist()))
    kind = np.searchsorted(elements, atoms.numbers).astype(np.int64)
    return _Source(entry.name, entry.prototype, atoms.cell[:], _primitive(atoms, kind),
                   tuple(Occupants((z,), (1.0,)) for z in elements), dict(entry.thermal), False, entry.layer,
                   {"thermal_source": entry.thermal_source, "reference": entry.reference})


def _from_file(path: str, closest: float) -> _Source:
    from emsynth.specimen.identify import prototype_of, symmetry
    from emsynth.specimen.reading import read_structure
    from emsynth.specimen.zone import Lattice

    read = read_structure(path, closest)
    found = symmetry(read.atoms, read.kind) if len(read.atoms) <= LARGEST_ANALYSED else None
    box = (found is None or found.number == 1) and len(read.atoms) >= BOX_ATOMS
    lattice = Lattice(read.atoms.cell[:], read.atoms.positions.copy(), read.kind) if box else \
        _primitive(read.atoms, read.kind)
    prototype = f"box {read.digest[:12]}" if box else prototype_of(read.atoms, read.kind, read.digest)
    elements = {z for content in read.occupants for z in content.numbers}
    thermal, source = _thermal(elements, prototype)
    about: dict[str, Any] = {"file_sha256": read.digest, "thermal_source": source}
    if read.notes:
        about["notes"] = list(read.notes)
    return _Source(path.replace("\\", "/").rsplit("/", 1)[-1], prototype, read.atoms.cell[:], lattice, read.occupants,
                   thermal, box, False, about)


def _thermal(elements: set[int], prototype: str) -> tuple[dict[str, float], str]:
    """Displacements of the table's structure that has the same prototype and elements, or estimates."""
    from ase.data import chemical_symbols

    from emsynth.specimen.thermal import SOURCE, default_displacement

    symbols = {chemical_symbols[z] for z in elements}
    for entry in structures():
        if entry.prototype == prototype and set(entry.thermal) == symbols:
            return dict(entry.thermal), entry.thermal_source
    return {symbol: default_displacement(symbol) for symbol in sorted(symbols)}, SOURCE


def _primitive(atoms: Any, kind: NDArray[np.int64]) -> Lattice:
    """Primitive cell in the orientation of `atoms`; their own cell where spglib offers none."""
    import spglib

    from emsynth.specimen.zone import Lattice

    whole = Lattice(atoms.cell[:], atoms.get_positions(), kind)
    try:
        described: Any = (atoms.cell[:], atoms.get_scaled_positions(), kind)
        found = spglib.standardize_cell(described, to_primitive=True, no_idealize=True, symprec=0.01)
    except Exception:  # what spglib raises differs between versions
        found = None
    if found is None:
        return whole
    cell, fraction, kinds = np.asarray(found[0]), np.asarray(found[1]), np.asarray(found[2], np.int64)
    whole_numbers = whole.cell @ np.linalg.inv(cell)
    if np.abs(whole_numbers - np.round(whole_numbers)).max() > 0.01:
        return whole
    # The cell's own vectors, divided: no rounding of spglib's enters the geometry.
    return Lattice(np.linalg.inv(np.round(whole_numbers)) @ whole.cell, fraction @ cell, kinds)


def _slab(recipe: Crystal, source: _Source, streams: Streams) -> Specimen:
    from emsynth.specimen.base import Specimen
    from emsynth.specimen.zone import LONGEST, fill, find_tile, repeats

    zone = recipe.zone
    longest = max(LONGEST, 1.01 * float(np.linalg.norm(source.cell, axis=1).max())) if source.box else LONGEST
    try:
        tile = find_tile(source.lattice.cell, zone, source.cell, longest)
    except StructureError as failure:
        raise StructureError(f"{source.name}: {failure}") from None
    counts = repeats(tile, number(recipe.minimum_box))
    period = fill(source.lattice, tile, counts)
    about = source.about | {"zone_axis": list(zone), "beam_repeat": round(period.depth, 4)}
    if tile.strain > 1e-6:
        about["accommodation_strain"] = round(tile.strain, 6)
    if max(abs(tile.shift[0]), abs(tile.shift[1])) > 0.05:
        about["tile_shift_along_beam"] = [round(tile.shift[1], 4), round(tile.shift[0], 4)]
        about["border_shift_along_beam"] = [round(period.step[1], 4), round(period.step[0], 4)]
    stack = _stack(source, period, number(recipe.thickness))
    if stack.note:
        about["thickness"] = stack.note
    atoms, columns, sides = _atoms_and_columns(source, period, stack, (tile.sides, counts), streams, about)
    return Specimen(atoms=atoms, tile=(sides[1], sides[0]), columns=columns, thermal=source.thermal,
                    mistilt=recipe.tilt, kind="crystal",
                    structure=source.name, prototype=source.prototype, thickness=stack.thickness, about=about,
                    entrance=stack.entrance, slab=stack.slab, endless=(True, True))


@dataclass(frozen=True)
class _Stack:
    """Heights of a slab's atoms: which atom of the period each one repeats, its z, and the box's height in Å.

    `thickness`, `entrance` and `slab` are those of the specimen.
    """

    parent: NDArray[np.int64]
    z: NDArray[np.float64]
    height: float
    thickness: float
    entrance: float
    slab: bool
    note: str


def _stack(source: _Source, period: Period, thickness: float) -> _Stack:
    """Repeat one period along the beam up to the thickness; a layer or a whole box is taken once."""
    from emsynth.specimen.zone import cut_at_largest_gap

    z, gap = cut_at_largest_gap(period.position[:, 2], period.depth)
    extent = float(z.max())
    flat = extent < FLAT and gap > PLANE_GAP
    if source.box or flat or gap > VACUUM_GAP:
        what = "one layer" if flat or source.layer else "the box as it is" if source.box else "a slab with vacuum"
        own = extent if extent >= FLAT else SHEET
        height = MARGIN + max(extent + MARGIN, own)
        return _Stack(np.arange(len(z)), np.maximum(z, 0) + MARGIN, height, own, MARGIN, False,
                      f"{what}, {extent:.2f} Å along the beam, at least {MARGIN:g} Å of vacuum on each side; the "
                      f"recipe's thickness does not apply")
    layers = math.ceil(thickness / period.depth) + 1
    heights = (np.maximum(z, 0)[None] + np.arange(layers)[:, None] * period.depth + ENTRANCE).ravel()
    parent = np.tile(np.arange(len(z)), layers)
    # A thickness of whole repeats ends above the next layer, whatever the rounding.
    kept = heights < ENTRANCE + thickness - 1e-6
    return _Stack(parent[kept], heights[kept], math.ceil(thickness) + EXIT, thickness, ENTRANCE, True, "")


def _atoms_and_columns(source: _Source, period: Period, stack: _Stack, tiling: tuple[Any, tuple[int, int]],
                       streams: Streams, about: dict[str, Any]) -> tuple[Any, Any, tuple[float, float]]:
    """ASE atoms, columns and the sides (x, y) of the tile; shared sites are occupied at random over the whole box."""
    from ase import Atoms

    from emsynth.specimen.columns import cluster, describe
    from emsynth.specimen.reading import occupy

    kind = period.kind[stack.parent]
    mixed = not all(content.certain for content in source.occupants)
    sides, copies = (period.box, (1, 1)) if mixed else tiling
    numbers = occupy(kind, source.occupants, streams.generator("specimen.occupants"))
    if mixed:
        about["occupants"] = "shared sites filled at random by their occupancies over the whole box"
    there = numbers > 0
    if not there.any():
        raise StructureError(f"{source.name}: all sites are vacant; check the occupancies")
    position = np.column_stack([period.position[stack.parent, :2], stack.z])[there]
    atoms = Atoms(numbers=numbers[there], positions=position, cell=[*period.box, stack.height], pbc=True)
    clusters = cluster(period.position[:, :2], sides)
    if clusters.smeared:
        about["atoms_without_column"] = round(clusters.smeared / len(period.position), 4)
    content = None if mixed else np.array([c.numbers[0] for c in source.occupants])[period.kind]
    columns = describe(clusters, stack.parent[there], position[:, 2], numbers[there], copies[0] * copies[1], content)
    return atoms, columns, sides
