"""Stored fields distorted afresh: what render gives, patches that keep their place, views of one truth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from emsynth import view
from emsynth.distortion import Grid, MaskBit
from emsynth.draw import Streams, number
from emsynth.errors import FieldError, RecipeError
from emsynth.fresh import take
from emsynth.recipe import Recipe
from emsynth.sample import render, simulate
from emsynth.simulation.field import Field
from emsynth.specimen.base import Columns

SHARED = Recipe.load("stem_hd").model_dump(mode="json")["distort"]
CAMERA = Recipe.load("tem_hd").model_dump(mode="json")["distort"]
QUIET = {"expected_counts": 50.0, "undistorted": 0.0}
JITTER = [{"stage": "row_jitter", "sigma": 0.7}, {"stage": "hum", "amplitude": 0.5}]
SETTLING = [{"stage": "fly_back", "amplitude": 6.0, "amplitude_frame": 5.0, "settling": 3e-4},
            {"stage": "drift", "distance": 5.0, "bend": 3.0}]
LEVELS = [{"stage": s} for s in ("contrast", "gamma", "eight_bit", "jpeg")]
COVERS = [{"stage": "border", "fill": "darkest"}, {"stage": "overlay", "captions": 1}]

compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the chain takes minutes in plain Python")
pytestmark = compiled


def recipe(distort=QUIET, size=96, simulate=None, **image) -> Recipe:
    own = {} if simulate is not None else {"specimen": {"kind": "crystal", "structure": "Au"}}
    return Recipe.model_validate({
        "name": "fresh", "seed": 3, "samples": 4096, "fields": 1, "distort": distort,
        "image": {"size": size, "pixel_size": 0.15, **image}, **own,
        **({"simulate": simulate} if simulate is not None else {})})


def field(image: np.ndarray | None = None, planes: int = 3) -> Field:
    """A lattice with a background, in two directions of different length; or any one image."""
    if image is None:
        y, x = np.indices((64, 80)) * 2 * np.pi
        waves = 1 + 0.6 * np.cos(3 * y / 64) * np.cos(5 * x / 80) + 0.3 * np.sin(7 * x / 80 + y / 64)
        image = 0.02 * waves[None] * np.arange(1, planes + 1)[:, None, None]
    image = np.asarray(image, np.float32).reshape(-1, 1, *image.shape[-2:])
    return Field(image, (0.1, 0.1), True, Columns.none(), np.linspace(20, 60, len(image)), ("HAADF",), 2.0, (0.0, 0.0),
                 0.0, (True, True), {"physics": "fake", "specimen": {"prototype": "fcc", "structure": "Au"}})


def assert_same(made, other) -> None:
    for name in ("truth", "distorted", "displacement", "affine", "mask"):
        np.testing.assert_array_equal(getattr(made, name), getattr(other, name), name)
    assert made.expected_counts == other.expected_counts


def test_with_the_recipes_seed_it_is_what_render_gives():
    """Bit for bit, over the shipped STEM chain with strain and thickness maps."""
    made, clean = recipe(SHARED), field()
    for index in range(24):
        assert_same(take(made, clean, made.seed, index)[0], render(made, index, clean))


def test_what_is_not_periodic_or_not_atoms_is_taken_too(tmp_path):
    """A user's image, with a place of its own for each sample, and a field of low magnification."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "one.npy", rng.random((150, 170)))
    own = recipe(SHARED, 64, {"kind": "images", "folder": str(tmp_path), "pixel_size": 0.3}, pixel_size=0.3)
    survey = Recipe.load("stem_ld", ["samples=8", "fields=2", "image.size=64"])
    for made, indices in ((own, range(8)), (survey, (0, 2))):
        clean = simulate(made, 0)
        for index in indices:
            assert_same(take(made, clean, made.seed, index)[0], render(made, index, clean))


def test_a_pure_function_of_seed_and_index():
    """Any thread and any order; another seed or index is another pair."""
    made, clean = recipe(SHARED, 64), field()
    alone = [take(made, clean, 9, index, 48) for index in range(12)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda index: take(made, clean, 9, index, 48), range(11, -1, -1)))[::-1]
    for one, other in zip(alone, together, strict=True):
        assert_same(one[0], other[0])
    assert not np.array_equal(take(made, clean, 10, 0, 48)[0].truth, alone[0][0].truth)
    assert not np.array_equal(alone[1][0].truth, alone[0][0].truth)


