"""Motion of the probe: a displacement as a sum of products, rounded to half precision, and a robust affine fit."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from emsynth.distortion._kernels.lanes import half_eight, products_sixteen

F = np.float32
VERSION = 2  # of `lanes`, whose functions are inlined here
LANES = 8
TERMS = 8  # products that are added up at a time


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _row(rows: NDArray[np.float32], cols: NDArray[np.float32], r: int, factors: NDArray[np.float32],
         first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    # first (C,) = Σ_k rows[0, k, r] · cols[k], second the same of the last axis; K a multiple of TERMS.
    terms, last, length = rows.shape[1], rows.shape[0] - 1, first.size
    for k in range(terms):
        factors[k], factors[terms + k] = rows[0, k, r], rows[last, k, r]
    first[:] = F(0.0)
    second[:] = F(0.0)
    rest = length % (2 * LANES)
    for c in range(0, length - rest, 2 * LANES):
        for k in range(0, terms, TERMS):
            products_sixteen(first, second, np.uint64(c), cols, factors, np.uint64(k), np.uint64(terms))
    for k in range(terms):
        for c in range(length - rest, length):
            first[c] += factors[k] * cols[k, c]
            second[c] += factors[terms + k] * cols[k, c]


@njit(cache=True, nogil=True, fastmath=False)
def evaluate(rows: NDArray[np.float32], cols: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Sum of products Σ_k rows[a, k, r] · cols[k, c] into `out (A, R, C)`; `rows (A, K, R)`, `cols (K, C)`.

    K is a multiple of `TERMS`, A is 1 or 2.
    """
    factors, last = np.empty(2 * cols.shape[0], np.float32), out.shape[0] - 1
    second = np.empty(out.shape[2], np.float32)
    for r in range(out.shape[1]):
        if last == 1:
            _row(rows, cols, r, factors, out[0, r], out[1, r])
        else:
            _row(rows, cols, r, factors, out[0, r], second)


@njit(cache=True, nogil=True, fastmath=False)
def evaluate_half(
    rows: NDArray[np.float32], cols: NDArray[np.float32], out: NDArray[np.float32], half: NDArray[np.uint16]
) -> None:
    """As `evaluate`, rounded to half precision: `out (2, R, C)` as float32 and `half (2, R, C)` as its 16 bits.

    To nearest, ties to even.
    """
    length, factors = out.shape[2], np.empty(2 * cols.shape[0], np.float32)
    rest, tail, code = length % LANES, np.zeros(LANES, np.float32), np.empty(LANES, np.uint16)
    for r in range(out.shape[1]):
        _row(rows, cols, r, factors, out[0, r], out[1, r])
        for axis in range(2):
            line = out[axis, r]
            for c in range(0, length - rest, LANES):
                half_eight(line, np.uint64(c), half[axis, r])
            if rest > 0:
                tail[:rest] = line[length - rest :]
                half_eight(tail, np.uint64(0), code)
                line[length - rest :], half[axis, r, length - rest :] = tail[:rest], code[:rest]


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


@njit(cache=True, nogil=False, fastmath=False)
def least_absolute(values: NDArray[np.float64], basis: NDArray[np.float64], share: float, most_steps: int,
                   affine: NDArray[np.float64]) -> None:
    """Fit with the least sum of absolute deviations, by iteratively reweighted least squares.

    `values (n,)` ≈ `affine (3,)` @ `basis (3, n)`, the last row of which is 1; residuals below `share` of the largest
    value weigh no more than that, and where all values are 0, nothing is done. `affine` holds the start and receives
    the result. Stops after `most_steps`, or when a step gains less than a millionth.
    """
    system, before, largest = np.empty((3, 4)), np.inf, 0.0
    for n in range(values.size):
        largest = max(largest, abs(values[n]))
    if largest == 0.0:
        return
    least = share * largest
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
