"""Two-dimensional crystals: one to three layers, stacked or twisted, with defects, ripples, holes and edges."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from emsynth.draw import Count, Drawable, Quantity, Streams, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.crystal import FLAT, MARGIN, SHEET, known_names
from emsynth.specimen.table import Purpose, Structure, refuse_reserved, structure, structures

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STACKINGS = ("AA", "AB", "AA'")
# Å from layer to layer: half of c of the crystals (graphite: Trucano and Chen, Nature 258, 136 (1975); hBN: Pease,
# Acta Cryst. 5, 356 (1952); dichalcogenides: Schutte et al., J. Solid State Chem. 70, 207 (1987), and Bronsema et
# al., Z. Anorg. Allg. Chem. 540, 15 (1986)). Twisted and AA ones lie up to 5 % farther apart; no projection shows it.
SPACING = {"graphene": 3.354, "hBN layer": 3.33, "MoS2 layer": 6.148, "WS2 layer": 6.162, "MoSe2 layer": 6.464,
           "WSe2 layer": 6.48}
# Twisted layers are strained by at most this to share a box, and the box may be so many times longer than asked for.
LARGEST_STRAIN = 0.01
LONGER = 1.5
# Å: longest common lattice vector that is looked for; a larger box holds it more than once.
LONGEST_PERIOD = 130.0
# Degrees and strain that weigh as much as a box of twice the area.
ANGLE_WEIGHT = 0.15
STRAIN_WEIGHT = 0.005
# Farthest from the angle asked for, in degrees.
LARGEST_TURN = 1.0
# Å: shortest wave of ripples, strain and rough edges.
SHORTEST_WAVE = 25.0
# Å: adatoms keep this distance from each other; and a hole leaves so much of the layer around it.
ADATOM_GAP = 3.5
RIM = 6.0
# Neighbours of an atom lie within this many times the shortest distance; at rims, those with fewer than this share of
# a whole layer's are gone.
BOND = 1.2
LEAST_BOUND = 0.5


def layer_names() -> tuple[str, ...]:
    """Structures of the table that are single layers."""
    return tuple(entry.name for entry in structures() if entry.layer)


class Layer(Drawable):
    """One to three layers of a two-dimensional crystal, lying across the beam.

    Vacancies, foreign atoms and adatoms are spread at random; a hole or an edge to vacuum follows the bonds; ripples
    and strain are smooth and periodic in the box.
    """

    kind: Literal["layer"] = "layer"
    structure: Word = Field("graphene", description="a single layer of the table")
    box: Quantity = quantity(40.0, unit="Å", low=15, high=150, about="sides of the box are at least this")
    layers: Count = quantity(1, unit="1", low=1, high=3, about="number of layers")
    stacking: Word = Field("AB", description="of several layers: AA, each above the other; AB, moved by a third of "
                                             "the cell's diagonal; AA', turned by 180°: hBN and 2H dichalcogenides")
    twist: Quantity = quantity(0.0, unit="deg", low=0, high=30, about="angle of every other layer to the first; the "
                                                                     "nearest that the box allows is taken")
    vacancies: Quantity = quantity(0.0, unit="1", low=0, high=0.1, about="share of the atoms that are missing")
    vacancy_of: Word | None = Field(None, description="element that is missing; any where not given")
    substitution: Quantity = quantity(0.0, unit="1", low=0, high=0.5, about="share of an element's atoms replaced")
    substituted: Word | None = Field(None, description="element that is replaced; the layer's heaviest where not given")
    substitute: Word | None = Field(None, description="element that replaces it")
    adatoms: Quantity = quantity(0.0, unit="1/nm²", low=0, high=1, about="adatoms on the entrance surface")
    adatom: Word = Field("Si", description="element of the adatoms")
    hole: Quantity = quantity(0.0, unit="Å", low=0, high=100, about="diameter of a hole, 0 for none")
    edge: Quantity = quantity(0.0, unit="1", low=0, high=0.7, about="share of the box that is vacuum beyond an edge")
    ripple: Quantity = quantity(0.0, unit="Å", low=0, high=1, about="largest height of the ripples")
    strain: Quantity = quantity(0.0, unit="1", low=0, high=0.02, about="largest strain of the waves in the plane")

    @field_validator("structure")
    @classmethod
    def _layer(cls, value: Word) -> Word:
        for name in known_names(value):
            if not structure(name).layer:
                raise StructureError(f"{name} is no single layer; layers can be {', '.join(layer_names())}; for a "
                                     f"slab take the kind crystal")
        return value

    @field_validator("stacking")
    @classmethod
    def _stacking(cls, value: Word) -> Word:
        for name in known_names(value):
            if name not in STACKINGS:
                raise StructureError(f"no stacking {name!r}; there are {', '.join(STACKINGS)}")
        return value

    @field_validator("substitute", "adatom")
    @classmethod
    def _element(cls, value: Word | None) -> Word | None:
        from emsynth.specimen.thermal import DEBYE, TYPICAL

        known = sorted({*DEBYE, *TYPICAL})
        for name in known_names(value):
            if name not in known:
                raise StructureError(f"no element {name!r} with a known displacement; there are {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for key, name in itertools.product(("vacancy_of", "substituted"), known_names(self.structure)):
            for element in known_names(getattr(self, key)):
                if element not in structure(name).thermal:
                    raise StructureError(f"{key}: {name} holds no {element}; it holds "
                                         f"{', '.join(structure(name).thermal)}")
        if self.substitution != 0.0 and self.substitute is None:
            raise ValueError("`substitution` needs `substitute`, the element that replaces the layer's")
        return self

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The layers.

        Parameters
        ----------
        streams : Streams
            Random streams of the field: ``specimen.layer.hole``, ``.edge``, ``.substitution``, ``.vacancies``,
            ``.strain``, ``.ripple`` and ``.adatoms``, each for what it says.
        purpose : str
            ``"suite"`` or ``"tune"`` may use the prototypes that are reserved for it.

        Raises
        ------
        StructureError
            Where the hole or the waves do not fit into the box, a twist has one layer only, or no box is commensurate
            with the twist.
        """
        entry = structure(cast(str, self.structure))
        refuse_reserved(entry.name, entry.prototype, purpose)
        _refuse_impossible(self, entry)
        return _assembled(self, entry, streams)


