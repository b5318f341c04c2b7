"""Specimens: atoms in a periodic box, and the projected columns that are the ground truth."""

from emsynth.specimen.crystal import Crystal as Crystal
