"""Particles of every shape: magic sizes, twins, orientation, several at once, cores, and what is refused."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from pydantic import ValidationError
from scipy.spatial import cKDTree

from emsynth.draw import Choice, Streams
from emsynth.errors import StructureError
from emsynth.specimen import Nanoparticle, structure
from emsynth.specimen.particle import APART, CLEARANCE, CONTACT, SHAPES
from emsynth.specimen.shapes import (
    decahedron_atoms,
    frame_along,
    icosahedron_atoms,
    octahedron_atoms,
    random_rotation,
    shaped,
    sphere_of,
)

FREE = {"support_thickness": 0.0, "zone_axis": (0, 0, 1)}


def made(name: str, shape: str, diameter: float, seed: int = 0, aspect: float = 3.0):  # type: ignore[no-untyped-def]
    return shaped(structure(name), shape, diameter, aspect, np.random.default_rng(seed))


def test_magic_numbers_are_the_published_ones() -> None:
    """Mackay's 13, 55, 147, 309, 561; Marks's 75, 101, 146; the octahedral 38, 201, 586, 79."""
    assert [icosahedron_atoms(n) for n in range(2, 7)] == [13, 55, 147, 309, 561]
    assert [decahedron_atoms(*key) for key in ((2, 2, 1), (2, 3, 1), (3, 2, 1))] == [75, 101, 146]
    assert [octahedron_atoms(*key) for key in ((4, 1), (7, 2), (10, 3), (5, 1))] == [38, 201, 586, 79]


@pytest.mark.parametrize("shape", ["icosahedron", "decahedron", "truncated_octahedron"])
def test_magic_particles_hold_the_atoms_that_they_say(shape: str) -> None:
    """The count that was promised, near the diameter asked for; bonds stay within the strain that a twin needs."""
    particle = made("Au", shape, 32.0)
    count = {"shells": lambda n: icosahedron_atoms(n), "marks_p_q_r": lambda key: decahedron_atoms(*key),
             "length_cutoff": lambda key: octahedron_atoms(*key)}
    key = next(name for name in count if name in particle.about)
    assert len(particle.position) == count[key](particle.about[key])
    assert sphere_of(len(particle.position), structure("Au")) == pytest.approx(32.0, rel=0.05)
    bonds = neighbor_list("d", Atoms(particle.number, particle.position), 3.4)
    assert np.abs(bonds / (4.0782 / np.sqrt(2)) - 1).max() < {"icosahedron": 0.03, "decahedron": 0.016}.get(shape, 1e-6)


def test_icosahedron_has_a_five_fold_axis_and_twenty_grains() -> None:
    """Turning it by 72 degrees about a corner maps it on itself; each grain is the lattice of the first, turned."""
    particle = made("Au", "icosahedron", 30.0)
    axis = particle.along(np.array([0, 1, 1.0]))
    upright = particle.position @ frame_along(axis, 0.0).T
    turn = np.radians(72)
    turned = upright @ np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    assert cKDTree(upright).query(turned)[0].max() < 1e-6
    assert set(particle.grain.tolist()) == set(range(20))
    mine = particle.position[particle.grain == 0]
    steps = (mine - mine[0]) @ particle.frame.T / (4.0782 / 2)
    assert np.abs(steps - np.round(steps)).max() < 0.35


def test_decahedron_grains_are_twins_about_one_axis() -> None:
    """Seen along [01-1] all five grains stand in zone: every column is sharp, and the five have as many atoms."""
    specimen = Nanoparticle(structure="Au", shape="decahedron", diameter=32.0, zone_axis=(0, 1, -1),
                            support_thickness=0.0).build(Streams(1, 0))
    assert specimen.grain is not None
    assert specimen.columns.count.sum() == len(specimen.atoms)
    assert specimen.columns.count.mean() > 6
    sizes = np.bincount(specimen.grain)
    assert len(sizes) == 5
    axis = specimen.columns.count.max()
    assert np.ptp(sizes) <= axis * 3


@pytest.mark.parametrize(("name", "shape"), [
    ("CeO2", "random"), ("GaAs", "random"), ("TiO2 anatase", "rod"), ("ZnO", "rod"), ("Fe3O4", "truncated_octahedron"),
    ("Al2O3", "sphere"), ("ZrO2 monoclinic", "random"), ("Au", "cube"), ("W", "sphere"), ("YBa2Cu3O7", "cube"),
])
def test_cuts_have_the_volume_and_the_composition(name: str, shape: str) -> None:
    """Any structure: the sphere's volume to 4 %, no contact that the crystal has not, nearly the formula's shares."""
    entry = structure(name)
    particle = made(name, shape, 24.0)
    assert sphere_of(len(particle.position), entry) == pytest.approx(24.0, rel=0.04)
    atoms = Atoms(particle.number, particle.position)
    bulk = neighbor_list("d", entry.atoms(), 4.0).min()
    assert neighbor_list("d", atoms, 4.0).min() == pytest.approx(bulk, abs=1e-6)
    shares = {z: np.mean(particle.number == z) / np.mean(entry.atoms().numbers == z) for z in set(particle.number)}
    assert all(0.8 < share < 1.25 for share in shares.values())


def test_no_atom_hangs_loose() -> None:
    """Of ceria's 8 and 4 bonds each surface atom keeps 4 and 2 at least, however the facets cut."""
    for seed in range(6):
        particle = made("CeO2", "random", 22.0, seed)
        bonds = np.bincount(neighbor_list("i", Atoms(particle.number, particle.position), 2.6),
                            minlength=len(particle.number))
        assert bonds[particle.number == 58].min() >= 4
        assert bonds[particle.number == 8].min() >= 2


