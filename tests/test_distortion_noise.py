"""Random numbers of the kernels: known answers, distributions, independence of shape."""

from typing import Any

import numba
import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from emsynth.distortion._kernels import noise, quantile_fit
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


def test_chunks_hold_the_words_of_their_blocks() -> None:
    """Element n is word (n mod 1024) div 256 of block 256·(n div 1024) + n mod 256."""
    drawn = np.empty(1500, np.uint32)
    noise.fill_words(np.uint64(KEY), np.uint64(5), drawn)
    low, high = np.uint64(KEY & 0xFFFFFFFF), np.uint64(KEY >> 32)
    for n in (0, 1, 255, 256, 700, 1023, 1024, 1499):
        block = np.uint64(256 * (n // 1024) + n % 256)
        words = noise.philox(block, np.uint64(0), np.uint64(5), np.uint64(0), low, high)
        assert drawn[n] == words[n % 1024 // 256]


def normal_of(words: np.ndarray) -> np.ndarray:
    out = np.empty((3, words.size), np.float32)
    noise._normals(words.astype(np.uint32).view(np.int32), *out)
    return out[2]


def test_quantile_agrees_with_scipy() -> None:
    """The rational approximation of the normal quantile is good to 3e-6 everywhere that a word can reach."""
    near = np.unique(np.geomspace(1, 2**31, 200).astype(np.uint64))
    words = np.concatenate([[0], near, 2**32 - 1 - near, [2**32 - 1]])
    np.testing.assert_allclose(normal_of(words), ndtri((words.astype(float) + 0.5) / 2**32), atol=3e-6)


def test_normals_are_normal() -> None:
    """Kolmogorov-Smirnov on the compiled size; the key is pinned."""
    drawn = normals(KEY, 0, (100_000 if COMPILED else 3_000,))
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def chi_squared(drawn: np.ndarray, law: Any) -> float:
    """The p of the counts, all that are expected fewer than ten times pooled at either end."""
    edges = np.arange(law.ppf(1e-9), law.isf(1e-9) + 1)
    common = edges[drawn.size * law.pmf(edges) > 10]
    inner = np.concatenate([[-np.inf], common[:-1] + 0.5, [np.inf]])
    share = np.diff(np.concatenate([[0.0], law.cdf(common[:-1]), [1.0]]))
    return float(stats.chisquare(np.histogram(drawn, inner)[0], share * drawn.size).pvalue)


@pytest.mark.parametrize("mean", [0.05, 0.5, 2, 3.99, 4.01, 9, 15.9, 16.1, 40, 120, 1000])
def test_poisson_counts_fit_the_distribution(mean: float) -> None:
    """χ² over 10⁷ draws, and no draw whose exact tail probability is below 10⁻¹²."""
    drawn = poisson(mean, 10_000_000 if COMPILED else 3_000)
    law = stats.poisson(float(np.float32(mean)))
    assert chi_squared(drawn, law) > 1e-4
    assert law.sf(drawn.max() - 1) > 1e-12
    assert law.cdf(drawn.min()) > 1e-12


@pytest.mark.parametrize("mean", [1e-4, 0.3, 12.0, 40.0, 1e4])
def test_poisson_mean_and_variance(mean: float) -> None:
    """Both are the mean, within five standard errors."""
    drawn = poisson(mean, 1_000_000 if COMPILED else 3_000).astype(np.float64)
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(mean / drawn.size)
    assert abs(drawn.var() - mean) < 5 * np.sqrt((mean + 2 * mean**2) / drawn.size)


def test_the_polynomials_are_those_of_the_fit() -> None:
    """The constants of the kernels come out of `quantile_fit` again, to what float32 can hold of a fit."""
    found = quantile_fit.fitted()
    for law, held in (("poisson", (noise._PA, noise._PB, noise._PC)), ("gamma", (noise._GA, noise._GB, noise._GC))):
        parts, error = found[law]
        assert error < 1e-4
        s = np.linspace(-1, 1.5, 26)
        for part, ours in zip(parts, held, strict=False):
            wanted = np.polynomial.Polynomial(part)(s)
            np.testing.assert_allclose(np.polynomial.Polynomial(np.array(ours, float))(s), wanted, atol=1e-5)


@pytest.mark.parametrize("mean", [4.0, 6.0, 20.0, 50.0, 1e4])
def test_expansion_gives_the_exact_quantile_almost_everywhere(mean: float) -> None:
    """Above the switch, next to every uniform gives the very count that inversion would."""
    u = (np.arange(4000) + 0.5) / 4000
    count = np.zeros(u.size, np.float32)
    noise._expand_poisson(np.full(u.size, mean, np.float32), ndtri(u).astype(np.float32), count)
    assert np.mean(count != stats.poisson.ppf(u, mean)) < 2e-3


@pytest.mark.parametrize("mean", [1e-3, 0.5, 3.9])
def test_the_sum_gives_the_exact_quantile(mean: float) -> None:
    """Below the switch, the cumulative sum is inverted, to the rounding of float32."""
    size = 4000 if COMPILED else 400
    words = (np.arange(size) * (2**32 // size)).astype(np.uint32)
    room, count = np.empty((4, size), np.float32), np.empty(size, np.float32)
    noise._sum_up(np.full(size, mean, np.float32), words.view(np.int32), *room, count)
    u = ((words >> 9) + 0.5) / 2**23
    assert np.mean(count != stats.poisson.ppf(u, mean)) < 2e-3


def test_one_chunk_may_be_dark_and_bright() -> None:
    """Each element follows its own mean, on whichever side of the switch its neighbours are."""
    mixed = np.where(np.arange(2500) % 3 == 0, 2.0, 30.0).astype(np.float32)
    alone = {mean: poisson(mean, 2500) for mean in (2.0, 30.0)}
    drawn = mixed.copy()
    noise.poisson(np.uint64(KEY), np.uint64(0), drawn)
    np.testing.assert_array_equal(drawn, np.where(mixed == 2, alone[2.0], alone[30.0]))


@pytest.mark.parametrize(("counts", "spread"), [(1, 0.7), (1, 0.2), (7, 0.5), (400, 0.7)])
def test_pulse_heights_are_gamma_distributed(counts: int, spread: float) -> None:
    """Kolmogorov-Smirnov against Gamma(N/σ², σ²); mean and variance within five standard errors."""
    drawn = np.full(1_000_000 if COMPILED else 3_000, counts, np.float32)
    noise.gamma(np.uint64(KEY), np.uint64(0), spread, drawn)
    law, tall = stats.gamma(counts / spread**2, scale=spread**2), drawn.astype(np.float64)
    assert stats.kstest(tall[:100_000], law.cdf).pvalue > 1e-3
    assert abs(tall.mean() - counts) < 5 * law.std() / np.sqrt(drawn.size)
    excess = 2 + float(law.stats("k"))
    assert abs(tall.var() / law.var() - 1) < 5 * np.sqrt(excess / drawn.size)


def test_no_electron_gives_no_pulse() -> None:
    """0 counts stay 0."""
    drawn = np.zeros(9, np.float32)
    noise.gamma(np.uint64(KEY), np.uint64(0), 0.5, drawn)
    assert not drawn.any()


@pytest.mark.parametrize(("dose", "released"), [(2.0, 0.3), (50.0, 1.5)])
def test_secondaries_follow_the_compound_law(dose: float, released: float) -> None:
    """Mean δD and variance δD(1 + δ), within five standard errors."""
    drawn = np.full(1_000_000 if COMPILED else 3_000, dose * released, np.float32)
    noise.compound_poisson(np.uint64(KEY), np.uint64(0), dose, drawn)
    mean, variance = dose * released, dose * released * (1 + released)
    tall = drawn.astype(np.float64)
    assert abs(tall.mean() - mean) < 5 * np.sqrt(variance / drawn.size)
    # The fourth central moment of the law is 3 variance² + dose · (δ + 7δ² + 6δ³ + δ⁴).
    fourth = dose * (released + 7 * released**2 + 6 * released**3 + released**4)
    assert abs(tall.var() - variance) < 5 * np.sqrt((fourth + 2 * variance**2) / drawn.size)


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
