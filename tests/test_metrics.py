"""Metrics of whole images: fidelity, Fourier rings, row jitter, false structure, blind search, response."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from emsynth.metrics import detection, fidelity, response, scan, spectrum, structure
from emsynth.metrics.columns import Fit
from emsynth.streams import generator


def noise(name, shape=(128, 128), index=0):
    return generator(5, index, name).standard_normal(shape)


def lattice(side=128, pitch=12.0, width=2.1, extra=()):
    at = np.arange(pitch / 2, side, pitch)
    row, col = np.mgrid[:side, :side]
    position = np.array([(r, c) for r in at for c in at] + list(extra))
    return position, sum(np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * width**2)) for r, c in position)


def test_psnr_is_that_of_ipol():
    """The camera image with scikit-image's own noise: 22.40935 dB by IPOL's program imdiff."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image")
    camera = data.camera()
    draw = np.random.RandomState(5).randn(*camera.shape)
    noisy = np.clip(camera + 20.0 * draw, 0, 255).astype(camera.dtype)
    assert fidelity.psnr(camera, noisy, data_range=255) == pytest.approx(22.409353363576034, abs=5e-5)
    assert fidelity.psnr(camera / 255, noisy / 255, data_range=1) == pytest.approx(22.409353363576034, abs=5e-5)


def test_fidelity_of_the_truth_itself():
    """PSNR is infinite, SSIM 1, the bias 0."""
    image = noise("image")
    assert fidelity.psnr(image, image, data_range=1.0) == np.inf
    assert fidelity.ssim(image, image, data_range=1.0) == pytest.approx(1.0, abs=1e-12)
    assert fidelity.mean_bias(image + 9, image + 9) == 0.0


def test_nothing_is_rescaled():
    """An error of 1 at a range of 100 is 40 dB, whatever the values; a mean above black that is 3 % too high is 3 %."""
    image = 1000 + 10 * noise("image")
    assert fidelity.psnr(image, image + 1, data_range=100.0) == pytest.approx(40.0)
    assert fidelity.mean_bias(image, 500 + 1.03 * (image - 500), 500.0) == pytest.approx(3.0)


