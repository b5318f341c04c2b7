"""Samples: what the recipe says is what is in them, and the truth lies where the columns are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import least_squares

import emsynth
from emsynth import view
from emsynth.distortion import prefilter
from emsynth.errors import FieldError, RecipeError
from emsynth.microscope import Microscope
from emsynth.recipe import Recipe
from emsynth.sample import outline, render, simulate
from emsynth.simulation.field import Field
from emsynth.specimen.base import Columns

QUIET = {"undistorted": 0.0, "scan": [], "detector": []}
SCOPE = {"energy": 80e3, "convergence": 30.0, "source_size": 0.4,
         "detectors": [{"name": "HAADF", "inner": 60, "outer": 100},
                       {"name": "ABF", "inner": 0.5, "outer": 1, "unit": "convergence"}]}
STATIC = {"max_angle": 100, "thicknesses": 3, "phonons": {"minimum": 0, "maximum": 0}}
STAGES = {
    "undistorted": 0.0,
    "scan": [{"stage": "row_jitter"}, {"stage": "drift"}],
    "detector": [{"stage": "poisson"}, {"stage": "read_noise"}, {"stage": "gain"}],
}


def recipe(image=(), specimen=(), distort=QUIET, simulate=STATIC, **top) -> Recipe:
    return Recipe.model_validate({
        "name": "test", "samples": 100, "fields": 1,
        "image": {"size": 96, "pixel_size": 0.1, "detector": "HAADF", "perfect": 1.0, "rotation": 0.0, "flip": 0.0,
                  "plane": 1.0, **dict(image)},
        "specimen": {"kind": "crystal", "structure": "SrTiO3", "zone_axis": [0, 0, 1], "thickness": 24.0,
                     "minimum_box": 8.0, **dict(specimen)},
        "microscope": SCOPE, "simulate": simulate, "distort": distort, **top})


def fitted_positions(truth, guess):
    """Positions of columns by a least-squares fit of one Gaussian each, and a background, around each guess."""
    reach = 4
    out = []
    for row, col in guess:
        r0, c0 = round(row), round(col)
        rows, cols = np.mgrid[r0 - reach:r0 + reach + 1, c0 - reach:c0 + reach + 1]
        patch = truth[rows, cols].astype(float)

        def residual(p, rows=rows, cols=cols, patch=patch):
            return (p[0] + p[1] * np.exp(-((rows - p[2]) ** 2 + (cols - p[3]) ** 2) / (2 * p[4] ** 2)) - patch).ravel()

        fit = least_squares(residual, [patch.min(), np.ptp(patch), row, col, 4.0], x_scale=[1e-2, 1e-2, 1, 1, 1])
        out.append(fit.x[2:4])
    return np.array(out)


@pytest.mark.parametrize(("structure", "axis"), [("SrTiO3", [0, 0, 1]), ("Si", [0, 0, 1]), ("MgO", [0, 0, 1])])
@pytest.mark.parametrize(("rotation", "flip"), [(0.0, 0.0), (33.0, 1.0)])
def test_columns_lie_within_2_pm_of_the_truth(structure, axis, rotation, flip):
    """A static, untilted, centrosymmetric crystal: heavy columns against a Gaussian fit of the HAADF truth."""
    specimen = {"structure": structure, "zone_axis": axis}
    sample = render(recipe(image={"rotation": rotation, "flip": flip}, specimen=specimen), 3)
    # An oxygen column beside strontium is a shoulder, not a peak.
    heavy = sample.columns.position[sample.columns.number > 8] if structure != "MgO" else sample.columns.position
    guess = heavy[((heavy > 6) & (heavy < 90)).all(axis=1)]
    assert len(guess) > 5
    apart = (fitted_positions(sample.truth, guess) - guess) * sample.sampling
    assert np.abs(apart).max() < 0.02


def test_a_window_with_strain_keeps_its_columns():
    """Two percent of strain moves columns by half an Ångström; truth and columns move together."""
    made = recipe(image={"perfect": 0.0, "strain": 0.02, "thickness_variation": 0.0, "size": 192, "rotation": 20.0})
    sample = render(made, 5)
    plain = render(recipe(image={"size": 192, "rotation": 20.0}), 5)
    guess = sample.columns.position[sample.columns.number > 30]
    guess = guess[((guess > 6) & (guess < 186)).all(axis=1)]
    apart = (fitted_positions(sample.truth, guess) - guess) * sample.sampling
    # A column in a strain gradient is an ellipse; the fit of a round Gaussian has a little more slack.
    assert np.abs(apart).max() < 0.04
    assert np.abs(sample.truth - plain.truth).max() > 0.15 * np.ptp(plain.truth)


def test_the_strain_is_the_drawn_one_at_most():
    made = recipe(image={"perfect": 0.0, "strain": 0.02, "thickness_variation": 0.0})
    field = simulate(made, 0)
    for index in range(5):
        window = view.place(made.draw(index).image, field, made.seed, index)
        points = np.stack(np.meshgrid(np.linspace(0, 95, 40), np.linspace(0, 95, 40), indexing="ij"), -1).reshape(-1, 2)
        for axis in (0, 1):
            step = np.zeros(2)
            step[axis] = 1e-3
            slope = (window.to_specimen(points + step) - window.to_specimen(points - step)) / 2e-3 / window.pixel
            strain = np.abs(slope - window.affine[:, axis] / window.pixel).max()
            assert strain <= 0.02 * (1 + 1e-6)
            assert strain > 0.002


def test_a_noise_free_image_is_the_gather_at_the_recorded_positions():
    """The recorded truth map and displacement say exactly where the probe was."""
    made = recipe(distort={**QUIET, "scan": [{"stage": "row_jitter", "sigma": 1.0}, {"stage": "hum"},
                                             {"stage": "drift", "distance": 8}, {"stage": "fly_back"}]})
    field = simulate(made, 0)
    sample = render(made, 7, field)
    window = view.place(sample.drawn.image, field, made.seed, 7)
    rows, cols = np.mgrid[0:96, 0:96].astype(float)
    ideal = np.stack([rows, cols])
    truth_at = ideal + np.tensordot(sample.affine[:, :2], ideal, 1) + sample.affine[:, 2, None, None]
    coefficients = prefilter(field.image[:, 0], field.periodic)

    def gather(at):
        return window.gather(coefficients, field.sampling, field.periodic, at)

    scale = sample.expected_counts / float(gather(truth_at).mean(dtype=np.float64))
    expected = gather(truth_at + sample.displacement.astype(np.float32)) * np.float32(scale)
    np.testing.assert_allclose(sample.distorted, expected, rtol=2e-6, atol=2e-6 * expected.max())
    assert np.abs(sample.displacement).max() > 0.5


def test_the_gather_equals_exact_fourier_interpolation():
    """A simulated field at random places: its own Fourier series against the cubic spline, below 0.1 % of the range."""
    field = simulate(recipe(), 0)
    window = view.place(recipe(image={"rotation": 31.0}).draw(1).image, field, 0, 1)
    at = np.random.default_rng(0).uniform(0, 95, (2, 40, 10))
    seen = window.gather(prefilter(field.image[:, 0], True), field.sampling, True, at)
    places = window.to_specimen(at.reshape(2, -1).T) / field.sampling
    series = np.fft.fft2(field.image[-1, 0].astype(float), norm="forward")
    waves = [np.fft.fftfreq(n) for n in series.shape]
    exact = np.einsum("nr,rc,nc->n", *(np.exp(2j * np.pi * np.outer(places[:, 0], waves[0])), series,
                                       np.exp(2j * np.pi * np.outer(places[:, 1], waves[1])))).real
    assert np.abs(seen.ravel() - exact).max() < 1e-3 * np.ptp(field.image[-1, 0])


def test_mean_counts_are_the_drawn_counts():
    """Truth exactly; the Poisson image within five standard errors of its mean."""
    for counts in (0.5, 20.0, 700.0):
        made = recipe(distort={**QUIET, "expected_counts": counts, "detector": [{"stage": "poisson"}]})
        sample = render(made, 2)
        assert sample.truth.mean(dtype=np.float64) == pytest.approx(counts, rel=1e-5)
        assert abs(sample.distorted.mean(dtype=np.float64) - counts) < 5 * np.sqrt(counts / sample.truth.size)


def test_a_drawn_recipe_renders_the_same_sample():
    """What is recorded with a sample is all that it takes to make it again."""
    made = recipe(distort=STAGES, image={"pixel_size": {"dist": "uniform", "low": 0.08, "high": 0.2}, "perfect": 0.5,
                                         "rotation": {"dist": "uniform", "low": 0, "high": 360}})
    first = render(made, 11)
    again = render(Recipe.model_validate_json(first.drawn.model_dump_json()), 11)
    for name in ("truth", "distorted", "displacement", "affine", "mask"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes(), name
    assert first.drawn == again.drawn


def test_a_sample_does_not_depend_on_the_others():
    """Number of samples, order and company make no difference."""
    one, many = recipe(distort=STAGES), recipe(distort=STAGES, samples=17)
    late = [render(one, i) for i in (9, 4)][1]
    early = render(many, 4)
    assert late.distorted.tobytes() == early.distorted.tobytes()


def test_leaving_out_a_stage_leaves_the_others_alone():
    """Without drift, the counting noise of a flat region is the same noise."""
    with_drift = render(recipe(distort={**STAGES, "scan": []}), 4)
    jittered = render(recipe(distort={**STAGES, "scan": [{"stage": "row_jitter"}]}), 4)
    assert with_drift.drawn.distort.detector == jittered.drawn.distort.detector
    assert with_drift.gain == jittered.gain


def test_hand_built_equals_recipe_built():
    """The engine without a recipe gives the same pixels as the recipe."""
    from emsynth.distortion import Chain, Poisson
    from emsynth.simulation.multislice import simulate as run
    from emsynth.simulation.plan import Simulation
    from emsynth.specimen import Crystal

    made = recipe(distort={**QUIET, "expected_counts": 50.0, "dwell": 1e-6, "fly_back": 1e-4,
                           "detector": [{"stage": "poisson"}]})
    sample = render(made, 0)
    from emsynth.draw import Streams
    specimen = Crystal(structure="SrTiO3", zone_axis=(0, 0, 1), thickness=24.0, minimum_box=8.0).build(Streams(0, 0))
    field = run(specimen, Microscope.model_validate(SCOPE), Simulation.model_validate(STATIC), Streams(0, 0))
    window = view.place(made.draw(0).image, field, 0, 0)
    chain = Chain(expected_counts=50.0, dwell=1e-6, fly_back=1e-4, undistorted=0.0, detector=(Poisson(),))
    coefficients = prefilter(field.image[:, 0], True)
    by_hand = chain.run(lambda at: window.gather(coefficients, field.sampling, True, at), (96, 96), 0, 0)
    assert by_hand.distorted.tobytes() == sample.distorted.tobytes()


def test_a_window_never_shows_a_particle_twice():
    """A pixel that was drawn too large is limited to what fits; one that cannot be limited is refused."""
    box = {"kind": "amorphous", "material": "C", "thickness": 20.0}
    made = recipe(image={"pixel_size": {"dist": "uniform", "low": 0.2, "high": 1.0}}).model_dump(mode="json")
    made["specimen"] = box
    made["simulate"]["max_angle"] = 100
    wide = Recipe.model_validate(made)
    field = simulate(wide, 0)
    assert not any(field.repeats)
    assert all(render(wide, i, field).sampling * 96 <= min(field.extent) * (1 + 1e-9) for i in range(6))
    made["image"]["pixel_size"] = 0.9
    with pytest.raises(FieldError, match=r"image.pixel_size: a window of 96 px of 0.9 Å is 86.4 Å wide"):
        render(Recipe.model_validate(made), 0, field)


def test_a_sample_outside_the_recipe_is_refused():
    with pytest.raises(RecipeError, match=r"sample 100 is outside 0 to 99"):
        render(recipe(), 100)


def test_the_field_cache_gives_the_same_field():
    """Bytes from the cache are the bytes that were simulated, and a torn entry is simulated again."""
    made = recipe(specimen={"structure": "MgO", "thickness": 20.0})
    first = emsynth.simulate(made, 0)
    second = emsynth.simulate(made, 0)
    assert first is not second
    assert first.image.tobytes() == second.image.tobytes()
    assert first.provenance == second.provenance


def test_a_noise_range_is_not_part_of_the_field(field_cache):
    """Editing how a field is distorted never simulates again."""
    simulate(recipe(), 0)
    before = set(field_cache.iterdir())
    simulate(recipe(distort=STAGES, image={"size": 64}, samples=7), 0)
    assert set(field_cache.iterdir()) == before


def test_tilted_columns_are_where_they_appear():
    """8 mrad over 24 Å: the columns' mean moves by 0.1 Å, and the truth says so."""
    tilted = recipe(specimen={"mistilt": 8.0, "mistilt_azimuth": 90.0}, image={"plane": 1.0})
    straight = render(recipe(), 3)
    sample = render(tilted, 3)
    moved = (sample.columns.position[:, 0].mean() - straight.columns.position[:, 0].mean()) * 0.1
    assert len(sample.columns.position) == len(straight.columns.position)
    assert moved == pytest.approx(-0.008 * 12, abs=0.02)


