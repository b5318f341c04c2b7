"""Amorphous boxes against measurements, films of any size, contamination layers, and the mending of networks."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from pydantic import ValidationError
from scipy.spatial import cKDTree

from emsynth.draw import Streams
from emsynth.errors import StructureError
from emsynth.specimen import Amorphous, Crystal, Nanoparticle
from emsynth.specimen.amorphous import MATERIALS, NEAREST, density, film, film_in_box, quenched_box
from emsynth.specimen.contamination import CONTACT, Contamination
from emsynth.specimen.quench import NETWORKS, mend, quench
from emsynth.specimen.rdf import MEASUREMENTS, Order, order, radial_distribution


def order_of(material: str) -> Order:
    box = quenched_box(material)
    return order(box.position, box.side, MEASUREMENTS[material])


def test_carbon_is_as_neutrons_see_it() -> None:
    """Li and Lannin 1990: 1.46 and 2.49 Å, 3.34 neighbours at 2.44 g/cm³.

    2 % of a distance is a fifth of the width that the resolution gives a peak; 5 % of a coordination is our estimate of
    how well the area of a peak is measured. The box was made with these in view, see docs/amorphous.md.
    """
    found, measured = order_of("C"), MEASUREMENTS["C"]
    assert measured.broadening == pytest.approx(0.11, abs=0.01)
    assert density("C") == pytest.approx(2.44, rel=2e-3)
    assert found.first == pytest.approx(measured.first, rel=0.02)
    assert found.second == pytest.approx(measured.second, rel=0.02)
    assert found.coordination == pytest.approx(measured.coordination, abs=0.17)


def test_carbon_has_a_first_shell() -> None:
    """The first minimum is nearly empty, as it must be for neighbours to be counted to 5 %: our argument.

    Were g at the minimum h, then a cut misplaced by 0.1 Å would count 0.1 · 4πr²ρ · h others: 0.17 of them for h = 0.3.
    """
    found = order_of("C")
    assert 1.8 < found.minimum < 2.1
    assert found.depth < 0.3 * 0.5
    assert found.g[(found.r > 1.3) & (found.r < 1.6)].max() > 2.0


def test_silicon_is_as_x_rays_see_it() -> None:
    """Laaziri et al. 1999: 2.351 Å and 3.88 neighbours after annealing (3.79 before): 0.1 is what annealing does."""
    found = order_of("Si")
    assert found.first == pytest.approx(2.351, rel=0.01)
    assert found.coordination == pytest.approx(3.88, abs=0.1)
    assert found.angle == pytest.approx(109.5, abs=1.5)


def test_germanium_is_as_x_rays_see_it() -> None:
    """2.463 Å, and a tetrahedral network: angles about 109.5°, between three and four neighbours."""
    found = order_of("Ge")
    assert found.first == pytest.approx(2.463, rel=0.01)
    assert 3.7 < found.coordination < 4.0
    assert found.angle == pytest.approx(109.5, abs=1.5)


def test_order_of_a_crystal_is_known() -> None:
    """Diamond: a√3/4, a/√2, four neighbours, the tetrahedral angle."""
    crystal = bulk("C", "diamond", a=3.567, cubic=True) * (6, 6, 6)
    found = order(crystal.positions, 6 * 3.567, MEASUREMENTS["C"])
    assert found.first == pytest.approx(1.5446, abs=0.01)
    assert found.second == pytest.approx(2.5222, abs=0.01)
    assert found.shares[4] == 1.0
    assert (found.angle, found.angle_deviation) == (pytest.approx(109.471, abs=1e-3), pytest.approx(0, abs=1e-3))


def test_gas_has_no_structure_and_broadening_loses_no_pair() -> None:
    rng = np.random.default_rng(0)
    r, g = radial_distribution(rng.uniform(0, 20, (1500, 3)), 20.0, 8.0)
    assert np.mean(g[300:]) == pytest.approx(1.0, abs=0.01)
    box = quenched_box("Si")
    shells = [np.sum(g[r < 2.9] * r[r < 2.9] ** 2) for g in
              (radial_distribution(box.position, box.side, 8.0, s)[1] for s in (0.0, 0.05))]
    assert shells[1] == pytest.approx(shells[0], rel=0.01)
    with pytest.raises(ValueError, match="half the side"):
        radial_distribution(box.position, box.side, 16.0)


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("sides", [(80.0, 80.0, 50.0), (33.0, 61.7, 24.0), (12.5, 100.0, 70.0)])
def test_film_in_any_box_is_dense_and_has_no_contacts(material: str, sides: tuple[float, float, float]) -> None:
    """Density within 3 % of the box's and what counting allows; no contact anywhere, nor across the borders."""
    position = film_in_box(material, *sides, Streams(1, 0))
    box = quenched_box(material)
    expected = len(box.position) / box.side**3 * np.prod(sides)
    assert len(position) == pytest.approx(expected, rel=0.03 + 0.3 / np.sqrt(expected))
    assert position.min() >= 0
    assert np.all(position.max(axis=0) < sides)
    assert len(cKDTree(position, boxsize=[*sides[:2], 0]).query_pairs(NEAREST[material])) == 0


