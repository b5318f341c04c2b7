"""Column fits against the Cramér-Rao bound, neighbours, offsets and nonsense; integrated intensities."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emsynth.metrics.bounds import position_bound
from emsynth.metrics.columns import Fit, fit_columns, heights, integrated, resolved, spacing
from emsynth.metrics.targets import aim
from emsynth.streams import generator

WIDTH = 2.1  # px: 1 Å at half maximum at 0.2 Å per px


def lattice(pitch=12.0, side=128, jitter=0.5, seed=0):
    at = np.arange(pitch, side - pitch / 2, pitch)
    grid = np.array([(r, c) for r in at for c in at])
    return grid + generator(seed, 0, "positions").uniform(-jitter, jitter, grid.shape)


def image_of(position, counts, background=0.0, width=WIDTH, side=128):
    row, col = np.mgrid[:side, :side]
    image = np.full((side, side), float(background))
    for (r, c), n in zip(position, np.broadcast_to(counts, len(position)), strict=True):
        image += n / (2 * np.pi * width**2) * np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * width**2))
    return image


def exactly(position, counts, width=WIDTH):
    n = len(position)
    return Fit(position, np.full(n, counts / (2 * np.pi * width**2)), np.full(n, width), np.zeros(n), np.ones(n, bool))


@pytest.mark.compiled
@pytest.mark.parametrize("background", [0.0, 20.0])
@pytest.mark.parametrize("counts", [1e3, 1e4, 1e5])
def test_fit_reaches_the_cramer_rao_bound(counts, background):
    """Poisson columns at random places are found within 1.3 times the bound, and not better than the bound."""
    position = lattice()
    image = image_of(position, counts, background)
    bound = position_bound(image, exactly(position, counts))
    squares = []
    for draw in range(4):
        noisy = generator(1, draw, "noise").poisson(image).astype(np.float64)
        fit = fit_columns(noisy, np.rint(position), WIDTH)
        assert fit.found.all()
        squares.append(((fit.position - position) ** 2).sum(1) / bound**2)
    ratio = np.sqrt(np.mean(squares))
    spread = 1 / np.sqrt(2 * 2 * np.size(squares))  # of an rms over as many normal components
    assert 1 - 4 * spread < ratio < 1.3


def test_bound_of_an_isolated_column_is_the_textbook_one():
    """Without background the bound of a coordinate is width / √counts; under even noise it is √(2/π)·noise / peak."""
    position, counts = np.array([[30.3, 31.1]]), 5000.0
    image = image_of(position, counts, side=64)
    counted = position_bound(image, exactly(position, counts))
    assert counted == pytest.approx(np.sqrt(2) * WIDTH / np.sqrt(counts), rel=5e-3)
    peak = counts / (2 * np.pi * WIDTH**2)
    even = position_bound(image, exactly(position, counts), excess=0.0, variance=9.0)
    assert even == pytest.approx(np.sqrt(2) * np.sqrt(2 / np.pi) * 3.0 / peak, rel=5e-3)
    assert position_bound(image, exactly(position, counts), excess=4.0) == pytest.approx(2 * counted)


@pytest.mark.parametrize("pitch", [9.0, 15.0])
def test_neighbours_tails_do_not_pull(pitch):
    """Without noise every column is where it was put, though the tails of 1.8 Å distant neighbours reach it."""
    position = lattice(pitch)
    counts = generator(2, 0, "counts").uniform(500, 5000, len(position))
    fit = fit_columns(image_of(position, counts, 10.0), np.rint(position), WIDTH)
    assert fit.found.all()
    assert np.abs(fit.position - position).max() < 2e-3  # px: 0.04 pm


@pytest.mark.compiled
def test_columns_that_overlap_are_held():
    """Columns 0.8 of their distance wide at half maximum: no width runs away, all are within twice the bound."""
    position, counts, width = lattice(9.0, jitter=0.3), 5000.0, 3.1
    image = image_of(position, counts, 5.0, width)
    fit = fit_columns(generator(1, 0, "noise").poisson(image), np.rint(position), width)
    assert fit.found.all()
    bound = position_bound(image, exactly(position, counts, width))
    assert np.sqrt((((fit.position - position) ** 2).sum(1) / bound**2).mean()) < 2.0


@pytest.mark.parametrize("pitch", [9.0, 12.0])
def test_blur_moves_no_column(pitch):
    """A restorer that blurs widens all columns; none of them moves by more than 0.1 pm."""
    position = lattice(pitch)
    image = image_of(position, 1000.0, 10.0)
    blurred = fit_columns(gaussian_filter(image, 1.2), np.rint(position), WIDTH)
    inner = (np.abs(position - 64) < 64 - pitch).all(1)
    assert np.abs(blurred.position - position)[inner].max() < 5e-3
    assert np.median(blurred.width) == pytest.approx(np.hypot(WIDTH, 1.2), rel=0.01)


def test_gain_offset_and_contrast_do_not_matter():
    """The fit of gain·image + offset is that of the image; so is that of its negative, with the sign said."""
    position = lattice(side=64)
    image = generator(3, 0, "noise").poisson(image_of(position, 500.0, 5.0, side=64)).astype(np.float64)
    plain = fit_columns(image, np.rint(position), WIDTH)
    scaled = fit_columns(1e-3 * image - 7.0, np.rint(position), WIDTH, level=-7.0)
    assert scaled.position == pytest.approx(plain.position, abs=1e-6)
    assert scaled.peak == pytest.approx(1e-3 * plain.peak, rel=1e-6)
    level = -1e9  # even variance, the same for an image and its negative
    bright = fit_columns(image, np.rint(position), WIDTH, level=level)
    dark = fit_columns(-image, np.rint(position), WIDTH, sign=-1.0, level=level)
    assert dark.position == pytest.approx(bright.position, abs=1e-5)
    assert dark.found.all()
    assert (dark.peak < 0).all()


@pytest.mark.parametrize("image", [
    np.zeros((64, 64)), np.full((64, 64), 3e7), np.add.outer(np.arange(64.0), np.zeros(64)),
    generator(4, 0, "noise").poisson(50.0, (64, 64)).astype(float), generator(4, 1, "noise").normal(0, 1, (64, 64))],
    ids=["zeros", "flat", "ramp", "poisson", "negative"])
def test_nothing_is_found_where_nothing_is(image):
    """Flat images, ramps and noise hold no columns: at most the few that four standard errors let through."""
    fit = fit_columns(image, lattice(side=64, jitter=0.0), WIDTH, level=min(0.0, image.min()))
    assert fit.found.mean() <= 0.05
    assert np.isfinite(fit.state).all()


def test_columns_that_are_looked_for_beyond_the_image_are_not_found():
    """A start outside of the image, or no start at all, is no error."""
    image = image_of(np.array([[32.0, 32.0]]), 1000.0, side=64)
    assert fit_columns(image, [[32, 32], [-40, 10]], WIDTH).found.tolist() == [True, False]
    assert len(fit_columns(image, np.zeros((0, 2)), WIDTH).found) == 0


def test_resolved_leaves_out_the_faint_the_close_and_the_rim():
    """Columns nearer than their width at half maximum, at the rim, or below a tenth of the strongest do not count."""
    position = np.array([[32.0, 32.0], [32.0, 50.0], [60.0, 20.0], [60.0, 24.0], [3.0, 60.0], [80.0, 80.0]])
    counts = np.array([1000.0, 1000.0, 1000.0, 1000.0, 1000.0, 50.0])
    known = aim(image_of(position, counts, 1.0, side=96), position, WIDTH)
    assert known.kept.tolist() == [True, True, False, False, False, False]


def test_integrated_is_linear_and_holds_the_column():
    """A disc of 3.5 widths holds all but exp(-3.5²/2) of a column; twice the image is twice the sum."""
    position = np.array([[30.2, 33.7]])
    image = image_of(position, 2000.0, side=64)
    whole = integrated(image, position, 3.5 * WIDTH)
    assert whole == pytest.approx(2000 * (1 - np.exp(-0.5 * 3.5**2)), rel=2e-3)
    assert integrated(2 * image + 50, position, 3.5 * WIDTH, 50.0) == pytest.approx(2 * whole)


def test_spacing_is_the_nearest_neighbours_distance():
    """And endless for a column alone."""
    assert spacing([[0, 0], [0, 3], [4, 3]]).tolist() == [3, 3, 4]
    assert spacing([[1, 1]]).tolist() == [np.inf]
    assert not resolved(exactly(np.zeros((0, 2)), 1.0), np.zeros((0, 2)), (8, 8)).any()


def test_heights_are_linear_and_see_one_column_each():
    """The height of a Gaussian over any background is its peak; half way between two images it is half way."""
    position = lattice(15.0)
    image = image_of(position, 1000.0, 7.0)
    peak = 1000.0 / (2 * np.pi * WIDTH**2)
    found = heights(image, position, WIDTH, 3 * WIDTH)
    assert found == pytest.approx(np.full(len(position), peak), rel=0.02)
    brighter = image + 0.2 * peak * image_of(position[:1], 2 * np.pi * WIDTH**2)
    after = heights(brighter, position, WIDTH, 3 * WIDTH)
    assert after[0] - found[0] == pytest.approx(0.2 * peak)
    assert after[2:] == pytest.approx(found[2:], abs=1e-3)
    assert heights(0.5 * (image + brighter), position, WIDTH, 3 * WIDTH) == pytest.approx(0.5 * (found + after))


def test_columns_beside_their_place_are_not_judged():
    """A column listed 0.8 px beside its place is left out; the rest stays."""
    position = lattice(15.0, side=96, jitter=0.0)
    image = image_of(position, 1000.0, 5.0, side=96)
    listed = position.copy()
    listed[7] += 0.8, 0.0
    known = aim(image, listed, WIDTH, beside=0.6, moved=0.2)
    everything = aim(image, listed, WIDTH)
    assert np.flatnonzero(everything.kept & ~known.kept).tolist() == [7]


def test_columns_that_are_not_listed_bound_the_discs():
    """Without every second column in the list, discs are still half the distance to the next one that is seen."""
    position = lattice(13.0, side=96, jitter=0.0)
    image = image_of(position, 1000.0, 5.0, side=96)
    listed = np.rint(position.sum(1) / 13.0) % 2 == 0
    assert aim(image, position[listed], WIDTH).radius == pytest.approx(np.full(listed.sum(), 6.5), abs=0.1)


def test_where_the_list_fits_nothing_nothing_is_judged():
    """An image whose columns are elsewhere but for two has no target."""
    position = lattice(13.0, side=128, jitter=0.0)
    image = image_of(position, 1000.0, 5.0)
    listed = position + np.array([0.0, 2.0])
    listed[:2] = position[:2]
    assert aim(image, listed, WIDTH, beside=0.6) is None
    assert aim(image, position, WIDTH, beside=0.6) is not None


def test_even_noise_weighs_pixels_evenly():
    """With an even variance an image and its negative are fitted alike; with Poisson's they are not."""
    position = lattice(side=96)
    image = image_of(position, 500.0, 5.0, side=96)
    noisy = image + generator(5, 0, "noise").normal(0.0, 3.0, image.shape)
    even = [aim(sign * image, position, WIDTH, None).refit(sign * noisy).position for sign in (1, -1)]
    assert even[0] == pytest.approx(even[1], abs=1e-5)
    poisson = aim(image, position, WIDTH).refit(noisy).position
    assert np.abs(poisson - even[0]).max() > 1e-2
