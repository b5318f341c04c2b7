"""A recipe, fields and samples without physics: small, quick, and the same for the same index."""

from __future__ import annotations

import os
import time

import numpy as np

from emsynth.draw import generator
from emsynth.errors import FieldError
from emsynth.passes import Outline
from emsynth.recipe import Recipe
from emsynth.sample import Sample, SampleColumns
from emsynth.simulation.field import Field
from emsynth.specimen.base import Columns

SIZE = 16
PROTOTYPES = ("fcc", "bcc", "NaCl")


def recipe(samples: int = 10, fields: int = 3, shard: int = 4, seed: int = 1) -> Recipe:
    return Recipe.model_validate({
        "name": "fake", "seed": seed, "samples": samples, "fields": fields, "image": {"size": SIZE},
        "specimen": {"kind": "crystal", "structure": "Au"}, "store": {"shard": shard}})


def outline(recipe: Recipe, field: int) -> Outline:
    return Outline(field=field, digest=f"{field}", kind="crystal", structure=f"S{field}",
                   prototype=PROTOTYPES[field % 3], split=("train", "val", "test")[field % 3], work=1e6 * (field + 1),
                   memory=0.1, bytes=4 * 2 * 24 * 24, most_columns=5, cached=False)


def bad_outline(recipe: Recipe, field: int) -> Outline:
    if field == 1:
        raise FieldError("microscope.detectors: HAADF reaches too far")
    return outline(recipe, field)


def simulate(recipe: Recipe, field: int) -> Field:
    rng = generator(recipe.seed, field, "fake")
    count = field  # field 0 has no columns
    columns = Columns(rng.random((count, 2)), np.full(count, 79, np.uint8), ("Au",) * count, rng.random((count, 2)),
                      np.full(count, 3, np.int32))
    return Field(rng.random((2, 1, 24, 24)).astype(np.float32), (0.1, 0.11), True, columns, np.array([10.0, 20.0]),
                 ("HAADF",), 2.5, (0.0, 1.0), 0.5, (True, True),
                 {"physics": "fake", "specimen": {"prototype": PROTOTYPES[field % 3], "structure": f"S{field}"},
                  "phonon_configurations": 2, "standard_error": {"HAADF": 0.03 * (field + 1)}})


def render(recipe: Recipe, index: int, field: Field | None = None) -> Sample:
    number = recipe.field_of(index)
    field = field or simulate(recipe, number)
    rng = generator(recipe.seed, index, "fake render")
    count = index % 4
    columns = SampleColumns(
        position=rng.random((count, 2)), index=np.arange(count, dtype=np.int32), number=np.full(count, 79, np.uint8),
        formula=("Au",) * count, intensity=rng.random(count).astype(np.float32), radius=1.5,
        resolved=rng.random(count) < 0.5)
    truth = field.image[0, 0, :SIZE, :SIZE] * np.float32(rng.random())
    return Sample(
        index=index, field=number, truth=truth, distorted=rng.poisson(truth * 9).astype(np.float32),
        displacement=rng.random((2, SIZE, SIZE)).astype(np.float16), affine=rng.random((2, 3)),
        mask=np.zeros((SIZE, SIZE), np.uint8),
        class_map=np.full((SIZE, SIZE), 2, np.uint8), columns=columns, drawn=recipe,
        split=("train", "val", "test")[number % 3], prototype=PROTOTYPES[number % 3], structure=f"S{number}",
        physics="fake", detector="HAADF", sampling=0.1, thickness=15.0, expected_counts=4.5, gain=1.0, black_level=0.0,
        step=1.0)


def slow_render(recipe: Recipe, index: int, field: Field | None = None) -> Sample:
    time.sleep(0.4)
    return render(recipe, index, field)


def deadly_render(recipe: Recipe, index: int, field: Field | None = None) -> Sample:
    if index == 5:
        os.kill(os.getpid(), 9)
    return render(recipe, index, field)


def failing_simulate(recipe: Recipe, field: int) -> Field:
    if field == 1:
        raise FieldError("the phonons did not settle")
    return simulate(recipe, field)
