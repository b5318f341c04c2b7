"""Beam noise, pulse heights, hits, AC coupling, rows and defects: spectra, variances, sums and masks."""

import numba
import numpy as np
import pytest
from scipy.signal import lfilter

from emsynth.distortion import (
    AcCoupling,
    BeamNoise,
    BlackLevel,
    Chain,
    CompoundPoisson,
    Detection,
    Hits,
    LineNoise,
    MaskBit,
    PickUp,
    PixelDefects,
    Poisson,
    PulseSpread,
    Quantise,
    ReadNoise,
    Readout,
    RowDropout,
    RowGain,
    Saturation,
    ScanClock,
    Streak,
    TubeSaturation,
)
from emsynth.distortion._kernels import signal
from emsynth.distortion.counting import occurrences
from emsynth.distortion.stage import purpose_key
from emsynth.distortion.trace import flicker

COMPILED = not numba.config.DISABLE_JIT
SIDE = 256 if COMPILED else 48
RUNS = 400 if COMPILED else 60


def readout(shape: tuple[int, int], **parts: float) -> Readout:
    clock = ScanClock(*shape, parts.get("dwell", 1e-5), parts.get("fly_back", 1e-3))
    return Readout(clock, 20.0, parts.get("brightest", 100.0), 1.0, np.zeros(shape, np.uint8))


def run(image: np.ndarray, *stages: Detection, key: int = 0, **parts: float) -> np.ndarray:
    image = image.astype(np.float32)
    for n, stage in enumerate(stages):
        image = stage.apply(image, readout(image.shape, **parts), purpose_key(0, key, str(n)))
    return image


def series(beam: BeamNoise, clock: ScanClock, runs: int) -> tuple[np.ndarray, float]:
    drawn = [beam.series(clock, purpose_key(0, n, "beam_noise")) for n in range(runs)]
    return np.stack([values for values, _ in drawn]), drawn[0][1]


def test_beam_noise_has_unit_variance_at_its_coarsest_knots() -> None:
    """There nothing is interpolated: K unit variances over K, within five standard errors."""
    clock, beam = ScanClock(16, 16, 1e-5, 1e-4), BeamNoise(sigma=0.1, fastest=1e-4)
    coarse = 4 ** (len(beam.times(clock)) - 1)
    assert coarse > 1
    drawn = series(beam, clock, RUNS)[0][:, 0]
    assert drawn.var() == pytest.approx(1, abs=5 * np.sqrt(2 / RUNS))
    assert abs(drawn.mean()) < 5 / np.sqrt(RUNS)


def test_beam_noise_falls_as_one_over_f() -> None:
    """Its spectrum is the sum of its Lorentzians, and that is 1/f between the inverse time constants."""
    clock, beam = ScanClock(64, 64, 1e-5, 1e-4), BeamNoise(sigma=0.1, fastest=1e-4)
    drawn, step = series(beam, clock, RUNS)
    taper = np.hanning(drawn.shape[1])
    frequency = np.fft.rfftfreq(drawn.shape[1], step)
    power = 2 * step * (np.abs(np.fft.rfft(drawn * taper)) ** 2).mean(axis=0) / (taper**2).sum()
    times = beam.times(clock)
    band = (frequency > 5 / clock.frame) & (frequency < 1 / (2 * np.pi * times[0]))
    lorentzians = (4 * times / (1 + (2 * np.pi * frequency[band, None] * times) ** 2)).mean(axis=1)
    # Each of 400 runs gives an exponentially distributed estimate; linear interpolation takes a few percent off.
    for part in np.array_split(power[band] / lorentzians, 4):
        assert part.mean() == pytest.approx(0.95, abs=0.07 + 5 / np.sqrt(RUNS * part.size))
    assert np.polyfit(np.log(frequency[band]), np.log(lorentzians), 1)[0] == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("fastest", [4e-4, 1e-5, 2e-6])
def test_beam_noise_keeps_its_variance_whatever_the_dwell_resolves(fastest: float) -> None:
    """Also where the fastest relaxations are shorter than a dwell; linear interpolation takes off 12 % at most."""
    clock, beam = ScanClock(8, 8, 1e-5, 1e-4), BeamNoise(sigma=0.1, fastest=fastest)
    drawn, _ = series(beam, clock, 4 * RUNS)
    assert 0.85 < drawn[:, 1::2].var() < 1.05 + 5 / np.sqrt(RUNS)


