"""Grain boundaries and edges: the coincidence lattice, unbroken grains, neighbours no nearer than atoms can be."""

import itertools
import math
import time

import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from pydantic import ValidationError

from emsynth.draw import Streams
from emsynth.errors import StructureError
from emsynth.specimen.base import Specimen
from emsynth.specimen.block import edge_on
from emsynth.specimen.boundary import Boundary, coincidences, merged
from emsynth.specimen.crystal import _from_table
from emsynth.specimen.edge import Edge

STREAMS = Streams(seed=1, index=0)


def boundary(name: str, axis: tuple[int, int, int], **more: object) -> Specimen:
    return Boundary(structure=name, zone_axis=axis, **more).build(STREAMS)


def distances(specimen: Specimen, reach: float) -> np.ndarray:
    """All distances below `reach`; above and below the specimen is vacuum."""
    atoms = specimen.atoms.copy()
    atoms.pbc = (True, True, False)
    return neighbor_list("d", atoms, reach)


def rotation(axis: tuple[int, int, int], degrees: float) -> np.ndarray:
    """Rodrigues' formula."""
    n = np.array(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), n)
    turn = math.radians(degrees)
    return np.eye(3) * math.cos(turn) - math.sin(turn) * cross + (1 - math.cos(turn)) * np.outer(n, n)


@pytest.mark.parametrize(("axis", "sigma", "angle"), [
    ((0, 0, 1), 5, 36.8699), ((0, 0, 1), 5, 53.1301), ((0, 0, 1), 13, 22.6199), ((0, 1, 1), 3, 70.5288),
    ((0, 1, 1), 3, 109.4712), ((0, 1, 1), 9, 38.9424), ((0, 1, 1), 11, 50.4788), ((1, 1, 1), 7, 38.2132),
])
def test_coincidences_are_those_of_the_tables(axis: tuple[int, int, int], sigma: int, angle: float) -> None:
    """Σ, angle and boundary plane: angles of the coincidence tables; the plane holds the axis, θ/2 from a mirror."""
    found = [c for c in coincidences(axis) if c.sigma == sigma and c.angle == pytest.approx(angle, abs=1e-3)]
    assert len(found) == 1
    assert np.dot(found[0].plane, axis) == 0
    normal = np.array(found[0].plane) / np.linalg.norm(found[0].plane)
    mirrors = [m for m in itertools.product((0, 1, -1), repeat=3)
               if 1 <= np.abs(m).sum() <= 2 and np.dot(m, axis) == 0]
    turns = [math.degrees(math.acos(abs(normal @ m) / np.linalg.norm(m))) for m in mirrors]
    assert min(abs(turn - angle / 2) for turn in turns) < 1e-3


@pytest.mark.parametrize("axis", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 2)])
def test_one_site_in_sigma_coincides(axis: tuple[int, int, int]) -> None:
    """Counted: of the simple cubic sites of a cube of Σ³ cells, a period of the coincidence lattice, Σ² come back."""
    for found in [c for c in coincidences(axis, 6) if c.sigma <= 13]:
        turn = rotation(axis, found.angle)
        sites = np.array(list(itertools.product(range(found.sigma), repeat=3)))
        turned = sites @ turn.T
        there = np.all(np.abs(turned - np.round(turned)) < 1e-6, axis=1)
        assert there.sum() * found.sigma == len(sites)


@pytest.mark.parametrize(("name", "axis", "plane", "period", "spacing"), [
    ("Au", (0, 1, 1), (1, 1, -1), 4.0782 * math.sqrt(1.5), 4.0782 / math.sqrt(3)),
    ("Au", (0, 0, 1), (3, 1, 0), 4.0782 * math.sqrt(10) / 2, 4.0782 / math.sqrt(40)),
    ("Fe", (0, 0, 1), (2, 1, 0), 2.8665 * math.sqrt(5), 2.8665 / math.sqrt(20)),
    ("TiO2 rutile", (1, 0, 0), (0, 1, 1), math.hypot(4.5937, 2.9587), 4.5937 * 2.9587 / math.hypot(4.5937, 2.9587)),
    ("graphene", (0, 0, 1), (1, 0, 0), 2.4612, 2.4612 * math.sqrt(3) / 2),
])
def test_planes_repeat_as_the_lattice_does(name: str, axis: tuple[int, int, int], plane: tuple[int, int, int],
                                           period: float, spacing: float) -> None:
    source = _from_table(name)
    view = edge_on(source.lattice, axis, source.cell, plane)
    assert view.period == pytest.approx(period)
    assert view.spacing == pytest.approx(spacing)
    assert view.rise == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["Au", "Fe", "Ti", "TiO2 anatase", "SrTiO3"])
