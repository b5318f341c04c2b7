"""Detector stages: sums, centroids, correlations and the photon transfer curve."""

import numba
import numpy as np
import pytest

from emsynth.distortion import (
    BlackLevel,
    Detection,
    Gain,
    LineNoise,
    MaskBit,
    Poisson,
    Quantise,
    ReadNoise,
    Readout,
    Saturation,
    ScanClock,
    Streak,
)

COMPILED = not numba.config.DISABLE_JIT
SIDE = 256 if COMPILED else 48


def readout(shape: tuple[int, int], brightest: float = 100.0, fly_back: float = 1e-3) -> Readout:
    return Readout(ScanClock(*shape, 1e-5, fly_back), 20.0, brightest, 1.0, np.zeros(shape, np.uint8))


def run(image: np.ndarray, *stages: Detection, brightest: float = 100.0, fly_back: float = 1e-3) -> np.ndarray:
    image = image.astype(np.float32)
    for key, stage in enumerate(stages):
        image = stage.apply(image, readout(image.shape, brightest, fly_back), key)
    return image


SHAPES = ("exponential", "lorentzian")


@pytest.mark.parametrize("shape", SHAPES)
def test_streak_keeps_the_sum_and_moves_the_centroid(shape: str) -> None:
    """An impulse keeps its sum, goes one way only, and moves by `centroid` on average."""
    streak = Streak(shape=shape, decay=2.5, fraction=0.7, beam="blanked")
    image = np.zeros((3, 80))
    image[1, 10] = 1
    seen = run(image, streak)
    assert seen.sum() == pytest.approx(1, abs=1e-5)
    assert not seen[0].any()
    assert not seen[1, :10].any()
    assert seen[2].max() < 1e-30
    assert seen[1] @ (np.arange(80) - 10) == pytest.approx(streak.centroid(), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_streak_runs_over_the_end_of_a_row(shape: str) -> None:
    """Signal of a row's last pixel appears at the start of the next, less so after a longer fly-back."""
    image = np.zeros((2, 30))
    image[0, -1] = 1
    streak = Streak(shape=shape, decay=4.0, fraction=1.0, beam="blanked")
    soon, late = (run(image, streak, fly_back=gap * 1e-5)[1, :2] for gap in (2, 9))
    assert soon[0] > soon[1] > 0
    assert soon[0] > late[0] > 0
    row = np.zeros((1, 60))
    row[0, 0] = 1
    assert soon[0] == pytest.approx(run(row, streak)[0, 3], rel=1e-5)


def test_streak_reaches_over_several_short_rows() -> None:
    """Rows shorter than the response: as one long row with gaps, nothing lost."""
    streak = Streak(shape="lorentzian", decay=4.0, fraction=1.0, beam="blanked")
    image = np.zeros((20, 5))
    image[1, 2] = 1
    seen = run(image, streak, fly_back=2e-5)
    long = np.zeros((1, 140))
    long[0, 9] = 1
    np.testing.assert_allclose(seen, run(long, streak).reshape(20, 7)[:, :5], atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_streak_leaves_a_flat_field_flat(shape: str) -> None:
    """With the beam on during the fly-back; a blanked beam lets each row begin dark."""
    flat = np.full((5, 30), 7.0)
    lit = run(flat, Streak(shape=shape, decay=5.0, fraction=0.9, beam="on"), fly_back=1.5e-4)
    np.testing.assert_allclose(lit, flat, rtol=1e-6)
    dark = run(flat, Streak(shape=shape, decay=5.0, fraction=0.9, beam="blanked"))
    assert (dark[:, 0] < 0.5 * dark[:, -1]).all()


def test_streak_of_no_decay_changes_nothing() -> None:
    """τ_d = 0 is a fast detector."""
    image = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    still = Streak(shape="lorentzian", decay=0.0, fraction=1.0)
    np.testing.assert_array_equal(run(image, still), image)
    assert still.centroid() == 0


def test_streak_correlates_noise_along_rows_only() -> None:
    """After an exponential of ρ = exp(-1/decay) neighbours along a row correlate by ρ, those along a column do not."""
    streak = Streak(shape="exponential", decay=2.0, fraction=1.0, beam="on")
    noise = run(np.full((SIDE, SIDE), 20.0), Poisson(), streak)[:, 16:]
    noise = noise - noise.mean()
    along_row = (noise[:, 1:] * noise[:, :-1]).mean() / noise.var()
    along_col = (noise[1:] * noise[:-1]).mean() / noise.var()
    tolerance = 5 * 2 / SIDE  # the streak leaves about a quarter of the values independent
    assert along_row == pytest.approx(np.exp(-0.5), abs=tolerance)
    assert along_col == pytest.approx(0, abs=tolerance)


def test_line_noise_is_an_offset_per_row_with_mean_zero() -> None:
    """Rows differ, columns do not; the mean of the window stays."""
    seen = run(np.zeros((64, 8)), LineNoise(sigma=0.1, correlation=0.0))
    assert (np.ptp(seen, axis=1) == 0).all()
    assert abs(seen.mean()) < 1e-5
    assert seen[:, 0].std() == pytest.approx(0.1 * 20, rel=5 / np.sqrt(2 * 64))


def test_photon_transfer() -> None:
    """Deviation² = K (mean - black) + K² σ_r² + q²/12 on a flat field, within five standard errors."""
    gain, sigma, counts = 3.0, 2.0, 50.0
    stages = (
        Poisson(), ReadNoise(sigma=sigma), Gain(gain=gain), BlackLevel(level=0.2), Quantise(levels=256, full_scale=5.0)
    )  # fmt: skip
    brightest = gain * counts
    seen = run(np.full((SIDE, SIDE), counts), *stages, brightest=brightest).astype(np.float64)
    step = 5.0 * brightest / 255
    expected = gain * (gain * counts) + gain**2 * sigma**2 + step**2 / 12
    assert seen.mean() == pytest.approx(gain * counts + 0.2 * brightest, abs=5 * np.sqrt(expected) / SIDE)
    assert seen.var() == pytest.approx(expected, rel=5 * np.sqrt(2) / SIDE)


def test_read_noise_and_counts_do_not_share_numbers() -> None:
    """Each stage has its own key; the same key for both would correlate them fully."""
    counted, read = (run(np.full((48, 48), 50.0), stage) for stage in (Poisson(), ReadNoise(sigma=1.0)))
    same = np.corrcoef(counted.ravel(), read.ravel())[0, 1]
    assert same > 0.9  # run() gives both the key 0
    other = run(np.full((48, 48), 50.0), Gain(gain=1.0), ReadNoise(sigma=1.0))
    assert abs(np.corrcoef(counted.ravel(), other.ravel())[0, 1]) < 5 / 48


def test_gain_and_black_level_are_in_the_truth() -> None:
    """Both do the same to truth and image; nothing else touches the truth."""
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    for stage in (Gain(gain=2.5), BlackLevel(level=-0.1)):
        np.testing.assert_array_equal(stage.expect(image, readout((2, 3))), run(image, stage))
    for kind in (Poisson, Streak, LineNoise, ReadNoise, Saturation, Quantise):
        assert kind().expect(image, readout((2, 3))) is image


def test_saturation_bends_smoothly_and_never_exceeds_its_level() -> None:
    """Unchanged below the knee, monotonous, slope continuous at the knee; what was above the level is flagged."""
    image = np.linspace(0, 300, 3001, dtype=np.float32).reshape(1, -1)
    state = readout(image.shape)
    seen = Saturation(level=1.0, softness=0.3).apply(image.copy(), state, 0)
    below = image <= 70
    np.testing.assert_array_equal(seen[below], image[below])
    slope = np.diff(seen[0]) / 0.1
    assert (slope >= 0).all()
    assert slope.max() < 1.001
    assert np.abs(np.diff(slope)).max() < 0.01
    assert seen.max() <= 100
    np.testing.assert_array_equal(state.mask == MaskBit.SATURATED, image >= 100)


def test_hard_saturation_clips() -> None:
    """Softness 0 has no knee."""
    seen = run(np.array([[50.0, 150.0]]), Saturation(level=1.0, softness=0.0))
    np.testing.assert_array_equal(seen, [[50, 100]])


def test_quantise_rounds_and_clips() -> None:
    """Multiples of q from 0 to full scale; beyond either end the pixel is flagged."""
    image = np.array([[-30.0, 0.4, 1.7, 62.6, 64.0]], dtype=np.float32)
    state = readout(image.shape, brightest=63.0)
    quantise = Quantise(levels=64, full_scale=1.0)
    assert quantise.step(state) == 1
    np.testing.assert_array_equal(quantise.apply(image, state, 0), [[0, 0, 2, 63, 63]])
    np.testing.assert_array_equal(state.mask, [[MaskBit.CLIPPED, 0, 0, 0, MaskBit.CLIPPED]])
