"""Amorphous films, nanoparticles, mixtures, and the melt-quench run that made the boxes."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from pydantic import ValidationError

from emsynth.draw import Deal, Streams
from emsynth.specimen import Amorphous, Crystal, Member, Mixture, Nanoparticle, structure
from emsynth.specimen.amorphous import MATERIALS, NEAREST, density, film, quenched_box
from emsynth.specimen.particle import CONTACT, SURFACES, sphere_diameter, wulff


def box_of(material: str) -> Atoms:
    box = quenched_box(material)
    return Atoms(f"{material}{len(box.position)}", positions=box.position, cell=[box.side] * 3, pbc=True)


# Material, g/cm³, nearest pair, first peak, its end, second peak (Å), mean coordination.
@pytest.mark.parametrize(("material", "mass", "least", "first", "gap", "second", "coordination"), [
    ("C", 2.44, 1.2, (1.40, 1.54), 1.95, (2.40, 2.60), (3.1, 3.5)),
    ("Si", 2.285, 2.1, (2.33, 2.45), 2.85, (3.7, 4.0), (3.75, 4.05)),
    ("Ge", 5.21, 2.2, (2.41, 2.57), 2.95, (3.9, 4.2), (3.75, 4.05)),
])
def test_box_is_a_sane_glass(material: str, mass: float, least: float, first: tuple[float, float], gap: float,
                             second: tuple[float, float], coordination: tuple[float, float]) -> None:
    """Radial distribution over the periodic box, so that contacts across the border are looked at as well."""
    atoms = box_of(material)
    distance = neighbor_list("d", atoms, 5.0)
    counts, edges = np.histogram(distance, np.arange(1.0, 5.0, 0.05))
    middle = (edges[1:] + edges[:-1]) / 2
    rdf = counts / (4 * np.pi * middle**2 * 0.05 * len(atoms) ** 2 / atoms.cell.volume)
    assert density(material) == pytest.approx(mass, rel=2e-3)
    assert distance.min() > least
    assert first[0] <= middle[np.argmax(np.where(middle < gap, rdf, 0))] <= first[1]
    assert second[0] <= middle[np.argmax(np.where(middle > gap, rdf, 0))] <= second[1]
    assert rdf[np.argmin(np.abs(middle - gap))] < 0.15
    assert coordination[0] < np.sum(distance < gap) / len(atoms) < coordination[1]


def test_film_is_periodic_and_cut_to_thickness() -> None:
    """No contact across the side borders is nearer than in the box, and films of two streams differ."""
    recipe = Amorphous(material="C", thickness=70.0)
    specimen = recipe.build(Streams(1, 0))
    other = recipe.build(Streams(1, 1))
    side = quenched_box("C").side
    assert specimen.tile == (side, side)
    assert len(specimen.columns) == 0
    assert neighbor_list("d", specimen.atoms, 1.5).min() > 1.2
    assert np.ptp(specimen.atoms.positions[:, 2]) == pytest.approx(70.0, abs=0.5)
    assert len(specimen.atoms) == pytest.approx(len(quenched_box("C").position) * 70 / side, rel=0.03)
    assert not np.array_equal(specimen.atoms.positions[:100], other.atoms.positions[:100])
    assert np.array_equal(specimen.atoms.positions, recipe.build(Streams(1, 0)).atoms.positions)


def test_film_turns_keep_all_distances() -> None:
    """Turning and shifting the box is a symmetry operation: one period of film has the box's own distances."""
    side = quenched_box("Si").side
    cut = film("Si", side, 1, Streams(5, 0))
    turned = Atoms(f"Si{len(cut)}", positions=cut, cell=[side] * 3, pbc=True)
    own = np.sort(neighbor_list("d", box_of("Si"), 3.0))
    assert np.sort(neighbor_list("d", turned, 3.0)) == pytest.approx(own, abs=1e-6)


def test_layers_of_a_thick_film_do_not_line_up() -> None:
    """Independent layers add their variances: two boxes vary twice as much in projection as one, not four times."""
    side = quenched_box("C").side
    waves = np.array([wave for wave in itertools.product(range(-20, 21), repeat=2) if 0 < np.hypot(*wave) <= 20])

    def variance(position: np.ndarray) -> float:
        along = [np.exp(2j * np.pi / side * np.outer(position[:, a], np.arange(-20, 21))) for a in (0, 1)]
        return float(np.sum(np.abs((along[0].T @ along[1])[waves[:, 0] + 20, waves[:, 1] + 20]) ** 2))

    one, two = (np.mean([variance(film("C", depth, 1, Streams(8, j))) for j in range(12)]) for depth in
                (side, 2 * side))
    assert two / one == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("material", MATERIALS)
def test_seams_of_a_thick_film_are_sound(material: str) -> None:
    """Four boxes: nothing too near anywhere, the density of one, and the in-plane period still holds."""
    box = quenched_box(material)
    thick = film(material, 4 * box.side, 1, Streams(9, 0))
    atoms = Atoms(f"{material}{len(thick)}", positions=thick, cell=[box.side, box.side, 4 * box.side + 9], pbc=True)
    assert neighbor_list("d", atoms, 2.4).min() >= NEAREST[material]
    assert len(thick) == pytest.approx(4 * len(box.position), rel=0.02)
    assert np.all(np.histogram(thick[:, 2], 4, (0, 4 * box.side))[0] > 0.97 * len(box.position))


