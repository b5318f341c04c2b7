"""The recipe: one document that says what a data set is, and after drawing what one sample is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from emsynth import document
from emsynth.complaints import explain
from emsynth.distortion import Chain
from emsynth.draw import (
    Choice,
    Deal,
    Distribution,
    Drawable,
    Quantity,
    Streams,
    Uniform,
    Word,
    extremes,
    number,
    quantity,
)
from emsynth.errors import FieldError, RecipeError
from emsynth.microscope import AnyMicroscope, Microscope, Survey, TransmissionMicroscope, choose
from emsynth.simulation.images import DETECTOR, OwnImages
from emsynth.simulation.plan import Phenomenological, Simulation
from emsynth.specimen import AnySpecimen, Member, Mixture, Morphology, structure
from emsynth.specimen.crystal import known_names
from emsynth.specimen.table import refuse_reserved

SPLITS = ("train", "val", "test")

# Å: largest pixel on what is made of atoms.
_ATOMIC = 5.0
# Stands for every detector of a microscope alike.
ANY = "any"

_OWN_EXAMPLE = "simulate: {kind: images, folder: clean/, pixel_size: 0.2}"


class Image(Drawable):
    """The window that a sample cuts out of a field."""

    size: Annotated[int, Field(ge=16, le=4096)] = Field(256, description="rows and columns [px]",
                                                           json_schema_extra={"unit": "px"})
    pixel_size: Quantity = quantity(0.1, unit="Å", low=0.01, high=1e5,
                                    about="side of a pixel; at most 5 of what is made of atoms")
    rotation: Quantity = quantity(Uniform(low=0, high=360), unit="deg", low=-360, high=360,
                                  about="turn of the window on the field, from the column axis to the row axis")
    flip: Quantity = quantity(0.5, unit="1", low=0, high=1, about="probability that the field is mirrored")
    detector: Word = Field(Choice(values=("HAADF",)),
                           description="whose image; one of the microscope's detectors, or any")
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


class OwnWindow(Image):
    """The window on an image of the user's own: by default it is shown as it is, in quarter turns."""

    pixel_size: Quantity = quantity(unit="Å", low=0.01, high=1e5, about="side of a pixel")
    rotation: Quantity = quantity(Choice(values=(0.0, 90.0, 180.0, 270.0)), unit="deg", low=-360, high=360,
                                  about="turn of the window on the image, from the column axis to the row axis")
    detector: Word = DETECTOR
    plane: Quantity = quantity(0.0, unit="1", low=0, high=1, about="an image has one plane")
    strain: Quantity = quantity(0.0, unit="1", low=0, high=0.05,
                                about="bound of the local strain in a smooth random strain map")
    thickness_variation: Quantity = quantity(0.0, unit="1", low=0, high=1, about="an image has one plane")


class SurveyWindow(Image):
    """The window on a phenomenological field, whose pixels are nanometres."""

    pixel_size: Quantity = quantity(unit="Å", low=0.5, high=1e5, about="side of a pixel")
    plane: Quantity = quantity(0.0, unit="1", low=0, high=1, about="such a field has one plane")
    strain: Quantity = quantity(0.0, unit="1", low=0, high=0.05,
                                about="bound of the local strain in a smooth random strain map")
    thickness_variation: Quantity = quantity(0.0, unit="1", low=0, high=1, about="such a field has one plane")


class Store(Drawable):
    """How the data set is kept."""

    shard: int = Field(128, ge=1, le=65536, description="samples in one shard; a shard is one file per array and one "
                       "task of a worker")
    codec: Literal["lz4", "none"] = Field("lz4", description="compression of the chunks: lz4 with bit shuffling, 2 to "
                                          "3 times smaller for counts, or none, 2 to 3 times quicker to read")
    licence: str = Field("CC-BY-4.0", description="licence of the data set, an SPDX identifier")


def _tagged(simulate: Any) -> Any:
    return {"kind": "multislice", **simulate} if isinstance(simulate, dict) else simulate


def _scanning(microscope: Any) -> Any:
    return {"kind": "stem", **microscope} if isinstance(microscope, dict) else microscope


