"""Counter-based random numbers: Philox4x32-10, uniforms, normals, Poisson counts and an autoregressive series.

The counter is (block, block's high word, sub-stream, 0) and four elements share a block, so that element n of
a sub-stream depends on the key and on n only: never on the shape, the order or the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

# All words are uint64 that hold 32 bits: products never overflow, hence equal bits with and without the compiler.
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ZERO = np.uint64(0)

INVERSION_LIMIT = 16.0
LONGEST_INVERSION = 100  # P(N > 100 | mean 16) < 1e-45: beyond any 32-bit uniform
_RECIPROCAL = 1.0 / np.maximum(np.arange(LONGEST_INVERSION + 1), 1)


@njit(cache=True, nogil=True, fastmath=False)
def philox(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """One block of Philox4x32-10: four counter words and two key words of 32 bits in, four random words out.

    References
    ----------
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011).
    """
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@njit(cache=True, nogil=True, fastmath=False)
def _open_unit(word: np.uint64) -> float:
    # Half a step off zero; in float64 the largest word stays below 1.
    return float((np.float64(word) + 0.5) * 2.0**-32)


@njit(cache=True, nogil=True, fastmath=False)
def quantile(u: float) -> float:
    """Quantile of the standard normal distribution, to 1e-7: Wichura, algorithm AS 241 (PPND7), 1988."""
    q = u - 0.5
    if np.abs(q) <= 0.425:
        r = 0.180625 - q * q
        centre = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
        return float(q * centre / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0))
    r = np.sqrt(-np.log(min(u, 1.0 - u)))
    if r <= 5.0:
        r -= 1.6
        z = ((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777
        z /= (0.12021132975 * r + 0.73700164250) * r + 1.0
    else:
        r -= 5.0
        z = ((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150
        z /= (0.012258202635 * r + 0.24197894225) * r + 1.0
    return float(-z if q < 0.0 else z)


@njit(cache=True, nogil=True, fastmath=False)
def fill_uniform(key: np.uint64, stream: np.uint64, out: NDArray[np.float64]) -> None:
    """Fill `out (n,)` with uniforms strictly between 0 and 1."""
    for start in range(0, out.size, 4):
        block = np.uint64(start // 4)
        words = philox(block & _LOW, block >> _SHIFT, stream, _ZERO, key & _LOW, key >> _SHIFT)
        for lane in range(min(4, out.size - start)):
            out[start + lane] = _open_unit(words[lane])


@njit(cache=True, nogil=True, fastmath=False)
def fill_normal(key: np.uint64, stream: np.uint64, out: NDArray[np.float64]) -> None:
    """Fill `out (n,)` with standard normals, one uniform each."""
    for start in range(0, out.size, 4):
        block = np.uint64(start // 4)
        words = philox(block & _LOW, block >> _SHIFT, stream, _ZERO, key & _LOW, key >> _SHIFT)
        for lane in range(min(4, out.size - start)):
            out[start + lane] = quantile(_open_unit(words[lane]))


@njit(cache=True, nogil=True, fastmath=False)
def add_normal(key: np.uint64, stream: np.uint64, deviation: float, image: NDArray[np.float32]) -> None:
    """Add normals of the given deviation to `image (n,)`, in place."""
    for start in range(0, image.size, 4):
        block = np.uint64(start // 4)
        words = philox(block & _LOW, block >> _SHIFT, stream, _ZERO, key & _LOW, key >> _SHIFT)
        for lane in range(min(4, image.size - start)):
            image[start + lane] = image[start + lane] + deviation * quantile(_open_unit(words[lane]))


@njit(cache=True, nogil=True, fastmath=False)
def count(mean: float, u: float) -> float:
    """Quantile `u` of the Poisson distribution.

    Below a mean of 16 the cumulative sum is inverted; above, the Cornish-Fisher expansion of the quantile is
    rounded down (M. B. Giles, ACM Trans. Math. Softw. 42:7, 2016). A mean of 0 or less counts nothing.
    """
    if mean <= 0.0:
        return 0.0
    if mean < INVERSION_LIMIT:
        term = np.exp(-mean)
        total = term
        n = 0
        while u > total and n < LONGEST_INVERSION:
            n += 1
            term *= mean * _RECIPROCAL[n]
            total += term
        return float(n)
    z = quantile(u)
    root = np.sqrt(mean)
    x = mean + root * z + (2.0 + z * z) / 6.0 - (2.0 + z * z) * z / (72.0 * root)
    x += (-16.0 + 7.0 * z * z + 3.0 * z**4) / (810.0 * mean)
    return float(max(np.floor(x), 0.0))


@njit(cache=True, nogil=True, fastmath=False)
def poisson(key: np.uint64, stream: np.uint64, image: NDArray[np.float32]) -> None:
    """Replace the expected counts in `image (n,)` by Poisson counts, in place."""
    for start in range(0, image.size, 4):
        block = np.uint64(start // 4)
        words = philox(block & _LOW, block >> _SHIFT, stream, _ZERO, key & _LOW, key >> _SHIFT)
        for lane in range(min(4, image.size - start)):
            image[start + lane] = count(np.float64(image[start + lane]), _open_unit(words[lane]))


@njit(cache=True, nogil=True, fastmath=False)
def autoregress(series: NDArray[np.float64], correlation: float) -> None:
    """Turn white noise `series (n,)` into a stationary AR(1) series of the same deviation, in place."""
    innovation = np.sqrt(1.0 - correlation * correlation)
    for k in range(1, series.size):
        series[k] = correlation * series[k - 1] + innovation * series[k]
