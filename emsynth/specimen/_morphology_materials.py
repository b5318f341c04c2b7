"""Materials of the phenomenological specimens: numbers, not structures."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Electron rest energy in eV (CODATA 2018) and Avogadro's number in atoms per mol, per Å³ of g/cm³.
_REST = 510_998.95
_ATOMS = 0.602_214_076


@dataclass(frozen=True)
class Material:
    """One material of a relief.

    Attributes
    ----------
    name : str
        Name in a recipe.
    number : float
        Mean atomic number, weighted by mass.
    mass : float
        Mean atomic mass in g/mol.
    density : float
        Density in g/cm³.
    crystalline : bool
        Whether its grains diffract.
    insulating : bool
        Whether it charges under the beam.
    yield_most, energy_most : float
        Largest secondary yield and the beam energy in eV at which a flat surface has it.
    potential : float
        Mean inner potential in V.
    extinction : float
        Extinction distance of a low reflection at 100 keV in Å; 0 of an amorphous material.

    Notes
    -----
    Atomic numbers, masses and densities are those of tables. Yields, inner potentials and extinction distances are
    of the size of published ones (Lin & Joy, Surf. Interface Anal. 37, 2005, 895; Hirsch et al., Electron Microscopy
    of Thin Crystals, 1977, appendix 5), rounded; measured yields of one material differ by half. The choice is ours.
    """

    name: str
    number: float
    mass: float
    density: float
    crystalline: bool
    insulating: bool
    yield_most: float
    energy_most: float
    potential: float
    extinction: float

    @property
    def atoms(self) -> float:
        """Atoms per Å³."""
        return self.density * _ATOMS / self.mass

    def elastic_path(self, energy: float) -> float:
        """Mean free path of elastic scattering in Å at a beam `energy` in eV.

        σ = 1.4·10⁻⁴ Å² Z^(3/2)/β² [1 - 0.26 Z/(137 β)] (Langmore & Smith, Ultramicroscopy 46, 1992, 349).
        """
        beta = velocity(energy)
        section = 1.4e-4 * self.number**1.5 / beta**2 * max(1 - 0.26 * self.number / (137 * beta), 0.1)
        return float(1 / (self.atoms * section))

    def inelastic_path(self, energy: float) -> float:
        """Mean free path of inelastic scattering in Å: Z/20 of the elastic one (Reimer & Kohl, Transmission Electron
        Microscopy, 2008, section 5.2: the ratio of the cross-sections is 18/Z to 20/Z).
        """
        return self.elastic_path(energy) * self.number / 20

    def range(self, energy: float) -> float:
        """Range of the beam's electrons in Å at an `energy` in eV.

        R = 276 Å A E^1.67/(Z^0.889 ρ), E in keV (Kanaya & Okayama, J. Phys. D 5, 1972, 43).
        """
        return float(276.0 * self.mass * (energy / 1e3) ** 1.67 / (self.number**0.889 * self.density))


def velocity(energy: float) -> float:
    """Velocity of electrons of `energy` in eV as a part of that of light."""
    return math.sqrt(1 - (1 + energy / _REST) ** -2)


# name, Z, A, density, crystalline, insulating, δm, Em, V0, ξ.
MATERIALS = {
    row[0]: Material(*row)
    for row in (
        ("carbon", 6.0, 12.0, 1.9, False, False, 0.9, 350.0, 9.0, 0.0),
        ("polymer", 5.6, 6.5, 1.05, False, True, 1.9, 280.0, 7.5, 0.0),
        ("resin", 6.6, 7.2, 1.2, False, True, 1.8, 300.0, 7.5, 0.0),
        ("stain", 28.0, 16.0, 2.2, False, False, 1.2, 450.0, 11.0, 0.0),
        ("silica", 10.8, 20.0, 2.2, False, True, 2.4, 400.0, 10.0, 0.0),
        ("silicon nitride", 10.9, 20.0, 3.0, False, True, 2.1, 400.0, 13.0, 0.0),
        ("graphite", 6.0, 12.0, 2.26, True, False, 1.0, 350.0, 11.0, 900.0),
        ("silicon", 14.0, 28.1, 2.33, True, False, 1.1, 300.0, 12.0, 602.0),
        ("aluminium", 13.0, 27.0, 2.70, True, False, 1.3, 300.0, 13.0, 556.0),
        ("alumina", 10.7, 20.4, 3.95, True, True, 2.6, 500.0, 16.0, 700.0),
        ("calcite", 12.6, 20.0, 2.71, True, True, 2.2, 400.0, 13.0, 800.0),
        ("salt", 14.6, 29.2, 2.16, True, True, 3.0, 500.0, 8.0, 800.0),
        ("titania", 16.4, 26.6, 4.2, True, True, 2.0, 450.0, 18.0, 450.0),
        ("magnetite", 21.0, 33.1, 5.2, True, False, 1.5, 450.0, 18.0, 450.0),
        ("iron", 26.0, 55.8, 7.87, True, False, 1.3, 450.0, 22.0, 270.0),
        ("nickel", 28.0, 58.7, 8.9, True, False, 1.3, 500.0, 24.0, 236.0),
        ("copper", 29.0, 63.5, 8.96, True, False, 1.3, 600.0, 23.0, 286.0),
        ("zinc oxide", 25.7, 40.7, 5.6, True, False, 1.6, 450.0, 16.0, 400.0),
        ("silver", 47.0, 107.9, 10.5, True, False, 1.5, 700.0, 22.0, 230.0),
        ("ceria", 48.7, 57.4, 7.2, True, False, 1.9, 600.0, 20.0, 330.0),
        ("tungsten", 74.0, 183.8, 19.3, True, False, 1.4, 650.0, 28.0, 180.0),
        ("platinum", 78.0, 195.1, 21.45, True, False, 1.6, 700.0, 28.0, 147.0),
        ("gold", 79.0, 197.0, 19.3, True, False, 1.6, 750.0, 26.0, 183.0),
    )
}
