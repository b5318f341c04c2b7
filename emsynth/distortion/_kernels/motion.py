"""Motion of the probe: a displacement as a sum of products, rounded to half precision, and a robust affine fit."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = np.float32
_SMALLEST_NORMAL = F(2.0**-14)  # of half precision
TERMS = 4  # products that are added up at a time, so that a row goes through memory less often


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _row(rows: NDArray[np.float32], cols: NDArray[np.float32], r: int, out: NDArray[np.float32]) -> None:
    # out (C,) = Σ_k rows[k, r] · cols[k], K a multiple of TERMS.
    out[:] = F(0.0)
    for k in range(0, rows.shape[0], TERMS):
        a, b, c, d = rows[k, r], rows[k + 1, r], rows[k + 2, r], rows[k + 3, r]
        for n in range(out.size):
            out[n] += (a * cols[k, n] + b * cols[k + 1, n]) + (c * cols[k + 2, n] + d * cols[k + 3, n])


@njit(cache=True, nogil=True, fastmath=False)
def evaluate(rows: NDArray[np.float32], cols: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Sum of products Σ_k rows[a, k, r] · cols[k, c] into `out (A, R, C)`; `rows (A, K, R)`, `cols (K, C)`.

    K is a multiple of `TERMS`.
    """
    for axis in range(out.shape[0]):
        for r in range(out.shape[1]):
            _row(rows[axis], cols, r, out[axis, r])


@njit(cache=True, nogil=True, fastmath=False, error_model="numpy")
def _round(line: NDArray[np.float32], size: NDArray[np.float32], steps: NDArray[np.int32],
           code: NDArray[np.uint16]) -> None:
    # To half precision; `size` and `steps` (C,) are room to work in.
    bits, rounded = line.view(np.int32), size.view(np.int32)
    for n in range(line.size):
        a = np.abs(line[n])
        # Adding and subtracting a power of two rounds to multiples of 2⁻²⁴; Veltkamp's splitting to eleven bits.
        subnormal, split = (a + F(0.5)) - F(0.5), a * F(8193.0)
        normal = split - (split - a)
        size[n] = subnormal if a < _SMALLEST_NORMAL else normal
    for n in range(line.size):
        normal_code = (rounded[n] >> np.int32(13)) - np.int32(112 << 10)
        steps[n] = np.int32(size[n] * F(2.0**24)) if size[n] < _SMALLEST_NORMAL else normal_code
    for n in range(line.size):
        sign = bits[n] & np.int32(-0x80000000)
        bits[n] = rounded[n] | sign
        code[n] = np.uint16(steps[n] | ((sign >> np.int32(16)) & np.int32(0x8000)))


@njit(cache=True, nogil=True, fastmath=False)
def evaluate_half(
    rows: NDArray[np.float32], cols: NDArray[np.float32], out: NDArray[np.float32], half: NDArray[np.uint16]
) -> None:
    """As `evaluate`, rounded to half precision: `out (A, R, C)` as float32 and `half (A, R, C)` as its 16 bits.

    To nearest, ties to even; below 2⁻¹⁴ to multiples of 2⁻²⁴, the subnormal halves. Values stay below 65504.
    """
    size, steps = np.empty(out.shape[2], np.float32), np.empty(out.shape[2], np.int32)
    for axis in range(out.shape[0]):
        for r in range(out.shape[1]):
            _row(rows[axis], cols, r, out[axis, r])
            _round(out[axis, r], size, steps, half[axis, r])


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _weighted_sums(
    values: NDArray[np.float64], basis: NDArray[np.float64], affine: NDArray[np.float64], least: float,
    system: NDArray[np.float64],
) -> float:  # fmt: skip
    # Normal equations [N | b] of one reweighting step, into system (3, 4); the sum of the absolute residuals.
    a0, a1, a2 = affine[0], affine[1], affine[2]
    total, n00, n01, n02, n11, n12, n22, r0, r1, r2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(values.size):
        a, b, v = basis[0, n], basis[1, n], values[n]
        residual = np.abs(v - (a0 * a + a1 * b + a2))
        total += residual
        weight = 1.0 / (residual if residual > least else least)
        n00 += weight * a * a
        n01 += weight * a * b
        n02 += weight * a
        n11 += weight * b * b
        n12 += weight * b
        n22 += weight
        r0 += weight * a * v
        r1 += weight * b * v
        r2 += weight * v
    system[0, 0], system[0, 1], system[0, 2], system[0, 3] = n00, n01, n02, r0
    system[1, 0], system[1, 1], system[1, 2], system[1, 3] = n01, n11, n12, r1
    system[2, 0], system[2, 1], system[2, 2], system[2, 3] = n02, n12, n22, r2
    return total


@njit(cache=True, nogil=True, fastmath=False)
def _solve(system: NDArray[np.float64], affine: NDArray[np.float64]) -> None:
    # Gauss elimination of a positive definite (3, 4) system, in place.
    for i in range(3):
        for j in range(i + 1, 3):
            share = system[j, i] / system[i, i]
            for k in range(i, 4):
                system[j, k] -= share * system[i, k]
    for i in range(2, -1, -1):
        rest = system[i, 3]
        for k in range(i + 1, 3):
            rest -= system[i, k] * affine[k]
        affine[i] = rest / system[i, i]


@njit(cache=True, nogil=True, fastmath=False)
def least_absolute(values: NDArray[np.float64], basis: NDArray[np.float64], least: float, most_steps: int,
                   affine: NDArray[np.float64]) -> None:
    """Fit with the least sum of absolute deviations, by iteratively reweighted least squares.

    `values (n,)` ≈ `affine (3,)` @ `basis (3, n)`, the last row of which is 1; residuals below `least` weigh no more
    than `least`. `affine` holds the start and receives the result. Stops after `most_steps`, or when a step gains less
    than a millionth.
    """
    system = np.empty((3, 4))
    before = np.inf
    for _ in range(most_steps):
        total = _weighted_sums(values, basis, affine, least, system)
        if before - total <= 1e-6 * total or total <= 1e-6 * least * values.size:
            break
        before = total
        # A window of one row or column has no slope along that axis.
        ridge = 1e-9 * max(system[0, 0], system[1, 1], system[2, 2])
        system[0, 0] += ridge
        system[1, 1] += ridge
        _solve(system, affine)