def test_a_patch_keeps_its_place_in_the_scan():
    """The settling after the fly-back and the drift are those of the whole frame at the patch's place."""
    made, clean = recipe({**QUIET, "scan": SETTLING, "truth_geometry": "ideal"}), field()
    for index in range(6):
        whole, patch = take(made, clean, 1, index)[0], take(made, clean, 1, index, 40)[0]
        top, left = patch.frame[:, 2].astype(int)
        np.testing.assert_array_equal(patch.displacement, whole.displacement[:, top:top + 40, left:left + 40])
        there = whole.truth[top:top + 40, left:left + 40]
        np.testing.assert_allclose(patch.truth / patch.scale, there / whole.scale, rtol=1e-6)


def test_split_and_scale_of_a_patch_are_its_own():
    """What is left of the drift is what the patch cannot show as strain, and its mean is the expected count."""
    made, clean = recipe({**QUIET, "scan": SETTLING[1:]}), field()
    whole, patch = take(made, clean, 1, 0)[0], take(made, clean, 1, 0, 32)[0]
    assert patch.truth.mean() == pytest.approx(50, rel=1e-4)
    assert np.abs(patch.displacement).max() < 0.35 * np.abs(whole.displacement).max()
    assert np.abs(np.median(patch.displacement)) < 0.05


def test_places_of_patches_cover_the_frame():
    """Every first row and column is drawn, also those at the ends."""
    made, clean = recipe(size=32), field()
    corners = np.array([take(made, clean, 2, index, 28)[0].frame[:, 2] for index in range(120)])
    assert {tuple(np.unique(corners[:, axis])) for axis in (0, 1)} == {(0.0, 1.0, 2.0, 3.0, 4.0)}


def test_a_patch_of_a_resampled_frame_is_enlarged_to_the_patch():
    """The user crops within the patch; borders and overlays are drawn on the frame, of which the patch shows a part."""
    crop = [{"stage": "resample", "share": 0.5}, {"stage": "border", "width": 0.3}]
    made, clean = recipe({**QUIET, "artefact": crop}), field()
    made_patches = [take(made, clean, 2, index, 40)[0] for index in range(30)]
    for patch in made_patches:
        assert patch.truth.shape == (40, 40)
        np.testing.assert_allclose(patch.frame[:, :2], np.eye(2) / 2)
    borders = np.array([(patch.mask & MaskBit.BORDER).mean() > 0 for patch in made_patches])
    assert 0.1 < borders.mean() < 0.95  # patches in the middle have none


def test_row_dropouts_are_counted_by_frame():
    """A patch sees those of its place, and parts of the long ones."""
    chain = {**QUIET, "detector": [{"stage": "row_dropout", "rate": 8.0}]}
    made, clean = recipe(chain), field()
    share = []
    for index in range(60):
        whole, patch = take(made, clean, 5, index)[0], take(made, clean, 5, index, 48)[0]
        top, left = patch.frame[:, 2].astype(int)
        np.testing.assert_array_equal(patch.mask, whole.mask[top:top + 48, left:left + 48])
        share.append((patch.mask > 0).mean())
    assert 0.05 < np.mean(share) < 0.3


def test_patches_of_a_dark_field_look_for_something():
    """Beside a small disc there is nothing to scale; a field that is dark throughout is refused."""
    y, x = np.indices((128, 128))
    disc = 0.2 * (np.hypot(y - 64, x - 64) < 22).astype(float)
    made = recipe({**QUIET, "undistorted": 1.0}, 120, pixel_size=0.1, perfect=1.0)
    for index in range(20):
        patch = take(made, field(disc), 1, index, 32)[0]
        assert patch.truth.max() / patch.scale > 0.01
    with pytest.raises(FieldError, match="vacuum"):
        take(made, field(np.zeros((64, 64))), 1, 0, 32)


def test_a_sample_that_does_not_fit_is_drawn_again(tmp_path):
    """Rare large displacements leave a user's image; training goes on with another draw, the same each time."""
    np.save(tmp_path / "one.npy", np.random.default_rng(0).random((72, 72)))
    drift = [{"stage": "drift", "distance": {"dist": "choice", "values": [1.0, 30.0]}, "bend": 0.1}]
    made = recipe({**QUIET, "scan": drift}, 64, {"kind": "images", "folder": str(tmp_path), "pixel_size": 0.3},
                  pixel_size=0.3)
    clean, refused = simulate(made, 0), 0
    for index in range(12):
        try:
            render(made, index, clean)
        except FieldError:
            refused += 1
        assert_same(take(made, clean, made.seed, index)[0], take(made, clean, made.seed, index)[0])
    assert refused > 0


