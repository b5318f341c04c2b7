"""What a data set is made of, as its card says it: all of it read from the store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.card import table
from emsynth.errors import StoreError
from emsynth.recipe import SPLITS
from emsynth.simulation.images import PHYSICS as SUPPLIED
from emsynth.simulation.survey import PHYSICS as SURVEY
from emsynth.store import Store, checksums, open_dataset, open_store
from emsynth.store.layout import LAYOUT
from emsynth.store.manifest import STORE, check_data, part_name, read
from emsynth.store.reading import open_reading

__all__ = ["CONVOLUTION", "MULTISLICE", "PRISM", "SUPPLIED", "SURVEY", "WAVES", "Array", "Facts", "Group", "complete",
           "gather", "span"]

# As the provenance of fields names them.
MULTISLICE, PRISM, CONVOLUTION = "multislice", "PRISM", "convolution"
WAVES = frozenset((MULTISLICE, PRISM, CONVOLUTION))
_WORDS = ("split", "physics", "structure", "prototype", "detector")
_NUMBERS = ("sampling", "thickness", "expected_counts", "gain", "black_level", "step", "column_count")


@dataclass(frozen=True)
class Group:
    """What the pairs of one prototype in one split are: `structures` counts the pairs of each structure."""

    split: str
    prototype: str
    structures: Counter[str]

    @property
    def pairs(self) -> int:
        """How many pairs these are."""
        return self.structures.total()


@dataclass(frozen=True)
class Array:
    """One array of the store: its name, its shape in words, its type, its unit and what it means."""

    name: str
    shape: str
    dtype: str
    units: str
    about: str


@dataclass(frozen=True, eq=False)
class Facts:
    """A finished data set, counted.

    Attributes
    ----------
    store : Store
        The data set.
    total : str
        SHA-256 over the checksums of all of its files: its identifier.
    bytes, files : int
        Size and number of the files that the manifests list (not those of a card).
    counts : dict
        Pairs by each word of split, physics, structure, prototype and detector.
    ranges : dict
        Smallest and largest value of a scalar of the samples, where any is known.
    unknown : dict
        How many samples have NaN for such a scalar, where any has.
    groups : tuple of Group
        Structures by split and prototype.
    arrays : tuple of Array
        The arrays.
    fields : tuple of dict
        Provenance of each field.
    columns : dict
        The scalars of all samples, as `emsynth.card.table.scalars` gives them.
    """

    store: Store
    total: str
    bytes: int
    files: int
    counts: dict[str, Counter[str]]
    ranges: dict[str, tuple[float, float]]
    unknown: dict[str, int]
    groups: tuple[Group, ...]
    arrays: tuple[Array, ...]
    fields: tuple[dict[str, Any], ...]
    columns: dict[str, NDArray[Any]]

    @property
    def name(self) -> str:
        """Name of the data set."""
        return str(self.store.attributes["name"])

    @cached_property
    def physics(self) -> frozenset[str]:
        """By which physics its fields were made."""
        return frozenset(str(field["physics"]) for field in self.fields)

    @property
    def supplied(self) -> bool:
        """Whether the clean images are somebody's own, and not simulated."""
        return SUPPLIED in self.physics

    def made_by(self, physics: str) -> list[dict[str, Any]]:
        """Provenance of the fields of one physics."""
        return [field for field in self.fields if field["physics"] == physics]

    @cached_property
    def instruments(self) -> frozenset[str]:
        """Kinds of the microscopes: stem, tem, stem_survey, tem_survey, sem; none where images are the user's own."""
        return frozenset(str(field["microscope"].get("kind", "stem")) for field in self.fields if "microscope" in field)


def gather(path: str | os.PathLike[str]) -> Facts:
    """Read what a data set is made of.

    Raises
    ------
    StoreError
        Where it is not finished.
    IntegrityError
        Where files of it are not what was written.
    """
    store, columns = complete(path), table.scalars(path)
    counts = {name: Counter(map(str, columns[name])) for name in _WORDS}
    groups = Counter(zip(*(map(str, columns[name]) for name in ("split", "prototype", "structure")), strict=True))
    known = {name: columns[name][np.isfinite(columns[name])] for name in _NUMBERS}
    listed = [entry for part in _parts(store) for entry in (read(store.path, part) or {"files": {}})["files"].values()]
    return Facts(
        store=store, total=checksums(path)["total"], bytes=sum(int(entry["bytes"]) for entry in listed),
        files=len(listed), counts=counts, groups=_groups(groups), arrays=_arrays(path),
        ranges={name: (float(values.min()), float(values.max())) for name, values in known.items() if len(values)},
        unknown={name: store.samples - len(values) for name, values in known.items() if len(values) < store.samples},
        fields=_provenances(path, store.fields), columns=columns)


def complete(path: str | os.PathLike[str]) -> Store:
    """Open a data set of which every byte is as it was written; else raise as `gather` does."""
    store = open_store(path)
    if not store.complete:
        done = ", ".join(f"{len(store.finished(kind)):,} of {count:,} {kind}s" for kind, count in (
            ("field", store.fields), ("shard", store.shards)))
        raise StoreError(f"{path}: is not finished ({done}); emsynth build with the same recipe and --resume goes on")
    check_data(store.path, store.fields, store.shards)
    return store


def _parts(store: Store) -> list[str]:
    counts = (("field", store.fields), ("shard", store.shards))
    return [STORE, *(part_name(kind, number) for kind, count in counts for number in range(count))]


def _groups(seen: Counter[Any]) -> tuple[Group, ...]:
    structures: dict[tuple[str, str], Counter[str]] = {}
    for (split, prototype, name), pairs in sorted(seen.items()):
        structures.setdefault((split, prototype), Counter())[name] = pairs
    order = {split: n for n, split in enumerate(SPLITS)}
    found = [Group(split, prototype, names) for (split, prototype), names in structures.items()]
    return tuple(sorted(found, key=lambda g: (order.get(g.split, len(order)), -g.pairs, g.prototype)))


def _arrays(path: str | os.PathLike[str]) -> tuple[Array, ...]:
    found = []
    with open_dataset(path) as held:
        for name in map(str, held.data_vars):
            array = held[name]
            shape = " × ".join(f"{dim} {length:,}" for dim, length in zip(array.dims, array.shape, strict=True))
            dtype = "text" if array.dtype.kind in "OUT" else str(array.dtype)
            found.append(Array(name, shape, dtype, str(array.attrs.get("units", "")),
                               str(array.attrs.get("long_name", ""))))
    order = {a.name: n for n, a in enumerate(LAYOUT)}
    return tuple(sorted(found, key=lambda a: (order.get(a.name, len(order)), a.name)))


def _provenances(path: str | os.PathLike[str], count: int) -> tuple[dict[str, Any], ...]:
    reading = open_reading(path)
    return tuple(dict(reading.field_about(number)["provenance"]) for number in range(count))


def span(values: Sequence[float], digits: int = 3) -> str:
    """``"2 to 16"``, or one number where all are the same."""
    low, high = (f"{v:,.0f}" if abs(v) >= 10**digits else f"{v:.{digits}g}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