def test_views_span_the_whole_lattice(name: str) -> None:
    """Along, across and beam enclose one primitive cell, whatever the zone axis."""
    source = _from_table(name)
    for axis, plane in (((0, 0, 1), (2, 1, 0)), ((1, 1, 2), (1, 1, -1)), ((2, 1, 0), (1, -2, 3)),
                        ((1, 2, 3), (3, 0, -1)), ((2, 4, 3), (1, 1, -2)), ((-1, 3, 2), (1, 1, -1)),
                        ((4, 6, 5), (0, 5, -6))):
        view = edge_on(source.lattice, axis, source.cell, plane)
        volume = view.along[0] * view.across[1] * view.depth
        assert volume == pytest.approx(abs(np.linalg.det(source.lattice.cell)))
        beam = np.array(axis) @ source.cell
        assert np.linalg.norm(beam) / view.depth == pytest.approx(round(np.linalg.norm(beam) / view.depth))


def test_a_sheet_is_the_crystal() -> None:
    """Of a monoclinic view: as dense as the crystal, each atom once, also across the periodic border."""
    source = _from_table("TiO2 anatase")
    view = edge_on(source.lattice, (1, 1, 1), source.cell, (1, -1, 0))
    position, _ = view.sheet(3, -0.01, 20 * view.spacing - 0.01)
    volume = 3 * view.period * 20 * view.spacing * view.depth
    cell = abs(np.linalg.det(source.lattice.cell))
    assert len(position) == round(volume / cell * len(source.lattice.position))
    inner = np.abs(position[:, 1] - 10 * view.spacing) < 5 * view.spacing
    apart = position[inner][:, None] - position[None]
    turns = np.round(apart[..., 0] / (3 * view.period))
    apart -= turns[..., None] * 3 * view.unit * view.along
    apart[..., 2] -= view.depth * np.round(apart[..., 2] / view.depth)
    distance = np.linalg.norm(apart, axis=2)
    assert distance[distance > 1e-6].min() == pytest.approx(1.934, abs=3e-3)
    assert np.sum(distance < 1e-6) == inner.sum()


def test_coherent_twin_keeps_every_bond() -> None:
    """{111} along [110] of fcc: twelve neighbours at a/√2 everywhere; a perfect twin is no perfect crystal."""
    specimen = boundary("Au", (0, 1, 1), plane=(1, 1, -1), thickness=40.0)
    atoms = specimen.atoms.copy()
    atoms.pbc = (True, True, False)
    first, distance = neighbor_list("id", atoms, 3.5)
    assert distance == pytest.approx(4.0782 / math.sqrt(2), abs=2e-3)
    z = specimen.atoms.positions[:, 2]
    inner = (z > z.min() + 5) & (z < z.max() - 5)
    assert np.all(np.bincount(first, minlength=len(atoms))[inner] == 12)
    assert set(specimen.grain.tolist()) == {0, 1}
    # Next but one neighbours: fcc has none at a·1.155 (√(8/3) of the nearest's), which is hcp's along its axis.
    further = distances(specimen, 4.0782 * 1.18)
    assert np.any(np.abs(further - 4.0782 / math.sqrt(2) * math.sqrt(8 / 3)) < 5e-3)


def test_zincblende_twin_has_no_wrong_bond() -> None:
    """The {111} twin of GaAs: turned, not mirrored, so every atom still has four neighbours of the other sort."""
    specimen = boundary("GaAs", (0, 1, 1), plane=(1, 1, -1), thickness=40.0)
    atoms = specimen.atoms.copy()
    atoms.pbc = (True, True, False)
    i, j, distance = neighbor_list("ijd", atoms, 2.9)
    assert np.all(atoms.numbers[i] != atoms.numbers[j])
    assert distance == pytest.approx(5.6533 * math.sqrt(3) / 4, abs=2e-3)
    assert specimen.about["grain_1"].startswith("half turn")


