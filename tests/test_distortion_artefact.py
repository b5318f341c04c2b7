"""Artefacts after the detector: what truth and image share, and what only the image shows."""

import re

import numba
import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.ndimage import median_filter, zoom
from scipy.spatial import ConvexHull

from emsynth.distortion.artefact import ArtefactStage, Contrast, EightBit, ExtraNoise, Gamma, Jpeg, Smooth
from emsynth.distortion.overlay import Border, Overlay, round_length
from emsynth.distortion.resample import Resample, interpolate
from emsynth.distortion.stage import Artefact, MaskBit, Pair
from emsynth.draw import Choice

COMPILED = not numba.config.DISABLE_JIT
SIDE = 256 if COMPILED else 64


def pair(shape: tuple[int, int] = (SIDE, SIDE), sampling: float | None = 0.2, step: float = 0.0) -> Pair:
    """A lattice of 10 to 30 electrons, counted; gain 3, black level 5."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    counts = 20 + 10 * np.cos(row / 3) * np.cos(col / 4)
    image = np.random.default_rng(1).poisson(counts)
    truth, image = ((3 * each + 5).astype(np.float32) for each in (counts, image))
    return Pair(truth, image, np.zeros(shape, np.uint8), gain=3.0, black_level=5.0, step=step, sampling=sampling)


def electrons(of: Pair) -> tuple[np.ndarray, np.ndarray]:
    return (of.truth - of.black_level) / of.gain, (of.image - of.black_level) / of.gain


EVERY: tuple[Artefact, ...] = (
    Smooth(filter="gaussian", sigma=1.0),
    Smooth(filter="median"),
    Contrast(low=1.0, high=99.0),
    Gamma(gamma=0.6),
    EightBit(),
    Jpeg(quality=60.0),
    ExtraNoise(sigma=0.5),
    Border(width=0.2, slant=0.5, fill="black"),
    Overlay(scale_bars=1, captions=1, boxes=1, circles=1, size=0.1, tone="bright", plate="opposite"),
)
STAGES = pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.stage)


@STAGES
@pytest.mark.parametrize("level", [0.0, -3.0, 1e30, 1e-38])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (33, 35)])
def test_every_stage_survives_constant_and_narrow_images(stage: Artefact, shape: tuple[int, int], level: float) -> None:
    """Neither NaN nor infinity, shape and type kept, even where there is no contrast to stretch."""
    flat = np.full(shape, level, np.float32)
    made = Pair(flat, flat.copy(), np.zeros(shape, np.uint8), 1.0, 0.0, 0.0, None)
    with np.errstate(all="raise", under="ignore"):
        stage.retouch(made, 7)
    for each in (made.truth, made.image):
        assert np.isfinite(each).all()
        assert each.dtype == np.float32
        assert each.shape == shape


@STAGES
def test_every_stage_is_a_function_of_pair_and_key(stage: Artefact) -> None:
    """The arrays that came in are not overwritten, the mask excepted; the same again gives the same bytes."""
    made, again = pair(), pair()
    truth, image = made.truth.copy(), made.image.copy()
    given = made.truth, made.image
    stage.retouch(made, 7)
    stage.retouch(again, 7)
    np.testing.assert_array_equal(given, (truth, image))
    for one, other in ((made.truth, again.truth), (made.image, again.image), (made.mask, again.mask)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "stage",
    [Smooth(filter="gaussian", sigma=0.5), Smooth(filter="median"), Jpeg(quality=60.0), ExtraNoise(sigma=0.5)],
    ids=lambda stage: stage.stage,
)
def test_what_spoils_only_the_image_leaves_the_truth(stage: Artefact) -> None:
    """Truth, units and mask stay; the image does not."""
    made = pair()
    stage.retouch(made, 3)
    np.testing.assert_array_equal(made.truth, pair().truth)
    assert (made.gain, made.black_level, made.mask.any()) == (3.0, 5.0, False)
    assert not np.array_equal(made.image, pair().image)


@pytest.mark.parametrize("stage", [Contrast(low=1.0, high=99.0), EightBit()], ids=lambda stage: stage.stage)
def test_linear_stages_keep_the_electrons(stage: Artefact) -> None:
    """(intensity - black level)/gain is what it was, in the image to half a step where it was not clipped."""
    made = pair()
    truth, image = electrons(made)
    stage.retouch(made, 0)
    seen = made.mask == 0
    np.testing.assert_allclose(electrons(made)[0], truth, rtol=1e-5)
    np.testing.assert_allclose(electrons(made)[1][seen], image[seen], rtol=1e-5, atol=made.step / made.gain / 2)


def test_contrast_clips_the_stated_share() -> None:
    """Of distinct values, those beyond the percentiles are 0 and 1 and flagged; nothing else is."""
    made = pair()
    made.image = np.random.default_rng(0).permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32)
    before = made.image
    Contrast(low=2.0, high=99.0).retouch(made, 0)
    below, above = round(0.02 * (SIDE**2 - 1)), SIDE**2 - 1 - round(0.99 * (SIDE**2 - 1))
    flagged = made.mask == MaskBit.CLIPPED
    np.testing.assert_array_equal(flagged, (before < below) | (before > SIDE**2 - 1 - above))
    assert np.count_nonzero(flagged) == below + above
    assert (made.image[before < below] == 0).all()
    assert (made.image[before > SIDE**2 - 1 - above] == 1).all()
    assert np.count_nonzero((made.image > 1e-6) & (made.image < 1 - 1e-6)) == SIDE**2 - below - above - 2


def test_contrast_of_an_almost_empty_image_takes_its_whole_range() -> None:
    """Three counts in an empty image: both percentiles are 0, the counts still become 1, none is clipped."""
    made = pair()
    made.image = np.zeros_like(made.image)
    made.image[3, 4:7] = 8
    Contrast(low=1.0, high=99.0).retouch(made, 0)
    assert (made.image[3, 4:7] == 1).all()
    assert not made.mask.any()


@pytest.mark.parametrize("gamma", [0.4, 2.5])
def test_gamma_maps_both_images_alike_and_monotonously(gamma: float) -> None:
    """Equal values stay equal between the images, the order of all values stays, and so do both ends of the image."""
    made = pair(step=3.0)
    low, high = made.image.min(), made.image.max()
    made.truth[:4] = made.image[:4]
    made.truth[4, 0], made.truth[4, 1] = low - 7, high + 7
    before = np.concatenate([made.truth.ravel(), made.image.ravel()])
    made.black_level = float(before[50])
    Gamma(gamma=gamma).retouch(made, 0)
    after = np.concatenate([made.truth.ravel(), made.image.ravel()])
    order = np.argsort(before, kind="stable")
    assert (np.diff(after[order]) >= 0).all()
    np.testing.assert_array_equal(made.truth[:4], made.image[:4])
    np.testing.assert_allclose([made.image.min(), made.image.max()], [low, high], rtol=1e-6)
    assert made.black_level == pytest.approx(float(after[50]), rel=1e-5)
    assert np.isnan(made.gain)
    assert np.isnan(made.step)


def test_gamma_is_a_power_of_the_share_of_the_range() -> None:
    """A value at a quarter of the range goes to (1/4)^γ of it; below the range the map is odd."""
    made = pair((1, 3))
    made.image = np.array([[10, 20, 50]], np.float32)
    made.truth = np.array([[20, 0, 10]], np.float32)
    Gamma(gamma=2.0).retouch(made, 0)
    np.testing.assert_allclose(made.image, [[10, 12.5, 50]], rtol=1e-6)
    np.testing.assert_allclose(made.truth, [[12.5, 7.5, 10]], rtol=1e-6)


def test_eight_bit_rounds_the_image_and_not_the_truth() -> None:
    """Whole numbers from 0 to 255, within half a step of the linear map that the truth got."""
    made, before = pair(), pair()
    EightBit().retouch(made, 0)
    low, span = float(before.image.min()), float(np.ptp(before.image))
    assert set(np.unique(made.image)) <= set(range(256))
    assert (made.image.min(), made.image.max(), made.step) == (0, 255, 1)
    assert np.abs(made.image - (before.image - low) * 255 / span).max() <= 0.5 + 1e-4
    np.testing.assert_allclose(made.truth, (before.truth - low) * 255 / span, atol=1e-3)


def test_jpeg_is_worse_at_lower_quality_and_keeps_the_mean() -> None:
    """Quality 95 is closer than 30; the mean moves by less than five standard errors of the blocks' rounded means."""
    errors = {}
    for quality in (95.0, 30.0):
        made = pair()
        before, span = made.image, float(np.ptp(made.image))
        Jpeg(quality=quality).retouch(made, 0)
        errors[quality] = np.sqrt(np.mean((made.image - before) ** 2)) / span
        # The mean of a block of 8 x 8 is rounded to an eighth of its quantiser: 16, scaled by 50/quality below 50.
        rounding = 16 * 50 / min(quality, 50) / 8 / np.sqrt(12) * span / 255
        assert abs(float(made.image.mean() - before.mean())) < 5 * rounding / (SIDE / 8)
    assert errors[95.0] < 0.01
    assert errors[30.0] > 2 * errors[95.0]


