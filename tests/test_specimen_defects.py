"""Defects: as many as asked for, in the right places, and the columns tell what is really there."""

import math
import time

import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from pydantic import ValidationError
from scipy.spatial import cKDTree

from emsynth.draw import Deal, Streams, Uniform
from emsynth.errors import StructureError
from emsynth.specimen.base import Specimen
from emsynth.specimen.crystal import Crystal
from emsynth.specimen.defects import Defects, dislocation_pair, strain_waves

STREAMS = Streams(seed=1, index=0)


def defects(name: str, axis: tuple[int, int, int], **more: object) -> Specimen:
    return Defects(structure=name, zone_axis=axis, **more).build(STREAMS)


def spread(share: float, sites: int) -> float:
    """Four standard deviations of a share of so many sites."""
    return 4 * math.sqrt(share * (1 - share) / sites)


def test_without_defects_it_is_the_crystal() -> None:
    """Same atoms, depths and columns as the perfect crystal in the same box."""
    mine = defects("SrTiO3", (0, 1, 1), box=28.0, thickness=60.0)
    perfect = Crystal(structure="SrTiO3", zone_axis=(0, 1, 1), minimum_box=28.0, thickness=60.0).build(STREAMS)
    assert mine.atoms.positions == pytest.approx(perfect.atoms.positions, abs=1e-9)
    assert np.array_equal(mine.atoms.numbers, perfect.atoms.numbers)
    assert len(mine.columns) == len(perfect.columns) * np.prod(perfect.repeats)
    assert (mine.entrance, mine.thickness, mine.slab) == (perfect.entrance, perfect.thickness, True)
    assert mine.repeats == (1, 1)
    assert mine.endless == (False, False)


def test_vacancies_and_dopants_by_share_and_site() -> None:
    perfect = defects("SrTiO3", (0, 0, 1), box=40.0).atoms.symbols.formula.count()
    specimen = defects("SrTiO3", (0, 0, 1), box=40.0, vacancies=0.1, vacancy_site="O", substitution=0.2, dopant="La",
                       dopant_site="Sr")
    found = specimen.atoms.symbols.formula.count()
    assert found["O"] / perfect["O"] == pytest.approx(0.9, abs=spread(0.1, perfect["O"]))
    assert found["La"] / perfect["Sr"] == pytest.approx(0.2, abs=spread(0.2, perfect["Sr"]))
    assert found["Sr"] + found["La"] == perfect["Sr"]
    assert found["Ti"] == perfect["Ti"]
    assert specimen.about["substituted"] == found["La"]
    assert specimen.about["vacancies"] == perfect["O"] - found["O"]
    assert specimen.thermal["La"] > 0


def test_columns_tell_what_is_there() -> None:
    """Seven Sr per column: those with La say so, and count and depth are the atoms' own."""
    specimen = defects("SrTiO3", (0, 0, 1), thickness=7 * 3.905, substitution=0.1, dopant="La", dopant_site="Sr",
                       vacancies=0.1, vacancy_site="Sr")
    columns, atoms = specimen.columns, specimen.atoms
    assert columns.count.sum() == len(atoms)
    seen = set()
    for place, formula, count, depth, heaviest in zip(columns.position, columns.formula, columns.count, columns.depth,
                                                      columns.number, strict=True):
        mine = np.linalg.norm(atoms.positions[:, 1::-1] - place, axis=1) < 0.3
        assert mine.sum() == count
        assert depth == pytest.approx([atoms.positions[mine, 2].min(), atoms.positions[mine, 2].max()])
        assert heaviest == atoms.numbers[mine].max()
        assert ("La" in formula) == bool(np.any(atoms.numbers[mine] == 57))
        seen.add(formula)
    assert "LaSr6" in seen


def test_antisites_exchange_atoms() -> None:
    """The composition stays; a tenth of each sort sits on the other's places."""
    perfect, mixed = (defects("GaAs", (0, 1, 1), antisites=share) for share in (0.0, 0.1))
    assert mixed.atoms.symbols.formula.count() == perfect.atoms.symbols.formula.count()
    changed = mixed.atoms.numbers != perfect.atoms.numbers
    assert np.mean(changed) == pytest.approx(0.1, abs=1e-3)


def test_one_defect_more_leaves_the_others() -> None:
    """Strain and steps move and cut atoms, and do not shift the draw of the vacancies."""
    plain = defects("Au", (0, 0, 1), vacancies=0.05)
    strained = defects("Au", (0, 0, 1), vacancies=0.05, strain=0.01)
    assert np.array_equal(plain.atoms.positions[:, 2], strained.atoms.positions[:, 2])
    assert plain.about["vacancies"] == strained.about["vacancies"] > 0