@pytest.mark.parametrize(("name", "axis", "wanted", "angle", "nearest"), [
    ("Au", (0, 0, 1), {"sigma": 5, "angle": 37.0}, 36.87, 2.884),
    ("Al", (0, 1, 1), {"sigma": 9, "angle": 39.0}, 38.94, 2.863),
    ("Fe", (0, 0, 1), {"sigma": 5, "angle": 53.0}, 53.13, 2.482),
    ("SrTiO3", (0, 0, 1), {"sigma": 5}, None, 1.9525),
    ("MgO", (0, 0, 1), {"sigma": 13, "angle": 22.0}, 22.62, 2.106),
    ("Al", (0, 0, 1), {"angle": 9.0}, 8.80, 2.863),
])
def test_grains_are_turned_by_the_angle(name: str, axis: tuple[int, int, int], wanted: dict[str, float],
                                        angle: float | None, nearest: float) -> None:
    """The column rows of both grains, measured, enclose Σ's angle; no two atoms are nearer than 0.7 of a bond."""
    specimen = boundary(name, axis, thickness=20.0, **wanted)
    assert distances(specimen, nearest).min(initial=nearest) > 0.7 * nearest
    if angle is None:
        return
    assert specimen.about["tilt_angle"] == pytest.approx(angle, abs=0.01)
    position, grain = specimen.atoms.positions, specimen.grain
    height = specimen.atoms.cell.lengths()[1]
    rows = []
    for number, middle in ((0, height / 4), (1, 3 * height / 4)):
        inside = position[(grain == number) & (np.abs(position[:, 1] - middle) < 6)][:, :2]
        core = inside[np.argmin(np.abs(inside[:, 1] - middle) + 0.1 * np.abs(inside[:, 0] - inside[:, 0].mean()))]
        arms = inside - core
        length = np.linalg.norm(arms, axis=1)
        near = arms[(length > 0.1) & (length < length[length > 0.1].min() + 0.05)]
        rows.append(np.degrees(np.arctan2(near[:, 1], near[:, 0])))
    turns = np.mod(rows[0][:, None] - rows[1][None], 360)
    assert np.min(np.abs(turns - angle)) < 0.2 or np.min(np.abs(turns - (360 - angle))) < 0.2


def test_too_near_atoms_merge() -> None:
    """Two of a kind halfway between, across the border too; of two kinds the first stays; the rest is left alone."""
    position = np.array([[0.2, 5.0, 1.0], [9.8, 5.0, 1.0], [4.0, 2.0, 1.0], [4.5, 2.0, 1.0], [7.0, 7.0, 1.0]])
    place, kind, grain = merged(position, np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 1]), (10.0, 10.0, 3.0),
                                np.full((2, 2), 1.0))
    assert kind.tolist() == [0, 0, 1]
    assert grain.tolist() == [0, 0, 1]
    assert place == pytest.approx(np.array([[0.0, 5.0, 1.0], [4.0, 2.0, 1.0], [7.0, 7.0, 1.0]]))


def test_both_boundaries_are_as_good() -> None:
    """With a centre of symmetry the two boundaries of the box are images of each other, gaps included."""
    for sigma, axis in ((5, (0, 0, 1)), (9, (0, 1, 1)), (7, (1, 1, 1))):
        about = boundary("Au", axis, sigma=sigma, thickness=20.0).about
        assert about["gaps"][0] == about["gaps"][1] > 0
        assert about["bond_valence_misfit"][0] == pytest.approx(about["bond_valence_misfit"][1], abs=2e-4)


def test_boundary_box_is_periodic_and_labelled() -> None:
    """Along the boundary whole periods of at least the box asked for; grains as wide as asked for; columns for both."""
    specimen = boundary("Au", (0, 0, 1), sigma=5, angle=53.0, width=18.0, minimum_box=30.0, thickness=40.0)
    x, y, _ = specimen.atoms.cell.lengths()
    assert x >= 30
    assert x / (4.0782 * math.sqrt(5)) == pytest.approx(round(x / (4.0782 * math.sqrt(5))))
    assert y >= 36 - 1
    assert specimen.endless == (False, True)
    assert specimen.slab
    assert specimen.tile == (y, x)
    assert np.all((specimen.columns.position >= 0) & (specimen.columns.position < specimen.tile))
    assert specimen.columns.count.sum() == len(specimen.atoms)
    share = np.mean(specimen.grain)
    assert 0.4 < share < 0.6


@pytest.mark.parametrize(("more", "reason"), [
    ({"plane": (1, 0, 1)}, "does not contain"), ({"plane": (1, 0, 0)}, "its own mirror image"),
    ({"sigma": 7}, "no symmetric boundary"), ({"plane": (25, 2, 0)}, "repeats after"),
    ({"sigma": 5, "width": 120.0, "minimum_box": 120.0, "thickness": 500.0}, "atoms"),
])
def test_impossible_boundaries_are_refused(more: dict[str, object], reason: str) -> None:
    with pytest.raises(StructureError, match=reason):
        boundary("Au", (0, 0, 1), **more)


def test_tilt_needs_a_cubic_crystal_and_one_choice() -> None:
    with pytest.raises(StructureError, match="cubic"):
        boundary("Ti", (0, 0, 1), sigma=7)
    with pytest.raises(ValidationError, match="either"):
        Boundary(structure="Au", plane=(1, 1, 0), sigma=5)
    with pytest.raises(ValidationError, match="odd"):
        Boundary(structure="Au", sigma=4)