def test_no_truth_is_darker_than_nothing():
    """Where a spline rings below 0, the truth is 0."""
    field = simulate(recipe(), 0)
    spikes = (np.random.default_rng(0).random(field.image.shape) > 0.99).astype(np.float32)
    made = render(recipe(), 0, dataclasses.replace(field, image=spikes))
    assert made.truth.min() == 0


def test_columns_fill_the_truth_however_far_it_drifts():
    """A path of a window's length: every band of rows has its columns, and the planned room holds them all."""
    made = recipe(image={"size": 64, "pixel_size": 0.3}, distort={
        **QUIET, "scan": [{"stage": "drift", "distance": 40, "direction": 90, "bend": 40, "bend_direction": 90}]})
    sample = render(made, 1)
    assert sample.affine[0, 0] > 1
    bands = np.histogram(sample.columns.position[:, 0], bins=np.arange(0, 65, 16))[0]
    assert bands.min() > 0.7 * bands.max()
    assert len(sample.columns.position) <= outline(made, 0).most_columns


def test_a_users_configuration_of_abtem_changes_nothing():
    import abtem

    plain = simulate(recipe(), 0, cache=False)
    with abtem.config.set({"antialias.cutoff": 0.4, "fft": "numpy"}):
        assert simulate(recipe(), 0, cache=False).image.tobytes() == plain.image.tobytes()