def test_relaxations_are_ar1_series() -> None:
    """One level equals SciPy's recursive filter; a slower level is added linearly between its knots."""
    white = np.random.default_rng(0).standard_normal(20).astype(np.float32)
    alone, both = white[:12].copy(), white[:17].copy()
    signal.relaxations(alone, np.array([12]), np.array([0.8]), np.zeros(0, np.int64))
    start = np.concatenate([[white[0]], 0.6 * white[1:12]])
    np.testing.assert_allclose(alone, lfilter([1], [1, -0.8], start), atol=1e-6)
    signal.relaxations(both, np.array([12, 5]), np.array([0.8, 0.0]), np.array([4]))
    np.testing.assert_allclose(both[:12] - alone, np.interp(np.arange(12), 4 * np.arange(5), white[12:17]), atol=1e-6)


def test_beam_noise_keeps_the_mean_and_scales_with_the_signal() -> None:
    """A factor of mean 1, whatever the image; two images get the same one."""
    beam = BeamNoise(sigma=0.05, fastest=2e-4)
    factor = run(np.ones((40, 30)), beam)
    assert factor.mean() == pytest.approx(1, abs=1e-5)
    assert 0.01 < factor.std() < 0.1
    image = 5 + np.random.default_rng(0).random((40, 30))
    np.testing.assert_allclose(run(image, beam), image * factor, rtol=1e-5)


def test_beam_noise_follows_the_clock_through_the_fly_back() -> None:
    """The end of a row and the start of the next are alike after a short fly-back, not after a long one."""
    beam = BeamNoise(sigma=0.05, fastest=1e-3)

    def jump(fly_back: float) -> float:
        seen = run(np.ones((SIDE, 16)), beam, fly_back=fly_back)
        return float(np.abs(seen[1:, 0] - seen[:-1, -1]).mean())

    assert jump(1e-5) < 0.3 * jump(1e-1)


def test_pulse_heights_add_their_variance() -> None:
    """A flat field of λ electrons has variance λ(1 + σ_g²), within five standard errors."""
    seen = run(np.full((SIDE, SIDE), 12.0), Poisson(), PulseSpread(sigma=0.6)).astype(np.float64)
    expected = 12 * (1 + 0.36)
    assert seen.mean() == pytest.approx(12, abs=5 * np.sqrt(expected) / SIDE)
    # Kurtosis of the compound law stays below 1 at twelve electrons.
    assert seen.var() == pytest.approx(expected, rel=5 * np.sqrt(3) / SIDE)


