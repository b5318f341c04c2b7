"""The recipe: one document that says what a data set is, and after drawing what one sample is."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from emsynth import document
from emsynth.complaints import explain
from emsynth.distortion import Chain
from emsynth.draw import Choice, Deal, Distribution, Drawable, Quantity, Streams, Uniform, Word, number, quantity
from emsynth.errors import RecipeError
from emsynth.microscope import Microscope, choose
from emsynth.simulation.plan import Simulation
from emsynth.specimen import AnySpecimen, Mixture, structure
from emsynth.specimen.crystal import known_names
from emsynth.specimen.table import refuse_reserved

SPLITS = ("train", "val", "test")


class Image(Drawable):
    """The window that a sample cuts out of a field."""

    size: Annotated[int, Field(ge=16, le=4096)] = Field(256, description="rows and columns [px]",
                                                           json_schema_extra={"unit": "px"})
    pixel_size: Quantity = quantity(0.1, unit="Å", low=0.01, high=5, about="side of a pixel")
    rotation: Quantity = quantity(Uniform(low=0, high=360), unit="deg", low=-360, high=360,
                                  about="turn of the window on the field, from the column axis to the row axis")
    flip: Quantity = quantity(0.5, unit="1", low=0, high=1, about="probability that the field is mirrored")
    detector: Word = Field(Choice(values=("HAADF",)), description="whose image; one of microscope.detectors")
    plane: Quantity = quantity(Uniform(low=0, high=1), unit="1", low=0, high=1,
                               about="where in the thickness series: 0 the thinnest, 1 the thickest plane")
    perfect: Quantity = quantity(0.3, unit="1", low=0, high=1,
                                 about="probability of neither strain nor a thickness map: perfectly periodic")
    strain: Quantity = quantity(Uniform(low=0, high=0.02), unit="1", low=0, high=0.05,
                                about="bound of the local strain in a smooth random strain map")
    thickness_variation: Quantity = quantity(Uniform(low=0, high=0.5), unit="1", low=0, high=1,
                                             about="part of the thickness series that a smooth random map spans")

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Draw; presence of flip and of the maps collapses to 0 or 1."""
        drawn = super().draw(streams, path)
        plain = {name: float(streams.generator(f"{path}.{name}.chance").random() < number(getattr(drawn, name)))
                 for name in ("flip", "perfect")}
        if plain["perfect"]:
            plain |= {"strain": 0.0, "thickness_variation": 0.0}
        return drawn.model_copy(update=plain)


class Store(Drawable):
    """How the data set is kept."""

    shard: int = Field(128, ge=1, le=65536, description="samples in one shard; a shard is one file per array and one "
                       "task of a worker")
    licence: str = Field("CC-BY-4.0", description="licence of the data set, an SPDX identifier")


