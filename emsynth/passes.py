"""One simulation pass of a recipe: what it will be (outline), and the field that it gives (simulate)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from emsynth.draw import Choice, Deal, Streams, number
from emsynth.errors import EmsynthError, FieldError
from emsynth.microscope import Instrument, Microscope, SurfaceSem, SurveyStem, SurveyTem, TransmissionMicroscope
from emsynth.oversampling import factor_of
from emsynth.provenance import fingerprint
from emsynth.reach import check_fit
from emsynth.recipe import ANY, DrawnField, Recipe, largest
from emsynth.simulation import backend, convolution, images, prism
from emsynth.simulation import field as field_cache
from emsynth.simulation.field import Field
from emsynth.simulation.images import OwnImages
from emsynth.simulation.plan import (
    Phenomenological,
    Plan,
    Simulation,
    picture_shape,
    plan_for,
    plan_transmission,
    smooth_number,
)
from emsynth.specimen import Morphology, morphology, prototype_split
from emsynth.specimen.base import Specimen
from emsynth.view import window_of

# What else determines the numbers of a field; another version of one of them means another field.
_DETERMINING = ("abtem", "ase", "numpy", "scipy", "pyfftw")

# What an approximation was checked with is part of what it gives.
_RECORDS = {"prism": prism.record_digest, "convolution": convolution.record_digest}
# Of a field by convolution: time of its fits as wave points of multislice (of one phonon configuration, of the three
# that a budget reckons with), and memory in GB.
_CONVOLUTION_WORK, _CONVOLUTION_MEMORY = 1.5e9, 1.0
# Of a phenomenological field, for each of its pixels: time as wave points of multislice, and bytes in memory.
_SURVEY_WORK, _SURVEY_MEMORY = 250.0, 600.0

# Samples of an image of which it is known before the build that their windows fit and show something.
_SAMPLES_SEEN = 16


@dataclass(frozen=True)
class Outline:
    """What is known of a field before it is simulated.

    Attributes
    ----------
    field : int
        Index j.
    digest : str
        Digest of everything that determines the field; its key in the cache.
    kind, structure, prototype, split : str
        What it shows and where its samples belong.
    work : float
        Wave points times slices of one phonon configuration (see `Plan.work`).
    memory : float
        Memory in GB that the pass plans for.
    bytes : int
        Size of the clean stack.
    most_columns : int
        No window on this field can hold more atom columns.
    cached : bool
        Whether the field is in the cache already.
    shape : tuple of int
        (rows, cols) of its pictures.
    """

    field: int
    digest: str
    kind: str
    structure: str
    prototype: str
    split: str
    work: float
    memory: float
    bytes: int
    most_columns: int
    cached: bool
    shape: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Pass:
    specimen: Specimen
    microscope: Instrument
    settings: Simulation
    streams: Streams
    plan: Plan
    digest: str


def outline(recipe: Recipe, field: int) -> Outline:
    """Work out field `field` of a recipe without simulating it.

    Raises
    ------
    EmsynthError
        Whatever would stop the simulation or the samples: a structure that cannot be a specimen, a detector beyond
        the simulated angle, too much memory, a window that does not fit.
    """
    if isinstance(recipe.simulate, OwnImages):
        return _outline_image(recipe, recipe.simulate, field)
    if isinstance(recipe.simulate, Phenomenological):
        return _outline_survey(recipe, recipe.simulate, field)
    prepared = _prepare(recipe, recipe.simulate, field)
    specimen, plan = prepared.specimen, prepared.plan
    tile = (plan.box[0] / plan.repeats[0], plan.box[1] / plan.repeats[1])
    bounds = [math.inf if endless else side for side, endless in zip(tile, specimen.endless, strict=True)]
    check_fit(recipe.image, (bounds[0], bounds[1]), specimen.structure)
    rows, cols = _shape(prepared, tile)
    fast = prepared.settings.physics == "convolution"
    pictures_memory = _pictures(plan, prepared.microscope, prepared.settings)
    work, memory = (_CONVOLUTION_WORK, _CONVOLUTION_MEMORY) if fast else (plan.work, plan.memory + pictures_memory)
    pictures = len(plan.planes) * len(prepared.microscope.channels)
    return Outline(
        field=field, digest=prepared.digest, kind=specimen.kind, structure=specimen.structure,
        prototype=specimen.prototype, split=split_of(specimen.prototype), work=work, memory=memory,
        bytes=4 * rows * cols * pictures, most_columns=_most_columns(recipe, len(specimen.columns), tile),
        cached=field_cache.is_kept(prepared.digest), shape=(rows, cols))


def _shape(prepared: _Pass, tile: tuple[float, float]) -> tuple[int, int]:
    """(rows, cols) of the pictures of a pass; of TEM images the most that it can be."""
    oversampling = prepared.settings.oversampling
    if isinstance(prepared.microscope, Microscope):
        return picture_shape(prepared.plan, oversampling)
    limit = prepared.microscope.band_limit
    rows, cols = (smooth_number(oversampling * (2 * math.ceil(limit * side) + 1)) for side in tile)
    return rows, cols


def split_of(prototype: str) -> str:
    """Split of all samples of one prototype, of a structure or of a user's image."""
    return images.split_of(prototype) or morphology.split_of(prototype) or prototype_split(prototype)