@pytest.mark.parametrize("largest", [0.005, 0.02])
def test_largest_strain_is_as_asked_for(largest: float) -> None:
    """Principal strains by finite differences: their largest is the bound; the map is periodic."""
    sides, step = (31.0, 43.0), 1e-3
    axes = [np.linspace(0, side, 90, endpoint=False) for side in sides]
    grid = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=1)

    def moved(place: np.ndarray) -> np.ndarray:
        return strain_waves(STREAMS.generator("test"), place, sides, largest)

    slopes = [(moved(grid + step * np.eye(2)[a]) - moved(grid - step * np.eye(2)[a])) / (2 * step) for a in (0, 1)]
    gradient = np.stack(slopes, axis=2)
    principal = np.abs(np.linalg.eigvalsh((gradient + gradient.transpose(0, 2, 1)) / 2)).max()
    assert principal == pytest.approx(largest, rel=0.01)
    assert moved(grid + np.array(sides)) == pytest.approx(moved(grid), abs=1e-9)


def test_a_strained_column_is_one_column_where_its_atoms_are() -> None:
    specimen = defects("GaAs", (0, 1, 1), strain=0.02, box=40.0)
    perfect = defects("GaAs", (0, 1, 1), box=40.0)
    assert len(specimen.columns) == len(perfect.columns)
    box = np.array(specimen.tile)
    away = specimen.atoms.positions[:, None, 1::-1] - specimen.columns.position[None]
    away -= box * np.round(away / box)
    assert np.linalg.norm(away, axis=2).min(axis=1).max() < 1e-6
    shift = specimen.columns.position - perfect.columns.position
    assert 0.05 < np.abs(shift - box * np.round(shift / box)).max() < 2


def test_wedge_is_a_periodic_roof() -> None:
    """Thickness falls from the ridge by the slope, on both sides alike, and meets itself across the border."""
    specimen = defects("Au", (0, 0, 1), wedge=30.0, box=80.0, thickness=80.0)
    axis = 0 if specimen.about["wedge"]["across"] == "row" else 1
    bottom, side = specimen.columns.depth[:, 1] - specimen.entrance, specimen.tile[axis]
    away = np.abs((specimen.columns.position[:, axis] - specimen.about["wedge"]["ridge"] + side / 2) % side - side / 2)
    slope, top = np.polyfit(away, bottom, 1)
    assert slope == pytest.approx(-math.tan(math.radians(30)), rel=0.05)
    assert top == pytest.approx(80, abs=4.08)
    assert np.abs(bottom - top - slope * away).max() < 4.08
    assert not specimen.slab


def test_steps_are_one_repeat_high() -> None:
    """Columns begin and end at whole repeats from the flat surfaces, up to the height asked for."""
    specimen = defects("SrTiO3", (0, 0, 1), entrance_steps=2.0, exit_steps=3.0, box=50.0, thickness=20 * 3.905)
    strontium = np.array(specimen.columns.formula) == "Sr"
    first, last = specimen.columns.depth[strontium].T
    for heights, highest in (((first - first.min()) / 3.905, 2), ((last.max() - last) / 3.905, 3)):
        assert heights == pytest.approx(np.round(heights), abs=1e-3)
        assert set(np.round(heights).astype(int).tolist()) == set(range(highest + 1))
    assert not specimen.slab


def test_coherent_precipitate_sits_on_the_lattice() -> None:
    """Ag in Al: every atom on a site of the matrix, none lost, in the volume of the sphere; columns merge."""
    specimen = defects("Al", (0, 1, 1), precipitate="Ag", precipitate_diameter=24.0, box=40.0)
    perfect = defects("Al", (0, 1, 1), box=40.0)
    assert "coherent" in specimen.about["precipitate"]["orientation"]
    assert len(specimen.atoms) == len(perfect.atoms)
    away, _ = cKDTree(perfect.atoms.positions).query(specimen.atoms.positions)
    assert away.max() < 0.02
    silver = specimen.atoms.numbers == 47
    assert silver.sum() == pytest.approx(math.pi / 6 * 24.0**3 * 4 / 4.0495**3, rel=0.05)
    assert np.array_equal(specimen.grain == 1, silver)
    assert len(specimen.columns) == len(perfect.columns)
    assert any("Ag" in formula and "Al" in formula for formula in specimen.columns.formula)
    centre = np.array(specimen.about["precipitate"]["centre"])[[1, 0, 2]]
    assert np.linalg.norm(specimen.atoms.positions[silver] - centre, axis=1).max() < 12.0


