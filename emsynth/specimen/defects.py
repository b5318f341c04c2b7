"""A crystal that is not perfect: vacancies, foreign atoms, wedge, steps, strain, a precipitate, dislocations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from emsynth.draw import Quantity, Streams, Word, extremes, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.block import bond_table, columns_there, neighbours, refuse_many, terraces
from emsynth.specimen.crystal import OfCrystal, _Source, known_names
from emsynth.specimen.table import Purpose, prototype_split, refuse_reserved, structure

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen
    from emsynth.specimen.columns import Clusters

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Å: what a wedge leaves at its thinnest, and how far a precipitate keeps from the borders of the box.
THINNEST = 10.0
CLEARANCE = 3.0
# A precipitate whose cell differs by less is strained to the matrix.
COHERENT = 0.06
# Foreign atoms are no nearer than this part of the sum of their covalent radii, or of the nearest neighbours' distance.
BOND = 0.75
NEAREST = 0.8
# Waves of a strain map: so many, with up to so many periods along each side.
WAVES = 5
HIGHEST = 2
# Atoms in the core of a dislocation that are nearer than this part of the nearest neighbours' distance are one.
CROWDED = 0.75
# Images of a dislocation pair that are summed on each side.
IMAGES = 8


class Defects(OfCrystal):
    """A crystal with point defects, steps, a wedge, strain, a precipitate or a pair of dislocations.

    The box is of whole tiles, at least `box` wide, and periodic sideways; all amounts are 0 where not given.
    """

    kind: Literal["defects"] = "defects"
    box: Quantity = quantity(28.0, unit="Å", low=14, high=120, about="sides of the box, at least; whole tiles")
    vacancies: Quantity = quantity(0.0, unit="1", low=0, high=0.3, about="part of the sites that is empty, at random")
    vacancy_site: Word | None = Field(None, description="element that leaves its sites; all do if not given")
    substitution: Quantity = quantity(0.0, unit="1", low=0, high=0.5, about="part of the sites with a `dopant`")
    dopant: Word | None = Field(None, description="element that substitutes")
    dopant_site: Word | None = Field(None, description="element that is substituted; all are if not given")
    antisites: Quantity = quantity(0.0, unit="1", low=0, high=0.3, about="part of the sites of the rarer of two "
                                                                         "elements that exchange their atoms")
    antisite_elements: tuple[str, str] | None = Field(None, description="the two; the two heaviest if not given")
    wedge: Quantity = quantity(0.0, unit="deg", low=0, high=60, about="slope of a roof on the exit side, ridge to "
                                                                      "valley over half the box; `thickness` is at "
                                                                      "the ridge")
    entrance_steps: Quantity = quantity(0.0, unit="1", low=0, high=10, about="height of the terraces where the beam "
                                                                             "enters, in repeats along it (rounded)")
    exit_steps: Quantity = quantity(0.0, unit="1", low=0, high=10, about="the same where it leaves")
    strain: Quantity = quantity(0.0, unit="1", low=0, high=0.02, about="largest local strain of a few long waves")
    precipitate: Word | None = Field(None, description="structure of the table that makes a precipitate")
    precipitate_diameter: Quantity = quantity(20.0, unit="Å", low=6, high=100, about="its diameter")
    precipitate_aspect: Quantity = quantity(1.0, unit="1", low=0.1, high=1, about="its thickness over its diameter: "
                                                                                  "1 a sphere, less a plate edge-on")
    dislocations: Quantity = quantity(0.0, unit="1", low=0, high=1, about="chance of a pair of opposite edge "
                                                                          "dislocations along the beam")

    @field_validator("dopant", "vacancy_site", "dopant_site", "antisite_elements")
    @classmethod
    def _element(cls, value: Any) -> Any:
        for name in value if isinstance(value, tuple) else known_names(value):
            if name not in _symbols():
                raise ValueError(f"{name!r} is not a chemical element; give a symbol such as La")
        return value

    @field_validator("precipitate")
    @classmethod
    def _tabled(cls, value: Word | None) -> Word | None:
        for name in known_names(value):
            if structure(name).layer:
                raise StructureError(f"{name}: a single layer makes no precipitate")
        return value

    @model_validator(mode="after")
    def _needed(self) -> Self:
        if max(extremes(self.substitution)) > 0 and self.dopant is None:
            raise ValueError("substitution needs a `dopant`, the element that substitutes")
        return self

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Collapse every distribution; the chance of dislocations becomes 0 or 1."""
        drawn = super().draw(streams, path)
        there = streams.uniform(f"{path}.dislocations.chance") < number(drawn.dislocations)
        return drawn.model_copy(update={"dislocations": float(there)})

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The crystal; each sort of defect has its own stream, ``specimen.vacancies`` and so on.

        Raises
        ------
        StructureError
            Where an element is not in the crystal, the wedge or the steps leave nothing, the precipitate does not fit
            or belongs to another split, a single layer is asked for a wedge, or there are too many atoms.
        """
        source = self.source(purpose)
        self._refuse(source, purpose)
        block = _block(self, source)
        return _defective(self, source, block, streams, purpose)

    def _refuse(self, source: _Source, purpose: Purpose) -> None:
        """What can be refused before anything is built."""
        inside = _elements(source)
        for name in ("vacancy_site", "dopant_site"):
            word = getattr(self, name)
            if word is not None and word not in inside:
                raise StructureError(f"{source.name}: holds no {word} (`{name}`); it holds {', '.join(inside)}")
        if number(self.antisites) > 0:
            pair = self.antisite_elements or inside[:2]
            if len(set(pair)) < 2 or not set(pair) <= set(inside):
                raise StructureError(f"{source.name}: holds {', '.join(inside)}; anti-sites need two of its elements")
        if self.precipitate is not None:
            other = structure(cast(str, self.precipitate))
            refuse_reserved(other.name, other.prototype, purpose)
            mine, its = prototype_split(source.prototype), prototype_split(other.prototype)
            if mine != its and purpose == "build":
                raise StructureError(f"{other.name}: its prototype {other.prototype} belongs to the split {its!r}, "
                                     f"that of {source.name} to {mine!r}; one specimen shows both, so take a "
                                     f"precipitate of the same split")
            thickness = number(self.thickness)
            if number(self.precipitate_diameter) > thickness:
                raise StructureError(f"{source.name}: a precipitate of {number(self.precipitate_diameter):g} Å does "
                                     f"not fit into a crystal {thickness:g} Å thick")


@dataclass(frozen=True)
class _Block:
    """The perfect crystal: positions (n, 3) in Å with z in the box, kinds, column of each site, and the box.

    `cell` are the vectors of the crystal's cell in the box's axes, `depth` the repeat along the beam.
    """

    position: Floats
    kind: Integers
    label: Integers
    clusters: Clusters
    sides: tuple[float, float]
    height: float
    thickness: float
    entrance: float
    slab: bool
    depth: float
    cell: Floats
    slip: tuple[Floats, Floats] | None
    about: dict[str, Any]


def _block(recipe: Defects, source: _Source) -> _Block:
    from emsynth.specimen.columns import cluster
    from emsynth.specimen.crystal import _stack
    from emsynth.specimen.zone import LONGEST, fill, find_tile, repeats

    longest = max(LONGEST, 1.01 * float(np.linalg.norm(source.cell, axis=1).max())) if source.box else LONGEST
    try:
        tile = find_tile(source.lattice.cell, recipe.zone, source.cell, longest)
    except StructureError as failure:
        raise StructureError(f"{source.name}: {failure}") from None
    counts = repeats(tile, number(recipe.box))
    sides = tile.sides[0] * counts[0], tile.sides[1] * counts[1]
    refuse_many(source.name, source.lattice, sides[0] * sides[1] * number(recipe.thickness))
    diameter = number(recipe.precipitate_diameter)
    if recipe.precipitate is not None and diameter + 2 * CLEARANCE > min(sides):
        raise StructureError(f"{source.name}: a precipitate of {diameter:g} Å needs a box of "
                             f"{diameter + 2 * CLEARANCE:g} Å, this one is {min(sides):.1f} Å; enlarge `box`")
    period = fill(source.lattice, tile, counts)
    about = source.about | {"zone_axis": list(recipe.zone), "beam_repeat": round(period.depth, 4)}
    if tile.strain > 1e-6:
        about["accommodation_strain"] = round(tile.strain, 6)
    if max(abs(step) for step in period.step) > 0.05:
        about["border_shift_along_beam"] = [round(period.step[1], 4), round(period.step[0], 4)]
    stack = _stack(source, period, number(recipe.thickness))
    if stack.note:
        about["thickness"] = stack.note
        wanted = [name for name in ("wedge", "entrance_steps", "exit_steps") if number(getattr(recipe, name)) > 0]
        if wanted or recipe.precipitate is not None:
            raise StructureError(f"{source.name}: is one layer or slab of its own thickness, and takes no "
                                 f"{wanted[0] if wanted else 'precipitate'}; leave it out, or take another structure")
    clusters = cluster(period.position[:, :2], period.box)
    if clusters.smeared:
        about["atoms_without_column"] = round(clusters.smeared / len(period.position), 4)
    axis = tile.beam / np.linalg.norm(tile.beam)
    x = tile.x - (tile.x @ axis) * axis
    x /= np.linalg.norm(x)
    frame = np.array([x, np.cross(axis, x), axis])
    kind = period.kind[stack.parent]
    return _Block(np.column_stack([period.position[stack.parent, :2], stack.z]), kind, clusters.label[stack.parent],
                  clusters, period.box, stack.height, stack.thickness, stack.entrance, stack.slab, period.depth,
                  source.cell @ frame.T, _slip(source.lattice.cell @ frame.T), about)


def _slip(lattice: Floats) -> tuple[Floats, Floats] | None:
    """The shortest lattice vector perpendicular to the beam, and its unit vector in the plane; None without one."""
    steps = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    vectors = steps[np.any(steps != 0, axis=1)] @ lattice
    flat = vectors[np.abs(vectors[:, 2]) < 1e-3]
    if len(flat) == 0:
        return None
    burgers = flat[np.lexsort((-flat[:, 0], np.round(np.linalg.norm(flat, axis=1), 3)))[0], :2]
    return burgers, burgers / np.linalg.norm(burgers)


def _elements(source: _Source) -> list[str]:
    """Elements of a crystal, the heaviest first."""
    from ase.data import chemical_symbols

    present = {z for content in source.occupants for z in content.numbers}
    return [chemical_symbols[z] for z in sorted(present, reverse=True)]


def _symbols() -> frozenset[str]:
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1:])


def _defective(recipe: Defects, source: _Source, block: _Block, streams: Streams, purpose: Purpose) -> Specimen:
    from ase import Atoms

    from emsynth.specimen.base import Specimen
    from emsynth.specimen.reading import occupy
    from emsynth.specimen.thermal import default_displacement

    about = dict(block.about)
    position = block.position
    numbers = occupy(block.kind, source.occupants, streams.generator("specimen.occupants"))
    numbers = _point_defects(recipe, source, numbers, streams, about)
    label, clusters, grain = block.label, block.clusters, np.zeros(len(position), np.int16)
    thermal = dict(source.thermal)
    if recipe.precipitate is not None:
        position, numbers, label, clusters, grain = _with_precipitate(recipe, block, numbers, streams, about)
        thermal = dict(structure(cast(str, recipe.precipitate)).thermal) | thermal
    there = (numbers > 0) & _within(recipe, source, block, position, streams, about)
    if not there.any():
        raise StructureError(f"{source.name}: nothing is left of the crystal; take fewer vacancies or lower steps")
    position, numbers, label, grain = position[there], numbers[there], label[there], grain[there]
    position = position.copy()
    position[:, :2] += _displacement(recipe, source, block, position, streams, about)
    side = np.array(block.sides)
    position[:, :2] -= side * np.floor(position[:, :2] / side + 1e-9)
    position[:, :2] = np.maximum(position[:, :2], 0.0)
    if number(recipe.dislocations) > 0:
        free = _uncrowded(position, block.sides, source)
        position, numbers, label, grain = position[free], numbers[free], label[free], grain[free]
        about["dislocations"]["removed_atoms"] = int(np.sum(~free))
    columns = columns_there(clusters, label, position, numbers, block.sides)
    atoms = Atoms(numbers=numbers, positions=position, cell=[*block.sides, block.height], pbc=True)
    for symbol in sorted(set(atoms.symbols)):
        thermal.setdefault(symbol, default_displacement(symbol))
    cut = number(recipe.wedge) > 0 or round(number(recipe.entrance_steps)) > 0 or round(number(recipe.exit_steps)) > 0
    return Specimen(
        atoms=atoms, tile=(block.sides[1], block.sides[0]), columns=columns, thermal=thermal, mistilt=recipe.tilt,
        kind="defects", structure=source.name, prototype=source.prototype, thickness=block.thickness, about=about,
        entrance=block.entrance, slab=block.slab and not cut and recipe.precipitate is None, grain=grain,
        endless=(False, False))


def _point_defects(recipe: Defects, source: _Source, numbers: Integers, streams: Streams, about: dict[str, Any]
                   ) -> Integers:
    """Exchange, substitute, remove: each site by chance, each sort of defect from its own stream."""
    from ase.data import atomic_numbers

    numbers = numbers.copy()

    def sites(word: str | None) -> Mask:
        return numbers > 0 if word is None else numbers == atomic_numbers[word]

    if number(recipe.antisites) > 0:
        pair = recipe.antisite_elements or tuple(_elements(source)[:2])
        order = streams.generator("specimen.antisites").permutation(len(numbers))
        first, second = (order[sites(symbol)[order]] for symbol in pair)
        count = round(number(recipe.antisites) * min(len(first), len(second)))
        numbers[first[:count]], numbers[second[:count]] = numbers[second[:count]], numbers[first[:count]]
        about["antisites"] = {"elements": list(pair), "pairs": count}
    if number(recipe.substitution) > 0:
        chance = streams.generator("specimen.substitution").random(len(numbers))
        chosen = sites(cast(str | None, recipe.dopant_site)) & (chance < number(recipe.substitution))
        numbers[chosen] = atomic_numbers[cast(str, recipe.dopant)]
        about["substituted"] = int(chosen.sum())
    if number(recipe.vacancies) > 0:
        chance = streams.generator("specimen.vacancies").random(len(numbers))
        chosen = sites(cast(str | None, recipe.vacancy_site)) & (chance < number(recipe.vacancies))
        numbers[chosen] = 0
        about["vacancies"] = int(chosen.sum())
    return numbers


def _within(recipe: Defects, source: _Source, block: _Block, position: Floats, streams: Streams, about: dict[str, Any]
            ) -> Mask:
    """Which atoms lie between the surfaces: terraces where the beam enters, terraces and a roof where it leaves."""
    place = position[:, :2] / np.array(block.sides)
    top = np.full(len(position), block.entrance - 0.1)
    bottom = np.full(len(position), block.entrance + block.thickness)
    deepest = 0.0
    for word, surface, sign in (("entrance_steps", top, 1), ("exit_steps", bottom, -1)):
        height = round(number(getattr(recipe, word)))
        if height > 0:
            surface += sign * block.depth * terraces(streams.generator(f"specimen.{word}"), place, height)
            deepest += height * block.depth
            about[word] = height
    slope = number(recipe.wedge)
    if slope > 0:
        rng = streams.generator("specimen.wedge")
        axis, ridge = int(rng.integers(2)), rng.uniform()
        away = np.abs((place[:, axis] - ridge + 0.5) % 1.0 - 0.5) * block.sides[axis]
        bottom -= math.tan(math.radians(slope)) * away
        deepest += math.tan(math.radians(slope)) * block.sides[axis] / 2
        about["wedge"] = {"degrees": round(slope, 4), "across": "row" if axis else "col",
                          "ridge": round(ridge * block.sides[axis], 3)}
    if deepest > 0 and deepest + THINNEST > block.thickness:
        raise StructureError(f"{source.name}: wedge and steps take up to {deepest:.1f} Å from a crystal "
                             f"{block.thickness:g} Å thick, and at least {THINNEST:g} Å must stay; take a gentler "
                             f"wedge, lower steps or a thicker crystal")
    inside: Mask = (position[:, 2] >= top) & (position[:, 2] < bottom)
    return inside


def _displacement(recipe: Defects, source: _Source, block: _Block, position: Floats, streams: Streams,
                  about: dict[str, Any]) -> Floats:
    """Sideways displacement (n, 2) in Å, the same along each column."""
    moved = np.zeros((len(position), 2))
    if number(recipe.strain) > 0:
        moved += strain_waves(streams.generator("specimen.strain"), position[:, :2], block.sides,
                              number(recipe.strain))
        about["largest_strain"] = round(number(recipe.strain), 5)
    if number(recipe.dislocations) > 0:
        if block.slip is None:
            raise StructureError(f"{source.name}: no short lattice vector is perpendicular to {list(recipe.zone)}, so "
                                 f"no edge dislocation lies along it; choose another zone axis")
        burgers, along = block.slip
        centre, apart = _dipole(streams.generator("specimen.dislocations"), block, along)
        # Once for each column: atoms above each other move alike.
        _, chosen, column = np.unique(np.round(position[:, :2], 3) @ np.array([1.0, 1j]), return_index=True,
                                      return_inverse=True)
        moved += dislocation_pair(position[chosen, :2], centre, along * apart, burgers, block.sides)[column.ravel()]
        about["dislocations"] = {"burgers": [round(float(b), 4) for b in burgers[::-1]],
                                 "position": [[round(float(v), 3) for v in np.mod(centre + sign * along * apart / 2,
                                                                                    block.sides)[::-1]]
                                              for sign in (1, -1)]}
    return moved


def _uncrowded(position: Floats, sides: tuple[float, float], source: _Source) -> Mask:
    """All atoms but the later one of each pair that the core of a dislocation brings too near each other."""
    from scipy.spatial import cKDTree

    limit = CROWDED * float(bond_table(source.lattice).min())
    # A side of 0 is not periodic.
    pairs = cKDTree(position, boxsize=[*sides, 0.0]).query_pairs(limit, output_type="ndarray")
    free = np.ones(len(position), bool)
    free[pairs.max(axis=1)] = False
    return free


def strain_waves(rng: np.random.Generator, place: Floats, sides: tuple[float, float], largest: float) -> Floats:
    """Displacements (n, 2) in Å of a few long waves that are periodic in the box.

    Parameters
    ----------
    rng : Generator
        Draws waves, directions and phases, the same number whatever `place` is.
    place : ndarray (n, 2)
        (x, y) in Å.
    sides : tuple of float
        Box in Å.
    largest : float
        Largest principal strain, of either sign, anywhere in the box.
    """
    options = [(i, j) for i in range(-HIGHEST, HIGHEST + 1) for j in range(HIGHEST + 1) if j > 0 or i > 0]
    waves = np.array([options[n] for n in rng.permutation(len(options))[:WAVES]], float)
    vectors = 2 * np.pi * waves / np.array(sides)
    amplitude = rng.normal(size=(WAVES, 2)) / np.linalg.norm(vectors, axis=1)[:, None]
    phase = rng.uniform(0, 2 * np.pi, WAVES)
    axes = [np.linspace(0, side, 64, endpoint=False) for side in sides]
    grid = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=1)
    slope = np.cos(grid @ vectors.T + phase)
    gradient = np.einsum("nw,wi,wj->nij", slope, amplitude, vectors)
    strain = (gradient + gradient.transpose(0, 2, 1)) / 2
    highest = float(np.abs(np.linalg.eigvalsh(strain)).max())
    moved: Floats = np.sin(place @ vectors.T + phase) @ amplitude * (largest / highest)
    return moved


def _dipole(rng: np.random.Generator, block: _Block, along: Floats) -> tuple[Floats, float]:
    """Centre and distance of two dislocations; their glide plane passes halfway between atoms."""
    centre = rng.uniform(0, 1, 2) * np.array(block.sides)
    apart = float(rng.uniform(0.35, 0.5)) * min(block.sides)
    normal = np.array([-along[1], along[0]])
    heights = np.unique(np.round((block.clusters.position - centre) @ normal, 2))
    near = heights[np.abs(heights) < min(block.sides) / 4]
    gaps = np.diff(near)
    if len(gaps):
        widest = np.flatnonzero(gaps > gaps.max() - 0.02)
        chosen = widest[np.argmin(np.abs(near[widest] + gaps[widest] / 2))]
        centre = centre + normal * float(near[chosen] + gaps[chosen] / 2)
    return centre, apart


def dislocation_pair(place: Floats, centre: Floats, apart: Floats, burgers: Floats, sides: tuple[float, float],
                     poisson: float = 0.3) -> Floats:
    """Displacements (n, 2) in Å around two opposite edge dislocations on one glide plane, periodic in the box.

    Parameters
    ----------
    place : ndarray (n, 2)
        (x, y) in Å.
    centre, apart : ndarray (2,)
        Middle of the pair, and the vector from the negative to the positive dislocation, along `burgers`.
    burgers : ndarray (2,)
        Burgers vector in Å. Between the two, atoms above the glide plane are displaced by it against those below.
    sides : tuple of float
        Box in Å.
    poisson : float
        Poisson's ratio.

    Notes
    -----
    Isotropic elasticity: Hirth and Lothe, Theory of Dislocations (2nd ed.), eqs. 3-45 and 3-46; images in the
    neighbouring boxes are summed, and what is left of a linear displacement across the box is taken away (Cai, Bulatov,
    Chang, Li and Yip, Philos. Mag. 83, 539 (2003)).
    """
    b = float(np.linalg.norm(burgers))
    x_axis = burgers / b
    axes = np.array([x_axis, [-x_axis[1], x_axis[0]]])
    half = float(apart @ x_axis) / 2
    sides_ = np.array(sides)
    turns = np.arange(-IMAGES, IMAGES + 1)
    images = np.stack([g.ravel() for g in np.meshgrid(turns, turns, indexing="ij")], axis=1) * sides_

    def raw(points: Floats) -> Floats:
        total = np.zeros_like(points)
        for image in images:
            local = (points - centre - image) @ axes.T
            total += _edge_pair(local, half, b, poisson)
        turned: Floats = total @ axes
        return turned

    corner = centre + np.array([0.31, 0.27]) * sides_
    corners = raw(np.array([corner, corner - [sides_[0], 0.0], corner - [0.0, sides_[1]]]))
    tilt = np.array([corners[0] - corners[1], corners[0] - corners[2]]) / sides_[:, None]
    wrapped = place - sides_ * np.round((place - centre) / sides_)
    moved: Floats = raw(wrapped) - (wrapped - centre) @ tilt
    return moved


def _edge_pair(local: Floats, half: float, b: float, poisson: float) -> Floats:
    """Displacement by +b at x = half and -b at x = -half; the cut is the line between them."""
    y = local[:, 1]
    total = np.zeros_like(local)
    for sign in (1.0, -1.0):
        x = local[:, 0] - sign * half
        square = np.maximum(x * x + y * y, (0.25 * b) ** 2)
        k = 1 / (2 * (1 - poisson))
        total[:, 0] += sign * (np.arctan2(y, x) + k * x * y / square)
        total[:, 1] -= sign * k * ((1 - 2 * poisson) / 2 * np.log(square / b**2) + (x * x - y * y) / (2 * square))
    return total * (b / (2 * np.pi))


def _with_precipitate(recipe: Defects, block: _Block, numbers: Integers, streams: Streams, about: dict[str, Any]
                      ) -> tuple[Floats, Integers, Integers, Clusters, NDArray[np.int16]]:
    """Positions, numbers, columns and grains with a precipitate (grain 1) in the place of some of the matrix."""
    from emsynth.specimen.columns import cluster

    rng = streams.generator("specimen.precipitate")
    diameter, aspect = number(recipe.precipitate_diameter), number(recipe.precipitate_aspect)
    name = cast(str, recipe.precipitate)
    room = np.array([*block.sides, block.thickness]) - diameter
    centre = rng.uniform(0, 1, 3) * np.maximum(room - [2 * CLEARANCE, 2 * CLEARANCE, 0], 0) + diameter / 2
    centre += [CLEARANCE, CLEARANCE, block.entrance]
    # A plate stands on its edge, its normal along x or y.
    short = np.eye(3)[int(rng.integers(2))]
    axes = diameter / 2 * (1 - (1 - aspect) * short)
    foreign, its, how = _foreign(name, block, centre, diameter, rng)
    inside = np.linalg.norm((foreign - centre) / axes, axis=1) < 1
    foreign, its = foreign[inside], its[inside]
    if len(foreign) == 0:
        raise StructureError(f"{name}: a precipitate of {diameter:g} Å holds no atom; make it larger")
    gone = np.linalg.norm((block.position - centre) / axes, axis=1) < 1
    gone |= _too_near(block.position, numbers, gone, foreign, its)
    kept = ~gone
    about["precipitate"] = {"structure": name, "atoms": len(foreign), "orientation": how,
                            "centre": [round(float(v), 3) for v in centre[[1, 0, 2]]],
                            "diameter": round(diameter, 3), "aspect": round(aspect, 4)}
    # Atoms on the matrix's columns belong to them; the others make columns of their own.
    joined, nearest = _nearest_column(foreign, block)
    own = cluster(foreign[~joined, :2], block.sides)
    shift = len(block.clusters.position)
    label = np.where(joined, nearest, -1)
    label[~joined] = np.where(own.label >= 0, own.label + shift, -1)
    both = block.clusters._replace(position=np.concatenate([block.clusters.position, own.position]))
    return (np.concatenate([block.position[kept], foreign]), np.concatenate([numbers[kept], its]),
            np.concatenate([block.label[kept], label]).astype(np.int64), both,
            np.repeat([0, 1], [int(kept.sum()), len(foreign)]).astype(np.int16))


def _nearest_column(foreign: Floats, block: _Block) -> tuple[Mask, Integers]:
    from scipy.spatial import cKDTree

    from emsynth.specimen.columns import TOLERANCE

    if len(block.clusters.position) == 0:
        return np.zeros(len(foreign), bool), np.zeros(len(foreign), np.int64)
    tree = cKDTree(np.mod(block.clusters.position, block.sides), boxsize=block.sides)
    away, nearest = tree.query(np.mod(foreign[:, :2], block.sides))
    return away < TOLERANCE, nearest.astype(np.int64)


def _foreign(name: str, block: _Block, centre: Floats, diameter: float, rng: np.random.Generator
             ) -> tuple[Floats, Integers, str]:
    """Atoms of another crystal that fill the ball around `centre`, their numbers, and how it is turned."""
    from scipy.spatial.transform import Rotation

    from emsynth.specimen.zone import Lattice

    entry = structure(name).atoms()
    mine, its = block.cell, entry.cell[:]
    lengths, others = np.linalg.norm(mine, axis=1), np.linalg.norm(its, axis=1)
    axes, other_axes = mine / lengths[:, None], its / others[:, None]
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    parallel = np.abs(axes @ axes.T - other_axes @ other_axes.T).max() < 1e-3
    misfit = float(np.abs(others / lengths - 1).max())
    if not parallel:
        cell, how = its @ turn.T, "random"
    elif misfit < COHERENT:
        cell, how = mine, f"coherent, strained by {misfit:.2%}"
    else:
        cell, how = others[:, None] * axes, "axes parallel"
    lattice = Lattice(cell, entry.get_scaled_positions() @ cell, entry.numbers.astype(np.int64))
    origin = centre - np.round(centre @ np.linalg.inv(cell)) @ cell
    if how.startswith("coherent"):
        origin = _registry(lattice, block, centre)
    reach = int(diameter / 2 / float(np.abs(1 / np.linalg.norm(np.linalg.inv(cell), axis=0)).min())) + 2
    start = np.round((centre - origin) @ np.linalg.inv(cell))
    steps = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3) + start
    position = (steps @ cell + origin)[:, None] + lattice.position[None]
    numbers = np.tile(lattice.kind, len(steps))
    flat = position.reshape(-1, 3)
    near = np.linalg.norm(flat - centre, axis=1) < diameter / 2 + 1e-6
    return flat[near], numbers[near], how


def _registry(lattice: Any, block: _Block, centre: Floats) -> Floats:
    """Origin of a coherent precipitate's cell: as many of its atoms as possible on sites of the matrix."""
    from scipy.spatial import cKDTree

    reach = 1.5 * float(np.linalg.norm(lattice.cell, axis=1).max())
    near = block.position[np.linalg.norm(block.position - centre, axis=1) < 2 * reach]
    tree = cKDTree(near)
    order = np.argsort(np.linalg.norm(near - centre, axis=1), kind="stable")
    tried = near[order[:max(8, 2 * len(lattice.position))]]
    heaviest = int(np.argmax(lattice.kind))
    best, origin = -1, np.asarray(tried[0] - lattice.position[heaviest], np.float64)
    for site in tried:
        option = site - lattice.position[heaviest]
        away, _ = tree.query(lattice.position + option)
        if int(np.sum(away < 0.3)) > best:
            best, origin = int(np.sum(away < 0.3)), option
    return origin


