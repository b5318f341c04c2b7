"""The table of structures is crystallography, not typing: each entry is checked against its own literature values."""

import numpy as np
import pytest

from emsynth.errors import StructureError
from emsynth.specimen.identify import prototype_key, prototype_of, symmetry
from emsynth.specimen.table import drawable_names, prototype_split, reserved, structure, structures
from emsynth.specimen.thermal import DEBYE, debye_displacement, default_displacement

NAMES = [entry.name for entry in structures()]


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_sound(name: str) -> None:
    """Space group, density, contacts and displacements are those of the literature."""
    from ase.neighborlist import neighbor_list

    entry = structure(name)
    atoms = entry.atoms()
    assert symmetry(atoms, tolerance=1e-3).number == entry.space_group
    if entry.density is not None:
        density = atoms.get_masses().sum() / atoms.cell.volume * 1.66053907
        assert density == pytest.approx(entry.density, rel=0.01)
    assert neighbor_list("d", atoms, 4.0).min() > 1.4
    assert set(entry.thermal) == set(atoms.get_chemical_symbols())
    assert all(0.03 < u < 0.2 for u in entry.thermal.values())
    assert entry.zone_axes
    assert entry.reference
    assert entry.thermal_source


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_variety_and_splits() -> None:
    """Enough structures to draw, a non-empty val and test, and two prototypes each kept back."""
    drawable = [structure(name) for name in drawable_names()]
    assert len(NAMES) >= 50
    assert len({entry.prototype for entry in structures()}) >= 24
    prototypes = {entry.prototype for entry in drawable}
    splits = [prototype_split(name) for name in prototypes]
    assert len(prototypes) >= 20
    assert all(0.1 <= splits.count(split) / len(splits) <= 0.2 for split in ("val", "test"))
    assert {prototype_split(entry.prototype) for entry in drawable} == {"train", "val", "test"}
    kept = {entry.prototype: reserved(entry.prototype) for entry in structures()}
    assert sum(use == "suite" for use in kept.values()) >= 2
    assert sum(use == "tune" for use in kept.values()) >= 2
    assert prototype_split("A3B4 I4_1/amd") == "train"
    assert reserved("A3B4 I4_1/amd") is None


def test_atoms_are_as_far_apart_as_their_radii_say() -> None:
    """The shortest distance of each pair of elements is no less than 0.75 of the sum of the covalent radii, and each
    atom has a neighbour within 1.25 times it: coordinates typed wrong tear bonds or make contacts.
    """
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    for entry in structures():
        atoms = entry.atoms()
        i, j, distance = neighbor_list("ijd", atoms, 5.0)
        ratio = distance / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
        nearest = np.full(len(atoms), np.inf)
        np.minimum.at(nearest, i, ratio)
        assert ratio.min() > 0.75, entry.name
        assert nearest.max() < 1.25, entry.name


def test_no_key_belongs_to_two_prototypes() -> None:
    """Otherwise a user's file could land in the wrong split."""
    owner: dict[object, str] = {}
    for entry in structures():
        assert owner.setdefault(prototype_key(entry.atoms()), entry.prototype) == entry.prototype


@pytest.mark.parametrize("name", ["Si", "MgAl2O4", "TiO2 anatase", "GaN", "FeS2 marcasite"])
def test_prototype_does_not_depend_on_origin_or_cell(name: str) -> None:
    entry = structure(name)
    moved = entry.atoms() * (2, 1, 1)
    moved.translate([0.37, 1.21, 0.63])
    moved.wrap()
    assert prototype_of(moved) == entry.prototype


def test_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(StructureError, match=r"did you mean 'SrTiO3'.*GaAs"):
        structure("SrTi03")


def test_debye_estimate() -> None:
    """Gold at 293 K: 0.62 Å² within the model's 20 %; and no element is at rest."""
    factor = 8 * np.pi**2 * debye_displacement(196.97, DEBYE["Au"]) ** 2
    assert factor == pytest.approx(0.62, rel=0.2)
    assert min(default_displacement(symbol) for symbol in ("H", "C", "O", "Si", "W", "He", "Pu")) >= 0.04
