"""Amorphous films, cut from quenched periodic boxes that are shipped with the package."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emsynth.draw import Drawable, Quantity, Streams, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.crystal import known_names
from emsynth.specimen.table import Purpose

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen

Floats = NDArray[np.float64]

MATERIALS = ("C", "Ge", "Si")
# Å: vacuum before and behind the film, so that its two surfaces do not touch across the box.
MARGIN = 1.5
# Å: at a seam of two boxes no pair of atoms is nearer; in the boxes themselves none is.
NEAREST = {"C": 1.2, "Ge": 2.0, "Si": 2.0}
# Å: patches of a film wider than the box are at most so wide, and so thick (or wide, where one fills the box): with the
# jitter of their centres, in patches, none reaches beyond one box, so that none repeats itself. The jitter inclines the
# seams to the beam.
PATCH, LAYER = 25.0, 30.0
JITTER = (0.2, 0.2, 0.12)
# Å: two patches' atoms are no nearer across a seam; the lower end of the first peak of g(r).
SEAM = {"C": 1.33, "Ge": 2.2, "Si": 2.12}
# Å: how deep beyond a seam atoms of either side are tried where others have been left out.
REACH = 3.0
# Rough faces: plane waves of each, and the shortest wavelength in Å, a few atoms.
WAVES, SHORTEST = 12, 8.0
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


def film_in_box(material: str, box_x: float, box_y: float, thickness: float, streams: Streams,
                purpose: str = "film") -> NDArray[np.float64]:
    """Positions (n, 3) in Å of a film that is periodic in any box and repeats nothing within it.

    Parameters
    ----------
    material : str
        Element of the film.
    box_x, box_y : float
        Sides of the box in Å, 10 to 150.
    thickness : float
        Thickness in Å; 0 <= z < thickness.
    streams : Streams
        Random streams of the field; all draws are from ``specimen.<purpose>.patches``.
    purpose : str
        Films of one field that are not to be alike have purposes of their own.

    Raises
    ------
    StructureError
        No box of that material, or a side or thickness beyond what is allowed.

    Notes
    -----
    Ours. Jittered centres divide the volume into Voronoi cells, periodic sideways, at most `PATCH` wide. Each cell is
    cut from the quenched box, turned by a random rotation and shifted for itself. Of two cells' atoms nearer than
    `SEAM` one is left out, and as many are put back into voids along the seams, taken from what the neighbours' boxes
    hold beyond them: the density is that of the box.
    """
    box = quenched_box(material)
    for name, side in (("box_x", box_x), ("box_y", box_y)):
        if not 10 <= side <= 150:
            raise StructureError(f"amorphous film: {name} is {side:g} Å; 10 to 150 Å are possible, so choose a box "
                                 f"within that")
    if not 0 < thickness <= 400:
        raise StructureError(f"amorphous film: thickness is {thickness:g} Å; it must be above 0 and at most 400 Å")
    rng = streams.generator(f"specimen.{purpose}.patches")
    sides = np.array([box_x, box_y, thickness])
    counts = np.ceil(sides / np.where((sides <= LAYER) | (np.arange(3) == 2), LAYER, PATCH)).astype(int)
    grid = np.array(list(itertools.product(*[range(n) for n in counts])), float)
    centres = (grid + 0.5 + rng.uniform(-1, 1, grid.shape) * JITTER) / counts * sides
    position, beyond, patch = _patches(box, centres, sides, rng)
    return _mended(position, beyond, patch, sides, SEAM[material])


@lru_cache(maxsize=4)
def _images(material: str) -> Any:
    """Search tree of the 27 images of the box's atoms."""
    from scipy.spatial import cKDTree

    box = quenched_box(material)
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3))) * box.side
    return cKDTree((shifts[:, None] + box.position[None]).reshape(-1, 3))


