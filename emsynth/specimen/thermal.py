"""Thermal displacements for crystals that bring none: Debye's model."""

from __future__ import annotations

import math

# Debye temperatures in K at room temperature: Kittel, Introduction to Solid State Physics, 8th ed., ch. 5, table 1.
DEBYE = {
    "Li": 344, "Be": 1440, "C": 2230, "Na": 158, "Mg": 400, "Al": 428, "Si": 645, "K": 91, "Ca": 230, "Sc": 360,
    "Ti": 420, "V": 380, "Cr": 630, "Mn": 410, "Fe": 470, "Co": 445, "Ni": 450, "Cu": 343, "Zn": 327, "Ga": 320,
    "Ge": 374, "As": 282, "Se": 90, "Rb": 56, "Sr": 147, "Y": 280, "Zr": 291, "Nb": 275, "Mo": 450, "Ru": 600,
    "Rh": 480, "Pd": 274, "Ag": 225, "Cd": 209, "In": 108, "Sn": 200, "Sb": 211, "Te": 153, "Cs": 38, "Ba": 110,
    "La": 142, "Lu": 210, "Hf": 252, "Ta": 240, "W": 400, "Re": 430, "Os": 500, "Ir": 420, "Pt": 240, "Au": 165,
    "Pb": 105, "Bi": 119, "Th": 163, "U": 207,
}
# Å; typical of refinements of oxides, nitrides and halides, where the element itself is a gas or a molecular solid.
TYPICAL = {"H": 0.12, "B": 0.06, "C": 0.06, "N": 0.07, "O": 0.08, "F": 0.09, "P": 0.08, "S": 0.08, "Cl": 0.12,
           "Br": 0.13, "I": 0.14}
SOURCE = ("Debye model with the elements' Debye temperatures (Kittel), within 0.05-0.12 Å; H, B, C, N, O, F, P, S and "
          "the halogens: typical of refinements")


def debye_displacement(mass: float, debye: float, temperature: float = 293.0) -> float:
    """Root-mean-square displacement along one axis in Å.

    Parameters
    ----------
    mass : float
        Atomic mass in u.
    debye : float
        Debye temperature in K.
    temperature : float
        In K.

    Notes
    -----
    <u²> = 3ħ²T / (M k Θ²) · [φ(Θ/T) + Θ/(4T)], φ the Debye integral divided by its limit: Warren, X-ray
    Diffraction (1969), eq. 11.77.
    """
    import numpy as np

    x = debye / temperature
    grid = (np.arange(400) + 0.5) * x / 400
    integral = float(np.mean(grid / np.expm1(grid)))
    # 3ħ²/(k·u) = 145.53 Å² K
    return math.sqrt(145.53 * temperature / (mass * debye**2) * (integral + x / 4))


def default_displacement(element: str) -> float:
    """Root-mean-square displacement of an element in an unknown compound, in Å: 0.05 to 0.14, never 0.

    Soft elements are bound harder in their compounds than in the solid element, hence the upper end.
    """
    from ase.data import atomic_masses, atomic_numbers

    if element in TYPICAL:
        return TYPICAL[element]
    if element not in DEBYE:
        return 0.08
    estimate = debye_displacement(float(atomic_masses[atomic_numbers[element]]), DEBYE[element])
    return round(min(max(estimate, 0.05), 0.12), 4)