def test_top_of_a_film_does_not_depend_on_its_thickness() -> None:
    """A film's exit planes are a thickness series; the first box is the one of a thin film."""
    thin, thick = (film("Ge", depth, 1, Streams(3, 2)) for depth in (25.0, 100.0))
    assert np.array_equal(thin, thick[thick[:, 2] < 25.0])


def test_film_under_a_particle_does_not_line_up_either() -> None:
    specimen = Nanoparticle(structure="Au", diameter=15.0, zone_axis=(0, 0, 1), support_thickness=62.0,
                            box=28.0).build(Streams(4, 0))
    carbon = specimen.atoms.positions[specimen.atoms.symbols == "C"]
    side = quenched_box("C").side
    top, below = carbon[carbon[:, 2] < carbon[:, 2].min() + side - 1], carbon[carbon[:, 2] > carbon[:, 2].min() + side]
    repeated = np.abs(top[:, None] + [0, 0, side] - below[None]).max(axis=-1) < 1e-3
    assert not repeated.any()


@pytest.mark.parametrize("name", SURFACES)
def test_particle_has_the_volume_asked_for(name: str) -> None:
    """To a facet's atoms; the diameter is that of the sphere of the same volume."""
    atoms = structure(name).atoms()
    particle = wulff(name, 30.0, np.random.default_rng(1).uniform(0, 1, 3))
    assert len(particle) * atoms.cell.volume / len(atoms) == pytest.approx(np.pi / 6 * 30**3, rel=0.06)
    assert sphere_diameter(name, len(particle)) == pytest.approx(30.0, rel=0.02)
    assert np.ptp(particle, axis=0).max() < 45


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)])
def test_shells_are_closed(name: str, centre: tuple[float, float, float]) -> None:
    """About a site of the full symmetry, all 48 operations of the cube leave the particle as it is."""
    particle = wulff(name, 28.0, np.array(centre))

    def listed(position: np.ndarray) -> np.ndarray:
        whole = np.round(position / structure(name).cell[0] * 2).astype(int)
        return whole[np.lexsort(whole.T)]

    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            assert np.array_equal(listed(particle[:, order] * signs), listed(particle))
    assert sphere_diameter(name, len(particle)) == pytest.approx(28.0, rel=0.15)


@pytest.mark.parametrize("name", ["Au", "Ag", "Pt", "Ni"])
def test_facets_are_whole(name: str) -> None:
    """A particle of 30 Å rests on a facet, not on an island of a few atoms, wherever its centre lies."""
    for seed in range(10):
        specimen = Nanoparticle(structure=name, diameter=30.0, zone_axis=(1, 1, 1), support_thickness=0.0).build(
            Streams(seed, 0))
        z = specimen.atoms.positions[:, 2]
        assert min(np.sum(z < z.min() + 0.3), np.sum(z > z.max() - 0.3)) >= 12
        assert specimen.about["diameter"] == pytest.approx(30.0, rel=0.02)
        bonds = np.bincount(neighbor_list("i", specimen.atoms, 0.85 * structure(name).cell[0]), minlength=len(z))
        assert bonds.min() >= 5


def test_entrance_is_the_first_atoms_plane() -> None:
    """Films are thickness series, particles are not; both begin where their atoms do."""
    film_alone = Amorphous(material="C", thickness=40.0).build(Streams(1, 0))
    particle = Nanoparticle(structure="Au", diameter=20.0, zone_axis=(0, 0, 1)).build(Streams(1, 0))
    assert (film_alone.slab, particle.slab) == (True, False)
    for specimen in (film_alone, particle):
        z = specimen.atoms.positions[:, 2]
        assert specimen.entrance == pytest.approx(z.min(), abs=0.1)
        assert np.ptp(z) == pytest.approx(specimen.thickness, abs=0.2)
        assert specimen.entrance + specimen.thickness < specimen.atoms.cell.lengths()[2]
    assert particle.columns.depth.min() == pytest.approx(particle.entrance)


def test_gold_is_faceted_as_wulff_says() -> None:
    """The distances of (100) and (111) facets go as their surface energies, to a layer's spacing."""
    particle = wulff("Au", 60.0, np.random.default_rng(2).uniform(0, 1, 3))
    particle -= (particle.max(axis=0) + particle.min(axis=0)) / 2
    cube = np.ptp(particle[:, 0]) / 2
    octahedron = np.ptp(particle @ np.array([1, 1, 1]) / np.sqrt(3)) / 2
    assert cube / octahedron == pytest.approx(1.627 / 1.283, abs=0.1)