def test_random_cuts_differ_and_have_facets() -> None:
    """Two draws are two shapes, neither a sphere: the reach varies with the direction."""
    reach = []
    directions = np.random.default_rng(5).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    for seed in (1, 2):
        position = made("Au", "random", 40.0, seed).position
        reach.append((position @ directions.T).max(axis=0))
    assert np.std(reach[0] - reach[1]) > 1.0
    assert all(np.ptp(of) > 3.0 for of in reach)


def test_rod_is_as_long_as_asked() -> None:
    """Length over width, along c."""
    extent = np.ptp(made("Au", "rod", 40.0, aspect=3.0).position, axis=0)
    assert extent[2] / extent[:2].mean() == pytest.approx(3.0, rel=0.15)


def test_random_rotations_are_uniform() -> None:
    """Proper rotations; an axis goes everywhere alike; the trace has mean 0, as the angle's density is (1 - cos)/π."""
    rng = np.random.default_rng(3)
    turns = np.array([random_rotation(rng) for _ in range(4000)])
    assert turns @ turns.transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(3), (4000, 1, 1)), abs=1e-12)
    assert np.linalg.det(turns) == pytest.approx(np.ones(4000))
    assert np.mean(turns[:, 2, 2] ** 2) == pytest.approx(1 / 3, abs=0.02)
    assert np.mean(np.trace(turns, axis1=1, axis2=2)) == pytest.approx(0.0, abs=0.06)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 0, 0), (2, 1, 0)])
def test_zone_axis_is_along_the_beam(zone: tuple[int, int, int]) -> None:
    """In a crystal that is not cubic too: the lattice vector of the zone axis repeats the particle along z."""
    specimen = Nanoparticle(structure="ZnO", shape="sphere", diameter=30.0, zone_axis=zone, support_thickness=0.0,
                            ).build(Streams(2, 0))
    step = np.linalg.norm(np.array(zone) @ structure("ZnO").atoms().cell[:])
    position = specimen.atoms.positions
    distance, _ = cKDTree(position).query(position + np.array([0, 0, step]))
    assert np.mean(distance < 1e-6) > 0.5
    assert specimen.columns.count.sum() == len(position)


def test_random_orientation_has_its_own_atoms_and_hardly_columns() -> None:
    turned = Nanoparticle(structure="Au", orientation="random", diameter=30.0, **FREE).build(Streams(2, 1))
    straight = Nanoparticle(structure="Au", diameter=30.0, **FREE).build(Streams(2, 1))
    assert turned.columns.count.sum() < 0.5 * len(turned.atoms)
    assert straight.columns.count.sum() == len(straight.atoms)
    assert "zone_axis" not in turned.about


@pytest.mark.parametrize(("arrangement", "thickness"), [
    ("beside", 0.0), ("beside", 15.0), ("overlapping", 0.0), ("overlapping", 15.0)])
def test_several_particles_never_touch(arrangement: str, thickness: float) -> None:
    """Each has a grain of its own and keeps its distance, from its periodic images too; all rest on the film."""
    for seed in range(3):
        specimen = Nanoparticle(structure="Au", count=3, arrangement=arrangement, orientation="random", diameter=20.0,
                                box=90.0, support_thickness=thickness, zone_axis=(0, 0, 1)).build(Streams(seed, 0))
        grain, position = specimen.grain, specimen.atoms.positions
        assert grain is not None
        assert set(grain[grain >= 0].tolist()) == {0, 1, 2}
        parts = [position[grain == n] for n in range(3)]
        for one, other in itertools.combinations(parts, 2):
            assert cKDTree(one).query(other)[0].min() >= APART - 1e-6
        if thickness:
            film = position[grain < 0]
            nearest = [cKDTree(film).query(part)[0].min() for part in parts]
            assert nearest == pytest.approx([CONTACT] * 3, abs=1e-3)
        crystal = position[grain >= 0]
        assert crystal[:, :2].min() >= CLEARANCE - 1e-6
        assert crystal[:, :2].max() <= 90 - CLEARANCE + 1e-6
        assert specimen.tile == (90.0, 90.0)
        assert position[:, 2].min() == pytest.approx(specimen.entrance)
        assert position[:, 2].max() < specimen.atoms.cell.lengths()[2]