def test_secondaries_take_their_yield_from_the_window() -> None:
    """Variance over mean is 1 + δ at the window's mean, and follows δ from pixel to pixel."""
    image = np.repeat([10.0, 30.0], SIDE // 2)[:, None] * np.ones(SIDE)
    seen = run(image, CompoundPoisson(secondary_yield=0.5)).astype(np.float64)
    for half, released in ((seen[: SIDE // 2], 0.25), (seen[SIDE // 2 :], 0.75)):
        assert half.var() / half.mean() == pytest.approx(1 + released, rel=5 * np.sqrt(2 * 2.5) / SIDE)


def test_brightness_leaves_room_for_each_stage() -> None:
    """Variances add up as the laws say."""
    assert CompoundPoisson(secondary_yield=0.5).variance(10) == pytest.approx(10 * 1.5 + 1)
    assert PulseSpread(sigma=0.5).variance(10) == pytest.approx(2.5)
    assert Hits().variance(10) == 0


def test_hits_come_at_their_rate_with_their_amplitude() -> None:
    """Poisson numbers, exponential amplitudes, flagged; within five standard errors."""
    hits, shape = Hits(rate=50.0, amplitude=2.0), (256, 64)
    numbers, sizes = [], []
    for n in range(RUNS):
        state = readout(shape)
        seen = hits.apply(np.zeros(shape, np.float32), state, purpose_key(0, n, "hits"))
        np.testing.assert_array_equal(state.mask == MaskBit.DEFECT, seen > 0)
        numbers.append(occurrences(purpose_key(0, n, "hits"), 0, 50 / 4))
        sizes.append(seen.sum())
    assert np.mean(numbers) == pytest.approx(12.5, abs=5 * np.sqrt(12.5 / RUNS))
    assert np.var(numbers) == pytest.approx(12.5, rel=5 * np.sqrt(2.1 / RUNS))
    total = sum(numbers)
    assert np.sum(sizes) / total == pytest.approx(200, rel=5 / np.sqrt(total))


def test_hits_before_the_streak_have_tails() -> None:
    """What a hit leaves decays along the row as the streak's kernel does."""
    streak = Streak(shape="exponential", decay=2.0, fraction=1.0, beam="blanked")
    seen = run(np.zeros((256, 256 if COMPILED else 64)), Hits(rate=16.0, amplitude=5.0), streak)
    row, col = np.unravel_index(seen[:, :-8].argmax(), seen[:, :-8].shape)
    assert seen[row, col] > 0
    np.testing.assert_allclose(seen[row, col + 1 : col + 4] / seen[row, col : col + 3], np.exp(-0.5), rtol=0.02)


def test_ac_coupling_is_the_recursive_high_pass() -> None:
    """Of one row it is y = x - s(LP(x) - mean), the low pass being SciPy's filter started at the mean."""
    image = np.random.default_rng(0).random((1, 200)) + 3
    coupling = AcCoupling(time=0.1, share=0.6)
    keep = np.exp(-1e-5 / (0.1 * (200 * 1e-5 + 1e-3)))
    slow, _ = lfilter([1 - keep], [1, -keep], image[0], zi=[keep * image.mean()])
    np.testing.assert_allclose(run(image, coupling)[0], image[0] - 0.6 * (slow - image.mean()), rtol=1e-5)


def test_ac_coupling_undershoots_after_a_bright_feature_and_keeps_a_flat_field() -> None:
    """Vacuum behind a bright band is darker than before it; a flat field stays flat."""
    image = np.ones((4, 120))
    image[:, 40:60] = 50
    seen = run(image, AcCoupling(time=0.01, share=0.5), fly_back=1e-2)
    assert seen[1, 62] < seen[1, 35] - 1
    flat = np.full((5, 30), 7.0)
    np.testing.assert_allclose(run(flat, AcCoupling(time=0.8, share=0.8)), flat, rtol=1e-5)


def test_relaxation_runs_on_over_many_rows() -> None:
    """One recursion in time order, fly-backs included, for every block length and every decay."""
    rng = np.random.default_rng(1)
    image, idle = rng.random((6, 21)).astype(np.float32), rng.random(6)
    for keep in (0.0, 0.3, 0.95, 0.9999):
        state, wanted = idle[0], np.empty(image.shape)
        for r in range(6):
            state = state if r == 0 else 0.4 * state + 0.6 * idle[r]
            for c in range(21):
                state = keep * state + (1 - keep) * image[r, c]
                wanted[r, c] = 0.3 * image[r, c] + 0.7 * state
        seen = image.copy()
        signal.relax(seen, idle, keep, 0.4, 0.3, 0.7)
        np.testing.assert_allclose(seen, wanted, atol=1e-6)


def test_flicker_rows_fall_as_one_over_f_and_have_deviation_one() -> None:
    """The periodogram times the frequency is flat within five standard errors; even and odd lengths."""
    for length in (64, 63):
        drawn = np.stack([flicker(np.random.default_rng(n).standard_normal(length)) for n in range(RUNS)])
        power = (np.abs(np.fft.rfft(drawn)) ** 2).mean(axis=0)[1 : length // 2]
        level = power * np.arange(1, len(power) + 1)
        np.testing.assert_allclose(level / level.mean(), 1, atol=5 * 1.2 / np.sqrt(RUNS))
        assert (drawn**2).mean() == pytest.approx(1, abs=5 * np.sqrt(2 / RUNS))
        np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=1e-12)


def test_line_noise_may_flicker() -> None:
    """One offset per row, mean 0, with the stated deviation."""
    noise = LineNoise(sigma=0.1, spectrum="flicker")
    drawn = np.stack([run(np.zeros((64, 4)), noise, key=n)[:, 0] for n in range(RUNS)])
    assert abs(drawn.mean(axis=1)).max() < 1e-5
    assert np.sqrt((drawn**2).mean()) == pytest.approx(0.1 * 20, rel=5 / np.sqrt(RUNS))


def test_pick_up_is_a_sine_in_time() -> None:
    """A cos ωt + B sin ωt of the clock's own time leaves nothing over but the mean."""
    stage = PickUp(amplitude=0.3, mains=50.0, lines=1)
    shape = (40, 30)
    seen = run(np.zeros(shape), stage)
    t = 2 * np.pi * 50 * readout(shape).clock.times().ravel()
    basis = np.stack([np.sin(t), np.cos(t), np.ones_like(t)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, seen.ravel(), rcond=None)
    np.testing.assert_allclose(basis @ fit, seen.ravel(), atol=1e-4)
    assert np.hypot(*fit[:2]) == pytest.approx(0.3 * 20, rel=1e-3)
    assert abs(seen.mean()) < 1e-4


def test_row_gains_have_mean_one_and_their_deviation() -> None:
    """Rows are multiplied, not shifted; the window's mean stays."""
    gains = run(np.ones((SIDE, 4)), RowGain(sigma=0.05, correlation=0.0))
    assert (np.ptp(gains, axis=1) == 0).all()
    assert gains.mean() == pytest.approx(1, abs=1e-5)
    assert gains[:, 0].std() == pytest.approx(0.05, rel=5 / np.sqrt(2 * SIDE))
    assert not run(np.zeros((SIDE, 4)), RowGain(sigma=0.05, correlation=0.5)).any()


def test_dropouts_are_nearly_constant_segments_of_rows() -> None:
    """1 to 4 rows, an eighth of the width to all of it, flagged, with the stated residue; the rest stays."""
    image = np.random.default_rng(0).random((64, 80)).astype(np.float32)
    heights, lengths, number = [], [], 0
    for n in range(RUNS):
        state = readout(image.shape)
        key = purpose_key(0, n, "row_dropout")
        seen = RowDropout(rate=1.0, residue=0.05).apply(image.copy(), state, key)
        hit = state.mask == MaskBit.DEFECT
        np.testing.assert_array_equal(seen[~hit], image[~hit])
        count = occurrences(key, 0, 1.0)
        number += count
        if count == 1:
            heights.append(hit.any(axis=1).sum())
            lengths.append(hit.any(axis=0).sum())
            assert seen[hit].std() == pytest.approx(0.05 * image[hit].std(), rel=1e-3)
    assert number / RUNS == pytest.approx(1, abs=5 / np.sqrt(RUNS))
    assert set(heights) <= {1, 2, 3, 4}
    assert min(lengths) >= 10
    assert max(lengths) <= 80
    assert np.mean(lengths) == pytest.approx(45, abs=5 * 70 / np.sqrt(12 * len(lengths)))


def test_pixel_defects_are_single_pixels_at_their_rate() -> None:
    """Black ones at 0, bright ones up to the stated multiple; all flagged."""
    shape, black, bright = (64, 64), 0, 0
    for n in range(RUNS):
        state = readout(shape)
        image = np.full(shape, 5, np.float32)
        seen = PixelDefects(black=32.0, bright=16.0, amplitude=2.0).apply(image, state, purpose_key(0, n, "d"))
        changed = state.mask == MaskBit.DEFECT
        assert (seen[~changed] == 5).all()
        assert seen.max() <= 200
        black, bright = black + (seen == 0).sum(), bright + (changed & (seen > 0)).sum()
    assert black / RUNS == pytest.approx(2, abs=5 * np.sqrt(2 / RUNS))
    assert bright / RUNS == pytest.approx(1, abs=5 * np.sqrt(1 / RUNS))


def test_photon_transfer_with_pulse_heights() -> None:
    """Var = K(1 + σ_g²)(mean - black) + K²σ_r² + q²/12 on a flat field, at three doses, within five standard errors."""
    sigma, read, levels = 0.5, 1.5, 1024
    # Bright enough that nothing reads below 0, where it would clip.
    for counts in (60.0, 200.0, 600.0):
        stages = (Poisson(), PulseSpread(sigma=sigma), ReadNoise(sigma=read), Quantise(levels=levels, full_scale=4.0))
        parts = {"detector": stages, "expected_counts": counts, "dwell": 1e-6, "fly_back": 1e-4, "undistorted": 0.0}
        made = Chain.model_validate(parts).run(lambda grid: np.ones(grid.shape, np.float32), (SIDE, SIDE), 3, 0)
        seen = made.distorted.astype(np.float64)
        expected = (1 + sigma**2) * counts + read**2 + made.step**2 / 12
        assert seen.mean() == pytest.approx(counts, abs=5 * np.sqrt(expected) / SIDE)
        assert seen.var() == pytest.approx(expected, rel=5 * np.sqrt(2.2) / SIDE)


def test_each_defect_is_counted_alike_on_another_frame() -> None:
    """Rates are per area: four times the pixels, four times the hits."""
    small, large = (
        np.mean([occurrences(purpose_key(0, n, "x"), 0, 4 * scale) for n in range(RUNS)]) for scale in (1, 4)
    )
    assert large / small == pytest.approx(4, rel=5 * np.sqrt(2 / (4 * RUNS)))


def test_the_tube_saturates_before_the_noise_of_the_amplifier() -> None:
    """It bends the electrons, whatever the gain; read noise on top is not compressed."""
    image = np.linspace(0, 300, 1000, dtype=np.float32).reshape(1, -1)
    state = Readout(ScanClock(1, 1000, 1e-5, 1e-3), 20.0, 400.0, 4.0, np.zeros((1, 1000), np.uint8))
    seen = TubeSaturation(level=1.0, softness=0.5).apply(image.copy(), state, 0)
    assert seen.max() <= 100
    np.testing.assert_array_equal(seen[image <= 50], image[image <= 50])
    np.testing.assert_array_equal(state.mask == MaskBit.SATURATED, image >= 100)
    flat = np.full((SIDE, SIDE), 1000.0)
    noisy = run(flat, TubeSaturation(level=1.0, softness=0.5), ReadNoise(sigma=2.0))
    assert noisy.std() == pytest.approx(2, rel=5 / np.sqrt(2 * SIDE**2))


def test_a_pedestal_leaves_the_range_to_the_signal() -> None:
    """With dark signal or black level, full scale and saturation begin above it: a flat field does not clip."""
    for stages in ((BlackLevel(level=0.3),), (BlackLevel(level=-0.2),), ()):
        limits = (Saturation(level=1.0, softness=0.0), Quantise(levels=4096, full_scale=1.0))
        parts = {"detector": (Poisson(), *stages, *limits)}
        chain = Chain.model_validate(parts | {"expected_counts": 50.0, "dwell": 1e-6, "fly_back": 1e-4})
        made = chain.run(lambda grid: np.ones(grid.shape, np.float32), (SIDE, SIDE), 0, 0)
        # The brightest signal is four deviations above the mean.
        assert (made.mask > 0).mean() < 1e-3 or made.black_level < 0
        assert made.distorted.mean() == pytest.approx(made.truth.mean(), rel=0.02)


def test_a_streak_of_next_to_no_decay_is_none() -> None:
    """No decay, however short, stops a render."""
    for decay in (1e-300, 1e-3, 8.0):
        for shape in ("exponential", "lorentzian"):
            streak = Streak(shape=shape, decay=decay, fraction=1.0, beam="on")
            assert np.isfinite(streak.centroid())
            assert np.isfinite(run(np.ones((4, 9)), streak)).all()


def test_a_fraction_of_an_electron_has_no_pulse_height() -> None:
    """What was never counted keeps its value; a spread too small for float32 changes nothing."""
    image = np.array([[0.1, 0.5, 0.99]])
    np.testing.assert_allclose(run(image, PulseSpread(sigma=0.7)), image)
    counts = np.full((4, 4), 1000.0)
    np.testing.assert_array_equal(run(counts, PulseSpread(sigma=1e-15)), counts)


def test_beam_noise_of_endless_fly_backs_stays_small() -> None:
    """Knots are a few per pixel, however long the frame takes."""
    clock = ScanClock(64, 64, 2e-7, 1.0)
    knots, _ = BeamNoise(sigma=0.1, fastest=1e-7).series(clock, 0)
    assert len(knots) < 5 * 64 * 64