@pytest.mark.parametrize("stage", [Jpeg(quality=40.0), EVERY[-1]], ids=lambda stage: stage.stage)
def test_an_eight_bit_image_stays_one(stage: Artefact) -> None:
    """JPEG decodes to, and overlays are drawn in, whole numbers from 0 to 255."""
    made = pair()
    EightBit().retouch(made, 0)
    before = made.image
    stage.retouch(made, 0)
    assert not np.array_equal(made.image, before)
    assert set(np.unique(made.image)) <= set(range(256))
    assert made.step == 1


def test_extra_noise_has_the_stated_deviation() -> None:
    """A share of the truth's own deviation, mean 0, white along both axes: all within five standard errors."""
    made, sigma = pair(), 0.7
    before, deviation = made.image, sigma * made.truth.std()
    ExtraNoise(sigma=sigma).retouch(made, 11)
    added = (made.image - before).astype(np.float64)
    assert added.std() == pytest.approx(deviation, rel=5 / np.sqrt(2) / SIDE)
    assert abs(added.mean()) < 5 * deviation / SIDE
    for shifted in (added[1:] * added[:-1], added[:, 1:] * added[:, :-1]):
        assert abs(shifted.mean()) < 5 * deviation**2 / SIDE


def test_median_is_the_median() -> None:
    """The exchanges agree with a general rank filter, at the edges and for ties too."""
    for shape in ((1, 9), (2, 3), (40, 31)):
        made = pair(shape)
        expected = median_filter(made.image, 3, mode="reflect")
        Smooth(filter="median").retouch(made, 0)
        np.testing.assert_array_equal(made.image, expected)


