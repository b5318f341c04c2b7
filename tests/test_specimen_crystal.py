"""Crystals: known distances between columns, the right way round, and files that build or say why not."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from emsynth.draw import Choice, Deal, Streams
from emsynth.errors import StructureError
from emsynth.specimen import Crystal, drawable_names, reserved, structure, structures
from emsynth.specimen.base import Columns, Specimen
from emsynth.specimen.columns import cluster

STREAMS = Streams(seed=1, index=0)
CIF = Path(__file__).resolve().parents[2] / "shared" / "data" / "cif"


def built(name: str, axis: tuple[int, int, int], **more: object) -> Specimen:
    purpose = reserved(structure(name).prototype) or "build"
    return Crystal(structure=name, zone_axis=axis, **more).build(STREAMS, purpose)


def nearest(columns: Columns, tile: tuple[float, float]) -> float:
    """Distance in Å of the two nearest columns."""
    apart = columns.position[:, None] - columns.position[None]
    apart -= np.array(tile) * np.round(apart / np.array(tile))
    distance = np.linalg.norm(apart, axis=-1)
    return float(distance[distance > 1e-6].min())


@pytest.mark.parametrize(("name", "axis", "distance", "count"), [
    ("Si", (0, 1, 1), 5.4310 / 4, 4),                       # the dumbbell, 1.36 Å
    ("GaAs", (0, 1, 1), 5.6533 / 4, 4),
    ("Au", (0, 0, 1), 4.0782 / 2, 2),
    ("Au", (0, 1, 1), 4.0782 * np.sqrt(3) / np.sqrt(8), 2),
    ("Au", (1, 1, 1), 4.0782 / np.sqrt(6), 6),
    ("Fe", (1, 1, 1), 2.8665 * np.sqrt(2) / np.sqrt(3), 6),
    ("graphene", (0, 0, 1), 2.4612 / np.sqrt(3), 4),
    ("Ti", (0, 0, 1), 2.9508 / np.sqrt(3), 4),
    ("MgO", (0, 1, 1), 4.212 / np.sqrt(8), 4),
    ("Nb3Sn", (0, 0, 1), 5.2898 / 4, 7),
])
def test_columns_stand_where_the_lattice_says(name: str, axis: tuple[int, int, int], distance: float,
                                              count: int) -> None:
    specimen = built(name, axis)
    assert nearest(specimen.columns, specimen.tile) == pytest.approx(distance, abs=2e-3)
    assert len(specimen.columns) == count


def test_strontium_titanate() -> None:
    """[001]: Sr, two O and TiO per cell, and as many atoms as cells in the thickness."""
    specimen = built("SrTiO3", (0, 0, 1), thickness=78.0)
    columns = specimen.columns
    assert specimen.tile == pytest.approx((3.905, 3.905))
    assert sorted(columns.formula) == ["O", "O", "Sr", "TiO"]
    assert dict(zip(columns.formula, columns.number.tolist(), strict=True)) == {"Sr": 38, "TiO": 22, "O": 8}
    assert sum(columns.count) * np.prod(specimen.repeats) == len(specimen.atoms)
    assert columns.count[columns.formula.index("Sr")] == 20
    titanium = columns.position[columns.formula.index("TiO")] - columns.position[columns.formula.index("Sr")]
    assert np.abs(titanium) == pytest.approx([3.905 / 2, 3.905 / 2], abs=1e-3)


@pytest.mark.parametrize("entry", structures(), ids=lambda entry: entry.name)
def test_every_listed_axis_builds(entry) -> None:  # type: ignore[no-untyped-def]
    """The tile divides the box, atoms keep within it, and the density is the crystal's."""
    for axis in entry.zone_axes:
        specimen = built(entry.name, axis, thickness=60.0)
        box, position = specimen.atoms.cell.lengths(), specimen.atoms.positions
        assert np.array(specimen.repeats[::-1]) * specimen.tile[::-1] == pytest.approx(box[:2])
        assert min(box[:2]) >= 14 - 1e-6
        assert position.min() >= 0
        assert np.all(position < box)
        assert "tile_shift_along_beam" not in specimen.about
        assert np.all(specimen.columns.position < specimen.tile)
        if not entry.layer:
            cell = entry.atoms()
            expected = len(cell) / cell.cell.volume * box[0] * box[1] * 60
            assert len(specimen.atoms) == pytest.approx(expected, rel=0.12)


def test_projection_repeats_with_the_tile() -> None:
    """Moving all atoms by one tile maps the whole slab on itself where nothing is shifted along the beam."""
    specimen = built("Au", (1, 1, 1))
    box = specimen.atoms.cell.lengths()
    for axis in (0, 1):
        moved = specimen.atoms.positions.copy()
        moved[:, axis] += specimen.tile[1 - axis]
        assert _same(moved, specimen.atoms.positions, box)