def _too_near(position: Floats, numbers: Integers, gone: Mask, foreign: Floats, its: Integers) -> Mask:
    """Atoms of the matrix that a precipitate's atoms leave no room for."""
    from ase.data import covalent_radii

    radii = np.asarray(covalent_radii)
    reach = 2 * BOND * float(max(radii[numbers.max()], radii[numbers].max(), radii[its].max())) + 0.5
    middle = foreign.mean(axis=0)
    far = float(np.linalg.norm(foreign - middle, axis=1).max()) + reach
    close = np.flatnonzero(~gone & (numbers > 0) & (np.linalg.norm(position - middle, axis=1) < far))
    found = np.zeros(len(position), bool)
    if len(close) == 0:
        return found
    open_box = (math.inf, math.inf, math.inf)
    _, _, bonds = neighbours(foreign[:200], foreign, open_box, 4.0)
    length = np.linalg.norm(bonds, axis=1)
    shortest = float(length[length > 1e-3].min()) if np.any(length > 1e-3) else 0.0
    i, j, apart = neighbours(position[close], foreign, open_box, reach)
    distance = np.linalg.norm(apart, axis=1)
    limit = np.maximum(BOND * (radii[numbers[close][i]] + radii[its[j]]), NEAREST * shortest)
    found[close[i[distance < limit - 1e-6]]] = True
    return found