@pytest.mark.parametrize("material", MATERIALS)
def test_seams_are_no_voids_and_no_ridges(material: str) -> None:
    """Atoms counted in cubes of 8 Å scatter as they do in the quenched box itself, to a half."""
    box = quenched_box(material)
    position = film_in_box(material, 104.0, 56.0, 64.0, Streams(4, 0))
    counts = np.histogramdd(position, [np.arange(0, 105, 8), np.arange(0, 57, 8), np.arange(0, 65, 8)])[0]
    rng = np.random.default_rng(0)
    own = [np.sum(np.all(np.mod(box.position - rng.uniform(0, box.side, 3), box.side) < 8, axis=1)) for _ in range(400)]
    assert counts.mean() == pytest.approx(np.mean(own), rel=0.03)
    assert counts.std() < 1.5 * np.std(own)


def repetition(position: np.ndarray, side: float) -> float:
    """Highest point of the autocorrelation of the projected film beyond 4 Å, in units of its scatter there."""
    n = 256
    image = np.histogram2d(position[:, 0], position[:, 1], n, ((0, side), (0, side)))[0]
    correlation = np.fft.ifft2(np.abs(np.fft.fft2(image - image.mean())) ** 2).real
    along = np.fft.fftfreq(n) * side
    beyond = correlation[np.hypot(along[:, None], along) > 4]
    return float(beyond.max() / beyond.std())


def test_film_repeats_nothing() -> None:
    """Of 65,000 values that are noise the highest is 4.3 deviations, 7 is one in 10⁷; a tiled box stands far out."""
    side = quenched_box("C").side
    assert repetition(film_in_box("C", 3 * side, 3 * side, 20.0, Streams(2, 0)), 3 * side) < 7
    assert repetition(film("C", 20.0, 3, Streams(2, 0)), 3 * side) > 30


def test_films_go_by_their_streams() -> None:
    """The same again from the same streams; another field or another purpose, another film."""
    films = [film_in_box("Si", 40.0, 30.0, 20.0, Streams(3, j), purpose)
             for j, purpose in ((0, "film"), (0, "film"), (1, "film"), (0, "other"))]
    assert np.array_equal(films[0], films[1])
    assert not any(np.array_equal(films[0][:50], other[:50]) for other in films[2:])


@pytest.mark.parametrize(("given", "said"), [
    (("C", 5.0, 20.0, 20.0), "box_x is 5 Å; 10 to 150"),
    (("C", 20.0, 151.0, 20.0), "box_y is 151 Å"),
    (("C", 20.0, 20.0, 0.0), "thickness is 0 Å"),
    (("Fe", 20.0, 20.0, 20.0), "there are C, Ge, Si"),
])
def test_impossible_films_are_refused(given: tuple[str, float, float, float], said: str) -> None:
    with pytest.raises(StructureError, match=said):
        film_in_box(*given, Streams(0, 0))


def test_wide_film_as_a_specimen() -> None:
    specimen = Amorphous(material="C", thickness=30.0, box=70.0).build(Streams(5, 0))
    assert specimen.tile == (70.0, 70.0)
    assert specimen.endless == (False, False)
    assert set(specimen.grain) == {-1}
    moved = specimen.atoms.positions - film_in_box("C", 70.0, 70.0, 30.0, Streams(5, 0))
    assert moved == pytest.approx(np.tile([0, 0, specimen.entrance], (len(moved), 1)))


