"""The table of crystal structures: what can be drawn, which split each prototype belongs to, what is reserved."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from emsynth.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms

Purpose = Literal["build", "suite", "tune"]
Axis = tuple[int, int, int]


@dataclass(frozen=True)
class Structure:
    """One crystal structure.

    Attributes
    ----------
    name, formula, prototype : str
        Name in recipes, chemical formula, and the prototype that the splits go by.
    space_group, setting : int
        Number in the International Tables and its origin choice.
    cell : tuple of float
        a, b, c in Å and α, β, γ in degrees of the conventional cell.
    sites : tuple
        Asymmetric unit: element and fractional coordinates of each site.
    zone_axes : tuple
        Zone axes [u, v, w] that show resolvable columns.
    thermal : dict
        Root-mean-square displacement of each element along one axis at room temperature, in Å: sqrt(B / 8π²).
    thermal_source, reference : str
        Where the displacements and the structure come from.
    density : float or None
        Density in g/cm³ from the literature; None for a single layer.
    layer : bool
        Whether the cell holds one two-dimensional layer in vacuum.
    """

    name: str
    formula: str
    prototype: str
    space_group: int
    setting: int
    cell: tuple[float, ...]
    sites: tuple[tuple[str, float, float, float], ...]
    zone_axes: tuple[Axis, ...]
    thermal: dict[str, float]
    thermal_source: str
    reference: str
    density: float | None
    layer: bool

    def atoms(self) -> Atoms:
        """The conventional cell."""
        from ase.spacegroup import crystal

        return crystal([site[0] for site in self.sites], [site[1:] for site in self.sites],
                       spacegroup=self.space_group, setting=self.setting, cellpar=list(self.cell))


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    text = resources.files("emsynth.specimen").joinpath("structures.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@lru_cache(maxsize=1)
def structures() -> tuple[Structure, ...]:
    """Every structure of the table."""
    prototypes = _document()["prototypes"]
    return tuple(_structure(entry, prototypes[entry["prototype"]]) for entry in _document()["structures"])


def _structure(entry: dict[str, Any], prototype: dict[str, Any]) -> Structure:
    return Structure(
        name=entry["name"], formula=entry["formula"], prototype=entry["prototype"],
        space_group=prototype["space_group"], setting=entry.get("setting", 1), cell=tuple(entry["cell"]),
        sites=tuple((site[0], *site[1:]) for site in entry["sites"]),
        zone_axes=tuple((u, v, w) for u, v, w in entry["zone_axes"]), thermal=entry["thermal"],
        thermal_source=entry["thermal_source"], reference=entry["reference"], density=entry.get("density"),
        layer=entry.get("layer", False))


def structure(name: str) -> Structure:
    """The structure called `name`; StructureError with the nearest name where there is none."""
    known = {entry.name: entry for entry in structures()}
    if name in known:
        return known[name]
    near = [other for other in known if other.casefold() == name.casefold()]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise StructureError(f"no structure {name!r} in the table; {hint}known are {', '.join(drawable_names())}; "
                         f"for any other give a file")


def drawable_names() -> tuple[str, ...]:
    """Names of the structures that a building recipe may draw."""
    return tuple(entry.name for entry in structures() if reserved(entry.prototype) is None)


def prototype_split(prototype: str) -> Literal["train", "val", "test"]:
    """Split of all samples of one prototype; those that the table does not know are for training."""
    split: Literal["train", "val", "test"] = _document()["prototypes"].get(prototype, {}).get("split", "train")
    return split


def reserved(prototype: str) -> str | None:
    """What a prototype is reserved for, ``"suite"`` or ``"tune"``; None where any recipe may draw it."""
    kept: str | None = _document()["prototypes"].get(prototype, {}).get("reserved")
    return kept


def refuse_reserved(name: str, prototype: str, purpose: Purpose = "build") -> None:
    """Raise StructureError where `prototype` is reserved for something else than `purpose`."""
    kept = reserved(prototype)
    if kept is not None and kept != purpose:
        use = {"suite": "the benchmark suites", "tune": "tuning restorers before a benchmark"}[kept]
        raise StructureError(f"{name}: prototype {prototype} is reserved for {use}, so that no restorer has seen it in "
                             f"training; choose among {', '.join(drawable_names())}")