def test_ssim_has_the_window_of_its_authors():
    """By hand at the centre of an 11 × 11 image: Gaussian weights of 1.5 px, population covariance."""
    a, b = noise("a", (11, 11)), noise("b", (11, 11))
    bell = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weight = np.outer(bell, bell) / bell.sum() ** 2
    ma, mb = (weight * a).sum(), (weight * b).sum()
    va, vb, ab = ((weight * x).sum() for x in ((a - ma) ** 2, (b - mb) ** 2, (a - ma) * (b - mb)))
    c1, c2 = 0.01**2, 0.03**2
    by_hand = (2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert fidelity.ssim(a, b, data_range=1.0) == pytest.approx(by_hand, rel=1e-9)


def test_ring_correlation_ends_where_the_image_was_cut():
    """White truth, frequencies beyond 0.2 per px replaced: it resolves 5 px, at any gain and offset."""
    truth = noise("truth")
    length = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    kept = np.fft.ifft2(np.fft.fft2(truth) * (length < 0.2) + np.fft.fft2(noise("other")) * (length >= 0.2)).real
    rings = spectrum.ring_correlation(truth, 7 * kept - 3)
    assert rings.resolved == pytest.approx(0.2, abs=1.5 / 128)
    assert rings.edge == 0.5


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_ring_correlation_tells_the_signal_to_noise_ratio(ratio):
    """Signal and noise both white: 1/√(1 + noise/signal) in all rings."""
    truth = noise("truth")
    rings = spectrum.ring_correlation(truth, truth + noise("noise") / np.sqrt(ratio))
    assert rings.mean == pytest.approx(1 / np.sqrt(1 + 1 / ratio), abs=0.03)  # ≈ 2500 frequencies, unevenly in rings


def test_ring_correlation_resolves_to_a_half():
    """Noise that grows with the frequency: the resolution is where it is three times the signal in power."""
    truth = noise("truth")
    length = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    grown = np.fft.ifft2(np.fft.fft2(noise("noise")) * np.sqrt(3) * (length / 0.25) ** 2).real
    assert spectrum.ring_correlation(truth, truth + grown).resolved == pytest.approx(0.25, rel=0.12)


def test_ring_correlation_ends_with_the_truth():
    """Rings beyond the truth's band have nothing to be resolved, and noise in them does not count."""
    truth = gaussian_filter(noise("truth"), 3.0)  # power exp(-(2π·3·f)²)
    rings = spectrum.ring_correlation(truth, truth + 0.003 * truth.std() * noise("noise"))
    assert 0.1 < rings.edge < 0.2
    assert rings.resolved == rings.edge


def test_ring_correlation_of_nothing():
    """Independent noise has none, nor has a flat image, and a flat truth has no rings."""
    truth = noise("truth")
    assert abs(spectrum.ring_correlation(truth, noise("noise")).mean) < 0.05
    assert spectrum.ring_correlation(truth, np.full((128, 128), 3.3)).mean == 0.0
    assert spectrum.ring_correlation(np.zeros((64, 64)), truth[:64, :64]) is None


def jittered(image, displacement):
    return np.stack([shift(row, by, order=5, mode="nearest") for row, by in zip(image, displacement, strict=True)])


@pytest.mark.parametrize("amount", [0.05, 0.5, 1.5])
def test_row_jitter_is_what_was_put_in(amount):
    """Rows shifted by known amounts: their rms about a straight line comes back within a few per cent."""
    truth = 0.1 + lattice(pitch=11.0)[1]
    put = amount * noise("jitter", 128)
    rows = np.arange(128)
    rest = put - np.polyval(np.polyfit(rows, put, 1), rows)
    found = scan.row_jitter(truth, jittered(truth, put))
    assert found.rms == pytest.approx(rest.std(ddof=2), rel=0.03)
    displacement, _ = scan.row_displacement(truth, jittered(truth, put))
    known = np.isfinite(displacement)
    assert displacement[known] == pytest.approx(put[known], abs=0.02 + 0.02 * amount)


def test_large_displacements_of_rows_are_followed():
    """Rows without a period, up to 7 px aside, are found where they are."""
    truth = gaussian_filter(noise("image"), 2.0)
    put = generator(5, 0, "large").uniform(-7.0, 7.0, 128)
    assert scan.row_displacement(truth, jittered(truth, put))[0] == pytest.approx(put, abs=0.05)


def test_row_jitter_leaves_drift_to_others():
    """A shift of all rows and a shear are no jitter."""
    truth = 0.1 + lattice()[1]
    assert scan.row_jitter(truth, jittered(truth, 0.7 + 0.01 * np.arange(128))).rms == pytest.approx(0.0, abs=2e-3)


def test_row_jitter_is_not_fooled_by_noise():
    """Poisson noise without jitter shows no more than about the floor; jitter of ten floors is still told."""
    truth = 30 * (0.1 + lattice()[1])
    put = 0.4 * noise("jitter", 128)
    for draw in range(5):
        rng = generator(6, draw, "noise")
        quiet = scan.row_jitter(truth, rng.poisson(truth))
        assert quiet.rms < 2 * quiet.floor
        found = scan.row_jitter(truth, rng.poisson(np.maximum(jittered(truth, put), 0)))
        assert found.rms == pytest.approx(0.4, rel=4 / np.sqrt(2 * 126))


def test_row_jitter_needs_structure():
    """Flat images and noise against a truth tell nothing, nor does a truth without structure."""
    truth = lattice()[1]
    assert scan.row_jitter(truth, np.ones_like(truth)) is None
    assert scan.row_jitter(np.ones_like(truth), truth) is None
    assert scan.row_jitter(truth[:, :16], truth[:, :16]) is None


def test_false_structure_of_noise_is_none():
    """White noise, coloured noise and a blurred residual do not stand out of their own spectrum."""
    everywhere = np.ones((128, 128), bool)
    shares = [structure.residual(np.zeros((128, 128)), gaussian_filter(noise("noise", index=i), colour), everywhere)
              for i in range(10) for colour in (0.0, 1.0, 2.0)]
    assert np.mean([left.periodic for left in shares]) < 0.01
    assert np.mean([left.rms for left in shares[::3]]) == pytest.approx(1.0, abs=0.02)


def test_false_structure_of_a_lattice_is_all():
    """An invented lattice or fringe in a masked region: all of it; with as much noise, half of it."""
    row, col = np.mgrid[:128, :128]
    region = row + 0.5 * col < 110
    fringe = np.sqrt(2) * np.sin(2 * np.pi * (0.11 * row + 0.07 * col))
    zero = np.zeros((128, 128))
    assert structure.residual(zero, fringe, region).periodic > 0.98
    assert structure.residual(zero, lattice()[1], region).periodic > 0.85
    half = structure.residual(zero, fringe + noise("noise"), region)
    assert half.periodic == pytest.approx(0.5, abs=0.05)
    assert half.rms == pytest.approx(np.sqrt(2), rel=0.05)


def test_false_structure_looks_only_into_the_region():
    """What differs elsewhere does not count; a region of few pixels says nothing; equal images have none."""
    region = np.zeros((128, 128), bool)
    region[:, :50] = True
    away = np.where(region, 0.0, 100.0)
    assert structure.residual(np.zeros((128, 128)), away, region) == (0.0, 0.0)
    assert structure.residual(away, away, region[:, ::-1] & (np.arange(128) < 90)) == (0.0, 0.0)
    assert structure.residual(away, away, np.zeros((128, 128), bool)) is None


def test_blind_search_counts_what_is_missing_and_what_is_new():
    """One column taken away and two put where none are: all three are counted, the rim is not."""
    position, truth = lattice()
    known = detection.expected(truth, position, np.ones(len(position), bool), 2.1)
    assert detection.tally(known, truth) == (len(known.position), 0, 0)
    taken = np.argmin(np.hypot(*(position - 64).T))
    left = np.delete(position, taken, axis=0)
    extra = [(36.0, 36.0), (84.0, 36.0)]
    row, col = np.mgrid[:128, :128]
    image = sum(np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * 2.1**2)) for r, c in [*left, *extra])
    tally = detection.tally(known, image)
    assert (tally.missed, tally.invented) == (1, 2)
    assert tally.precision == tally.matched / (tally.matched + 2)


