"""Specimens: atoms in a periodic box, and the projected columns that are the ground truth.

Importing this loads the recipe's classes only; ASE and spglib are loaded when a specimen is built.
"""

from emsynth.specimen.amorphous import Amorphous as Amorphous
from emsynth.specimen.boundary import Boundary as Boundary
from emsynth.specimen.contamination import Contamination as Contamination
from emsynth.specimen.crystal import Crystal as Crystal
from emsynth.specimen.defects import Defects as Defects
from emsynth.specimen.edge import Edge as Edge
from emsynth.specimen.layer import Layer as Layer
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