Fields = Annotated[Simulation | Phenomenological | OwnImages, Field(discriminator="kind"), BeforeValidator(_tagged)]
Scope = Annotated[AnyMicroscope, Field(discriminator="kind"), BeforeValidator(_scanning)]


def _schema_of_own(schema: dict[str, Any]) -> None:
    """A specimen where fields are simulated; neither that nor a microscope where they are the user's images."""
    schema["required"].remove("specimen")
    own = {"required": ["simulate"], "properties": {"simulate": {
        "required": ["kind"], "properties": {"kind": {"const": "images"}}}}}
    given = {"specimen": {"type": "null"}, "microscope": {"type": "null"}}
    schema |= {"if": own, "then": {"properties": given}, "else": {"required": ["specimen"]}}


class DrawnField(NamedTuple):
    """member : specimen with its contamination and physics; microscope : as drawn; streams : of the field;
    places : where in the recipe specimen and microscope stand
    """

    member: Member
    microscope: AnyMicroscope
    streams: Streams
    places: tuple[str, str]


class Recipe(Drawable):
    """A data set in one document; after `draw`, one sample in the same document.

    Field index j keys the draws of `specimen` and `microscope`; sample index i keys those of `image` and `distort`.
    Where `simulate` names a folder of images, field j is the j-th of them, and there is no specimen or microscope.
    """

    model_config = ConfigDict(json_schema_extra=_schema_of_own)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = Field(
        description="name of the data set: letters, digits, . _ -")
    seed: int = Field(0, ge=0, lt=2**63, description="same seed, same data set")
    samples: int = Field(ge=1, le=2**31, description="pairs of truth and distorted image")
    fields: int = Field(ge=1, le=2**24, description="simulation passes that the samples share")
    image: Image = Image()
    specimen: Annotated[AnySpecimen | Mixture, Field(discriminator="kind")] | None
    microscope: Scope | Annotated[tuple[Scope, ...], Field(min_length=1)] | None = Microscope()
    simulate: Fields = Simulation()
    distort: Chain = Chain()
    store: Store = Store()

    @model_validator(mode="before")
    @classmethod
    def _of_other_fields(cls, content: Any) -> Any:
        simulate = content.get("simulate") if isinstance(content, dict) else None
        if isinstance(simulate, Phenomenological) or (isinstance(simulate, dict)
                                                      and simulate.get("kind") == "phenomenological"):
            return {**content, "image": _window(SurveyWindow, content.get("image", {}))}
        own = simulate.model_dump() if isinstance(simulate, OwnImages) else simulate
        # A folder without the kind is a mistake in `simulate`, and no reason to miss a specimen.
        if not isinstance(own, dict) or (own.get("kind") != "images" and "folder" not in own):
            return content
        image = _window(OwnWindow, content.get("image", {}), pixel_size=own.get("pixel_size"))
        return {"specimen": None, "microscope": None, **content, "image": image}

    @field_validator("specimen")
    @classmethod
    def _drawable(cls, specimen: AnySpecimen | Mixture | None) -> AnySpecimen | Mixture | None:
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
        if isinstance(self.simulate, OwnImages):
            _check_own(self.specimen, self.microscope, names)
            _check_one_plane(self.image, "your images")
            return self
        if self.specimen is None:
            raise ValueError(f"specimen: is empty; give a mapping of keys such as {{kind: crystal, structure: Au}}, "
                             f"or, for images of your own instead, {_OWN_EXAMPLE}")
        if self.microscope is None:
            raise ValueError("microscope: is empty; give a mapping of keys, a list of such, or remove the key")
        _check_physics(self.specimen, self.microscopes, self.simulate)
        if isinstance(self.simulate, Phenomenological):
            if not isinstance(self.image, SurveyWindow):
                low, high = extremes_of(self.image.pixel_size)
                raise ValueError(f"image.pixel_size: {low if low < 0.5 else high:g} Å is outside 0.5 to 100000 Å, the "
                                 f"range of low magnification")
            _check_one_plane(self.image, "phenomenological fields")
        else:
            _check_ways(self.specimen, self.microscopes, self.simulate)
        if isinstance(self.simulate, Simulation) and largest(self.image.pixel_size) > _ATOMIC:
            raise ValueError(f"image.pixel_size: {largest(self.image.pixel_size):g} Å is outside 0.01 to {_ATOMIC:g} Å")
        for microscope in self.microscopes:
            for name in names:
                if name != ANY and name not in microscope.channels:
                    raise ValueError(f"image.detector: {name!r} is not a detector of the microscope; it has "
                                     f"{', '.join(microscope.channels)}, and {ANY!r} stands for all of them")
            if isinstance(microscope, Microscope) and isinstance(self.simulate, Simulation):
                for detector in microscope.detectors:
                    _check_reach(detector.outer, detector.unit, detector.name, microscope, self.simulate)
        return self

    @property
    def microscopes(self) -> tuple[AnyMicroscope, ...]:
        """The microscopes, one or several; none where the fields are the user's images."""
        if self.microscope is None:
            return ()
        return self.microscope if isinstance(self.microscope, tuple) else (self.microscope,)

    @property
    def shown(self) -> AnySpecimen | None:
        """The specimen of a drawn recipe, whether it is the only one or one of a mixture."""
        return self.specimen.members[0].specimen if isinstance(self.specimen, Mixture) else self.specimen

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
        if "stages" in read.content and "data" in read.content:
            raise RecipeError(f"{read.path}:1: is a training recipe, for emsynth train; it names the recipe of "
                              "its data")
        wrong = read.resolve_files("specimen") + read.resolve_folders("simulate")
        try:
            recipe = cls.model_validate(read.content)
        except ValidationError as error:
            raise RecipeError("\n".join(explain(error, read) + wrong)) from None
        if not wrong and isinstance(recipe.simulate, OwnImages):
            wrong = _missing_images(recipe.simulate, recipe.fields, read)
        if wrong:
            raise RecipeError("\n".join(wrong))
        return recipe

    def field_of(self, sample: int) -> int:
        """Field that sample `sample` is cut from; does not depend on the number of samples."""
        return sample % self.fields

    def draw_field(self, field: int) -> DrawnField:
        """Specimen and microscope of one field, drawn, and its random streams.

        Parameters
        ----------
        field : int
            Index j, 0 to ``fields - 1``.
        """
        if not 0 <= field < self.fields:
            raise RecipeError(f"field {field} is outside 0 to {self.fields - 1}; the recipe has {self.fields} fields")
        if self.specimen is None:
            raise RecipeError("specimen: there is none to draw; the fields of this recipe are images")
        if isinstance(self.specimen, Mixture):
            chosen, turn = self.specimen.member_of(field)
            member, path = self.specimen.members[chosen], f"specimen.{chosen}"
        else:
            member, turn, path = Member(specimen=self.specimen), field, "specimen"
        streams = Streams(self.seed, field, turn)
        drawn = member.drawn_for(streams, path)
        number_of_scope, scope = choose(self.microscopes, drawn.specimen.kind, streams)
        scope_at = f"microscope.{number_of_scope}" if isinstance(self.microscope, tuple) else "microscope"
        at = path.replace("specimen.", "specimen.members.") + ".specimen" if path != "specimen" else path
        return DrawnField(drawn, scope, streams, (at, scope_at))

    def draw(self, streams: Streams | int, path: str = "") -> Self:
        """The drawn recipe of one sample: the same type, plain numbers only.

        A sample keeps this with what its field has made of it: a pixel that fits, a detector that there is. That, not
        this, is what renders to the same sample again.

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
        own = Streams(self.seed, sample)
        drawn: dict[str, Any] = {"image": self.image.draw(own, "image"), "distort": self.distort.draw(own, "distort")}
        if not isinstance(self.simulate, OwnImages):
            field = self.draw_field(self.field_of(sample))
            drawn["microscope"], drawn["specimen"] = field.microscope, field.member.specimen
            if isinstance(self.specimen, Mixture):
                drawn["specimen"] = self.specimen.model_copy(update={"members": (field.member,)})
        return self.model_copy(update=drawn)

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's content; a structure file or an image counts by its bytes, not by its path."""
        content = self.model_dump(mode="json")
        if isinstance(self.simulate, OwnImages):
            content["simulate"]["folder"] = self.simulate.digests(self.fields)
        return digest_of(content)