def _same(first: np.ndarray, second: np.ndarray, box: np.ndarray) -> bool:
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(np.mod(second + 0.01, box), boxsize=box).query(np.mod(first + 0.01, box))
    return bool(distance.max() < 1e-3)


def test_crystal_within_the_box_is_unbroken() -> None:
    """Monoclinic cells are not sheared: away from the box's borders all neighbours are at the crystal's distances."""
    from ase.neighborlist import neighbor_list

    specimen = built("TiO2 anatase", (1, 1, 1), minimum_box=30.0)
    assert "tile_shift_along_beam" in specimen.about
    atoms = specimen.atoms.copy()
    atoms.pbc = False
    assert neighbor_list("d", atoms, 3.0).min() == pytest.approx(1.934, abs=2e-3)


def asymmetric(folder: Path) -> str:
    """A chiral cluster in an orthogonal cell: no proper view is the mirror image of another."""
    atoms = Atoms("AuCuSiO", scaled_positions=[(.1, .1, .1), (.4, .1, .1), (.1, .45, .1), (.1, .1, .5)],
                  cell=[6.0, 7.0, 8.0], pbc=True)
    path = folder / "asymmetric.cif"
    write(path, atoms)
    return str(path)


def test_view_along_c_is_as_written(tmp_path: Path) -> None:
    """The x axis is the column axis, y the row axis, the beam goes towards +c."""
    specimen = Crystal(file=asymmetric(tmp_path), zone_axis=(0, 0, 1)).build(STREAMS)
    columns = specimen.columns
    place = dict(zip(columns.formula, columns.position, strict=True))
    assert specimen.tile == pytest.approx((7.0, 6.0))
    assert place["Cu"] - place["AuO"] == pytest.approx([0, 1.8], abs=1e-3)
    assert place["Si"] - place["AuO"] == pytest.approx([2.45, 0], abs=1e-3)
    depth = {symbol: specimen.atoms.positions[specimen.atoms.symbols == symbol, 2].min() for symbol in ("Au", "O")}
    assert (depth["O"] - depth["Au"]) % 8.0 == pytest.approx(3.2, abs=1e-3)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, -1), (1, 1, 0), (1, 1, 1), (1, 2, 3), (-1, 0, 2)])
def test_every_view_keeps_the_hand(tmp_path: Path, axis: tuple[int, int, int]) -> None:
    """The triple product of the cluster's arms stays positive: rotated, never mirrored."""
    specimen = Crystal(file=asymmetric(tmp_path), zone_axis=axis, minimum_box=20.0).build(STREAMS)
    atoms = specimen.atoms
    centre = atoms.cell.lengths() / 2
    gold = np.flatnonzero(atoms.symbols == "Au")
    middle = atoms.positions[gold[np.argmin(np.linalg.norm(atoms.positions[gold] - centre, axis=1))]]
    arms = []
    for symbol, length in (("Cu", 1.8), ("Si", 2.45), ("O", 3.2)):
        arm = atoms.positions[atoms.symbols == symbol] - middle
        arms.append(arm[np.argmin(np.abs(np.linalg.norm(arm, axis=1) - length))])
    assert np.linalg.det(arms) == pytest.approx(1.8 * 2.45 * 3.2, rel=0.03)


def test_polar_crystal_keeps_its_direction() -> None:
    """GaN along [001]: the short bond goes from N to the Ga above it, 1.95 Å along +c; reversed along [00-1]."""
    def bond(axis: tuple[int, int, int]) -> float:
        atoms = built("GaN", axis).atoms
        height = {symbol: np.unique(np.round(atoms.positions[atoms.symbols == symbol, 2], 3)) for symbol in ("Ga", "N")}
        return float((height["N"][5] - height["Ga"][5]) % (5.185 / 2))

    up, down = bond((0, 0, 1)), bond((0, 0, -1))
    assert up == pytest.approx(0.377 * 5.185 % (5.185 / 2), abs=2e-3)
    assert down == pytest.approx(5.185 / 2 - up, abs=2e-3)


def test_layers_have_their_own_thickness() -> None:
    specimen = built("MoS2 layer", (0, 0, 1), thickness=200.0)
    assert np.ptp(specimen.atoms.positions[:, 2]) == pytest.approx(3.172, abs=1e-3)
    assert "does not apply" in specimen.about["thickness"]
    assert specimen.thickness == pytest.approx(3.172, abs=1e-3)
    sheet = built("graphene", (0, 0, 1))
    assert sheet.thickness == pytest.approx(3.35)
    for layer in (specimen, sheet):
        assert not layer.slab
        assert layer.entrance == pytest.approx(layer.atoms.positions[:, 2].min(), abs=5e-3)
        assert layer.atoms.cell.lengths()[2] >= layer.entrance + layer.thickness
        assert layer.columns.depth.min() == pytest.approx(layer.entrance, abs=5e-3)
        assert layer.columns.depth.max() <= layer.entrance + layer.thickness + 5e-3
    with pytest.raises(StructureError, match="single layer"):
        built("graphene", (1, 0, 0))


