"""Validation during training: fixed pairs of fields that are not trained on, measured by the library's metrics."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from PIL import Image

from emsynth import store
from emsynth.benchmark import measures
from emsynth.errors import TrainingError
from emsynth.recipe import Recipe
from emsynth.simulation.field import Field
from emsynth.specimen.base import Columns
from emsynth.store.reading import open_reading
from emsynth.training import validation
from emsynth.training.validation import Validation, restore_all

torch = pytest.importorskip("torch")

SIDE, STEP, SPACING = 160, 0.1, 2.0  # px, Å, Å


def lattice(prototype):
    """A square lattice of Gaussian columns, 0.25 Å wide; field 0 of those that repeat."""
    at = (np.stack(np.meshgrid(*[np.arange(0.5, 8) * SPACING] * 2, indexing="ij"), -1)).reshape(-1, 2)
    axis = np.arange(SIDE) * STEP
    bell = np.exp(-((axis[:, None] - (np.arange(0.5, 8) * SPACING)) ** 2) / (2 * 0.25**2)).sum(1)
    image = (0.01 + 0.1 * bell[:, None] * bell[None])[None, None].astype(np.float32)
    count = len(at)
    columns = Columns(at, np.full(count, 79, np.uint8), ("Au",) * count, np.tile([0.0, 20.0], (count, 1)),
                      np.full(count, 5, np.int32))
    about = {"physics": "fake", "specimen": {"prototype": prototype, "structure": "Au"}, "phonon_configurations": 1,
             "standard_error": {"HAADF": 0.0}}
    return Field(image, (STEP, STEP), True, columns, np.array([20.0]), ("HAADF",), 2.5, (0.0, 0.0), 0.0, (True, True),
                 about)


def make(path, prototypes):
    recipe = Recipe.model_validate(fakes.recipe(8, len(prototypes), 4).model_dump() | {
        "image": {"size": 64, "pixel_size": 0.15, "rotation": 0.0},
        "distort": {"expected_counts": {"dist": "log_uniform", "low": 5, "high": 500}, "undistorted": 0.9,
                    "detector": [{"stage": "poisson"}]}})
    outlines = [replace(fakes.outline(recipe, j), shape=(SIDE, SIDE), bytes=4 * SIDE**2, most_columns=64)
                for j in range(len(prototypes))]
    store.create(path, recipe, outlines)
    for j, prototype in enumerate(prototypes):
        store.write_field(path, j, lattice(prototype))
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make(tmp_path_factory.mktemp("library") / "fields.zarr", ("fcc", "wurtzite"))


@pytest.fixture(scope="module")
def pairs(library):
    return Validation(library, 6)


def same(images):
    return images


def test_the_pairs_are_fixed(library, pairs):
    """Of the val split, the same in every run, as many as were asked for, none of them undistorted."""
    again = Validation(library, 6)
    assert len(again.pairs) == 6
    for one, other in zip(pairs.pairs, again.pairs, strict=True):
        assert np.array_equal(one.distorted, other.distorted)
        assert not np.array_equal(one.distorted, one.truth)
    assert len({pair.distorted.tobytes() for pair in pairs.pairs}) == 6


def test_what_does_nothing_gains_nothing(pairs):
    """The restored image's figures are the distorted one's; columns are judged."""
    found = pairs.run(same)
    for name in ("psnr", "ssim", "column_error"):
        assert found[name] == pytest.approx(found[f"{name}_distorted"], rel=2e-2), name
    assert found["images"] == 6


def test_the_truth_is_perfect(pairs):
    """100 dB at most, and columns where they are."""
    truths = {pair.distorted.tobytes(): pair.truth for pair in pairs.pairs}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "restore_all", lambda network, images, batch: [truths[i.tobytes()] for i in images])
        found = pairs.run(same)
    assert (found["psnr"], found["ssim"]) == (100.0, pytest.approx(1.0))
    assert found["column_error"] == pytest.approx(0.0, abs=0.1)


def test_columns_are_aimed_at_as_the_suites_do():
    """A column error here means what it means in the bench."""
    assert (validation.WIDTH, validation.BESIDE, validation.BLURRED, validation.HIGHEST_PSNR) == (
        measures.FIRST_WIDTH, measures.BESIDE_LIST, measures.BLURRED, measures.HIGHEST_PSNR)


def test_the_mean_over_images(pairs):
    """One image that is not finite shows, wherever it stands."""
    def broken(images):
        return images * float("nan")
    assert np.isnan(pairs.run(broken)["psnr"])
    alone = [pair.before["psnr"] for pair in pairs.pairs]
    assert pairs.run(same)["psnr_distorted"] == pytest.approx(np.mean(alone))


def test_another_chain_takes_the_place_of_the_library_s(library):
    """The training's distortions, not those that the library was built with."""
    from emsynth.store.reading import open_reading

    recipe = open_reading(library).store.recipe
    clean = recipe.model_copy(update={"distort": recipe.distort.model_copy(update={"detector": ()})})
    for pair in Validation(library, 2, clean, size=32).pairs:
        assert pair.truth.shape == (32, 32)
        assert np.allclose(pair.distorted, pair.truth, rtol=1e-4)


