"""The class map: what is crystal, what is amorphous, and where there is nothing."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from emsynth.specimen.base import Columns, Specimen
from emsynth.specimen.classes import class_map


def specimen(atoms: Atoms, grain: object, endless: tuple[bool, bool] = (False, False)) -> Specimen:
    x, y, depth = atoms.cell.lengths()
    return Specimen(atoms, (y, x), Columns.none(), {}, (0.0, 0.0), "defects", "test", "test", depth,
                    grain=None if grain is None else np.asarray(grain, np.int16), endless=endless)


def block(rows: tuple[float, float], cols: tuple[float, float], step: float = 2.5) -> np.ndarray:
    y, x = np.meshgrid(np.arange(*rows, step), np.arange(*cols, step), indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, 5.0)], axis=1)


def test_a_perfect_crystal_is_one_class_everywhere():
    """One pixel says it, whatever its open channels."""
    atoms = Atoms("Au4", positions=[(0, 0, 1), (5, 0, 1), (0, 5, 1), (5, 5, 1)], cell=[10, 10, 2])
    assert class_map(specimen(atoms, None, (True, True))).tolist() == [[2]]


def test_half_crystal_half_vacuum():
    """Rows 0 to 20 Å are crystal without holes, the rest is empty; the border lies 1.5 Å outside of the last atoms."""
    position = block((1.25, 20), (1.25, 30))
    seen = class_map(specimen(Atoms(f"Si{len(position)}", positions=position, cell=[30, 40, 10]), [0] * len(position)))
    assert seen.shape == (80, 60)
    inside = (np.arange(80) + 0.5) * 0.5
    assert np.all(seen[(inside > 0.5) & (inside < 18)] == 2)
    assert np.all(seen[(inside > 22.5) & (inside < 37.5)] == 0)


def test_grains_and_film_are_told_apart_and_crystal_counts_more():
    """A film below everything, two grains on it: the film shows only where no grain is."""
    left, right = block((1, 40), (1, 12)), block((1, 40), (14, 25))
    film = block((0, 40), (0, 40), 2.0)
    position = np.concatenate([left, right, film])
    grain = [0] * len(left) + [7] * len(right) + [-1] * len(film)
    seen = class_map(specimen(Atoms(f"C{len(position)}", positions=position, cell=[40, 40, 10]), grain))
    at = [seen[40, int(col / 0.5)] for col in (6, 20, 33)]
    assert at == [2, 9, 1]


def test_rows_are_y():
    """A single atom away from the diagonal marks its own (row, col)."""
    atoms = Atoms("Au", positions=[(6.0, 21.0, 5.0)], cell=[30, 40, 10])
    rows, cols = np.nonzero(class_map(specimen(atoms, [0])))
    assert (abs(rows.mean() * 0.5 - 21) < 0.6, abs(cols.mean() * 0.5 - 6) < 0.6) == (True, True)
