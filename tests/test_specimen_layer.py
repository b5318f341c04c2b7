"""Two-dimensional crystals: stacking, twist, defects, rims and waves."""

import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from pydantic import ValidationError

from emsynth.draw import Streams
from emsynth.errors import StructureError
from emsynth.specimen.layer import LARGEST_STRAIN, SPACING, Layer, commensurate, layer_names
from emsynth.specimen.table import structure


def built(seed: int = 1, **given):  # type: ignore[no-untyped-def]
    return Layer(**given).build(Streams(seed, 0))


@pytest.mark.parametrize("name", layer_names())
def test_perfect_layer_is_the_crystal(name: str) -> None:
    """Every atom has the neighbours of the table's cell, across the borders too; the tile is the smallest."""
    specimen = built(structure=name, box=20.0)
    cell = structure(name).atoms()
    for cutoff in (1.2 * neighbor_list("d", cell, 4.0).min(), 4.4):
        own, ours = (np.sort(neighbor_list("d", atoms, cutoff)) for atoms in (cell, specimen.atoms))
        assert len(ours) / len(specimen.atoms) == pytest.approx(len(own) / len(cell))
        assert ours == pytest.approx(np.repeat(own, len(specimen.atoms) // len(cell)), abs=1e-3)
    assert specimen.tile == pytest.approx((cell.cell[0, 0] * np.sqrt(3), cell.cell[0, 0]))
    assert specimen.endless == (True, True)
    assert len(specimen.columns) == 4
    assert name in SPACING


def test_columns_of_a_dichalcogenide() -> None:
    specimen = built(structure="MoS2 layer", box=20.0)
    assert sorted(zip(specimen.columns.formula, specimen.columns.count.tolist(), strict=True)) == [
        ("Mo", 1), ("Mo", 1), ("S", 2), ("S", 2)]


@pytest.mark.parametrize(("name", "stacking", "formulas"), [
    ("graphene", "AA", {("C", 2)}), ("graphene", "AB", {("C", 1), ("C", 2)}),
    ("hBN layer", "AA'", {("NB", 2)}), ("MoS2 layer", "AA'", {("MoS2", 3)}),
    ("MoS2 layer", "AB", {("Mo", 1), ("S", 2), ("MoS2", 3)}),
])
def test_stacking(name: str, stacking: str, formulas: set[tuple[str, int]]) -> None:
    """What stands above what: Bernal graphite has single and double columns, 2H has metal above chalcogen."""
    specimen = built(structure=name, layers=2, stacking=stacking, box=20.0)
    assert set(zip(specimen.columns.formula, specimen.columns.count.tolist(), strict=True)) == formulas
    assert specimen.grain is not None
    assert np.bincount(specimen.grain).tolist() == [len(specimen.atoms) // 2] * 2
    heights = [specimen.atoms.positions[specimen.grain == n, 2].mean() for n in (0, 1)]
    assert heights[1] - heights[0] == pytest.approx(SPACING[name])


def test_twist_is_what_the_record_says() -> None:
    """Bond directions of the two layers differ by the angle reached, modulo 60 degrees; bonds by the strain at most."""
    for twist in (8.0, 13.2, 21.8, 28.0):
        specimen = built(layers=2, twist=twist, box=60.0)
        angle, strain = specimen.about["twist"], specimen.about["accommodation_strain"]
        assert abs(angle - twist) < 1
        directions = []
        for n in (0, 1):
            layer = specimen.atoms[specimen.grain == n]
            step, bond = neighbor_list("Dd", layer, 1.6)
            assert len(bond) == 3 * len(layer)
            assert np.abs(bond / (2.4612 / np.sqrt(3)) - 1).max() == pytest.approx(strain, abs=1e-4)
            directions.append(np.angle(np.mean(((step[:, 0] + 1j * step[:, 1]) / bond) ** 6)) / 6)
        turn = np.degrees(directions[1] - directions[0])
        assert (turn - angle + 30) % 60 - 30 == pytest.approx(0, abs=1e-3)


def test_commensurate_finds_the_known_cell() -> None:
    """21.787 degrees: the smallest moiré cell, 7 cells, without strain (Lopes dos Santos et al., PRL 99, 256802)."""
    found = commensurate(2.4612, 30.0, 21.8)
    assert found.angle == pytest.approx(21.7868, abs=1e-3)
    assert found.strain == pytest.approx(0, abs=1e-12)
    assert all(30 <= side <= 45 for side in found.box)
    for twist in (9.0, 17.0, 30.0):
        assert commensurate(3.16, 50.0, twist).strain <= LARGEST_STRAIN


def test_vacancies_and_foreign_atoms_are_the_share_asked_for() -> None:
    """Only of the elements named; a share that grows takes more of the same atoms away."""
    perfect = built(structure="MoS2 layer", box=80.0)
    holed = built(structure="MoS2 layer", box=80.0, vacancies=0.05, vacancy_of="S")
    more = built(structure="MoS2 layer", box=80.0, vacancies=0.1, vacancy_of="S")
    mixed = built(structure="MoS2 layer", box=80.0, substitution=0.2, substitute="W")
    count = {symbol: np.sum(perfect.atoms.symbols == symbol) for symbol in ("Mo", "S")}
    assert np.sum(holed.atoms.symbols == "Mo") == count["Mo"]
    assert np.sum(holed.atoms.symbols == "S") / count["S"] == pytest.approx(0.95, abs=0.02)
    kept = [{tuple(row) for row in layer.atoms.positions.round(6)} for layer in (more, holed)]
    assert kept[0] < kept[1]
    assert np.sum(mixed.atoms.symbols == "W") / count["Mo"] == pytest.approx(0.2, abs=0.05)
    assert len(mixed.atoms) == len(perfect.atoms)
    assert set(mixed.thermal) == {"Mo", "S", "W"}
    assert holed.endless == mixed.endless == (False, False)
    assert {"W", "Mo", "S"} == set(mixed.columns.formula)


def test_a_stage_more_leaves_the_other_draws_alone() -> None:
    """With a hole, the foreign atoms outside of it are the same ones."""
    whole = built(box=60.0, substitution=0.1, substitute="N")
    opened = built(box=60.0, substitution=0.1, substitute="N", hole=20.0)
    ours = {tuple(row) for row in opened.atoms.positions[opened.atoms.symbols == "N"].round(6)}
    assert ours <= {tuple(row) for row in whole.atoms.positions[whole.atoms.symbols == "N"].round(6)}
    assert len(ours) > 50


def test_hole_is_round_and_its_rim_bound() -> None:
    """The area that is missing is the hole's, to a quarter; no atom at the rim hangs on one bond."""
    whole, opened = built(box=70.0), built(box=70.0, hole=30.0)
    missing = (len(whole.atoms) - len(opened.atoms)) / len(whole.atoms) * np.prod(opened.tile)
    assert missing == pytest.approx(np.pi / 4 * 30**2, rel=0.25)
    assert np.bincount(neighbor_list("i", opened.atoms, 1.7)).min() >= 2


def test_edge_leaves_vacuum() -> None:
    """A strip without atoms of nearly the width asked for, across one side of the box."""
    specimen = built(structure="WS2 layer", box=60.0, edge=0.4)
    gaps = [np.diff(np.sort(specimen.atoms.positions[:, axis])).max() / specimen.atoms.cell.lengths()[axis]
            for axis in (0, 1)]
    assert max(gaps) == pytest.approx(0.4, abs=0.12)
    assert min(gaps) < 0.1


def test_waves_are_as_high_as_asked() -> None:
    """Ripples reach their height; strain waves stretch bonds by about their strain and leave the box as it is."""
    flat, rough, strained = built(box=60.0), built(box=60.0, ripple=0.8), built(box=60.0, strain=0.02)
    height = rough.atoms.positions[:, 2] - rough.atoms.positions[:, 2].mean()
    assert np.abs(height).max() == pytest.approx(0.8, abs=0.35)
    assert np.ptp(height) <= 1.6 + 1e-6
    assert rough.atoms.positions[:, :2] == pytest.approx(flat.atoms.positions[:, :2])
    bonds = neighbor_list("d", strained.atoms, 1.6) / (2.4612 / np.sqrt(3)) - 1
    assert 0.012 < np.abs(bonds).max() < 0.0215
    assert strained.atoms.cell.lengths() == pytest.approx(flat.atoms.cell.lengths())
    assert strained.endless == (False, False)


def test_adatoms_sit_on_the_entrance_side() -> None:
    """As many as asked, bonded at the sum of the covalent radii, apart from each other, of no grain."""
    specimen = built(structure="MoS2 layer", box=60.0, adatoms=0.4, adatom="Pt")
    pt = specimen.atoms.symbols == "Pt"
    assert pt.sum() == pytest.approx(0.4 * np.prod(specimen.tile) / 100, abs=1)
    assert specimen.grain is not None
    assert set(specimen.grain[pt].tolist()) == {-1}
    assert specimen.atoms.positions[pt, 2].max() < specimen.atoms.positions[~pt, 2].min()
    assert specimen.atoms.positions[pt, 2].min() == pytest.approx(specimen.entrance, abs=1.5)
    i, j, bond = neighbor_list("ijd", specimen.atoms, 3.4)
    assert bond[pt[i] != pt[j]].min() == pytest.approx(1.36 + 1.05, abs=0.03)
    assert not np.any(pt[i] & pt[j])


def test_atoms_lie_within_the_box() -> None:
    for given in ({"structure": "MoSe2 layer", "layers": 3, "twist": 15.0},
                  {"ripple": 1.0, "adatoms": 1.0, "box": 60.0}):
        specimen = built(**given)
        position, box = specimen.atoms.positions, specimen.atoms.cell.lengths()
        assert position.min() >= 0
        assert np.all(position < box)
        assert box[2] - position[:, 2].max() >= 1.5
        assert specimen.entrance + specimen.thickness <= box[2]


@pytest.mark.parametrize(("given", "said"), [
    ({"structure": "Au"}, "no single layer; layers can be graphene"),
    ({"stacking": "ABC"}, "there are AA, AB"),
    ({"substitution": 0.1}, "needs `substitute`"),
    ({"vacancy_of": "S"}, "graphene holds no S; it holds C"),
    ({"adatom": "Xx"}, "no element 'Xx'"),
    ({"ripple": 3.0}, "outside 0 to 1 Å"),
])
def test_wrong_recipes_say_what_is_possible(given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Layer(**given)


@pytest.mark.parametrize(("given", "said"), [
    ({"twist": 10.0}, "give 2 or 3 layers"),
    ({"hole": 50.0}, "a box of at least 62 Å"),
    ({"ripple": 0.5, "box": 20.0}, "a box of 20 Å holds none"),
    ({"layers": 2, "twist": 1.0}, "choose a larger box"),
    ({"substitution": 0.1, "substitute": "C"}, "replaces itself"),
])
def test_what_cannot_be_built_is_refused(given: dict, said: str) -> None:
    with pytest.raises(StructureError, match=said):
        built(**given)