def _survey(recipe: Recipe, field: int) -> tuple[Morphology, SurveyStem | SurveyTem | SurfaceSem, Streams, str]:
    member, microscope, streams, _ = recipe.draw_field(field)
    drawn = member.specimen
    assert isinstance(drawn, Morphology)
    assert isinstance(microscope, SurveyStem | SurveyTem | SurfaceSem)
    determines = {"specimen": drawn.model_dump(mode="json"), "simulate": recipe.simulate.model_dump(mode="json"),
                  "microscope": microscope.model_dump(mode="json", exclude={"weight"}), "seed": streams.seed,
                  "field": streams.index, "platform": fingerprint(),
                  "versions": {name: importlib.metadata.version(name) for name in ("numpy", "scipy")}}
    return drawn, microscope, streams, field_cache.content_digest(determines)


def _outline_survey(recipe: Recipe, asked: Phenomenological, field: int) -> Outline:
    drawn, microscope, _, digest = _survey(recipe, field)
    family, side = str(drawn.family), number(drawn.extent)
    prototype = morphology.PREFIX + family
    check_fit(recipe.image, (side, side), prototype)
    images_of = len(microscope.channels)
    return Outline(
        field=field, digest=digest, kind=drawn.kind, structure=family, prototype=prototype, split=split_of(prototype),
        work=_SURVEY_WORK * asked.size**2, memory=_SURVEY_MEMORY * asked.size**2 / 1e9,
        bytes=4 * asked.size**2 * images_of, most_columns=0, cached=field_cache.is_kept(digest),
        shape=(asked.size, asked.size))


def _simulate_survey(recipe: Recipe, asked: Phenomenological, field: int, cache: bool) -> Field:
    drawn, microscope, streams, digest = _survey(recipe, field)
    kept = field_cache.load(digest) if cache else None
    if kept is not None:
        return kept
    from emsynth.simulation import survey

    made = survey.simulate(drawn, microscope, asked, streams)
    if cache:
        field_cache.keep(digest, made)
    return made


def _outline_image(recipe: Recipe, own: OwnImages, field: int) -> Outline:
    read, about = images.read_field(own, field), images.file_digest(own.file_of(field))
    rows, cols = read.image.shape[-2:]
    for sample in range(field, recipe.samples, recipe.fields)[:_SAMPLES_SEEN]:
        window_of(recipe, recipe.draw(sample), read, sample)
    k = factor_of((rows, cols))
    return Outline(
        field=field, digest=field_cache.content_digest({"image": about, **own.model_dump(exclude={"folder"})}),
        kind="image", structure=str(read.provenance["specimen"]["structure"]), prototype=read.prototype,
        split=split_of(read.prototype), work=0.0, memory=4.0 * (4 + k + k * k) * rows * cols / 1e9,
        bytes=4 * rows * cols, most_columns=0, cached=False, shape=(rows, cols))


