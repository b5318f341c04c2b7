"""What the tests share: a field cache of their own, and a specimen small enough to simulate in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from emsynth.microscope import Detector, Microscope
from emsynth.specimen.base import Columns, Specimen

REAL_INPUT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def field_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty field cache, so that no test sees what a user or another run has simulated."""
    folder = tmp_path_factory.mktemp("fields")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMSYNTH_CACHE", str(folder))
        yield folder


@pytest.fixture
def cif_folder() -> Path:
    """Real structure files, where the machine has them."""
    folder = REAL_INPUT / "cif"
    if not folder.is_dir():
        pytest.skip(f"no real structure files: {folder} is absent")
    return folder


def three_atoms(mistilt: tuple[float, float] = (0.0, 0.0), depth: float = 12.0) -> Specimen:
    """Three different atoms without any symmetry, in a box of 9 x 8 Å (row, col)."""
    atoms = Atoms("AuSiCu", positions=[(2, 1, 3), (5.2, 6.1, 5), (2.3, 4.0, 9)], cell=[8, 9, depth], pbc=True)
    columns = Columns(np.array([[1, 2], [6.1, 5.2], [4, 2.3]]), np.array([79, 14, 29], np.uint8), ("Au", "Si", "Cu"),
                      np.array([[3, 3], [5, 5], [9, 9.0]]), np.ones(3, np.int32))
    return Specimen(atoms, (9.0, 8.0), columns, {"Au": 0.08, "Si": 0.08, "Cu": 0.08}, mistilt, "amorphous", "three",
                    "three", depth, slab=True)


def crystal(rows: int = 3, cells: int = 4, cols: int = 3) -> Specimen:
    """SrTiO3 along [001], a perfect crystal of a few cells."""
    a = 3.905
    cell = Atoms("SrTiO3", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
                 cell=[a, a, a], pbc=True)
    atoms = cell.repeat((cols, rows, cells))
    atoms.positions += 0.5
    return Specimen(atoms, (a, a), Columns.none(), {"Sr": 0.08, "Ti": 0.07, "O": 0.09}, (0.0, 0.0), "crystal",
                    "SrTiO3", "perovskite", cells * a, slab=True)


def microscope(**changes: object) -> Microscope:
    """100 kV, 22 mrad, two detectors, a point source."""
    settings: dict[str, object] = {
        "energy": 100e3, "convergence": 22.0, "source_size": 0.0,
        "detectors": (Detector(name="HAADF", inner=60.0, outer=110.0), Detector(name="BF", inner=0.0, outer=10.0))}
    return Microscope.model_validate(settings | changes)
