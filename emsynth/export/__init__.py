"""Data sets in formats that other people have loaders for: WebDataset, HDF5, and one zip archive of the store."""

from emsynth.export.writing import FORMATS as FORMATS
from emsynth.export.writing import export as export