def test_gaussian_smooths_white_noise_as_it_should() -> None:
    """A single pixel becomes a spot of the same sum and of variance σ² along both axes."""
    made = pair((41, 41))
    made.image = np.zeros((41, 41), np.float32)
    made.image[20, 20] = 1
    Smooth(filter="gaussian", sigma=2.0).retouch(made, 0)
    assert made.image.sum() == pytest.approx(1, rel=1e-5)
    for axis in (0, 1):
        assert made.image.sum(axis=axis) @ (np.arange(41) - 20.0) ** 2 == pytest.approx(4, rel=0.01)  # cut at 4 σ


COVERING = [
    pytest.param(Border(width=0.2, slant=0.5, fill=fill), MaskBit.BORDER, id=fill)
    for fill in ("black", "darkest", "mean")
] + [
    pytest.param(
        Overlay(scale_bars=1, captions=2, boxes=2, circles=2, size=0.06, tone=tone, plate=plate),
        MaskBit.OVERLAY, id=f"{tone}-{plate}",
    )
    for tone in ("bright", "dark") for plate in ("none", "opposite")
]  # fmt: skip


@pytest.mark.parametrize(("stage", "bit"), COVERING)
@pytest.mark.parametrize("key", range(4))
def test_covers_are_the_same_in_both_images(stage: Artefact, bit: MaskBit, key: int) -> None:
    """Bit-identical where flagged, which a changed pixel always is; everything else stays as it was."""
    made, before = pair(), pair()
    before.mask[:] = made.mask[:] = MaskBit.DEFECT
    stage.retouch(made, key)
    covered = made.mask == bit | MaskBit.DEFECT
    assert 0 < covered.mean() < 0.7
    np.testing.assert_array_equal(made.mask[~covered], before.mask[~covered])
    assert made.truth[covered].tobytes() == made.image[covered].tobytes()
    for now, then in ((made.truth, before.truth), (made.image, before.image)):
        np.testing.assert_array_equal(now[~covered], then[~covered])
    # One tone, two with a plate: no smooth edges. It differs from what was there, but for a few equal pixels.
    assert len(np.unique(made.truth[covered])) == 1 + (getattr(stage, "plate", "none") == "opposite")
    assert (made.truth != before.truth)[covered].mean() > 0.9