def _refuse_impossible(recipe: Layer, entry: Structure) -> None:
    box, hole, layers = number(recipe.box), number(recipe.hole), int(number(recipe.layers))
    if number(recipe.twist) > 0 and layers < 2:
        raise StructureError(f"twist: {number(recipe.twist):g} deg between {layers} layer; give 2 or 3 layers, or no "
                             f"twist")
    if hole > 0 and hole > box * (1 - number(recipe.edge)) - 2 * RIM:
        most = max(box * (1 - number(recipe.edge)) - 2 * RIM, 0)
        raise StructureError(f"hole: {hole:g} Å is larger than the layer in a box of {box:g} Å allows, {most:.0f} Å; "
                             f"choose a smaller hole, a smaller edge, or a box of at least "
                             f"{(hole + 2 * RIM) / (1 - number(recipe.edge)):.0f} Å")
    if (number(recipe.ripple) > 0 or number(recipe.strain) > 0) and box < SHORTEST_WAVE:
        raise StructureError(f"ripples and strain have waves of {SHORTEST_WAVE:g} Å and more; a box of {box:g} Å holds "
                             f"none, choose one of at least {SHORTEST_WAVE:g} Å")
    if number(recipe.substitution) > 0 and recipe.substitute == _replaced(recipe, entry):
        raise StructureError(f"substitute: {recipe.substitute} replaces itself; choose another element")


def _replaced(recipe: Layer, entry: Structure) -> str:
    from ase.data import atomic_numbers

    return cast(str, recipe.substituted) if recipe.substituted else max(entry.thermal, key=atomic_numbers.__getitem__)


class Commensurate(NamedTuple):
    """How two hexagonal lattices, one turned, share a rectangular box.

    box : sides (x, y) in Å; first, second : (2, 2) whole-number lattice vectors of the cells with 120 degrees that
    become the sides; angle : turn of the second in degrees; strain : of each, isotropic, of either sign
    """

    box: tuple[float, float]
    first: Integers
    second: Integers
    angle: float
    strain: float


