"""Specimens: atoms in a periodic box, and the projected columns that are the ground truth.

Importing this loads the recipe's classes only; ASE and spglib are loaded when a specimen is built.
"""

from emsynth.specimen.amorphous import Amorphous as Amorphous
from emsynth.specimen.crystal import Crystal as Crystal
from emsynth.specimen.mixture import AnySpecimen as AnySpecimen
from emsynth.specimen.mixture import Atomistic as Atomistic
from emsynth.specimen.mixture import Member as Member
from emsynth.specimen.mixture import Mixture as Mixture
from emsynth.specimen.morphology import Morphology as Morphology
from emsynth.specimen.particle import Nanoparticle as Nanoparticle
from emsynth.specimen.table import Structure as Structure
from emsynth.specimen.table import drawable_names as drawable_names
from emsynth.specimen.table import prototype_split as prototype_split
from emsynth.specimen.table import reserved as reserved
from emsynth.specimen.table import structure as structure
from emsynth.specimen.table import structures as structures