class Recipe(Drawable):
    """A data set in one document; after `draw`, one sample in the same document.

    Field index j keys the draws of `specimen` and `microscope`; sample index i keys those of `image` and `distort`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = Field(
        description="name of the data set: letters, digits, . _ -")
    seed: int = Field(0, ge=0, lt=2**63, description="same seed, same data set")
    samples: int = Field(ge=1, le=2**31, description="pairs of truth and distorted image")
    fields: int = Field(ge=1, le=2**24, description="simulation passes that the samples share")
    image: Image = Image()
    specimen: Annotated[AnySpecimen | Mixture, Field(discriminator="kind")]
    microscope: Microscope | Annotated[tuple[Microscope, ...], Field(min_length=1)] = Microscope()
    simulate: Simulation = Simulation()
    distort: Chain = Chain()
    store: Store = Store()

    @field_validator("specimen")
    @classmethod
    def _drawable(cls, specimen: AnySpecimen | Mixture) -> AnySpecimen | Mixture:
        parts = [m.specimen for m in specimen.members] if isinstance(specimen, Mixture) else [specimen]
        for part in parts:
            for name in known_names(getattr(part, "structure", None)):
                refuse_reserved(name, structure(name).prototype, "build")
        return specimen

    @field_validator("image", "distort")
    @classmethod
    def _not_dealt(cls, part: Drawable) -> Drawable:
        if any(isinstance(found, Deal) for found in part.distributions()):
            raise ValueError("dist 'deal' hands out its values field by field, so it is for specimen and microscope; "
                             "use {dist: choice, values: [...]} here")
        return part

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = self.image.detector
        names = wanted.values if isinstance(wanted, Choice | Deal) else (wanted,)
        for microscope in self.microscopes:
            present = [d.name for d in microscope.detectors]
            for name in names:
                if name not in present:
                    raise ValueError(f"image.detector: {name!r} is not a detector of the microscope; it has "
                                     f"{', '.join(present)}")
            for detector in microscope.detectors:
                _check_reach(detector.outer, detector.unit, detector.name, microscope, self.simulate)
        return self

    @property
    def microscopes(self) -> tuple[Microscope, ...]:
        """The microscopes, one or several."""
        return self.microscope if isinstance(self.microscope, tuple) else (self.microscope,)

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """Read a recipe.

        Parameters
        ----------
        path_or_name : path or str
            A file, or the name of a shipped recipe such as ``"stem_hd"``.
        overrides : sequence of str
            ``"KEY=VALUE"`` with a dotted key; the value is YAML.

        Returns
        -------
        Recipe

        Raises
        ------
        RecipeError
            With one line per error, ``file:line: path: message``.
        """
        read = document.read(document.find(path_or_name))
        for override in overrides:
            read.override(override)
        wrong = read.resolve_files("specimen")
        try:
            recipe = cls.model_validate(read.content)
        except ValidationError as error:
            raise RecipeError("\n".join(explain(error, read) + wrong)) from None
        if wrong:
            raise RecipeError("\n".join(wrong))
        return recipe

    def field_of(self, sample: int) -> int:
        """Field that sample `sample` is cut from; does not depend on the number of samples."""
        return sample % self.fields

    def draw_field(self, field: int) -> tuple[AnySpecimen, Microscope, Streams]:
        """Specimen and microscope of one field, drawn, and its random streams.

        Parameters
        ----------
        field : int
            Index j, 0 to ``fields - 1``.
        """
        if not 0 <= field < self.fields:
            raise RecipeError(f"field {field} is outside 0 to {self.fields - 1}; the recipe has {self.fields} fields")
        if isinstance(self.specimen, Mixture):
            member, turn = self.specimen.member_of(field)
            specimen, path = self.specimen.members[member].specimen, f"specimen.{member}"
        else:
            specimen, turn, path = self.specimen, field, "specimen"
        streams = Streams(self.seed, field, turn)
        return specimen.draw(streams, path), choose(self.microscopes, specimen.kind, streams), streams

    def draw(self, streams: Streams | int, path: str = "") -> Self:
        """The drawn recipe of one sample: the same type, plain numbers only.

        Parameters
        ----------
        streams : int
            Index i of the sample. (A `Streams` is taken too: its index.)
        path : str
            Not used: a recipe stands at the top.
        """
        sample = streams.index if isinstance(streams, Streams) else operator.index(streams)
        if sample < 0:
            raise RecipeError(f"sample {sample} is below 0")
        specimen, microscope, _ = self.draw_field(self.field_of(sample))
        own = Streams(self.seed, sample)
        return self.model_copy(update={
            "specimen": specimen, "microscope": microscope,
            "image": self.image.draw(own, "image"), "distort": self.distort.draw(own, "distort")})

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's content; a structure file counts by its bytes, not by its path."""
        return digest_of(self.model_dump(mode="json"))


def _check_reach(outer: Quantity, unit: str, name: str, microscope: Microscope, simulate: Simulation) -> None:
    """Raise ValueError where a detector may reach beyond the simulated angle, whatever is drawn."""
    reach = largest(outer) * (largest(microscope.convergence) if unit == "convergence" else 1.0)
    if reach > simulate.max_angle:
        raise ValueError(f"microscope.detectors.{name}.outer: {reach:g} mrad is beyond the simulated angle, "
                         f"simulate.max_angle {simulate.max_angle:g} mrad; lower the detector's outer angle or raise "
                         f"simulate.max_angle (time grows with its square)")


def largest(value: Quantity) -> float:
    """Largest value that a quantity can take."""
    return value.support()[1] if isinstance(value, Distribution) else float(value)


def smallest(value: Quantity) -> float:
    """Smallest value that a quantity can take."""
    return value.support()[0] if isinstance(value, Distribution) else float(value)


def digest_of(content: Any) -> str:
    """SHA-256 of plain JSON values, structure files replaced by the digest of their bytes."""
    text = json.dumps(_without_paths(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_paths(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _file_digests(value) if key == "file" else _without_paths(value)
                for key, value in content.items()}
    if isinstance(content, list):
        return [_without_paths(value) for value in content]
    return content


def _file_digests(value: Any) -> Any:
    if isinstance(value, str):
        path = Path(value)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else value
    if isinstance(value, dict) and "values" in value:
        return {**value, "values": [_file_digests(v) for v in value["values"]]}
    return value