def simulate(recipe: Recipe, field: int, cache: bool = True) -> Field:
    """Simulate one field of a recipe, or take it from the cache; a user's image is read.

    Parameters
    ----------
    recipe : Recipe
        Any recipe.
    field : int
        Index j of the field, 0 to ``recipe.fields - 1``.
    cache : bool
        Whether to look into the field cache and to keep the field there.

    Returns
    -------
    Field
        ``image (thickness, detector, H, W)`` with its columns.

    Raises
    ------
    EmsynthError
        As `outline`.
    """
    if isinstance(recipe.simulate, OwnImages):
        # Reading it costs no more than the cache would.
        return images.read_field(recipe.simulate, field)
    if isinstance(recipe.simulate, Phenomenological):
        return _simulate_survey(recipe, recipe.simulate, field, cache)
    prepared = _prepare(recipe, recipe.simulate, field)
    kept = field_cache.load(prepared.digest) if cache else None
    if kept is not None:
        return kept
    made = _multislice(prepared)
    if cache:
        field_cache.keep(prepared.digest, made)
    return made


def _multislice(prepared: _Pass) -> Field:
    # abTEM takes seconds to import: only who simulates pays for it.
    from emsynth.simulation import multislice, tem

    specimen, settings, streams = prepared.specimen, prepared.settings, prepared.streams
    if isinstance(prepared.microscope, TransmissionMicroscope):
        return tem.simulate(specimen, prepared.microscope, settings, streams)
    if settings.physics == "convolution":
        return convolution.convolve(specimen, prepared.microscope, settings, streams)
    return multislice.simulate(specimen, prepared.microscope, settings, streams)


def _prepare(recipe: Recipe, asked: Simulation, field: int) -> _Pass:
    drawn = recipe.draw_field(field)
    try:
        return _prepared(recipe, asked, drawn)
    except EmsynthError as wrong:
        raise type(wrong)(_placed(str(wrong), drawn)) from None


def _placed(complaint: str, drawn: DrawnField) -> str:
    """A complaint that begins with its place in the recipe, whichever member and microscope it is about."""
    specimen, microscope = drawn.places
    for key, place in (("specimen.", specimen), ("microscope.", microscope)):
        if complaint.startswith(key):
            return f"{place}.{complaint.removeprefix(key)}"
    named = complaint.startswith(("simulate.", "image.", "microscope:", "specimen:", "distort.", "fields:"))
    return complaint if named else f"{specimen}: {complaint}"


def _prepared(recipe: Recipe, asked: Simulation, drawn: DrawnField) -> _Pass:
    member, microscope, streams, _ = drawn
    assert isinstance(microscope, Microscope | TransmissionMicroscope)
    backend.backend(asked.device)
    specimen = member.build(streams)
    if member.physics is not None:
        asked = asked.model_copy(update={"physics": member.physics})
    if isinstance(microscope, TransmissionMicroscope):
        plan = plan_transmission(specimen, microscope, asked)
    else:
        microscope = _offered(specimen, microscope, asked)
        _check_wanted(recipe, microscope, asked)
        plan = plan_for(specimen, microscope, asked)
    memory = _CONVOLUTION_MEMORY if asked.physics == "convolution" else plan.memory + _pictures(plan, microscope, asked)
    if memory > asked.memory:
        raise FieldError(f"simulate.memory: the pass over {specimen.structure} needs about {memory:.1f} GB, more "
                         f"than the allowed {asked.memory:g} GB; use a smaller box, fewer thicknesses, a "
                         f"smaller simulate.max_angle, or raise simulate.memory")
    return _Pass(specimen, microscope, asked, streams, plan, _digest(specimen, microscope, asked, streams))