def _window(kind: type[Image], image: Any, **default: Any) -> Any:
    """The image section of a kind; as it is where that is wrong: it is validated as `Image` then, which says why."""
    with contextlib.suppress(ValidationError):
        if isinstance(image, dict):
            return kind.model_validate({**default, **image})
    return image


def _check_own(specimen: object, microscope: object, detectors: Sequence[str]) -> None:
    """Raise ValueError where a recipe of images asks for what only a simulation has."""
    for key, given in (("specimen", specimen), ("microscope", microscope)):
        if given is not None:
            raise ValueError(f"{key}: is given, and simulate.kind is images: nothing is simulated then; remove {key}, "
                             f"or simulate.kind")
    for name in detectors:
        if name != DETECTOR:
            raise ValueError(f"image.detector: {name!r} is not a detector of your images, which have one called "
                             f"{DETECTOR!r}; remove the key")


def _check_physics(specimen: AnySpecimen | Mixture, microscopes: tuple[AnyMicroscope, ...],
                   simulate: Simulation | Phenomenological) -> None:
    """Raise ValueError where specimen, microscope and simulation do not go together."""
    parts = [m.specimen for m in specimen.members] if isinstance(specimen, Mixture) else [specimen]
    atoms = isinstance(simulate, Simulation)
    meant = "multislice" if atoms else "phenomenological"
    for part in parts:
        if isinstance(part, Morphology) == atoms:
            other = "simulate: {kind: phenomenological}" if atoms else "leave out simulate.kind"
            raise ValueError(f"specimen: kind {part.kind!r} cannot be simulated by kind {meant!r}; "
                             f"{'a morphology has no atoms: set ' if atoms else 'it is made of atoms: '}{other}")
    for microscope in microscopes:
        if isinstance(microscope, Survey) == atoms:
            fitting = "stem or tem" if atoms else "stem_survey, tem_survey or sem"
            raise ValueError(f"microscope: kind {microscope.kind!r} does not go with simulate.kind {meant!r}; use a "
                             f"microscope of kind {fitting}")