@pytest.mark.parametrize(("matrix", "inside", "how"), [("Al", "Cu", "axes parallel"), ("Al", "Ti", "random"),
                                                       ("MgO", "Ag", "coherent"), ("SrTiO3", "BaTiO3", "coherent")])
def test_precipitates_touch_nothing(matrix: str, inside: str, how: str) -> None:
    """No atom of either is nearer to the other's than three quarters of the covalent radii's sum."""
    from ase.data import covalent_radii

    specimen = defects(matrix, (0, 0, 1), precipitate=inside, box=36.0, thickness=50.0)
    assert how in specimen.about["precipitate"]["orientation"]
    atoms = specimen.atoms.copy()
    atoms.pbc = (True, True, False)
    i, j, distance = neighbor_list("ijd", atoms, 3.0)
    across = specimen.grain[i] != specimen.grain[j]
    assert across.any()
    bond = covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]
    assert np.all(distance[across] >= 0.75 * bond[across] - 1e-3)


def test_a_plate_is_flat() -> None:
    specimen = defects("Al", (0, 0, 1), precipitate="Cu", precipitate_diameter=30.0, precipitate_aspect=0.3, box=40.0)
    extent = np.sort(np.ptp(specimen.atoms.positions[specimen.grain == 1], axis=0))
    assert extent[0] <= 9.0
    assert extent[1] == pytest.approx(30.0, abs=5)
    assert np.ptp(specimen.atoms.positions[specimen.grain == 1, 2]) > 20


def test_around_each_dislocation_a_burgers_vector_is_missing() -> None:
    """The displacement's jumps along a circuit sum up to b around one, -b around the other, 0 around both."""
    sides, burgers = (60.0, 52.0), np.array([2.5, 0.0])
    centre, apart = np.array([29.0, 25.0]), np.array([26.0, 0.0])

    def missing(middle: np.ndarray, radius: float) -> np.ndarray:
        turn = np.linspace(0, 2 * np.pi, 4001)
        ring = middle + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        steps = np.diff(dislocation_pair(ring, centre, apart, burgers, sides), axis=0)
        # The cut, where the crystal has slipped, is the one place where the displacement jumps.
        jumps = steps[np.linalg.norm(steps, axis=1) > 0.5]
        return jumps.sum(axis=0)

    one, other = missing(centre + apart / 2, 6.0), missing(centre - apart / 2, 6.0)
    assert np.abs(one) == pytest.approx(np.abs(burgers), abs=0.02)
    assert one + other == pytest.approx([0, 0], abs=0.02)
    assert missing(centre, 22.0) == pytest.approx([0, 0], abs=1e-9)


def test_dislocations_are_periodic_and_solve_elasticity() -> None:
    """Across the borders the displacement is continuous; away from the cores Navier's equation holds."""
    sides, burgers, poisson = (60.0, 52.0), np.array([2.5, 0.0]), 0.3
    centre, apart = np.array([29.0, 25.0]), np.array([26.0, 0.0])

    def moved(place: np.ndarray) -> np.ndarray:
        return dislocation_pair(place, centre, apart, burgers, sides, poisson)

    along = np.linspace(0.5, 50, 40)
    left = np.stack([np.full(40, centre[0] - 29.9999), along], axis=1)
    right = np.stack([np.full(40, centre[0] + 29.9999), along], axis=1)
    assert moved(left) == pytest.approx(moved(right), abs=0.01)
    points, step = np.array([[10.0, 10.0], [29.0, 45.0], [50.0, 38.0]]), 0.05
    second = {}
    for a, b in ((0, 0), (1, 1), (0, 1)):
        da, db = step * np.eye(2)[a], step * np.eye(2)[b]
        second[a, b] = (moved(points + da + db) - moved(points + da - db) - moved(points - da + db)
                        + moved(points - da - db)) / (4 * step**2)
    bulk = 1 / (1 - 2 * poisson)
    residual_x = second[0, 0][:, 0] + second[1, 1][:, 0] + bulk * (second[0, 0][:, 0] + second[0, 1][:, 1])
    residual_y = second[0, 0][:, 1] + second[1, 1][:, 1] + bulk * (second[0, 1][:, 0] + second[1, 1][:, 1])
    size = np.abs(second[0, 0]).max()
    assert max(np.abs(residual_x).max(), np.abs(residual_y).max()) < 0.01 * size


