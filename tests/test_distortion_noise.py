"""Random numbers of the kernels: known answers, distributions, independence of shape."""

import numba
import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from emsynth.distortion._kernels import noise
from emsynth.distortion.stage import autoregressive, normals, purpose_key, uniforms

COMPILED = not numba.config.DISABLE_JIT
KEY = purpose_key(1, 2, "test")


def poisson(mean: float, size: int) -> np.ndarray:
    image = np.full(size, mean, dtype=np.float32)
    noise.poisson(np.uint64(KEY), np.uint64(0), image)
    return image


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter: str, key: str, answer: str) -> None:
    """The known-answer vectors of Random123."""
    words = noise.philox(*(np.uint64(int(word, 16)) for word in f"{counter} {key}".split()))
    assert [int(word) for word in words] == [int(word, 16) for word in answer.split()]


def test_element_depends_on_its_number_only() -> None:
    """A longer or reshaped request begins with the same numbers."""
    np.testing.assert_array_equal(uniforms(KEY, 3, (7,)), uniforms(KEY, 3, (2, 9)).ravel()[:7])


def test_sub_streams_and_keys_differ() -> None:
    """Another sub-stream, sample or purpose shares no number."""
    drawn = [uniforms(KEY, 0, (50,)), uniforms(KEY, 1, (50,)), uniforms(purpose_key(1, 3, "test"), 0, (50,))]
    assert np.unique(np.concatenate(drawn)).size == 150


def test_extreme_words_stay_inside_the_unit_interval() -> None:
    """No uniform is 0 or 1, hence no count is absurd."""
    low, high = noise._open_unit(np.uint64(0)), noise._open_unit(np.uint64(2**32 - 1))
    assert 0 < low < high < 1
    assert max(noise.count(15.9, high), noise.count(16.1, high)) < 60


def test_quantile_agrees_with_scipy() -> None:
    """The rational approximation of the normal quantile is good to 1e-6 everywhere that a word can reach."""
    u = np.concatenate([np.geomspace(2.0**-33, 0.4, 60), [0.5], 1 - np.geomspace(2.0**-33, 0.4, 60)])
    np.testing.assert_allclose([noise.quantile(x) for x in u], ndtri(u), atol=1e-6)


def test_normals_are_normal() -> None:
    """Kolmogorov-Smirnov on the compiled size; the key is pinned."""
    drawn = normals(KEY, 0, (100_000 if COMPILED else 3_000,))
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


@pytest.mark.parametrize("mean", [0.3, 2.5, 12.0, 15.9, 16.1, 40.0, 400.0])
def test_poisson_counts_fit_the_distribution(mean: float) -> None:
    """χ² over all counts that are expected at least ten times."""
    drawn = poisson(mean, 1_000_000 if COMPILED else 3_000)
    law = stats.poisson(float(np.float32(mean)))
    edges = np.arange(law.ppf(1e-7), law.isf(1e-7) + 1)
    expected = drawn.size * law.pmf(edges)
    common = edges[expected > 10]
    inner = np.concatenate([[-np.inf], common[:-1] + 0.5, [np.inf]])
    share = np.diff(np.concatenate([[0.0], law.cdf(common[:-1]), [1.0]]))
    seen = np.histogram(drawn, inner)[0]
    assert stats.chisquare(seen, share * drawn.size).pvalue > 1e-3


@pytest.mark.parametrize("mean", [0.3, 12.0, 40.0])
def test_poisson_mean_and_variance(mean: float) -> None:
    """Both are the mean, within five standard errors."""
    drawn = poisson(mean, 1_000_000 if COMPILED else 3_000).astype(np.float64)
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(mean / drawn.size)
    assert abs(drawn.var() - mean) < 5 * np.sqrt((mean + 2 * mean**2) / drawn.size)


@pytest.mark.parametrize("mean", [16.0, 20.0, 50.0, 1e4])
def test_expansion_gives_the_exact_quantile_almost_everywhere(mean: float) -> None:
    """Above the switch, next to every uniform gives the very count that inversion would."""
    u = (np.arange(4000) + 0.5) / 4000
    exact = stats.poisson.ppf(u, mean)
    assert np.mean([noise.count(mean, x) for x in u] != exact) < 2e-3


@pytest.mark.parametrize("mean", [0.0, -1e-3])
def test_nothing_is_counted_where_nothing_is_expected(mean: float) -> None:
    """A spline that undershoots into negative values counts 0, not an error."""
    assert not poisson(mean, 8).any()


def test_autoregressive_series_is_stationary() -> None:
    """Deviation 1 from the first row on, and the stated correlation of neighbours."""
    runs = 4_000 if COMPILED else 200
    series = np.stack([autoregressive(purpose_key(0, n, "ar"), 0, 6, 0.8) for n in range(runs)])
    np.testing.assert_allclose(series.std(axis=0), 1, atol=5 / np.sqrt(2 * runs))
    np.testing.assert_allclose((series[:, 1:] * series[:, :-1]).mean(axis=0), 0.8, atol=5 * np.sqrt(1.64 / runs))