def test_particle_rests_on_its_film() -> None:
    """The beam meets the particle first; film and particle touch and do not overlap."""
    specimen = Nanoparticle(structure="Au", diameter=25.0, zone_axis=(0, 1, 1)).build(Streams(4, 0))
    atoms = specimen.atoms
    gold, carbon = atoms[atoms.symbols == "Au"], atoms[atoms.symbols == "C"]
    i, j, apart = neighbor_list("ijd", atoms, 2.6)
    mixed = atoms.numbers[i] != atoms.numbers[j]
    assert apart[mixed].min() == pytest.approx(CONTACT, abs=1e-3)
    assert gold.positions[:, 2].min() < carbon.positions[:, 2].min()
    assert specimen.tile[0] % quenched_box("C").side == pytest.approx(0, abs=1e-6)
    assert specimen.prototype == "fcc"
    assert specimen.columns.count.sum() == len(gold)
    assert set(specimen.columns.formula) == {"Au"}


def test_free_particle_has_vacuum_around() -> None:
    specimen = Nanoparticle(structure="Pt", diameter=40.0, support_thickness=0.0, box=16.0,
                            zone_axis=(0, 0, 1)).build(Streams(4, 1))
    reach = np.ptp(specimen.atoms.positions, axis=0)
    assert set(specimen.atoms.symbols) == {"Pt"}
    assert np.all(specimen.atoms.cell.lengths()[:2] - reach[:2] > 7)


def test_mixture_keeps_the_shares_at_every_length() -> None:
    """After any number of fields no member is a whole field ahead, and turns count each member's own."""
    members = tuple(Member(share=share, specimen=Amorphous()) for share in (5.0, 3.0, 1.5, 0.5))
    mixture = Mixture(members=members)
    counts = [0, 0, 0, 0]
    for n in range(200):
        member, turn = mixture.member_of(n)
        assert turn == counts[member]
        counts[member] += 1
        assert np.abs(np.array(counts) - np.array([0.5, 0.3, 0.15, 0.05]) * (n + 1)).max() < 1
    assert counts == [100, 60, 30, 10]


def test_drawn_mixture_is_one_member() -> None:
    mixture = Mixture(members=(Member(share=1, specimen=Amorphous()),
                               Member(share=1, specimen=Crystal(structure=Deal(values=("Au", "Si"))))))
    drawn = [mixture.draw(Streams(7, j)) for j in range(4)]
    assert [entry.members[0].specimen.kind for entry in drawn] == ["amorphous", "crystal", "amorphous", "crystal"]
    assert {drawn[1].members[0].specimen.structure, drawn[3].members[0].specimen.structure} == {"Au", "Si"}
    assert drawn[1].build(Streams(7, 1)).kind == "crystal"


@pytest.mark.parametrize(("cls", "given", "said"), [
    (Amorphous, {"material": "Fe"}, "there are C, Ge, Si"),
    (Nanoparticle, {"structure": "Si"}, "no surface energies"),
    (Nanoparticle, {"zone_axis": [0, 0, 0]}, "not a zone axis"),
    (Crystal, {"structure": "Au", "file": "a.cif"}, "either"),
    (Crystal, {}, "either"),
    (Crystal, {"structure": "Sii"}, "did you mean 'Si'"),
    (Crystal, {"structure": "Au", "thickness": 5.0}, "outside 20 to 500 Å"),
    (Mixture, {"members": []}, "at least 1"),
])
def test_wrong_recipes_say_what_is_allowed(cls: type, given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        cls(**given)


def test_tersoff_gives_the_published_cohesive_energies() -> None:
    """Diamond cells at Tersoff's own lattice constants: -7.37, -4.63, -3.85 eV; forces are minus the slope."""
    from ase.build import bulk

    from emsynth.specimen import _quench_kernels as kernels
    from emsynth.specimen.quench import MELTS

    for element, constant, energy in (("C", 3.566, -7.37), ("Si", 5.432, -4.63), ("Ge", 5.657, -3.85)):
        position = (bulk(element, "diamond", a=constant, cubic=True) * (3, 3, 3)).positions.copy()
        side, constants = 3 * constant, np.array(MELTS[element].constants)
        listed = np.empty((len(position), kernels.MOST_NEIGHBOURS), np.int64)
        count = np.empty(len(position), np.int64)
        force = np.empty_like(position)
        kernels.neighbours(position, side, constants[10] + 0.3, listed, count)
        total = kernels.tersoff(position, side, listed, count, constants, force)
        assert total / len(position) == pytest.approx(energy, abs=0.01)
        position += np.random.default_rng(0).normal(0, 0.05, position.shape)
        kernels.tersoff(position, side, listed, count, constants, force)
        pull = force[3, 1]
        energies = []
        for step in (1e-4, -2e-4):
            position[3, 1] += step
            energies.append(kernels.tersoff(position, side, listed, count, constants, force))
        assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(pull, abs=1e-4)


def test_classes_load_no_heavy_library() -> None:
    """`emsynth check` reads recipes without ASE, spglib, SciPy, Numba or abTEM."""
    code = ("import sys, emsynth.specimen; "
            "print([name for name in ('ase', 'spglib', 'scipy', 'numba', 'abtem') if name in sys.modules])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
    assert set(MATERIALS) == {"C", "Si", "Ge"}
