"""Counter-based random numbers: Philox4x32-10, uniforms, normals, Poisson and Gamma deviates, an autoregressive series.

Numbers come in chunks of 1024, four words of each of 256 Philox blocks: element n of a sub-stream is word
(n mod 1024) div 256 of block 256·(n div 1024) + n mod 256. It depends on the key and on n only, never on the shape, the
order or the number of threads, and all loops over a chunk run over contiguous float32, so that they vectorise.

Kernels of whole frames let other threads run; those of a few numbers do not, because the hand-over takes longer.
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

CHUNK = 1024
BLOCKS = 256
_TOGETHER = 64  # a whole number of whatever is handled at once in vector registers

F = np.float32
# ln(t) on 1 to 2 in powers of t - 1.5: Chebyshev, to 8e-7.
_LOGARITHM = np.polynomial.chebyshev.Chebyshev.interpolate(np.log, 7, [1, 2]).convert(
    kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]
).coef
_LOG = tuple(F(c) for c in np.polynomial.Polynomial(_LOGARITHM)(np.polynomial.Polynomial([1.5, 1.0])).coef)
_LN2 = F(np.log(2.0))
_TAIL = F(0.075)

# Poisson quantiles by the cumulative sum below this mean, by polynomials above.
SUMMED_BELOW = F(4.0)
_LONGEST_SUM = 32  # P(N > 32 | mean 4) < 1e-18
_RECIPROCAL = (1.0 / np.maximum(np.arange(_LONGEST_SUM + 2), 1)).astype(np.float32)
_SMALLEST_TERM = F(3e-8)  # less does not change a float32 sum of nearly 1
_EXP = tuple(F(c) for c in np.polynomial.chebyshev.Chebyshev.interpolate(
    lambda x: np.exp(-x), 7, [0, 1]).convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef)

# From `quantile_fit`: x = m + √m z + z² a(s) + b(s) + c(s)/m (+ d(s)/m²), s = z/√m.
_PA = (F(1.66671345e-01), F(-1.39644341e-02), F(3.69276633e-03), F(-9.68709852e-04), F(3.83417779e-04),
       F(-5.11335686e-04), F(3.91422412e-04), F(-1.38692815e-04), F(1.77234952e-05))  # fmt: skip
_PB = (F(3.33325143e-01), F(-2.74383269e-02), F(8.32535725e-03), F(-4.91348864e-03), F(4.20793318e-03),
       F(-1.58619597e-03), F(-2.04644232e-03), F(1.79091339e-03), F(-2.85992665e-04))  # fmt: skip
_PC = (F(-1.94676780e-02), F(1.68295575e-02), F(-1.66063606e-02), F(1.26671780e-02), F(-3.67577351e-03),
       F(4.01776215e-03), F(-2.55743937e-03))  # fmt: skip
_POISSON_LOWEST = F(-1.33)  # s at which x falls below 1
_GA = (F(3.33333358e-01), F(2.77688827e-02), F(-3.70585919e-03), F(2.54290583e-04), F(6.14379423e-05),
       F(-3.66539711e-05), F(4.96176343e-06), F(1.50446059e-06), F(-3.34159193e-07), F(-2.40323012e-08),
       F(4.97104933e-09))  # fmt: skip
_GB = (F(-3.33335703e-01), F(-1.94371642e-01), F(-8.60650523e-03), F(6.40596964e-03), F(-1.25663352e-03),
       F(3.22997913e-05), F(1.04406712e-04), F(-2.58904968e-05), F(-2.95753491e-06), F(6.63138450e-07),
       F(1.44760792e-07))  # fmt: skip
_GC = (F(1.97808734e-02), F(-1.15155864e-02), F(-4.49102596e-03), F(2.49612350e-03), F(-1.55827881e-04),
       F(-3.88012881e-04), F(9.80676766e-05), F(2.18574543e-05), F(-7.58482160e-06))  # fmt: skip
_GD = (F(7.15403612e-03), F(3.29383410e-03), F(-1.93423828e-03), F(-8.61576695e-05), F(1.51805795e-04))
_GAMMA_LOWEST = F(-3.5)


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
        # Masked where multiplied only: there the mask costs nothing.
        p0 = _M0 * (c0 & _LOW)
        p1 = _M1 * (c2 & _LOW)
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1, (p0 >> _SHIFT) ^ c3 ^ k1, p0
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0 & _LOW, c1 & _LOW, c2 & _LOW, c3 & _LOW


@njit(cache=True, nogil=True, fastmath=False)
def _words(key: np.uint64, stream: np.uint64, chunk: int, out: NDArray[np.uint32]) -> None:
    # The 1024 words of one chunk; the counter is (block, its high word, sub-stream, 0).
    start = np.uint64(chunk) * np.uint64(BLOCKS)
    low, high = key & _LOW, key >> _SHIFT
    for b in range(BLOCKS):
        block = start + np.uint64(b)
        w0, w1, w2, w3 = philox(block & _LOW, block >> _SHIFT, stream, _ZERO, low, high)
        out[b], out[BLOCKS + b] = np.uint32(w0), np.uint32(w1)
        out[2 * BLOCKS + b], out[3 * BLOCKS + b] = np.uint32(w2), np.uint32(w3)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _normals(words: NDArray[np.int32], t: NDArray[np.float32], mantissa: NDArray[np.float32],
             z: NDArray[np.float32]) -> None:
    # Normal quantiles of words / 2³²; `t` and `mantissa` are room to work in. Both tails keep their digits.
    bits, fraction = t.view(np.int32), mantissa.view(np.int32)
    for k in range(z.size):
        folded = words[k] ^ (words[k] >> np.int32(31))
        t[k] = (F(folded) + F(0.5)) * F(2.0**-32)
    for k in range(z.size):
        fraction[k] = (bits[k] & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
    for k in range(z.size):
        x = mantissa[k] - F(1.5)
        log = _LOG[3] + x * (_LOG[4] + x * (_LOG[5] + x * (_LOG[6] + x * _LOG[7])))
        log = _LOG[0] + x * (_LOG[1] + x * (_LOG[2] + x * log))
        log += F((bits[k] >> np.int32(23)) - np.int32(127)) * _LN2
        # Wichura, algorithm AS 241 (PPND7), Appl. Stat. 37, 477 (1988).
        r = np.sqrt(-log) - F(1.6)
        tail = ((F(0.17023821103) * r + F(1.3067284816)) * r + F(2.7568153900)) * r + F(1.4234372777)
        below_tail = (F(0.12021132975) * r + F(0.73700164250)) * r + F(1.0)
        q = F(0.5) - t[k]
        r = F(0.180625) - q * q
        centre = ((F(59.109374720) * r + F(159.29113202)) * r + F(50.434271938)) * r + F(3.3871327179)
        below_centre = ((F(67.187563600) * r + F(78.757757664)) * r + F(17.895169469)) * r + F(1.0)
        # One division, whichever branch.
        size = (tail if t[k] < _TAIL else q * centre) / (below_tail if t[k] < _TAIL else below_centre)
        z[k] = size if words[k] < np.int32(0) else -size


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _sum_up(mean: NDArray[np.float32], words: NDArray[np.int32], m: NDArray[np.float32], u: NDArray[np.float32],
            term: NDArray[np.float32], total: NDArray[np.float32], count: NDArray[np.float32]) -> None:
    # Poisson quantiles of means below SUMMED_BELOW; larger ones are taken for 0. 23 bits of the uniform stay below 1.
    for k in range(count.size):
        m[k] = mean[k] if (mean[k] > F(0.0)) & (mean[k] < SUMMED_BELOW) else F(0.0)
        u[k] = (F((words[k] >> np.int32(9)) & np.int32(0x7FFFFF)) + F(0.5)) * F(2.0**-23)
        x = m[k] * F(0.25)
        e = _EXP[4] + x * (_EXP[5] + x * (_EXP[6] + x * _EXP[7]))
        e = _EXP[0] + x * (_EXP[1] + x * (_EXP[2] + x * (_EXP[3] + x * e)))
        term[k] = (e * e) * (e * e)
        total[k] = term[k]
        count[k] = F(0.0)
    n, more = 1, 1
    while more > 0 and n < _LONGEST_SUM:
        r0, r1, r2, r3 = _RECIPROCAL[n], _RECIPROCAL[n + 1], _RECIPROCAL[n + 2], _RECIPROCAL[n + 3]
        n, more = n + 4, 0
        for k in range(count.size):
            t, s, c = term[k], total[k], count[k]
            c += F(1.0) if (u[k] > s) & (t > _SMALLEST_TERM) else F(0.0)
            t *= m[k] * r0
            s += t
            c += F(1.0) if (u[k] > s) & (t > _SMALLEST_TERM) else F(0.0)
            t *= m[k] * r1
            s += t
            c += F(1.0) if (u[k] > s) & (t > _SMALLEST_TERM) else F(0.0)
            t *= m[k] * r2
            s += t
            c += F(1.0) if (u[k] > s) & (t > _SMALLEST_TERM) else F(0.0)
            t *= m[k] * r3
            s += t
            term[k], total[k], count[k] = t, s, c
            more += 1 if (u[k] > s) & (t > _SMALLEST_TERM) else 0


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _expand_poisson(mean: NDArray[np.float32], z: NDArray[np.float32], count: NDArray[np.float32]) -> None:
    # Poisson quantiles of means from SUMMED_BELOW on.
    for k in range(count.size):
        m = mean[k] if mean[k] > SUMMED_BELOW else SUMMED_BELOW
        root, over = np.sqrt(m), F(1.0) / m
        s = z[k] * (root * over)
        s = s if s > _POISSON_LOWEST else _POISSON_LOWEST
        y = s * root
        a = _PA[4] + s * (_PA[5] + s * (_PA[6] + s * (_PA[7] + s * _PA[8])))
        a = _PA[0] + s * (_PA[1] + s * (_PA[2] + s * (_PA[3] + s * a)))
        b = _PB[4] + s * (_PB[5] + s * (_PB[6] + s * (_PB[7] + s * _PB[8])))
        b = _PB[0] + s * (_PB[1] + s * (_PB[2] + s * (_PB[3] + s * b)))
        c = _PC[3] + s * (_PC[4] + s * (_PC[5] + s * _PC[6]))
        c = _PC[0] + s * (_PC[1] + s * (_PC[2] + s * c))
        x = np.floor(m + (root * y + (y * y * a + (b + c * over))))
        x = x if x > F(0.0) else F(0.0)
        count[k] = x


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _expand_gamma(shape: NDArray[np.float32], z: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    # Gamma quantiles of scale 1 and shapes from 2 on.
    for k in range(out.size):
        m = shape[k] if shape[k] > F(2.0) else F(2.0)
        root, over = np.sqrt(m), F(1.0) / m
        s = z[k] * (root * over)
        s = s if s > _GAMMA_LOWEST else _GAMMA_LOWEST
        y = s * root
        a = _GA[5] + s * (_GA[6] + s * (_GA[7] + s * (_GA[8] + s * (_GA[9] + s * _GA[10]))))
        a = _GA[0] + s * (_GA[1] + s * (_GA[2] + s * (_GA[3] + s * (_GA[4] + s * a))))
        b = _GB[5] + s * (_GB[6] + s * (_GB[7] + s * (_GB[8] + s * (_GB[9] + s * _GB[10]))))
        b = _GB[0] + s * (_GB[1] + s * (_GB[2] + s * (_GB[3] + s * (_GB[4] + s * b))))
        c = _GC[4] + s * (_GC[5] + s * (_GC[6] + s * (_GC[7] + s * _GC[8])))
        c = _GC[0] + s * (_GC[1] + s * (_GC[2] + s * (_GC[3] + s * c)))
        d = _GD[0] + s * (_GD[1] + s * (_GD[2] + s * (_GD[3] + s * _GD[4])))
        x = m + (root * y + (y * y * a + (b + (c + d * over) * over)))
        out[k] = x if x > F(0.0) else F(0.0)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _poisson(mean: NDArray[np.float32], words: NDArray[np.int32], room: NDArray[np.float32],
             count: NDArray[np.float32]) -> None:
    # Counts of one chunk, 256 at a time, because few images are dark or bright throughout; room (4, 256).
    dark, where = np.zeros(BLOCKS, np.int32), np.zeros(BLOCKS + 1, np.int64)
    means, counts = np.empty(BLOCKS, np.float32), np.empty(BLOCKS, np.float32)
    for start in range(0, mean.size, BLOCKS):
        part, below = slice(start, start + BLOCKS), 0
        for k in range(start, start + BLOCKS):
            below += 1 if mean[k] < SUMMED_BELOW else 0
        if below < BLOCKS:
            _normals(words[part], room[0], room[1], room[2])
            _expand_poisson(mean[part], room[2], count[part])
        if below == BLOCKS:
            _sum_up(mean[part], words[part], room[0], room[1], room[2], room[3], count[part])
        elif below > 0:
            # Side by side, so that the sum runs for those only that need it; filled up, so that none is left over
            # when it vectorises, and each comes out as it would among others.
            n = 0
            for k in range(start, start + BLOCKS):
                where[n] = k
                n += 1 if mean[k] < SUMMED_BELOW else 0
            filled = (n + _TOGETHER - 1) // _TOGETHER * _TOGETHER
            for k in range(n):
                means[k], dark[k] = mean[where[k]], words[where[k]]
            means[n:filled] = F(0.0)
            _sum_up(means[:filled], dark[:filled], room[0], room[1], room[2], room[3], counts[:filled])
            for k in range(n):
                count[where[k]] = counts[k]


@njit(cache=True, nogil=False, fastmath=False)
def fill_uniform(key: np.uint64, stream: np.uint64, out: NDArray[np.float64]) -> None:
    """Fill `out (n,)` with uniforms strictly between 0 and 1."""
    words = np.empty(CHUNK, np.uint32)
    for start in range(0, out.size, CHUNK):
        _words(key, stream, start // CHUNK, words)
        for k in range(min(CHUNK, out.size - start)):
            # Half a step off zero; in float64 the largest word stays below 1.
            out[start + k] = (np.float64(words[k]) + 0.5) * 2.0**-32


@njit(cache=True, nogil=True, fastmath=False)
def fill_words(key: np.uint64, stream: np.uint64, out: NDArray[np.uint32]) -> None:
    """Fill `out (n,)` with random words: the floor under everything else."""
    words = np.empty(CHUNK, np.uint32)
    for start in range(0, out.size, CHUNK):
        _words(key, stream, start // CHUNK, words)
        for k in range(min(CHUNK, out.size - start)):
            out[start + k] = words[k]


@njit(cache=True, nogil=True, fastmath=False)
def fill_normal(key: np.uint64, stream: np.uint64, out: NDArray[np.floating]) -> None:
    """Fill `out (n,)` with standard normals, one word each."""
    words, room = np.empty(CHUNK, np.uint32), np.empty((3, CHUNK), np.float32)
    for start in range(0, out.size, CHUNK):
        _words(key, stream, start // CHUNK, words)
        _normals(words.view(np.int32), room[0], room[1], room[2])
        for k in range(min(CHUNK, out.size - start)):
            out[start + k] = room[2, k]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def add_normal(key: np.uint64, stream: np.uint64, deviation: float, image: NDArray[np.float32]) -> None:
    """Add normals of the given deviation to `image (n,)`, in place."""
    words, room, scale = np.empty(CHUNK, np.uint32), np.empty((3, CHUNK), np.float32), F(deviation)
    for start in range(0, image.size, CHUNK):
        _words(key, stream, start // CHUNK, words)
        _normals(words.view(np.int32), room[0], room[1], room[2])
        for k in range(min(CHUNK, image.size - start)):
            image[start + k] += scale * room[2, k]


@njit(cache=True, nogil=True, fastmath=False)
def _taken(image: NDArray[np.float32], start: int, out: NDArray[np.float32]) -> int:
    # One chunk of the image, filled up with 0; how many elements it has.
    n = min(CHUNK, image.size - start)
    for k in range(n):
        out[k] = image[start + k]
    for k in range(n, CHUNK):
        out[k] = F(0.0)
    return n


@njit(cache=True, nogil=True, fastmath=False)
def poisson(key: np.uint64, stream: np.uint64, image: NDArray[np.float32]) -> None:
    """Replace the expected counts in `image (n,)` by Poisson counts, in place; 0 where nothing is expected.

    Below a mean of 4 the cumulative sum is inverted. Above, the quantile is expanded as in M. B. Giles, ACM Trans.
    Math. Softw. 42:7 (2016), with the series in 1/√mean summed up (see `quantile_fit`).
    """
    words, room, chunk = np.empty(CHUNK, np.uint32), np.empty((4, BLOCKS), np.float32), np.empty((2, CHUNK), np.float32)
    for start in range(0, image.size, CHUNK):
        n = _taken(image, start, chunk[0])
        _words(key, stream, start // CHUNK, words)
        _poisson(chunk[0], words.view(np.int32), room, chunk[1])
        for k in range(n):
            image[start + k] = chunk[1, k]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def compound_poisson(key: np.uint64, stream: np.uint64, dose: float, image: NDArray[np.float32]) -> None:
    """Replace expected secondary counts in `image (n,)` by those that Poisson(`dose`) primaries release, in place.

    Sub-stream `stream` draws the primaries N, the next one Poisson(N · expected / dose) secondaries.
    """
    words, room, chunk = np.empty(CHUNK, np.uint32), np.empty((4, BLOCKS), np.float32), np.empty((3, CHUNK), np.float32)
    chunk[0, :] = F(dose)
    for start in range(0, image.size, CHUNK):
        n = _taken(image, start, chunk[2])
        _words(key, stream, start // CHUNK, words)
        _poisson(chunk[0], words.view(np.int32), room, chunk[1])
        for k in range(CHUNK):
            chunk[2, k] *= chunk[1, k] / F(dose)
        _words(key, stream + np.uint64(1), start // CHUNK, words)
        _poisson(chunk[2], words.view(np.int32), room, chunk[1])
        for k in range(n):
            image[start + k] = chunk[1, k]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def gamma(key: np.uint64, stream: np.uint64, spread: float, image: NDArray[np.float32]) -> None:
    """Replace counts N in `image (n,)` by Gamma deviates of mean N and variance `spread`² N, in place; 0 stays 0.

    `spread` is at most 0.7, so that the shape N/spread² is at least 2 for every count; less than an electron, which is
    no count, stays as it is.
    """
    words, room, chunk = np.empty(CHUNK, np.uint32), np.empty((4, CHUNK), np.float32), np.empty((2, CHUNK), np.float32)
    scale, over = F(spread * spread), F(1.0 / (spread * spread))
    chunk[:, :] = F(0.0)
    for start in range(0, image.size, CHUNK):
        n = min(CHUNK, image.size - start)
        for k in range(n):
            chunk[0, k] = np.maximum(image[start + k], F(1.0)) * over
        _words(key, stream, start // CHUNK, words)
        _normals(words.view(np.int32), room[0], room[1], room[2])
        _expand_gamma(chunk[0], room[2], chunk[1])
        for k in range(n):
            # A sum of both, for a branch would be mispredicted wherever one electron is as likely as none.
            counted = F(image[start + k] >= F(1.0))
            image[start + k] = counted * (scale * chunk[1, k]) + (F(1.0) - counted) * image[start + k]


@njit(cache=True, nogil=False, fastmath=False)
def autoregress(series: NDArray[np.float64], correlation: float) -> None:
    """Turn white noise `series (n,)` into a stationary AR(1) series of the same deviation, in place."""
    innovation = np.sqrt(1.0 - correlation * correlation)
    for k in range(1, series.size):
        series[k] = correlation * series[k - 1] + innovation * series[k]


@njit(cache=True, nogil=False, fastmath=False)
def few_normals(key: np.uint64, stream: np.uint64, out: NDArray[np.float64]) -> None:
    """As `fill_normal`, for few: to let another thread run meanwhile would take longer than to fill them."""
    fill_normal(key, stream, out)


@njit(cache=True, nogil=False, fastmath=False)
def few_counts(key: np.uint64, stream: np.uint64, means: NDArray[np.float32]) -> None:
    """As `poisson`, for few."""
    poisson(key, stream, means)