def _patches(box: QuenchedBox, centres: Floats, sides: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Any]:
    """Atoms of every patch with `REACH` of its surroundings: positions, depth beyond the seam (negative: within the
    patch) in Å, and number of the patch.
    """
    from scipy.spatial import cKDTree
    from scipy.spatial.transform import Rotation

    around = np.array([(i, j, 0) for i in (-1, 0, 1) for j in (-1, 0, 1)]) * sides
    lattice = (around[:, None] + centres[None]).reshape(-1, 3)
    tree = cKDTree(lattice)
    turns = Rotation.from_quat(rng.normal(size=(len(centres), 4))).as_matrix()
    points = rng.uniform(0, box.side, (len(centres), 3))
    found: list[tuple[Floats, Floats, Any]] = []
    source = _images(box.element)
    for n, centre in enumerate(centres):
        near = np.sort(np.asarray(source.query_ball_point(points[n], box.side), np.int64))
        position = (source.data[near] - points[n]) @ turns[n].T + centre
        position = position[(position[:, 2] >= 0) & (position[:, 2] < sides[2])]
        own = np.linalg.norm(position - centre, axis=1)
        # Two nearest centres: the patch's own need not be the first beyond the seam.
        apart, which = tree.query(position, k=2)
        other = np.where(np.linalg.norm(lattice[which[:, 0]] - centre, axis=1) < 1e-6, 1, 0)
        rows = np.arange(len(position))
        between = np.linalg.norm(lattice[which[rows, other]] - centre, axis=1)
        beyond = (own**2 - apart[rows, other] ** 2) / (2 * between)
        kept = beyond < REACH
        found.append((position[kept], beyond[kept], np.full(int(kept.sum()), n)))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _mended(position: Floats, beyond: Floats, patch: Any, sides: Floats, nearest: float) -> Floats:
    """Patches put together: contacts across seams pruned, as many atoms put back where there is room."""
    from scipy.spatial import cKDTree

    period = [sides[0], sides[1], 0.0]
    unfolded, position = position, folded(position, (float(sides[0]), float(sides[1])))
    inner = np.flatnonzero(beyond < 0)
    pairs = inner[cKDTree(position[inner], boxsize=period).query_pairs(nearest, output_type="ndarray")]
    # Within one patch atoms are bonded as in the box, but across the border even a patch meets itself.
    across = (patch[pairs[:, 0]] != patch[pairs[:, 1]]) | \
        (np.linalg.norm(unfolded[pairs[:, 0]] - unfolded[pairs[:, 1]], axis=1) > nearest + 1e-6)
    kept = np.zeros(len(position), bool)
    kept[inner] = True
    _resolve(pairs[across], kept)
    missing = len(inner) - int(kept.sum())
    outer = np.flatnonzero(beyond >= 0)
    room, _ = cKDTree(position[kept], boxsize=period).query(position[outer])
    tried = outer[room >= nearest]
    tried = tried[np.argsort(beyond[tried], kind="stable")]
    put = np.ones(len(tried), bool)
    _resolve(cKDTree(position[tried], boxsize=period).query_pairs(nearest, output_type="ndarray"), put)
    kept[tried[put][:missing]] = True
    whole: Floats = position[kept]
    return whole


def folded(position: Floats, sides: tuple[float, float]) -> Floats:
    """Positions (n, 3) in Å, moved by whole sides along x and y into the box: 0 <= x < side."""
    across = np.mod(position[:, :2], sides)
    # A remainder may be rounded up to its divisor.
    return np.column_stack([np.where(across < sides, across, 0.0), position[:, 2]])


def _resolve(pairs: Any, kept: Any) -> None:
    """Leave out the second of each pair of which neither has been left out yet."""
    for first, second in np.sort(pairs, axis=1)[np.lexsort(np.sort(pairs, axis=1).T)].tolist():
        if kept[first] and kept[second]:
            kept[second] = False