def test_border_is_what_lies_outside_a_quadrilateral() -> None:
    """The inside holds the middle and every pixel of its own convex hull."""
    grid = np.argwhere(np.ones((64, 80), bool))
    for key in range(8):
        made = pair((64, 80))
        Border(width=0.4, slant=0.5, fill="mean").retouch(made, key)
        inside = made.mask == 0
        hull = ConvexHull(np.argwhere(inside))
        within = (grid @ hull.equations[:, :2].T + hull.equations[:, 2] < 1e-9).all(axis=1)
        np.testing.assert_array_equal(within.reshape(inside.shape), inside)
        assert inside[32, 40]


def test_straight_borders_inset_every_side_uniformly() -> None:
    """Without slant the border is a frame; the mean inset of each side is half of the width, within five errors."""
    insets = []
    for key in range(300):
        made = pair((10, 10))
        Border(width=0.4, slant=0.0, fill="black").retouch(made, key)
        inside = made.mask == 0
        rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert inside.sum() == len(rows) * len(cols)
        insets.append((rows[0], 9 - rows[-1], cols[0], 9 - cols[-1]))
    # Rounded to whole px, not floored, because the centre of a pixel counts.
    np.testing.assert_allclose(np.mean(insets, axis=0), 2, atol=5 * 4 / np.sqrt(12 * len(insets)))


@pytest.mark.parametrize("sampling", [None, 0.01, 0.137, 2.0, 77.0])
@pytest.mark.parametrize("cols", [32, 100, 256, 1024])
def test_scale_bar_has_a_round_length(cols: int, sampling: float | None) -> None:
    """1, 2 or 5 of a decade, 10 to 30 % of the width, and as long as the label says."""
    for u in (0.01, 0.5, 0.99):
        length, label = round_length(cols, sampling, u)
        value, unit = label.split(" ")
        assert f"{float(value):e}"[0] in "125"
        assert re.fullmatch(r"\d\.0+e[+-]\d+", f"{float(value):e}")
        assert 0.1 - 1e-9 <= length / cols <= 0.3 + 1e-9
        pixels = {"px": 1, "nm": 10, "um": 1e4}[unit] * float(value) / (sampling or 1)
        assert length == pytest.approx(pixels)


def test_scale_bar_is_drawn_as_long_as_it_says() -> None:
    """The longest run of drawn pixels is the bar, within half a px of its length."""
    for key in range(5):
        made = pair((300, 300), sampling=0.5)
        bar = Overlay(scale_bars=1, captions=0, boxes=0, circles=0, size=0.03, tone="bright", plate="none")
        bar.retouch(made, key)
        drawn = (made.mask == MaskBit.OVERLAY).astype(int)
        runs = [len(run) for row in drawn for run in "".join(map(str, row)).split("0")]
        assert min(abs(max(runs) - nm * 10 / 0.5) for nm in (2, 5)) <= 0.5  # 1.5 to 4.5 nm fit: only 2


def test_overlay_draws_only_what_it_was_told_to() -> None:
    """No part, no pixel; too small a window, none either."""
    nothing = Overlay(scale_bars=0, captions=0, boxes=0, circles=0, size=0.1, tone="bright", plate="opposite")
    for stage, shape, some in ((nothing, (32, 32), False), (EVERY[-1], (32, 32), True), (EVERY[-1], (31, 99), False)):
        made = pair(shape)
        stage.retouch(made, 0)
        assert made.mask.any() == some


def test_enlarged_ramp_stays_a_ramp() -> None:
    """Pixel q of R lies at (q + 1/2) n/R - 1/2; B-splines and bilinear follow it, nearest copies n values."""
    n, wanted = 40, 101
    ramp = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None], (n, 30))
    position = (np.arange(wanted) + 0.5) * n / wanted - 0.5
    for image, axis in ((ramp, 0), (ramp.T, 1)):
        shape = (wanted, 70) if axis == 0 else (70, wanted)
        cubic, bilinear, nearest = (
            np.moveaxis(interpolate(image, shape, kind), axis, 0)[:, 35] for kind in ("cubic", "bilinear", "nearest")
        )
        away = slice(30, -30)  # 12 px of the crop: the mirrored edge bends the spline by 0.27 per px
        np.testing.assert_allclose(cubic[away], position[away], atol=1e-4)
        np.testing.assert_allclose(bilinear[3:-3], position[3:-3], atol=1e-4)
        np.testing.assert_array_equal(nearest, np.floor(position + 0.5))


def test_interpolation_passes_through_the_pixels() -> None:
    """An odd zoom has an output pixel at each pixel of the crop; there all three methods give its value."""
    image = pair((24, 31)).image
    for kind in ("cubic", "bilinear", "nearest"):
        np.testing.assert_allclose(interpolate(image, (72, 93), kind)[1::3, 1::3], image, rtol=2e-6)


