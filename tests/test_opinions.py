"""Second opinions that need no other environment: abTEM's scan noise and SciPy's periodogram."""

import numpy as np
import pytest

from benchmarks.opinions import emva, scan_noise
from emsynth.distortion import RowJitter, ScanClock


def test_abtem_scans_by_the_same_clock() -> None:
    """Pixel times are those of abTEM, whose fast axis is the first and whose clock starts a row and a pixel late."""
    clock = ScanClock(rows=7, cols=5, dwell=3e-6, fly_back=2e-4)
    theirs = scan_noise.abtem_noise._pixel_times(3e-6, 2e-4, (5, 7)).T
    np.testing.assert_allclose(clock.times(), theirs - clock.row_period - clock.dwell, rtol=0, atol=1e-15)


def test_separable_motion_is_abtems_sum_of_sinusoids() -> None:
    """Two hundred sinusoids in time, as products of a row's and a column's factor and as abTEM adds them."""
    clock = ScanClock(rows=24, cols=16, dwell=5e-6, fly_back=5e-4)
    theirs = scan_noise.abtem_displacement(clock, 3, 200)
    ours = scan_noise.as_motion(clock, 3, 200).displacement()[1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * np.ptp(theirs))


def test_abtems_image_tends_to_the_gathered_one() -> None:
    """Linear interpolation, on a grid twice and twice as fine, comes four times closer each: the positions agree."""
    moved = scan_noise.displaced(48, 1.0)
    image, spectrum = scan_noise.band_limited(48, 1 / 8, 0)
    ours, kept = scan_noise.emsynth_image(image, moved), scan_noise.inside(moved)
    away = [(scan_noise.abtem_image(spectrum, moved, times) - ours)[kept].std() for times in (1, 2, 4)]
    assert away[1] == pytest.approx(away[0] / 4, rel=0.15)
    assert away[2] == pytest.approx(away[0] / 16, rel=0.3)


def test_gather_meets_the_fourier_series_under_abtems_displacement() -> None:
    """Within 0.1 % of the range everywhere, beyond the image's edge as well."""
    moved = scan_noise.displaced(48, 1.0)
    image, spectrum = scan_noise.band_limited(48, 1 / 8, 0)
    exact = scan_noise.fourier_values(spectrum, (moved + np.indices((48, 48))).reshape(2, -1)).reshape(48, 48)
    assert np.abs(scan_noise.emsynth_image(image, moved) - exact).max() < 1e-3


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_row_jitter_has_the_spectrum_of_an_autoregressive_series(correlation: float) -> None:
    """Mean periodogram over its expectation is 1 within five standard errors, at each frequency and over all."""
    frames, rows = 1000, 64
    jitter = RowJitter(sigma=0.7, ratio=0.0, correlation=correlation)
    seen, expected = scan_noise.jitter_periodogram(jitter, rows, frames)
    inner = (seen / expected)[1:-1]  # two degrees of freedom each; one at either end
    np.testing.assert_allclose(inner, 1, atol=5 / np.sqrt(frames))
    assert inner.mean() == pytest.approx(1, abs=5 / np.sqrt(frames * inner.size))
    assert seen[0] == pytest.approx(expected[0], rel=5 * np.sqrt(2 / frames))


def test_mechanical_lines_fall_as_one_over_f_on_average() -> None:
    """Over many frames the share of power below f grows as ln f, as in abTEM's model: within five standard errors."""
    frames = 300
    frequency, power = scan_noise.line_spectrum(scan_noise.hum_series, frames)
    below = power[(frequency > 5) & (frequency < 70.7)].sum() / power.sum()
    # A line weighs A² cos²; E A² is 1 for the first and 1/3 for five others, E A⁴ 1 and 1/5, E cos⁴ 3/2 of (E cos²)².
    spread = np.sqrt(3 / 2 * (1 + 5 / 5)) / (1 + 5 / 3)
    assert below == pytest.approx(0.5, abs=5 * spread / np.sqrt(frames) / 2)


def test_frames_for_the_photon_transfer_series_share_patterns_but_not_noise() -> None:
    """Two frames differ by noise of twice the expected variance; their patterns cancel."""
    bench = emva.BENCHES["camera"]
    warm = float(bench.dark_electrons[9])
    first, second = (emva.frame(bench, 1, 1000.0, warm, n).astype(np.float64) for n in (1, 2))
    gain = bench.gain
    variance = gain**2 * (1000 * bench.excess * (1 + bench.gains**2) + warm + bench.read**2) + 1 / 12
    assert (first - second).var() / 2 == pytest.approx(variance, rel=5 * np.sqrt(2 / emva.PIXELS))
    patterns = (gain * 1000 * bench.gains) ** 2 + bench.offsets**2 + gain**2 * (bench.rows**2 + bench.cols**2)
    shared = ((first - first.mean()) * (second - second.mean())).mean()
    lines = 2 * gain**4 * (bench.rows**4 + bench.cols**4) / emva.SIDE
    pixels = 2 * (variance + patterns) ** 2 / emva.PIXELS
    assert shared == pytest.approx(patterns, abs=5 * np.sqrt(lines + pixels))
