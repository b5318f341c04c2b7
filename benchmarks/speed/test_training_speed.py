"""The small version of the trainer's benchmark: both sides run, and the page has their figures."""

from __future__ import annotations

import numpy as np
import pytest
from ruamel.yaml import YAML

pytest.importorskip("torch", reason="torch is not installed (extra train)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (extra train)")

from benchmarks.speed import training
from emsynth.training.data import field_library
from emsynth.training.recipe import TrainingRecipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A training of a network of 1,000 parameters on ten images."""
    folder = tmp_path_factory.mktemp("speed")
    (folder / "clean").mkdir()
    for n in range(10):
        np.save(folder / "clean" / f"{n}.npy", np.random.default_rng(n).random((64, 64), np.float32) + 0.1)
    for name, content in (
            ("noise", {"name": "noise", "samples": 16, "fields": 10, "image": {"size": 32},
                       "simulate": {"kind": "images", "folder": "clean", "pixel_size": 0.2},
                       "distort": {"expected_counts": 20, "detector": [{"stage": "poisson"}]}}),
            ("fast", {"name": "fast", "data": {"recipe": "noise.yaml", "library": str(folder / "library.zarr")},
                      "network": {"layers": 1, "growth": 4, "width": 8, "groups": 1, "blocks": 1},
                      "stages": [{"name": "a", "samples": 32, "batch": 2, "losses": {"adversarial": 0}}],
                      "hardware": {"threads": 1, "accelerator": "cpu"}, "validation": {"images": 1}})):
        with (folder / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(content, file)
    return TrainingRecipe.load(folder / "fast.yaml")


def test_both_sides_learn_in_turns(recipe):
    """As many rounds of each, and a page that says so."""
    alone, both = training.overhead(recipe, field_library(recipe), 2, 2)
    assert len(alone) == len(both) == 2
    row = {"recipe": recipe.name, "batch": 2, "patch": 32, "bare": 0.1, "trainer": 0.104, "overhead": 0.04,
           "waiting": {"1 thread": 0.012}}
    assert "| fast | 2 of 32² | 100 | 104 | 4.0% | 1.2% |" in training.page([row])


def test_a_network_that_never_works_waits_all_the_time(recipe):
    """And one that takes long hardly."""
    library = field_library(recipe)
    assert training.waiting(recipe, library, 4, 0.0) > 0.5 > training.waiting(recipe, library, 4, 0.3)