def _check_ways(specimen: AnySpecimen | Mixture, microscopes: tuple[AnyMicroscope, ...], simulate: Simulation) -> None:
    """Raise ValueError where a way to simulate is none for a microscope."""
    members = specimen.members if isinstance(specimen, Mixture) else ()
    asked = {"simulate.physics": simulate.physics,
             **{f"specimen.members.{n}.physics": member.physics for n, member in enumerate(members)}}
    for microscope in microscopes:
        for key, physics in asked.items():
            if isinstance(microscope, TransmissionMicroscope) and physics not in (None, "multislice"):
                raise ValueError(f"{key}: {physics} is for scanned probes, and there is a microscope of kind tem; use "
                                 f"multislice")
        if isinstance(microscope, Microscope) and simulate.phonons.model != "frozen":
            raise ValueError("simulate.phonons.model: debye_waller leaves out the diffuse scattering that dark field "
                             "is made of; use frozen, or microscopes of kind tem only")


def _check_one_plane(image: Image, what: str) -> None:
    """Raise ValueError where a window asks for a thickness of what has none; 0, as in a drawn recipe, asks none."""
    for key in ("plane", "thickness_variation"):
        if extremes(getattr(image, key)) not in ((0.0,), (0.0, 0.0)):
            raise ValueError(f"image.{key}: is given, and {what} have no thickness series, each is one plane; "
                             f"remove the key")


def _missing_images(images: OwnImages, fields: int, read: document.Document) -> list[str]:
    """What is wrong with the number of images, as a complaint with its place."""
    try:
        images.file_of(fields - 1)
    except FieldError as wrong:
        key, _, said = str(wrong).partition(": ")
        return [read.line(tuple(key.split(".")), said)]
    return []


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


def extremes_of(value: Quantity) -> tuple[float, float]:
    """Smallest and largest value that a quantity can take."""
    return smallest(value), largest(value)


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