def test_blind_search_counts_a_column_that_was_split():
    """Two spots in one column's disc are the column and an invented one."""
    position, truth = lattice()
    known = detection.expected(truth, position, np.ones(len(position), bool), 2.1)
    split = truth.copy()
    split[58:75, 58:75] = 0.0
    row, col = np.mgrid[:128, :128]
    for c in (62.0, 69.5):  # the column is at (66, 66)
        split += 1.5 * np.exp(-((row - 66) ** 2 + (col - c) ** 2) / (2 * 1.2**2))
    assert detection.tally(known, split) == (len(known.position), 0, 1)


def test_blind_search_leaves_out_what_the_truth_half_shows():
    """A blob of the truth that is no column is not invented by who shows it, also where it comes out stronger."""
    position, columns = lattice(side=48)
    columns = np.pad(columns, ((0, 0), (0, 80)))
    row, col = np.indices(columns.shape)
    blob = np.exp(-((row - 24) ** 2 + (col - 90) ** 2) / (2 * 2.1**2))
    truth = columns + 0.2 * blob
    known = detection.expected(truth, position, np.ones(len(position), bool), 2.1)
    assert detection.tally(known, truth + 0.4 * blob).invented == 0
    plain = detection.expected(columns, position, np.ones(len(position), bool), 2.1)
    assert detection.tally(plain, truth + 0.4 * blob).invented == 1


def test_blind_search_of_a_flat_image():
    """Nothing is shown: nothing is invented, all is missed, and the precision is 0."""
    position, truth = lattice()
    tally = detection.tally(detection.expected(truth, position, np.ones(len(position), bool), 2.1), 0 * truth)
    assert (tally.matched, tally.invented, tally.precision, tally.recall) == (0, 0, 0.0, 0.0)


def fits(position, found=None):
    at, one = np.asarray(position, float), np.ones(len(position))
    return Fit(at, one, one, one, np.ones(len(at), bool) if found is None else np.array(found))


def test_response_is_the_projection_on_the_true_shift():
    """Half of the shift and something across it is a slope of a half; a column that is not found did not move."""
    still, moved = fits([[0, 0], [9, 9]]), fits([[0, 1], [9, 10]])
    half = fits([[0.3, 0.5], [9.3, 9.5]])
    both = np.array([0, 1])
    assert response.shift_response((still, moved), (still, half), both) == (1.0, 2.0)
    lost = fits([[0, 0.5], [9, 9.5]], [True, False])
    assert response.shift_response((still, moved), (still, lost), both).slope == 0.25


def test_response_of_height_is_a_regression_through_zero():
    """Relative to the same kind of image: neither a blur that lowers all columns alike nor an offset changes it."""
    before, after = np.array([100.0, 200.0, 50.0]), np.array([120.0, 150.0, 50.0])
    both, truth = np.array([0, 1]), (before, after)
    found = response.height_response(truth, (0.6 * before + 5, 0.6 * after + 5), both, 0.6)
    assert found.slope == pytest.approx(1.0)
    assert found.true == pytest.approx(0.2**2 + 0.25**2)
    assert response.height_response(truth, (before, 0.5 * (before + after)), both).slope == pytest.approx(0.5)
    assert response.height_response(truth, (0.05 * before, 0.05 * after), both, 0.05).recovered == 0.0
    assert response.contrast(before, 0.6 * before) == pytest.approx(0.6)


def test_changes_too_small_or_too_large_are_no_probes():
    """Only true changes within the limits enter the sums, of heights and of shifts."""
    before, after = np.full(3, 100.0), np.array([101.0, 120.0, 160.0])
    found = response.height_response((before, after), (before, after), np.arange(3), within=(0.05, 0.35))
    assert found == pytest.approx((0.04, 0.04))
    still, moved = fits(np.zeros((3, 2))), fits([[0, 0.1], [0, 1], [3, 0]])
    assert response.shift_response((still, moved), (still, moved), np.arange(3), (0.5, 2.0)) == (1.0, 1.0)