@pytest.mark.parametrize(("arguments", "said"), [
    ({"patch": 97}, "image.size"), ({"patch": 8}, "16 to 96"), ({"views": 0}, "1 or more")])
def test_wrong_arguments_are_named(arguments, said):
    """With what is allowed instead."""
    with pytest.raises(RecipeError, match=said):
        take(recipe(), field(), 1, 0, **arguments)


@pytest.mark.parametrize("patch", [None, 48])
@pytest.mark.parametrize("chain", [SHARED, CAMERA], ids=["scan", "camera"])
def test_the_first_view_is_the_only_one_and_all_share_its_truth(chain, patch):
    """Whatever is drawn of the shipped chains, and patches likewise."""
    made, clean = recipe(chain, 64), field()
    for index in range(16):
        one, three = take(made, clean, 4, index, patch), take(made, clean, 4, index, patch, 3)
        assert_same(one[0], three[0])
        for again in three[1:]:
            np.testing.assert_array_equal(again.truth, one[0].truth)
            np.testing.assert_array_equal(again.affine, one[0].affine)
            assert (again.gain, again.black_level) == pytest.approx((one[0].gain, one[0].black_level), nan_ok=True)


@pytest.mark.parametrize("artefacts", [LEVELS[:1], LEVELS[:2], LEVELS, COVERS, [{"stage": "resample"}, *COVERS]])
def test_maps_of_intensity_and_covers_are_those_of_the_first_view(artefacts):
    """Views differ in noise, so each by itself would be stretched and covered differently; the truth is not."""
    chain = {**QUIET, "detector": [{"stage": "poisson"}], "artefact": artefacts}
    made, clean = recipe(chain, 64), field()
    for index in range(4):
        first, second = take(made, clean, 4, index, views=2)
        np.testing.assert_array_equal(first.truth, second.truth)
        assert not np.array_equal(first.distorted, second.distorted)
        covered = (first.mask & (MaskBit.BORDER | MaskBit.OVERLAY)) > 0
        np.testing.assert_array_equal(covered, (second.mask & (MaskBit.BORDER | MaskBit.OVERLAY)) > 0)
        np.testing.assert_array_equal(second.distorted[covered], second.truth[covered])


@pytest.mark.parametrize("detector", [
    [{"stage": "poisson"}], [{"stage": "poisson"}, {"stage": "pulse_spread", "sigma": 0.5}],
    [{"stage": "read_noise", "sigma": 9.0}], [{"stage": "line_noise", "sigma": 0.5, "correlation": 0.0}]])
def test_noise_of_the_views_is_independent(detector):
    """Residuals correlate no more than chance; those of one view alone are the same in the camera's chain."""
    made, clean = recipe({**QUIET, "detector": detector}, 128), field()
    first, second = take(made, clean, 4, 0, views=2)
    one, other = (seen.distorted - seen.truth for seen in (first, second))
    if detector[0]["stage"] == "line_noise":
        one, other = one[:, 0], other[:, 0]
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


@pytest.mark.parametrize("geometry", ["affine", "smooth", "ideal"])
def test_each_view_is_gathered_where_its_displacement_says(geometry):
    """Without noise, the field at the recorded positions is the image of every view; the motions are their own."""
    made, clean = recipe({**QUIET, "scan": [*JITTER, *SETTLING], "truth_geometry": geometry}), field()
    for patch in (None, 48):
        index = 1
        views = take(made, clean, 6, index, patch, 3)
        streams = Streams(6, index)
        image, chain = made.image.draw(streams, "image"), made.distort.draw(streams, "distort")
        window = view.placed(made, image, chain, clean, 6, index)[1]
        look = view.Sight(clean, "HAADF", window)
        for seen in views:
            grid: Grid = seen.probe_grid()
            np.testing.assert_allclose(look(grid) * np.float32(seen.scale), seen.distorted, rtol=1e-6)
        jitters = [seen.displacement[1].mean(axis=1).astype(float) for seen in views]
        jitters = [np.diff(row - row.mean()) for row in jitters]
        assert np.corrcoef(jitters)[0, 1] < 0.6
        assert number(chain.expected_counts) == 50
