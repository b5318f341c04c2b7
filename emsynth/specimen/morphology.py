"""Procedural morphology: specimens for low magnification and SEM, as thickness, surface and grains instead of atoms.

Phenomenological: the shapes are made to look like micrographs of their kind; nothing grew, broke or was etched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emsynth.draw import (
    AnyChoice,
    Choice,
    Deal,
    Drawable,
    LogUniform,
    Quantity,
    Streams,
    Uniform,
    Word,
    number,
    quantity,
)
from emsynth.errors import StructureError
from emsynth.specimen._morphology_materials import MATERIALS
from emsynth.specimen._morphology_materials import Material as Material

# Split of all samples of a family: what a restorer is tested on is another kind of picture, not another draw.
SPLITS: dict[str, Literal["train", "val", "test"]] = {
    "particles": "train", "grains": "train", "fibres": "train", "holes": "train", "film": "train",
    "aggregates": "train", "facets": "train", "fracture": "train", "tracks": "train", "mixed": "train",
    "lamellae": "val", "flakes": "val",
    "spheres": "test", "porous": "test", "vesicles": "test",
}
PREFIX = "morphology "
SUPPORTS = ("bulk", "film", "none")
# px: a feature that is narrower is not drawn.
NARROWEST = 4.0
# Elastic mean free paths at 200 keV that a section in transmission is thick at most, and a body typically (ours).
TRANSPARENT = 4.0
_ENERGY = 200e3
# Coverage in transmission: through more, so many bodies overlap that none is seen.
_DENSEST = 0.35
# Families that are a section of a solid, when it is thin.
_SECTIONS = frozenset({"grains", "lamellae", "holes", "film", "porous", "fracture", "tracks", "flakes"})
# Å: where all materials together are thinner, there is vacuum.
NOTHING = 5.0

_METALS = ("aluminium", "copper", "iron", "nickel", "gold", "silver")
_BULK = ("silicon", "aluminium", "carbon", "copper", "silica", "polymer")
_FILM = ("carbon", "carbon", "silicon nitride", "resin")
# What `any` may come to: of the features, and of their ground where it is not the support's.
_BODIES: dict[str, tuple[str, ...]] = {
    "particles": ("gold", "silver", "platinum", "titania", "silica", "magnetite", "zinc oxide", "ceria", "calcite",
                  "salt"),
    "spheres": ("polymer", "silica", "gold"), "grains": (*_METALS, "alumina"),
    "fibres": ("polymer", "carbon", "silica", "zinc oxide", "silver", "tungsten"), "lamellae": _METALS,
    "holes": _FILM, "film": ("carbon", "gold", "silica", "polymer", "aluminium"),
    "aggregates": ("carbon", "silica", "platinum", "titania"),
    "porous": ("gold", "carbon", "silica", "polymer", "titania"),
    "facets": ("calcite", "salt", "zinc oxide", "titania", "copper", "alumina"),
    "flakes": ("graphite", "alumina", "gold"),
    "fracture": ("titania", "alumina", "silica"), "tracks": ("copper", "aluminium", "tungsten", "gold"),
    "vesicles": ("stain",), "mixed": ("aluminium", "nickel", "silica", "zinc oxide", "titania"),
}
_GROUNDS: dict[str, tuple[str, ...]] = {
    "grains": _METALS, "lamellae": ("aluminium", "silicon", "titania", "iron"),
    "holes": ("carbon", "carbon", "silicon nitride", "polymer", "aluminium"),
    "fracture": ("iron", "aluminium", "alumina", "silicon"), "tracks": ("silicon", "silica", "silicon nitride"),
}
_EXTRAS = ("gold", "platinum", "silver", "carbon", "polymer", "ceria", "magnetite")


def split_of(prototype: str) -> str | None:
    """Split of a prototype such as ``"morphology grains"``; None of anything that is no morphology."""
    return SPLITS.get(prototype.removeprefix(PREFIX)) if prototype.startswith(PREFIX) else None


@dataclass(frozen=True, eq=False)
class Relief:
    """A specimen as maps; all of them repeat without end along both axes.

    Attributes
    ----------
    height : ndarray (H, W), float64
        Top surface in Å, from an arbitrary level.
    thickness : ndarray (M, H, W), float64
        Thickness of each material in Å; the last one lies on top.
    material : tuple of Material
        The M materials.
    grain : ndarray (H, W), int16
        Uppermost grain, from 0; -1 where there is none or the material is amorphous.
    orientation : ndarray (G, 3), float64
        Of each grain: tilt along row and column out of its exact Bragg position in mrad, and the azimuth of its
        reflections in rad.
    sampling : tuple of float
        (row, col) step in Å.
    family : str
        Its family.
    bulk : bool
        Whether it is too thick for any beam to pass.
    """

    height: NDArray[np.float64]
    thickness: NDArray[np.float64]
    material: tuple[Material, ...]
    grain: NDArray[np.int16]
    orientation: NDArray[np.float64]
    sampling: tuple[float, float]
    family: str
    bulk: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.height.shape[0], self.height.shape[1]

    @property
    def prototype(self) -> str:
        """The name that the splits go by."""
        return PREFIX + self.family

    @property
    def structure(self) -> str:
        """Name for people: what it is and what it is made of."""
        return f"{self.family}: {', '.join(m.name for m in self.material)}"

    @cached_property
    def class_map(self) -> NDArray[np.uint8]:
        """Class of each pixel (H, W): 0 vacuum, 1 amorphous, 2 + n grain n; from grain 253 on numbers come again."""
        solid = self.thickness.sum(0) >= NOTHING
        numbered = np.where(self.grain >= 0, 2 + self.grain.astype(np.int64) % 253, 1)
        made: NDArray[np.uint8] = np.where(solid, numbered, 0).astype(np.uint8)
        return made


class Morphology(Drawable):
    """A procedural specimen on a square (or a part of one) that repeats without end; see `Relief`.

    All lengths within the picture are parts of `extent`, because pictures of one family look alike at any
    magnification; what a beam passes through is in Å. Without a bulk, sections are at most four elastic mean free paths
    (at 200 keV) thick, crystals are flatter where they would be opaque, at most 0.35 of the area is covered, and `any`
    prefers materials that are not opaque.
    """

    kind: Literal["morphology"] = "morphology"
    family: Word = Field(Choice(values=tuple(SPLITS)), description=f"what it shows: {', '.join(SPLITS)}")
    extent: Quantity = quantity(2e4, unit="Å", low=500, high=5e6, about="longer side of the field")
    size: Quantity = quantity(LogUniform(low=0.02, high=0.1), unit="of `extent`", low=0.003, high=0.3,
                              about="typical width of a feature")
    spread: Quantity = quantity(Uniform(low=0.1, high=0.6), unit="1", low=0, high=1.2,
                                about="deviation of the logarithm of sizes")
    coverage: Quantity = quantity(Uniform(low=0.1, high=0.7), unit="1", low=0.01, high=0.98,
                                  about="part of the area that features cover")
    aspect: Quantity = quantity(Uniform(low=0.4, high=1.2), unit="1", low=0.01, high=3,
                                about="height of a feature over its width")
    roughness: Quantity = quantity(LogUniform(low=0.02, high=0.4), unit="of `size`", low=0, high=2,
                                   about="amplitude of the fine texture")
    thickness: Quantity = quantity(LogUniform(low=150, high=1500), unit="Å", low=10, high=2e4,
                                   about="thickness of a supporting film, or of the section where that is the specimen")
    support: Literal["bulk", "film", "none"] | AnyChoice = Field(
        "film", description="what carries the features: bulk (SEM only), film, none (vacuum)")
    material: Word = Field("any", description=f"of the features; any, {', '.join(MATERIALS)}")
    ground: Word = Field("any", description="of what carries them, or of the second phase; the same words")

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: Word) -> Word:
        for name in value.values if isinstance(value, Choice | Deal) else (value,):
            if name not in SPLITS:
                raise StructureError(f"{name!r} is not a family of morphology; there are {', '.join(SPLITS)}")
        return value

    @field_validator("support")
    @classmethod
    def _known_support(cls, value: Word) -> Word:
        for name in value.values if isinstance(value, Choice | Deal) else (value,):
            if name not in SUPPORTS:
                raise StructureError(f"{name!r} is not a support; there are {', '.join(SUPPORTS)}")
        return value

    @field_validator("material", "ground")
    @classmethod
    def _known_material(cls, value: Word) -> Word:
        for name in value.values if isinstance(value, Choice | Deal) else (value,):
            if name != "any" and name not in MATERIALS:
                raise StructureError(f"no material {name!r} in the table; there are any, {', '.join(MATERIALS)}")
        return value

    def build(self, streams: Streams, shape: tuple[int, int]) -> Relief:
        """Draw the specimen.

        Parameters
        ----------
        streams : Streams
            Random streams of the field; all names begin with ``specimen.morphology``.
        shape : tuple of int
            (rows, cols) of the maps; the longer side is `extent`.

        Raises
        ------
        StructureError
            Where a feature would be narrower than 4 px.
        """
        from emsynth.specimen._morphology_canvas import Canvas
        from emsynth.specimen._morphology_families import FAMILIES, GROUNDLESS
        from emsynth.specimen._morphology_ground import ground

        family, step = cast(str, self.family), number(self.extent) / max(shape)
        size = number(self.size) * number(self.extent)
        if size < NARROWEST * step:
            raise StructureError(
                f"size: {number(self.size):g} of the extent is {size / step:.1f} px of a field of {max(shape)} px, and "
                f"features narrower than {NARROWEST:g} px are not drawn; use a size of "
                f"{NARROWEST / max(shape):.2g} or more, or more px a field")
        support = cast(str, self.support)
        if family in GROUNDLESS and support == "none":
            support = "film"  # these are a section themselves

        def generator(purpose: str) -> np.random.Generator:
            return streams.generator(f"specimen.morphology.{purpose}")

        film, aspect, coverage = number(self.thickness), number(self.aspect), number(self.coverage)
        body, carrier, extra = self._materials(family, support, size * aspect, generator("materials"))
        if support != "bulk":
            # Heavy sections are thinned further, and heavy crystals are flatter, or there would be nothing to be seen.
            paths = [MATERIALS[name].elastic_path(_ENERGY) for name in (body, carrier)]
            if family in _SECTIONS:
                film = min(film, TRANSPARENT * min(paths))
            else:
                aspect = min(aspect, 0.75 * TRANSPARENT * paths[0] / size)
            coverage = min(coverage, _DENSEST)
        canvas = Canvas(
            shape=shape, step=step, size=size, coverage=coverage, aspect=aspect,
            spread=number(self.spread), roughness=number(self.roughness), film=film, support=support,
            body=body, ground=carrier, extra=extra, generator=generator,
            crystalline={name: m.crystalline for name, m in MATERIALS.items()})
        if family not in GROUNDLESS:
            ground(canvas, marks=family != "tracks")
        FAMILIES[family](canvas)
        names = [name for name, layer in canvas.layers.items() if layer.any()] or [body]
        grain, orientation = _numbered(canvas.grain, generator("orientation"))
        thickness = np.stack([np.maximum(canvas.layer(name), 0.0) for name in names])
        return Relief(height=canvas.height, thickness=thickness, material=tuple(MATERIALS[n] for n in names),
                      grain=grain, orientation=orientation, sampling=(step, step), family=family, bulk=support ==
                      "bulk")

    def _materials(self, family: str, support: str, tall: float, rng: np.random.Generator) -> tuple[str, str, str]:
        # All are drawn whichever are given, so that naming one leaves the others.
        first, second, third = (float(u) for u in rng.random(3))
        body = cast(str, self.material)
        if body == "any":
            body = _chosen(_BODIES[family], first, 0.0 if support == "bulk" or family in _SECTIONS else tall)
        grounds = _GROUNDS.get(family, _BULK if support == "bulk" else _FILM)
        carrier = cast(str, self.ground)
        if carrier == "any":
            carrier = _chosen(tuple(name for name in grounds if name != body) or grounds, second, 0.0)
        extras = tuple(name for name in _EXTRAS if name not in (body, carrier))
        return body, carrier, _chosen(extras, third, 0.0 if support == "bulk" else 0.5 * tall)


def _chosen(names: tuple[str, ...], chance: float, tall: float) -> str:
    """One of several materials by a `chance` from 0 to 1; rarely one through which `tall` Å would be opaque."""
    weight = np.array([1 / (1 + (tall / (TRANSPARENT * MATERIALS[name].elastic_path(_ENERGY))) ** 2) for name in names])
    chosen = int(np.searchsorted(np.cumsum(weight), chance * weight.sum(), "right"))
    return names[min(chosen, len(names) - 1)]


def _numbered(grain: NDArray[np.int16], rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Grains that are to be seen, numbered from 0 in a random order, and an orientation for each."""
    seen = np.unique(grain)
    seen = seen[seen >= 0]
    table = np.full(int(grain.max()) + 2, -1, np.int16)  # the last one is for -1
    table[seen] = rng.permutation(len(seen)).astype(np.int16)
    # Most grains are far from any strong reflection, a few are near: the tilt has long tails.
    tilt = rng.standard_normal((len(seen), 2)) * 12.0
    azimuth = rng.uniform(0, np.pi, (len(seen), 1))
    return table[grain], np.concatenate([tilt, azimuth], 1)