def rough(position: Floats, sides: tuple[float, float], thickness: float, rms: float, streams: Streams) -> Floats:
    """The atoms (n, 3) of a film that lie between two rough faces, `thickness` Å apart in the mean.

    Parameters
    ----------
    position : ndarray (n, 3)
        Film of ``thickness + 4 * rms`` Å.
    sides : tuple of float
        Periods along x and y in Å.
    thickness : float
        Mean thickness in Å.
    rms : float
        Roughness of either face in Å; heights are cut off at two of it.
    streams : Streams
        Random streams of the field: ``specimen.roughness``.

    Notes
    -----
    Ours: each face is a sum of `WAVES` plane waves that fit the box, none shorter than `SHORTEST`.
    """
    rng = streams.generator("specimen.roughness")
    most = np.maximum(1, np.floor(np.array(sides) / SHORTEST)).astype(int)
    heights = []
    for _ in range(2):
        height = np.zeros(len(position))
        for _ in range(WAVES):
            wave = rng.integers(-most, most + 1)
            wave[0] = wave[0] or 1
            height += np.cos(2 * np.pi * (position[:, :2] / sides @ wave + rng.uniform()))
        heights.append(np.clip(height * math.sqrt(2 / WAVES), -2, 2) * rms)
    z = position[:, 2] - 2 * rms
    kept: Floats = position[(z >= heights[0]) & (z < thickness + heights[1])]
    return kept


class Amorphous(Drawable):
    """An amorphous film over the whole field; the tile is the quenched box, about 30 Å wide, or a `box` without any."""

    kind: Literal["amorphous"] = "amorphous"
    material: Word = Field("C", description=f"element of the film: {', '.join(MATERIALS)}")
    thickness: Quantity = quantity(50.0, unit="Å", low=10, high=200, about="thickness of the film")
    box: Quantity | None = quantity(None, unit="Å", low=10, high=150,
                                    about="sides of a box within which nothing repeats; the quenched box if not given")
    roughness: Quantity = quantity(0.0, unit="Å", low=0, high=3, about="rms roughness of either face")

    @field_validator("material")
    @classmethod
    def _known(cls, value: Word) -> Word:
        for name in known_names(value):
            if name not in MATERIALS:
                raise StructureError(f"no amorphous box of {name!r}; there are {', '.join(MATERIALS)}")
        return value

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The film; see `film` and `film_in_box` for its random streams."""
        from ase import Atoms

        from emsynth.specimen.base import Columns, Specimen
        from emsynth.specimen.thermal import SOURCE, default_displacement

        material, thickness, rms = cast(str, self.material), number(self.thickness), number(self.roughness)
        side = quenched_box(material).side if self.box is None else number(self.box)
        if self.box is None:
            position = film(material, thickness + 4 * rms, 1, streams)
        else:
            position = film_in_box(material, side, side, thickness + 4 * rms, streams)
        about = {"thermal_source": SOURCE, "density": round(density(material), 3)}
        if rms > 0:
            position = rough(position, (side, side), thickness, rms, streams)
            position[:, 2] -= position[:, 2].min()
            thickness = float(position[:, 2].max())
            about["roughness"] = rms
        position[:, 2] += MARGIN
        cell = [side, side, math.ceil(thickness + 2 * MARGIN)]
        atoms = Atoms(f"{material}{len(position)}", positions=position, cell=cell, pbc=True)
        return Specimen(atoms=atoms, tile=(side, side), columns=Columns.none(),
                        thermal={material: default_displacement(material)}, mistilt=(0.0, 0.0), kind="amorphous",
                        structure=f"a-{material}", prototype=PROTOTYPE, thickness=thickness, about=about,
                        entrance=MARGIN, slab=True, grain=np.full(len(position), -1, np.int16))


def density(material: str) -> float:
    """Density of the shipped box in g/cm³."""
    from ase.data import atomic_masses, atomic_numbers

    box = quenched_box(material)
    return float(len(box.position) * atomic_masses[atomic_numbers[material]] * 1.66053907 / box.side**3)