def test_overlapping_particles_overlap_in_projection_only() -> None:
    """Seen from above the boxes of the two intersect; beside each other they do not."""
    for arrangement, shared in (("overlapping", True), ("beside", False)):
        specimen = Nanoparticle(structure="Au", count=2, arrangement=arrangement, diameter=25.0, box=90.0,
                                **FREE).build(Streams(4, 0))
        one, other = (specimen.atoms.positions[specimen.grain == n, :2] for n in (0, 1))
        assert (cKDTree(one).query(other)[0].min() < 2.0) == shared


def test_core_is_inside() -> None:
    """Core atoms lie within the fraction of the radius, all of them at a share of 1 and half at 0.5."""
    counts = []
    for share in (1.0, 0.5):
        specimen = Nanoparticle(structure="Au", shape="icosahedron", core="Pd", core_fraction=0.6, core_share=share,
                                diameter=35.0, **FREE).build(Streams(1, 0))
        position = specimen.atoms.positions - specimen.atoms.positions.mean(axis=0)
        core = specimen.atoms.symbols == "Pd"
        assert np.linalg.norm(position[core], axis=1).max() < 0.61 * specimen.about["diameter"] / 2
        counts.append(int(core.sum()))
    assert counts[0] / len(specimen.atoms) == pytest.approx(0.6**3, rel=0.2)
    assert counts[1] / counts[0] == pytest.approx(0.5, abs=0.15)
    assert set(specimen.thermal) == {"Au", "Pd"}


def test_seamless_film_has_the_box_asked_for() -> None:
    """A Wulff particle on a film of whole boxes, by default, and on one of the box's own size."""
    old = Nanoparticle(structure="Au", diameter=20.0, box=50.0, zone_axis=(0, 0, 1)).build(Streams(1, 0))
    new = Nanoparticle(structure="Au", diameter=20.0, box=50.0, zone_axis=(0, 0, 1), film="seamless").build(
        Streams(1, 0))
    assert old.tile[0] > 50
    assert new.tile == (50.0, 50.0)
    assert neighbor_list("d", new.atoms, 1.5).min() > 1.1


@pytest.mark.parametrize(("given", "said"), [
    ({"shape": "ball"}, "no shape 'ball'; there are wulff"),
    ({"structure": "CeO2"}, "no surface energies.*Au.*choose the shape random"),
    ({"structure": "CeO2", "shape": "icosahedron"}, "needs a face-centred cubic metal: Au"),
    ({"structure": "ZnO", "shape": "cube"}, "needs a structure with right angles"),
    ({"structure": "graphene", "shape": "random"}, "single layer"),
    ({"structure": "CeO2", "shape": Choice(values=("random", "wulff"))}, "no surface energies"),
    ({"core": "Ni"}, "possible are Ag, Al, Pd, Pt"),
    ({"core": "W"}, "cannot be the core"),
    ({"count": 5}, "outside 1 to 4"),
    ({"film": "none"}, "no film 'none'"),
])
def test_wrong_recipes_say_what_is_possible(given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Nanoparticle(**given)


@pytest.mark.parametrize(("given", "said"), [
    ({"shape": "sphere", "diameter": 55.0, "box": 60.0}, "larger than its box"),
    ({"shape": "rod", "diameter": 40.0, "box": 60.0, "structure": "ZnO", "zone_axis": (2, 1, 0)}, "larger than its"),
    ({"count": 4, "diameter": 40.0, "box": 70.0}, "overlap"),
    ({"shape": "sphere", "structure": "FeS2 pyrite"}, "reserved"),
])
def test_what_does_not_fit_is_refused(given: dict, said: str) -> None:
    with pytest.raises(StructureError, match=said):
        Nanoparticle(**({**FREE, **given})).build(Streams(0, 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_a_whole_specimen(shape: str) -> None:
    """The same atoms twice, others for another field; vacuum before and behind."""
    recipe = Nanoparticle(structure="Au", shape=shape, orientation="random", diameter=22.0, box=60.0,
                          support_thickness=12.0, zone_axis=(0, 0, 1))
    one, again, other = (recipe.build(Streams(6, j)) for j in (0, 0, 1))
    assert np.array_equal(one.atoms.positions, again.atoms.positions)
    assert not np.array_equal(one.atoms.positions[:40], other.atoms.positions[:40])
    height = one.atoms.cell.lengths()[2]
    assert one.entrance >= 1.5
    assert height - one.atoms.positions[:, 2].max() >= 1.5
    assert one.prototype == "fcc"