@pytest.mark.parametrize("repeats", [6, 20])
def test_slab_of_whole_repeats_holds_as_many(repeats: int) -> None:
    """Below its entrance a slab is as thick as asked for: whole repeats make as many layers, none more."""
    specimen = built("SrTiO3", (0, 0, 1), thickness=repeats * 3.905)
    z = specimen.atoms.positions[:, 2]
    assert specimen.slab
    assert specimen.entrance == pytest.approx(z.min(), abs=5e-3)
    assert specimen.thickness == pytest.approx(repeats * 3.905)
    assert np.all(specimen.columns.count[np.array(specimen.columns.formula) == "Sr"] == repeats)
    assert z.max() < specimen.entrance + specimen.thickness
    assert specimen.columns.depth.min() == pytest.approx(specimen.entrance, abs=5e-3)


def test_listed_axes_are_dealt_in_turn() -> None:
    """A structure shows all its axes before one comes again, also where the structures are dealt themselves."""
    recipe = Crystal(structure=Deal(values=("Au", "Si")), thickness=Choice(values=(50.0, 60.0)))
    drawn = [recipe.draw(Streams(3, j, j)) for j in range(8)]
    for name, count in (("Au", 4), ("Si", 3)):
        axes = [entry.zone_axis for entry in drawn if entry.structure == name]
        assert len(set(axes)) == count
        assert set(axes) <= set(structure(name).zone_axes)
    assert drawn[0].draw(Streams(3, 0, 0)) == drawn[0]


def test_mistilt_is_row_then_col() -> None:
    tilt = built("Au", (0, 0, 1), mistilt=10.0, mistilt_azimuth=90.0).mistilt
    assert tilt == pytest.approx((10.0, 0.0))


def test_reserved_prototypes_are_refused(tmp_path: Path) -> None:
    """By name and as a file, except for what they are reserved for."""
    with pytest.raises(StructureError, match="A15 is reserved for the benchmark suites"):
        Crystal(structure="Nb3Sn", zone_axis=(0, 0, 1)).build(STREAMS)
    write(tmp_path / "user.cif", structure("Ni3Al").atoms())
    with pytest.raises(StructureError, match="L1_2 is reserved"):
        Crystal(file=str(tmp_path / "user.cif"), zone_axis=(0, 0, 1)).build(STREAMS)
    assert "Nb3Sn" not in drawable_names()


def test_no_tile_names_the_best_strain() -> None:
    from emsynth.specimen import zone

    cell = np.array([[5.0, 0, 0], [1.7, 6.1, 0], [0.9, 1.3, 7.7]])
    with pytest.raises(StructureError, match=r"\[3, 4, 5\].*strain of \d+\.\d%"):
        zone.find_tile(cell, (3, 4, 5), cell, longest=8.0)


def test_shared_sites_are_filled_by_occupancy(tmp_path: Path) -> None:
    """Half gold, a quarter copper, a quarter empty; the same streams give the same atoms."""
    text = ("data_alloy\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
            "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'F m -3 m'\n"
            "_symmetry_Int_Tables_number 225\nloop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n"
            "_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\nAu1 Au 0 0 0 0.5\nCu1 Cu 0 0 0 0.25\n")
    (tmp_path / "alloy.cif").write_text(text)
    recipe = Crystal(file=str(tmp_path / "alloy.cif"), zone_axis=(0, 0, 1), minimum_box=30.0)
    specimen = recipe.build(STREAMS)
    sites = specimen.atoms.cell.lengths()[0] ** 2 * 100 / 16
    counts = specimen.atoms.symbols.formula.count()
    spread = 5 / np.sqrt(sites)
    assert counts["Au"] / sites == pytest.approx(0.5, abs=spread)
    assert counts["Cu"] / sites == pytest.approx(0.25, abs=spread)
    assert specimen.prototype == "fcc"
    assert specimen.tile == pytest.approx(specimen.atoms.cell.lengths()[1::-1])
    assert np.array_equal(specimen.atoms.numbers, recipe.build(STREAMS).atoms.numbers)