def test_rough_faces_are_as_rough_as_asked() -> None:
    """Heights of the topmost atoms scatter more by what was asked; as many atoms as the flat film has."""
    flat, rough = (Amorphous(material="C", thickness=30.0, box=100.0, roughness=rms).build(Streams(6, 0))
                   for rms in (0.0, 3.0))

    def scatter(specimen: Atoms) -> float:
        top = np.full((20, 20), np.inf)
        x, y, z = specimen.atoms.positions.T
        np.minimum.at(top, (np.minimum(x // 5, 19).astype(int), np.minimum(y // 5, 19).astype(int)), z)
        return float(np.var(top))

    assert np.sqrt(scatter(rough) - scatter(flat)) == pytest.approx(3.0, rel=0.35)
    assert len(rough.atoms) == pytest.approx(len(flat.atoms), rel=0.05)
    z = rough.atoms.positions[:, 2]
    assert z.min() == pytest.approx(rough.entrance)
    assert z.max() == pytest.approx(rough.entrance + rough.thickness)
    assert z.max() < rough.atoms.cell.lengths()[2]


def test_mended_network_has_the_bonds_asked_for() -> None:
    """A short quench lacks bonds; mended, it is near the coordination asked for, at the film's density."""
    position, side, energy = quench("C", 216, speed=200.0)
    again, _, _ = quench("C", 216, speed=200.0)
    assert np.array_equal(position, again)
    assert len(position) * 12.011 * 1.66053907 / side**3 == pytest.approx(NETWORKS["C"].density)
    apart = neighbor_list("d", Atoms("C216", positions=position, cell=[side] * 3, pbc=True), 2.0)
    assert len(apart) / 216 == pytest.approx(NETWORKS["C"].coordination, abs=0.25)
    assert apart.mean() < 1.6
    assert 0 < energy < 2


def test_mending_keeps_what_is_whole() -> None:
    """Crystalline silicon comes out of it as it went in, without strain."""
    crystal = bulk("Si", "diamond", a=5.432, cubic=True) * (3, 3, 3)
    moved = crystal.positions + np.random.default_rng(1).normal(0, 0.05, crystal.positions.shape)
    position, energy = mend(np.mod(moved, 3 * 5.432), 3 * 5.432, NETWORKS["Si"])
    apart = neighbor_list("d", Atoms("Si216", positions=position, cell=[3 * 5.432] * 3, pbc=True), 2.6)
    assert len(apart) == 4 * 216
    assert np.abs(apart - 2.352).max() < 1e-3
    assert energy < 1e-4


def test_forces_of_a_network_are_minus_the_slope() -> None:
    from emsynth.specimen import _quench_kernels as kernels
    from emsynth.specimen.quench import _at_rest, _bonded

    box, network = quenched_box("C"), NETWORKS["C"]
    bonded, bonds = _bonded(box.position, box.side, network.reach)
    length, cosine = _at_rest(bonded, bonds, network)
    stiffness = np.array([network.stretch, network.bend, network.repel, network.contact])
    position = box.position + np.random.default_rng(0).normal(0, 0.05, box.position.shape)
    listed = np.empty((len(position), kernels.MOST_NEIGHBOURS), np.int64)
    count, force = np.empty(len(position), np.int64), np.empty_like(position)
    kernels.strangers(position, box.side, 3.5, bonded, bonds, listed, count)

    def energy() -> float:
        return kernels.valence(position, box.side, bonded, bonds, length, cosine, stiffness, listed, count, force)

    energy()
    for atom, axis in ((3, 1), (100, 2)):
        energy()
        pull, energies = force[atom, axis], []
        for step in (1e-4, -2e-4):
            position[atom, axis] += step
            energies.append(energy())
        position[atom, axis] += 1e-4
        assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(pull, abs=1e-4)


def contaminated(recipe: Crystal | Nanoparticle, index: int, thickness: float = 30.0) -> tuple:
    bare = recipe.build(Streams(1, index))
    layer = Contamination(share=1.0, thickness=thickness).draw(Streams(1, index), "specimen.contamination")
    return bare, layer.apply(bare, Streams(1, index))


@pytest.mark.parametrize("recipe", [
    Crystal(structure="SrTiO3", zone_axis=(0, 0, 1), thickness=40.0),
    Nanoparticle(structure="Au", diameter=20.0, zone_axis=(0, 1, 1), support_thickness=0.0, box=30.0),
])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_layers_lie_on_both_faces_without_contact(recipe: Crystal | Nanoparticle, index: int) -> None:
    bare, covered = contaminated(recipe, index)
    inside = np.arange(len(covered.atoms)) < len(bare.atoms)
    z = covered.atoms.positions[:, 2]
    said = covered.about["contamination"]
    assert said["entrance"] + said["exit"] == pytest.approx(30.0, abs=0.01)
    moved = covered.atoms.positions[inside] - bare.atoms.positions
    assert moved == pytest.approx(np.tile([0, 0, covered.entrance - bare.entrance], (len(bare.atoms), 1)))
    i, j, apart = neighbor_list("ijd", covered.atoms, CONTACT)
    assert not np.any(inside[i] != inside[j])
    assert apart.min() > 1.2
    assert z.min() >= 0
    assert z.max() < covered.atoms.cell.lengths()[2]
    # As thick as said: from the layer's outer face to the first (last) plane, less the contact distance.
    for face, depth in (("entrance", z[inside].min() - z.min()), ("exit", z.max() - z[inside].max())):
        assert depth == pytest.approx(said[face] + CONTACT if said[face] else 0.0, abs=0.6)
    assert np.all(covered.grain[~inside] == -1)
    assert np.all(covered.grain[inside] == 0)
    assert set(covered.thermal) == set(bare.thermal) | {"C"}


def test_columns_stay_where_they_are() -> None:
    """The tile is the whole box, so the columns of one cell are repeated over it, deeper by the layer."""
    bare, covered = contaminated(Crystal(structure="SrTiO3", zone_axis=(0, 0, 1), thickness=40.0), 0)
    rows, cols = bare.repeats
    assert (covered.repeats, covered.endless) == ((1, 1), (False, False))
    assert len(covered.columns) == rows * cols * len(bare.columns)
    assert covered.columns.count.sum() == len(bare.atoms)
    shift = covered.entrance - bare.entrance
    for position, depth in zip(covered.columns.position, covered.columns.depth, strict=True):
        xy = covered.atoms.positions[:len(bare.atoms), :2] - position[::-1]
        side = covered.atoms.cell.lengths()[:2]
        assert np.sum(np.hypot(*(xy - side * np.round(xy / side)).T) < 0.1) > 5
        assert depth[0] >= bare.columns.depth.min() + shift - 1e-9


def test_only_a_clean_exit_face_leaves_a_thickness_series() -> None:
    seen = set()
    for index in range(12):
        bare, covered = contaminated(Crystal(structure="Au", zone_axis=(0, 0, 1), thickness=40.0), index, 5.0)
        said = covered.about["contamination"]
        assert covered.slab == (said["exit"] == 0)
        assert covered.thickness == bare.thickness
        assert min(part for part in (said["entrance"], said["exit"]) if part) >= 2.5
        seen.add(covered.slab)
    assert seen == {True, False}


def test_share_of_specimens() -> None:
    """Drawn as 0 the specimen stays the same object; the chance is the share."""
    drawn = [Contamination(share=0.3).draw(Streams(2, j), "a.b").share for j in range(600)]
    assert set(drawn) == {0.0, 1.0}
    assert np.mean(drawn) == pytest.approx(0.3, abs=3 * np.sqrt(0.21 / 600))
    specimen = Amorphous().build(Streams(0, 0))
    assert Contamination(share=0.0, thickness=20.0).apply(specimen, Streams(0, 0)) is specimen
    with pytest.raises(TypeError, match="has not been drawn"):
        Contamination(share=0.3, thickness=20.0).apply(specimen, Streams(0, 0))
    with pytest.raises(ValidationError, match="outside 5 to 50 Å"):
        Contamination(thickness=60.0)