def test_pairs_are_shared_out_among_chains(library):
    """By their weights: a chain that does nothing leaves its pairs as they are."""
    noisy = open_reading(library).store.recipe.distort
    clean = noisy.model_copy(update={"detector": ()})
    pairs = Validation(library, 40, size=32, chains=((3.0, clean), (1.0, noisy))).pairs
    untouched = sum(np.array_equal(pair.truth, pair.distorted) for pair in pairs)
    assert 22 <= untouched <= 38  # 30 of 40, three deviations


def test_a_library_without_val_says_so(tmp_path):
    """With the way out."""
    with pytest.raises(TrainingError, match=r"no field is of the val split .*--set fields=N"):
        Validation(make(tmp_path / "fields.zarr", ("fcc",)), 2)


def test_images_are_given_in_units_of_their_own_deviation():
    """Mean 0, deviation 1, in batches of one size, and scaled back; a constant image is returned as it is."""
    generator, seen = np.random.default_rng(1), []
    images = [generator.normal(1000 * n, 1 + n, (8 + 2 * (n % 2), 8)).astype(np.float32) for n in range(5)]
    images.append(np.full((8, 8), 7, np.float32))

    def network(batch):
        seen.append(batch.numpy())
        return batch * 2

    restored = restore_all(network, images, 2)
    assert [batch.shape for batch in seen] == [(2, 1, 8, 8), (1, 1, 8, 8), (2, 1, 10, 8)]
    for batch in seen:
        assert batch.mean((1, 2, 3)) == pytest.approx(0, abs=1e-5)
        assert batch.std((1, 2, 3)) == pytest.approx(1, abs=1e-5)
    for before, after in zip(images, restored, strict=True):
        assert after.mean(dtype=float) == pytest.approx(before.mean(dtype=float), rel=1e-6)
        assert after.std(dtype=float) == pytest.approx(2 * before.std(dtype=float), rel=1e-5)


def test_a_module_is_left_as_it_was():
    """In evaluation while it restores, in training afterwards, and without gradients."""
    class Watched(torch.nn.Module):
        def forward(self, images):
            self.seen = self.training, torch.is_inference_mode_enabled()
            return images

    network = Watched().train()
    restore_all(network, [np.arange(16, dtype=np.float32).reshape(4, 4)])
    assert network.seen == (False, True)
    assert network.training


def test_the_picture_is_written_whole(pairs, tmp_path):
    """Four rows from the easiest to the hardest; the folder is made and nothing else left in it."""
    path = pairs.picture(tmp_path / "validation" / "step_000123.png", same)
    with Image.open(path) as picture:
        picture.load()
        assert picture.height > picture.width
    assert [file.name for file in path.parent.iterdir()] == ["step_000123.png"]
    quality = [pair.before["psnr"] for pair in pairs.shown]
    assert quality == sorted(quality, reverse=True)
    assert len(quality) == 4