def test_a_damaged_cache_entry_is_simulated_again(field_cache):
    made = recipe(specimen={"structure": "NaCl", "thickness": 20.0})
    before = set(field_cache.glob("*.npz"))
    first = simulate(made, 0)
    [entry] = set(field_cache.glob("*.npz")) - before
    entry.write_bytes(entry.read_bytes()[:1000] + b"x" * 500)
    assert simulate(made, 0).image.tobytes() == first.image.tobytes()


def test_the_class_map_is_that_of_the_truth():
    """A field that shows its own class map: whatever window, rotation, mirror and drift, both say the same."""
    rng = np.random.default_rng(3)
    classes = np.kron(rng.integers(0, 4, (5, 7)), np.ones((8, 8))).astype(np.uint8)
    image = np.kron(classes, np.ones((3, 3))).astype(np.float32)
    about = {"physics": "none", "specimen": {"prototype": "fcc", "structure": "blocks"}}
    field = Field(image[None, None] + 1, (0.2, 0.2), True, Columns.none(), np.array([20.0]), ("HAADF",), 0.5,
                  (0.0, 0.0), 0.0, (True, True), about, classes)
    made = recipe(image={"size": 96, "pixel_size": 0.25, "rotation": {"dist": "uniform", "low": 0, "high": 360},
                         "flip": 0.5, "detector": "HAADF"},
                  distort={**QUIET, "scan": [{"stage": "drift", "distance": 10}]})
    for index in range(4):
        sample = render(made, index, field)
        seen = np.rint(sample.truth / np.median(sample.truth / (sample.class_map + 1.0)) - 1)
        assert np.mean(seen == sample.class_map) > 0.9
        assert np.mean(seen == sample.class_map.T) < 0.7


@pytest.mark.parametrize("pixel", [{"dist": "log_uniform", "low": 1, "high": 5000}, 60.0])
def test_a_survey_window_keeps_within_what_its_field_serves(pixel):
    """From the field's own pixel to its width, spread over that; a recipe's one pixel is kept."""
    made = Recipe.model_validate({
        "name": "survey", "seed": 2, "samples": 24, "fields": 1,
        "image": {"size": 32, "pixel_size": pixel, "detector": "any"},
        "specimen": {"kind": "morphology", "family": "grains", "extent": 4e3, "size": 0.1},
        "microscope": {"kind": "sem"}, "simulate": {"kind": "phenomenological", "size": 128}})
    field = simulate(made, 0)
    assert field.repeats == (False, False)
    samples = [render(made, index, field) for index in range(24)]
    pixels = np.array([sample.sampling for sample in samples])
    assert {sample.detector for sample in samples} == {"SE", "BSE"}
    if pixel == 60.0:
        assert np.all(pixels == 60.0)
    else:
        assert pixels.min() >= max(field.sampling) * (1 - 1e-9)
        assert pixels.max() * 32 <= field.extent[0] * (1 + 1e-9)
        assert pixels.max() > 1.8 * pixels.min()