def commensurate(constant: float, least: float, twist: float) -> Commensurate:
    """The box in which a hexagonal lattice and the same, turned, both repeat.

    Parameters
    ----------
    constant : float
        Lattice constant in Å.
    least : float
        Sides of the box are at least this, in Å, and at most `LONGER` times that.
    twist : float
        Angle asked for, in degrees.

    Raises
    ------
    StructureError
        Where no box within that has an angle within 1 degree and a strain of at most 1 %.

    Notes
    -----
    Ours. Across each vector t of a hexagonal lattice lies another one, √3 times as long or a whole part of that. So
    two vectors of nearly one length, laid along x, give a common rectangle; where the lengths differ, both lattices
    are strained by half of the difference. Of all pairs the one that is nearest in angle, strain and area is taken,
    weighed by `ANGLE_WEIGHT` and `STRAIN_WEIGHT`.
    """
    if twist == 0:
        n, m = (max(1, math.ceil(least / side - 1e-6)) for side in (constant, constant * math.sqrt(3)))
        cells = np.array([[n, 0], [m, 2 * m]])
        return Commensurate((n * constant, m * constant * math.sqrt(3)), cells, cells, 0.0, 0.0)
    longest = min(LONGER * least, LONGEST_PERIOD)
    reach = math.ceil(longest / constant * 1.2) + 1
    pairs = np.array(list(itertools.product(range(-reach, reach + 1), repeat=2)))
    flat = pairs @ (constant * np.array([[1.0, 0.0], [-0.5, math.sqrt(0.75)]]))
    length, angle = np.linalg.norm(flat, axis=1), np.degrees(np.arctan2(flat[:, 1], flat[:, 0]))
    near = (length > 0) & (length <= longest) & (angle > -32) & (angle < 60)
    pairs, length, angle = pairs[near], length[near], angle[near]
    across = np.column_stack([pairs[:, 0] - 2 * pairs[:, 1], 2 * pairs[:, 0] - pairs[:, 1]])
    parts = np.gcd(across[:, 0], across[:, 1])
    lead = np.flatnonzero(angle >= 0)
    strain = (length[None] / length[lead, None] - 1) / 2
    off = np.abs(angle[lead, None] - angle[None] - twist)
    # Nearer to the angle than to none at all.
    nearest = min(LARGEST_TURN, twist / 2)
    cost, chosen = math.inf, None
    for i, j in zip(*np.nonzero((np.abs(strain) <= LARGEST_STRAIN) & (off <= nearest)), strict=True):
        one, mean = lead[i], (length[lead[i]] + length[j]) / 2
        part = int(np.gcd(parts[one], parts[j]))
        sides = mean, mean * math.sqrt(3) / part
        repeats = [math.ceil(least / side - 1e-6) for side in sides]
        box = float(repeats[0] * sides[0]), float(repeats[1] * sides[1])
        if max(box) > LONGER * least:
            continue
        dear = off[i, j] / ANGLE_WEIGHT + abs(strain[i, j]) / STRAIN_WEIGHT + box[0] * box[1] / least**2
        if dear < cost:
            vectors = [np.array([repeats[0] * pairs[n], repeats[1] * across[n] // part]) for n in (one, j)]
            cost, chosen = dear, Commensurate(box, vectors[0], vectors[1], float(angle[one] - angle[j]),
                                              float(abs(strain[i, j])))
    if chosen is None:
        raise StructureError(f"twist: no box of {least:g} to {LONGER * least:g} Å is commensurate with {twist:g} deg "
                             f"within {nearest:g} deg and a strain of {LARGEST_STRAIN:.0%}; choose a larger box, or a "
                             f"larger angle")
    return chosen


class _Atoms(NamedTuple):
    """Atoms on their way to a specimen.

    position : (n, 3) Å; number : (n,); layer : (n,) from 0, -1 of adatoms
    site : (n,) atom of the layer's cell; serial : (n,) index in the whole stack, by which random numbers are dealt
    """

    position: Floats
    number: Integers
    layer: Integers
    site: Integers
    serial: Integers

    def where(self, kept: NDArray[np.bool_]) -> _Atoms:
        return _Atoms(self.position[kept], self.number[kept], self.layer[kept], self.site[kept],
                      self.serial[kept])


def _sheet(entry: Structure, box: tuple[float, float], vectors: Integers, n: int, moved: tuple[Floats, bool]) -> _Atoms:
    """One layer that fills the box: its atoms, z from the layer's middle; `moved`: shift, and whether half a turn."""
    shift, half_turn = moved
    cell = entry.atoms()
    fraction = cell.get_scaled_positions(wrap=False)
    fraction = np.where(half_turn, -fraction, fraction)[:, :2] + shift
    z = cell.positions[:, 2] - cell.positions[:, 2].mean()
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ vectors
    spans = [np.arange(low, high + 1) for low, high in zip(corners.min(axis=0) - 1, corners.max(axis=0) + 1,
                                                         strict=True)]
    cells = np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, 2)
    inside = cells @ np.linalg.inv(vectors)
    cells = cells[np.all((inside > -1e-9) & (inside < 1 - 1e-9), axis=1)]
    place = (cells[:, None] + fraction[None]).reshape(-1, 2) @ np.linalg.inv(vectors)
    place = np.mod(place + 1e-9, 1.0) * np.array(box)
    count = len(cells)
    return _Atoms(np.column_stack([place, np.tile(z, count)]), np.tile(cell.numbers, count).astype(np.int64),
                  np.full(count * len(cell), n, np.int64), np.tile(np.arange(len(cell)), count),
                  np.arange(count * len(cell)))


def _stack(recipe: Layer, entry: Structure) -> tuple[_Atoms, Commensurate]:
    """All layers at their heights, whole; and how they share the box."""
    fit = commensurate(entry.cell[0], number(recipe.box), number(recipe.twist))
    sheets = []
    for n in range(int(number(recipe.layers))):
        shift = np.array([1 / 3, 2 / 3]) * (n % 2) if recipe.stacking == "AB" else np.zeros(2)
        sheet = _sheet(entry, fit.box, fit.second if n % 2 else fit.first, n,
                       (shift, recipe.stacking == "AA'" and n % 2 == 1))
        sheets.append(sheet._replace(position=sheet.position + np.array([0, 0, n * SPACING.get(entry.name, SHEET)])))
    whole = _Atoms(*(np.concatenate(parts) for parts in zip(*sheets, strict=True)))
    return whole._replace(serial=np.arange(len(whole.number))), fit


def _assembled(recipe: Layer, entry: Structure, streams: Streams) -> Specimen:
    from ase import Atoms
    from ase.data import atomic_numbers

    from emsynth.specimen.base import Specimen
    from emsynth.specimen.columns import cluster, describe
    from emsynth.specimen.thermal import default_displacement

    atoms, fit = _stack(recipe, entry)
    box = np.array(fit.box)
    about: dict[str, Any] = {"layers": int(number(recipe.layers)), "box": [round(side, 4) for side in fit.box]}
    if about["layers"] > 1 and fit.angle == 0:
        about["stacking"] = recipe.stacking
    if fit.angle != 0:
        about |= {"twist": round(fit.angle, 4), "twist_asked": number(recipe.twist),
                  "accommodation_strain": round(fit.strain, 6)}
    whole = len(atoms.number)
    atoms = _opened(recipe, entry, atoms, box, streams)
    if len(atoms.number) < whole:
        about["beyond_rims"] = whole - len(atoms.number)
    thermal = dict(entry.thermal)
    if number(recipe.substitution) > 0:
        replaced = atomic_numbers[_replaced(recipe, entry)]
        chance = streams.generator("specimen.layer.substitution").uniform(size=whole)[atoms.serial]
        foreign = (atoms.number == replaced) & (chance < number(recipe.substitution))
        substitute = cast(str, recipe.substitute)
        atoms = atoms._replace(number=np.where(foreign, atomic_numbers[substitute], atoms.number))
        thermal.setdefault(substitute, default_displacement(substitute))
        about["substituted"] = int(foreign.sum())
    if number(recipe.vacancies) > 0:
        chance = streams.generator("specimen.layer.vacancies").uniform(size=whole)[atoms.serial]
        able = np.ones(len(atoms.number), bool) if recipe.vacancy_of is None else \
            atoms.number == atomic_numbers[cast(str, recipe.vacancy_of)]
        gone = able & (chance < number(recipe.vacancies))
        atoms = atoms.where(~gone)
        about["vacancies"] = int(gone.sum())
    atoms = _deformed(recipe, atoms, box, streams)
    if number(recipe.adatoms) > 0:
        atoms = _with_adatoms(recipe, atoms, box, streams)
        thermal.setdefault(cast(str, recipe.adatom), default_displacement(cast(str, recipe.adatom)))
        about["adatoms"] = int(np.sum(atoms.layer < 0))
    position = atoms.position - np.array([0, 0, atoms.position[:, 2].min() - MARGIN])
    position[:, :2] = np.mod(position[:, :2], box)
    extent = float(np.ptp(position[:, 2]))
    thickness = extent if extent >= FLAT else SHEET
    perfect = len(atoms.number) == whole and fit.angle == 0 and not number(recipe.ripple) and \
        not number(recipe.strain) and not number(recipe.substitution) and "adatoms" not in about
    cell = entry.cell[0], entry.cell[0] * math.sqrt(3)
    tile = cell if perfect else fit.box
    first = np.all(position[:, :2] < np.array(tile) - 1e-6, axis=1) if perfect else np.ones(len(position), bool)
    clusters = cluster(position[first, :2], tile)
    columns = describe(clusters, np.arange(int(first.sum())), position[first, 2], atoms.number[first], 1)
    about |= {"thermal_source": entry.thermal_source, "reference": entry.reference}
    if clusters.smeared:
        about["atoms_without_column"] = round(clusters.smeared / len(position), 4)
    made = Atoms(numbers=atoms.number, positions=position, pbc=True,
                 cell=[*fit.box, math.ceil(MARGIN + max(extent + MARGIN, thickness))])
    return Specimen(atoms=made, tile=(tile[1], tile[0]), columns=columns, thermal=thermal, mistilt=(0.0, 0.0),
                    kind="layer", structure=entry.name if about["layers"] == 1 else f"{about['layers']} {entry.name}",
                    prototype=entry.prototype, thickness=thickness, about=about, entrance=MARGIN, slab=False,
                    grain=atoms.layer.astype(np.int16), endless=(perfect, perfect))


def _opened(recipe: Layer, entry: Structure, atoms: _Atoms, box: Floats, streams: Streams) -> _Atoms:
    """Without the atoms within the hole and beyond the edge, nor those that hang on too few bonds at the rims."""
    away = np.zeros(len(atoms.number), bool)
    share, hole = number(recipe.edge), number(recipe.hole)
    lowest, highest, along = 0.0, 0.0, 0
    if share > 0:
        rng = streams.generator("specimen.layer.edge")
        along = int(rng.integers(2))
        rough = _wave(rng, box, 1)[0]
        depth = rng.uniform(1.0, 4.0) * rough(atoms.position[:, :2] * np.eye(2)[along])
        across = atoms.position[:, 1 - along] + depth
        lowest, highest = (1 - share) * box[1 - along] / 2, (1 + share) * box[1 - along] / 2
        away |= (across > lowest) & (across < highest)
    if hole > 0:
        rng = streams.generator("specimen.layer.hole")
        centre = rng.uniform(0, 1, 2) * box
        if share > 0:
            # In the middle of what the edge leaves, which goes on across the border of the box.
            centre[1 - along] = 0.0
        offset = atoms.position[:, :2] - centre
        offset -= box * np.round(offset / box)
        angle = np.arctan2(offset[:, 1], offset[:, 0])
        uneven = sum(rng.normal(0, 0.06) * np.cos(n * angle + rng.uniform(0, 2 * math.pi)) for n in (2, 3, 4))
        away |= np.hypot(*offset.T) < hole / 2 * (1 + np.clip(uneven, -0.15, 0.0 + 0.1))
    if not away.any():
        return atoms
    return _without_stray(atoms.where(~away), entry, box)


def _without_stray(atoms: _Atoms, entry: Structure, box: Floats) -> _Atoms:
    """Without the atoms that have less than `LEAST_BOUND` of the neighbours in a whole layer."""
    from ase.neighborlist import neighbor_list
    from scipy.spatial import cKDTree

    cell = entry.atoms()
    first, distance = neighbor_list("id", cell, 3.2)
    limit = BOND * float(distance.min())
    least = np.ceil(LEAST_BOUND * np.bincount(first[distance <= limit], minlength=len(cell)))
    while True:
        space = np.append(box, 0.0)
        tree = cKDTree(np.mod(atoms.position - np.array([0, 0, atoms.position[:, 2].min()]), [*box, np.inf]),
                       boxsize=space)
        pairs = tree.query_pairs(limit, output_type="ndarray")
        pairs = pairs[atoms.layer[pairs[:, 0]] == atoms.layer[pairs[:, 1]]]
        bonds = np.bincount(pairs.ravel(), minlength=len(atoms.number))
        stray = bonds < least[atoms.site]
        if not stray.any():
            return atoms
        atoms = atoms.where(~stray)


def _wave(rng: np.random.Generator, box: Floats, count: int) -> list[Any]:
    """`count` smooth random functions of (x, y), periodic in the box, at most 1 in size and without mean."""
    reach = [int(side / SHORTEST_WAVE) for side in box]
    waves = np.array([wave for wave in itertools.product(range(-reach[0], reach[0] + 1), range(reach[1] + 1))
                      if wave > (0, 0) or wave[1] > 0], float).reshape(-1, 2)
    waves = waves[np.linalg.norm(waves / box, axis=1) <= 1 / SHORTEST_WAVE]
    grid = np.stack(np.meshgrid(*[np.linspace(0, side, 48, endpoint=False) for side in box], indexing="ij"),
                    -1).reshape(-1, 2)
    made = []
    for _ in range(count):
        size, phase = rng.normal(size=len(waves)), rng.uniform(0, 2 * math.pi, len(waves))
        # Long waves are the high ones.
        size = size / np.maximum(np.linalg.norm(waves / box, axis=1), 1e-9)

        def value(xy: Floats, size: Floats = size, phase: Floats = phase) -> Floats:
            summed: Floats = np.cos(2 * math.pi * (xy / box) @ waves.T + phase) @ size
            return summed

        largest = float(np.abs(value(grid)).max()) if len(waves) else 1.0
        made.append(lambda xy, value=value, largest=largest: value(xy) / largest)
    return made


def _deformed(recipe: Layer, atoms: _Atoms, box: Floats, streams: Streams) -> _Atoms:
    """Moved by the waves in the plane and by the ripples, which all layers share."""
    position = atoms.position.copy()
    if number(recipe.strain) > 0:
        first, second = _wave(streams.generator("specimen.layer.strain"), box, 2)
        grid = np.stack(np.meshgrid(*[np.linspace(0, side, 48, endpoint=False) for side in box], indexing="ij"),
                        -1).reshape(-1, 2)
        step = 0.01
        slopes = [[(wave(grid + step * np.eye(2)[axis]) - wave(grid)) / step for axis in (0, 1)]
                  for wave in (first, second)]
        xx, yy, xy = slopes[0][0], slopes[1][1], (slopes[0][1] + slopes[1][0]) / 2
        largest = np.abs((xx + yy) / 2) + np.hypot((xx - yy) / 2, xy)
        scale = number(recipe.strain) / float(largest.max())
        position[:, 0] += scale * first(atoms.position[:, :2])
        position[:, 1] += scale * second(atoms.position[:, :2])
    if number(recipe.ripple) > 0:
        height = _wave(streams.generator("specimen.layer.ripple"), box, 1)[0]
        position[:, 2] += number(recipe.ripple) * height(atoms.position[:, :2])
    return atoms._replace(position=position)


def _with_adatoms(recipe: Layer, atoms: _Atoms, box: Floats, streams: Streams) -> _Atoms:
    """With adatoms at random places of the layer's entrance side, as near as the sum of the covalent radii allows."""
    from ase.data import atomic_numbers, covalent_radii
    from scipy.spatial import cKDTree

    element = atomic_numbers[cast(str, recipe.adatom)]
    rng = streams.generator("specimen.layer.adatoms")
    wanted = round(number(recipe.adatoms) * float(np.prod(box)) / 100)
    tree = cKDTree(np.mod(atoms.position[:, :2], box), boxsize=box)
    contact = covalent_radii[element] + covalent_radii[atoms.number]
    found: list[Floats] = []
    for place in rng.uniform(0, 1, (60 * wanted + 60, 2)) * box:
        if len(found) == wanted:
            break
        offsets = np.array(found).reshape(-1, 3)[:, :2] - place
        offsets -= box * np.round(offsets / box)
        near = np.array(tree.query_ball_point(place, float(contact.max())), np.int64)
        if (len(offsets) and np.hypot(*offsets.T).min() < ADATOM_GAP) or len(near) < 2:
            continue
        away = atoms.position[near, :2] - place
        away -= box * np.round(away / box)
        rise = np.sqrt(np.maximum(contact[near] ** 2 - np.sum(away**2, axis=1), 0.0))
        found.append(np.append(place, float(np.min(atoms.position[near, 2] - rise))))
    added = np.array(found).reshape(-1, 3)
    return _Atoms(np.concatenate([atoms.position, added]),
                  np.concatenate([atoms.number, np.full(len(added), element)]).astype(np.int64),
                  np.concatenate([atoms.layer, np.full(len(added), -1)]).astype(np.int64),
                  *(np.concatenate([part, np.full(len(added), -1)]).astype(np.int64)
                    for part in (atoms.site, atoms.serial)))