def test_dislocated_crystal_is_whole_away_from_the_cores() -> None:
    """12 Å from both cores all nearest neighbours are within 8 % of their distance, also across the slipped plane."""
    specimen = Defects(structure="Al", zone_axis=(0, 0, 1), box=70.0, thickness=30.0,
                       dislocations=1.0).build(STREAMS)
    atoms = specimen.atoms.copy()
    atoms.pbc = (True, True, False)
    bond = 4.0495 / math.sqrt(2)
    i, distance = neighbor_list("id", atoms, 1.15 * bond)
    box = np.array(specimen.tile)
    far, z = np.ones(len(atoms), bool), atoms.positions[:, 2]
    for core in specimen.about["dislocations"]["position"]:
        away = atoms.positions[:, 1::-1] - core
        far &= np.linalg.norm(away - box * np.round(away / box), axis=1) > 12
    assert 0.5 < far.mean() < 0.95
    assert np.abs(distance[far[i]] / bond - 1).max() < 0.08
    inner = far & (z > z.min() + 3) & (z < z.max() - 3)
    assert np.all(np.bincount(i, minlength=len(atoms))[inner] == 12)
    assert distance.min() > 0.74 * bond


def test_cores_hold_no_crowded_atoms() -> None:
    """Wherever the cores fall, atoms that the displacement brings together are thinned out, and counted."""
    recipe, removed = Defects(structure="Al", zone_axis=(0, 0, 1), box=40.0, thickness=20.0, dislocations=1.0), 0
    for index in range(6):
        specimen = recipe.build(Streams(1, index))
        atoms = specimen.atoms.copy()
        atoms.pbc = (True, True, False)
        assert neighbor_list("d", atoms, 3.0).min() > 0.74 * 4.0495 / math.sqrt(2)
        removed += specimen.about["dislocations"]["removed_atoms"]
    assert removed > 0


def test_layers_take_point_defects_only() -> None:
    sheet = defects("graphene", (0, 0, 1), vacancies=0.05, substitution=0.05, dopant="N")
    assert set(sheet.columns.formula) == {"C", "N"}
    with pytest.raises(StructureError, match="takes no wedge"):
        defects("graphene", (0, 0, 1), wedge=5.0)


@pytest.mark.parametrize(("more", "reason"), [
    ({"vacancies": 0.1, "vacancy_site": "Ba"}, "holds no Ba"), ({"substitution": 0.1, "dopant": "La",
     "dopant_site": "Fe"}, "holds no Fe"), ({"antisites": 0.1, "antisite_elements": ("Sr", "Ba")}, "anti-sites need"),
    ({"precipitate": "BaTiO3", "precipitate_diameter": 40.0}, "needs a box"),
    ({"precipitate": "BaTiO3", "precipitate_diameter": 40.0, "box": 60.0, "thickness": 30.0}, "does not fit"),
    ({"precipitate": "Nb3Sn"}, "reserved"), ({"precipitate": "CeO2"}, "split"),
    ({"wedge": 60.0, "box": 60.0, "thickness": 50.0}, "must stay"),
    ({"entrance_steps": 10.0, "exit_steps": 10.0, "thickness": 60.0}, "must stay"),
    ({"box": 120.0, "thickness": 500.0}, "atoms"),
])
def test_impossible_defects_are_refused(more: dict[str, object], reason: str) -> None:
    with pytest.raises(StructureError, match=reason):
        defects("SrTiO3", (0, 0, 1), **more)


@pytest.mark.parametrize(("more", "reason"), [
    ({"substitution": 0.1}, "needs a `dopant`"), ({"substitution": 0.1, "dopant": "Xx"}, "not a chemical element"),
    ({"strain": 0.05}, "outside"),
])
def test_wrong_recipes_are_refused(more: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Defects(structure="SrTiO3", **more)


def test_amounts_are_drawn() -> None:
    """Distributions collapse, axes are dealt, the same field twice is the same specimen."""
    recipe = Defects(structure=Deal(values=("Au", "Si")), vacancies=Uniform(low=0.01, high=0.1), dislocations=0.5)
    drawn = [recipe.draw(Streams(3, j, j)) for j in range(12)]
    assert len({entry.vacancies for entry in drawn}) == 12
    assert {entry.dislocations for entry in drawn} == {0.0, 1.0}
    assert len({entry.zone_axis for entry in drawn if entry.structure == "Au"}) == 4
    assert drawn[0].draw(Streams(3, 0, 0)) == drawn[0]
    first, again = (drawn[0].build(Streams(3, 0, 0)) for _ in range(2))
    assert np.array_equal(first.atoms.positions, again.atoms.positions)


def test_big_box_in_seconds() -> None:
    start = time.process_time()
    defects("SrTiO3", (0, 0, 1), box=60.0, thickness=60.0, vacancies=0.01, substitution=0.1, dopant="La", strain=0.02,
            entrance_steps=2, precipitate="BaTiO3", dislocations=1.0)
    assert time.process_time() - start < 2