def _offered(specimen: Specimen, microscope: Microscope, asked: Simulation) -> Microscope:
    """The microscope with the detectors that the physics offers within the deviation that is allowed.

    Raises
    ------
    FieldError
        Where there is none, or the specimen is beyond what was checked.
    """
    if asked.physics == "multislice":
        return microscope
    kept = microscope
    if asked.physics == "convolution":
        kept = microscope.model_copy(update={"detectors": convolution.offered(microscope)})
        deviation = convolution.check_offered(specimen, kept if kept.detectors else microscope)
    else:
        deviation = prism.check_offered(microscope)
    for name, found in deviation.items():
        if found > asked.deviation:
            raise FieldError(f"simulate.deviation: {name} by {asked.physics} deviates by {found:.1%} from multislice "
                             f"on record, and {asked.deviation:.1%} is allowed; raise it, or use physics: multislice")
    return kept


def _check_wanted(recipe: Recipe, microscope: Microscope, asked: Simulation) -> None:
    """Raise FieldError where the recipe wants only detectors that the physics does not offer."""
    wanted = recipe.image.detector
    names = wanted.values if isinstance(wanted, Choice | Deal) else (wanted,)
    if ANY not in names and not set(names) & set(microscope.channels):
        raise FieldError(f"image.detector: {', '.join(map(str, names))} is not offered by {asked.physics}, which "
                         f"offers {', '.join(microscope.channels)}; choose one of these or any, or use multislice")


def _pictures(plan: Plan, microscope: Instrument, asked: Simulation) -> float:
    """Memory in GB of the pictures of a TEM pass, of their mean, and of their transforms."""
    if isinstance(microscope, Microscope):
        return 0.0
    raw = math.prod(smooth_number(4 * microscope.band_limit / 2 * side + 1) for side in plan.box)
    fine = math.prod(smooth_number(asked.oversampling * (2 * microscope.band_limit * side / tiles + 1))
                     for side, tiles in zip(plan.box, plan.repeats, strict=True))
    return len(plan.planes) * len(microscope.channels) * (60.0 * raw + 24.0 * fine) / 1e9


def _digest(specimen: Specimen, microscope: Instrument, settings: Simulation, streams: Streams) -> str:
    """The atoms themselves are hashed, so that a change in how specimens are built is a change of the field."""
    atoms = hashlib.sha256()
    for array in (specimen.atoms.cell.array, specimen.atoms.numbers.astype(np.int64), specimen.atoms.positions,
                  specimen.columns.position, specimen.columns.depth,
                  np.zeros(0) if specimen.grain is None else specimen.grain):
        atoms.update(np.ascontiguousarray(array).tobytes())
    determines: dict[str, Any] = {
        "atoms": atoms.hexdigest(), "tile": list(specimen.tile), "thermal": specimen.thermal,
        "mistilt": list(specimen.mistilt), "kind": specimen.kind, "structure": specimen.structure,
        "prototype": specimen.prototype, "about": specimen.about,
        "microscope": microscope.model_dump(mode="json", exclude={"weight", "looks_at"}),
        "instrument": microscope.kind, "endless": list(specimen.endless), "slab": specimen.slab,
        "simulate": settings.model_dump(mode="json", exclude={"memory", "device"}),
        "backend": backend.name_of(settings.device),
        "record": _RECORDS[settings.physics]() if settings.physics in _RECORDS else "",
        "seed": streams.seed, "field": streams.index,
        "versions": {name: importlib.metadata.version(name) for name in _DETERMINING},
        "platform": fingerprint(),
    }
    return field_cache.content_digest(determines)


def _most_columns(recipe: Recipe, columns: int, tile: tuple[float, float]) -> int:
    """Bound on the columns in a window: all tiles that it can touch, stretched by strain and by the scan."""
    image = recipe.image
    side = image.size + _largest_path(recipe)
    reach = side * largest(image.pixel_size) / (1 - 2 * min(largest(image.strain), 0.2)) + 2 * math.hypot(*tile)
    return math.ceil(columns * reach**2 / (tile[0] * tile[1]))


def _largest_path(recipe: Recipe) -> float:
    """How much wider, in px, the scan's displacement can make a window: the sum of all that is given in px."""
    path = 0.0
    for stage in recipe.distort.scan:
        for name, declared in type(stage).model_fields.items():
            extra = declared.json_schema_extra
            if isinstance(extra, dict) and extra.get("unit") == "px":
                path += largest(getattr(stage, name))
    return path