def test_interpolation_agrees_with_scipy_up_to_the_edges() -> None:
    """A general resampler that mirrors about the outermost pixels' edges gives the same, at the edges too."""
    image = pair((24, 31)).image
    for kind, order in (("cubic", 3), ("bilinear", 1)):
        expected = zoom(image.astype(np.float64), (2.5, 2), order=order, mode="reflect", grid_mode=True)
        np.testing.assert_allclose(interpolate(image, (60, 62), kind), expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_enlarge_scales_displacement_and_sampling(method: str) -> None:
    """A displacement of 0.5 px of the crop is 0.5 · zoom px afterwards, a pixel is smaller by the zoom; masks copy."""
    made = pair((32, 48), sampling=0.6)
    made.mask[3, 5] = MaskBit.DEFECT
    truth, image = made.truth, made.image
    displacement = np.stack([np.full((32, 48), 0.5), np.full((32, 48), -1.0)]).astype(np.float16)
    out = Resample(share=0.5, interpolation=method).enlarge(made, displacement, (64, 144))
    assert out.dtype == np.float16
    # `nearest` looks half a pixel of the crop aside at most, and nowhere on average.
    aside = out.astype(float) - np.array([1.0, -3.0])[:, None, None]
    np.testing.assert_allclose(aside.mean(axis=(1, 2)), 0, atol=1e-3)
    assert np.abs(aside[0]).max() == (0.5 if method == "nearest" else 0)
    assert np.abs(aside[1]).max() == (1.0 if method == "nearest" else 0)
    assert made.sampling == pytest.approx(0.6 / np.sqrt(6))
    # Every pixel that the flagged one has a part in.
    flagged = [[6, 15], [7, 17]] if method == "nearest" else [[5, 14], [8, 18]]
    np.testing.assert_array_equal(np.argwhere(made.mask)[[0, -1]], flagged)
    cubic = interpolate(truth, (64, 144), "cubic")
    np.testing.assert_array_equal(made.truth, np.maximum(cubic, truth.min()))
    np.testing.assert_array_equal(made.image, interpolate(image, (64, 144), method))


def test_nearest_makes_a_staircase_that_the_truth_does_not_have() -> None:
    """The image has as many distinct rows as the crop, the truth as many as the window."""
    made = pair((16, 16))
    Resample(share=0.25, interpolation="nearest").enlarge(made, np.zeros((2, 16, 16), np.float16), (64, 64))
    assert len(np.unique(made.image, axis=0)) == 16
    assert len(np.unique(made.truth, axis=0)) == 64


def test_region_lies_uniformly_within_the_window() -> None:
    """Every position occurs, none reaches over an edge, and their mean is that of a uniform distribution."""
    crop = Resample(share=0.7, interpolation="nearest")
    seen = np.array([crop.region((20, 30), key) for key in range(400)])
    assert (seen[:, 2:] == (14, 21)).all()
    for start, last in zip(seen[:, :2].T, (6, 9), strict=True):
        assert set(start) == set(range(last + 1))
        assert start.mean() == pytest.approx(last / 2, abs=5 * np.sqrt(((last + 1) ** 2 - 1) / 12 / len(start)))


def test_region_of_everything_and_of_little() -> None:
    """Share 1 keeps the window and enlarges nothing; a tiny share still keeps 8 px, or what there is."""
    whole = Resample(share=1.0, interpolation="bilinear")
    assert whole.region((20, 30), 5) == (0, 0, 20, 30)
    made, displacement = pair((20, 30)), np.ones((2, 20, 30), np.float16)
    assert whole.enlarge(made, displacement, (20, 30)) is displacement
    np.testing.assert_array_equal(made.truth, pair((20, 30)).truth)
    assert Resample(share=0.05, interpolation="bilinear").region((100, 5), 1)[2:] == (8, 5)


def test_union_knows_every_stage_in_order() -> None:
    """A recipe names a stage by its tag; undrawn defaults hold distributions."""
    tags = ("resample", "extra_noise", "smooth", "contrast", "gamma", "eight_bit", "jpeg", "border", "overlay")
    stages = [TypeAdapter(ArtefactStage).validate_python({"stage": tag}) for tag in tags]
    assert [stage.stage for stage in stages] == list(tags)
    assert isinstance(stages[-1].tone, Choice)