def test_dense_boundaries_are_drawn_and_differ() -> None:
    """Without a plane: several planes over the fields, the same one for the same field."""
    recipe = Boundary(structure="Au", zone_axis=(0, 1, 1), thickness=20.0)
    planes = [tuple(recipe.build(Streams(1, j)).about["boundary_plane"]) for j in range(6)]
    assert len(set(planes)) > 1
    assert tuple(recipe.build(Streams(1, 0)).about["boundary_plane"]) == planes[0]


def test_big_boundary_in_seconds() -> None:
    start = time.process_time()
    boundary("MgAl2O4", (0, 1, 1), sigma=3, minimum_box=60.0, width=30.0, thickness=60.0)
    assert time.process_time() - start < 4


def test_edge_leaves_its_vacuum() -> None:
    """Crystal within, vacuum around, in the box asked for; the facet is a lattice plane; columns only on atoms."""
    specimen = Edge(structure="SrTiO3", zone_axis=(0, 0, 1), plane=(1, 0, 0), box=40.0, vacuum=15.0).build(STREAMS)
    y = specimen.atoms.positions[:, 1]
    assert specimen.tile[0] == pytest.approx(40.0)
    assert 40.0 - np.ptp(y) >= 15.0
    assert 40.0 - np.ptp(y) < 15.0 + 2 * 3.905
    assert np.min(np.abs(y[:, None] - specimen.columns.position[None, :, 0]), axis=0).max() < 1e-6
    assert specimen.endless == (False, True)
    assert specimen.slab
    x = specimen.tile[1] / 3.905
    assert x == pytest.approx(round(x))


def test_terraces_are_lattice_planes_high() -> None:
    """Along x the edge's height changes by whole planes, up to as many as asked for."""
    flat = Edge(structure="Au", zone_axis=(0, 1, 1), plane=(1, 1, -1), box=60.0)
    stepped = flat.model_copy(update={"steps": 3.0})
    specimen = stepped.build(Streams(1, 4))
    row, col = specimen.columns.position.T
    whole = flat.build(Streams(1, 4)).columns.position[:, 0]
    ends = [[row[np.abs(col - x) < 2.6].min() - whole.min(), whole.max() - row[np.abs(col - x) < 2.6].max()]
            for x in np.unique(np.round(col, 2))]
    planes = np.array(ends) / (4.0782 / math.sqrt(3))
    assert planes == pytest.approx(np.round(planes), abs=0.01)
    assert np.round(planes.max(axis=0)).tolist() == [3, 3]
    assert np.round(planes.min(axis=0)).tolist() == [0, 0]
    assert specimen.endless == (False, False)


def test_wide_planes_enlarge_the_box() -> None:
    """Layers 6.1 Å apart: the terraces still leave whole planes between them, and the vacuum stays."""
    specimen = Edge(structure="MoS2 2H", zone_axis=(2, 1, 0), plane=(0, 0, 1), steps=1.0, vacuum=14.0).build(STREAMS)
    assert specimen.tile[0] > 30
    assert specimen.tile[0] - np.ptp(specimen.atoms.positions[:, 1]) >= 14


def test_wedge_thins_towards_the_edge() -> None:
    """Columns at the edge are as short as asked for, those 15 Å inside as long as the crystal."""
    specimen = Edge(structure="Al", zone_axis=(0, 0, 1), plane=(1, 0, 0), box=60.0, vacuum=15.0, wedge=15.0,
                    edge_thickness=12.0, thickness=80.0).build(STREAMS)
    row, last = specimen.columns.position[:, 0], specimen.columns.depth[:, 1] - specimen.entrance
    inside = np.minimum(row - row.min(), row.max() - row)
    assert last[inside < 0.1].max() <= 12.0 + 80 / 15 * 2.1
    assert last[inside > 16].min() > 80 - 4.05
    assert np.corrcoef(inside, last)[0, 1] > 0.7
    assert not specimen.slab


@pytest.mark.parametrize(("more", "reason"), [
    ({"vacuum": 28.0, "box": 20.0}, "leaves 0 Å"), ({"plane": (1, 0, 1)}, "does not contain"),
    ({"steps": 10.0, "structure": "MoS2 2H", "zone_axis": (2, 1, 0), "plane": (0, 0, 1)}, "terraces"),
    ({"wedge": 5.0, "edge_thickness": 150.0}, "no wedge"), ({"box": 120.0, "thickness": 500.0}, "atoms"),
])
def test_impossible_edges_are_refused(more: dict[str, object], reason: str) -> None:
    with pytest.raises(StructureError, match=reason):
        Edge(**{"structure": "C diamond", "zone_axis": (0, 0, 1)} | more).build(STREAMS)


def test_reserved_prototypes_are_refused() -> None:
    for recipe in (Edge, Boundary):
        with pytest.raises(StructureError, match="reserved"):
            recipe(structure="Nb3Sn", zone_axis=(0, 0, 1)).build(STREAMS)