@pytest.mark.parametrize(("name", "text", "reason"), [
    ("missing.cif", None, "no such file"),
    ("empty.cif", "  \n", "empty"),
    ("broken.cif", "data_x\nloop_\n_atom_site_label\n", "broken.cif"),
    ("noise.cif", "this is no structure", "noise.cif"),
    ("noise.vasp", "\x01\x02", "ASE cannot read"),
])
def test_bad_files_are_named_with_the_reason(tmp_path: Path, name: str, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(StructureError, match=reason):
        Crystal(file=str(tmp_path / name), zone_axis=(0, 0, 1)).build(STREAMS)


def test_molecule_gets_a_box(tmp_path: Path) -> None:
    write(tmp_path / "m.xyz", Atoms("AuCu", positions=[(0, 0, 0), (2.5, 0, 1.0)]))
    specimen = Crystal(file=str(tmp_path / "m.xyz"), zone_axis=(0, 0, 1)).build(STREAMS)
    assert specimen.tile[1] == pytest.approx(12.5)
    assert "vacuum" in specimen.about["notes"][0]


def test_columns_merge_across_the_border() -> None:
    """A column split by the tile's edge is one column, at its mean."""
    found = cluster(np.array([[0.05, 2.0], [9.95, 2.0], [5.0, 2.0]]), (10.0, 10.0))
    assert len(found.position) == 2
    assert sorted(found.label) == [0, 0, 1]
    assert min(abs(found.position[:, 0] - 10).min(), found.position[:, 0].min()) == pytest.approx(0, abs=1e-3)


def test_smeared_atoms_are_no_columns() -> None:
    line = np.column_stack([np.arange(0, 3, 0.2), np.full(15, 5.0)])
    assert cluster(line, (10.0, 10.0)).smeared == 15


# Name, zone axis, prototype, tile (row, col).
REAL = [
    ("Co3O4_mp-18748", (0, 0, 1), "spinel", (5.940, 5.940)),
    ("Mn3O4_mp-18759", (0, 0, 1), "A3B4 I4_1/amd", (5.872, 5.872)),
    ("MoS2", (0, 0, 1), "MoS2 2H", (5.526, 3.190)),
    ("Ni", (0, 0, 1), "fcc", (2.457, 2.457)),
    ("STO_LTO_interface", (0, 0, 1), "ABC2D6 P4/mmm", (23.671, 5.579)),
    ("SiO2_box", (0, 0, 1), "AB2 Pnma", (19.995, 13.541)),
    ("SiO2_zeolite", (0, 0, 1), "AB2 C222", (20.388, 16.905)),
    ("SrTiO3", (0, 0, 1), "perovskite", (3.945, 3.945)),
    ("ZrO2", (0, 0, 1), "baddeleyite", (5.228, 5.084)),
    ("ZrO2", (0, 1, 0), "baddeleyite", None),
    ("graphene", (0, 0, 1), "graphene", (4.261, 2.460)),
    ("graphene_with_si", (0, 0, 1), "AB23 Pmm2", (8.522, 7.380)),
    ("titanate", (0, 0, 1), "ABCD5 P2_1/c", None),
    ("titanate", (0, 1, 0), "ABCD5 P2_1/c", None),
    ("turquoise", (0, 0, 1), "AB4C6D16E28 P-1", None),
]


def real(name: str) -> str:
    path = CIF / f"{name}.cif"
    if not path.exists():
        pytest.skip(f"{path.name}: shared data not here")
    return str(path)


@pytest.mark.parametrize(("name", "axis", "prototype", "tile"), REAL)
def test_real_file_builds(name: str, axis: tuple[int, int, int], prototype: str,
                          tile: tuple[float, float] | None) -> None:
    from ase.neighborlist import neighbor_list

    specimen = Crystal(file=real(name), zone_axis=axis, thickness=60.0).build(STREAMS)
    assert specimen.prototype == prototype
    if tile is not None:
        assert specimen.tile == pytest.approx(tile, abs=2e-3)
    assert len(specimen.columns) > 0
    assert specimen.about.get("accommodation_strain", 0) <= 0.01
    atoms = specimen.atoms.copy()
    atoms.pbc = False
    assert neighbor_list("d", atoms, 4.0).min() > 0.6
    assert min(specimen.thermal.values()) > 0.04


@pytest.mark.parametrize("name", ["amorphous_carbon", "supported_nanoparticle"])
def test_random_carbon_is_refused_unless_it_is_meant(name: str) -> None:
    """Both hold carbon placed at random, with atoms on top of each other; the message names the nearest pair."""
    with pytest.raises(StructureError, match=r"C \(site \d+\) and C \(site \d+\) are 0\.\d+ Å apart"):
        Crystal(file=real(name), zone_axis=(0, 0, 1)).build(STREAMS)
    specimen = Crystal(file=real(name), zone_axis=(0, 0, 1), closest=0.0).build(STREAMS)
    assert specimen.prototype.startswith("box ")
    assert specimen.tile[1] == pytest.approx(10.24 if name == "amorphous_carbon" else 35.7)
