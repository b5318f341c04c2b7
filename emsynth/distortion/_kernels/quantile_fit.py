"""Where the quantile polynomials of `noise` come from: run it as a module and it prints them.

Both laws have a quantile x = m + √m·z + z² a(s) + b(s) + c(s)/m + d(s)/m² with s = z/√m, z the normal quantile of the
same probability and m the mean: the Cornish-Fisher expansion with its powers of 1/√m summed up, as in the uniform
expansions of N. M. Temme (Asymptotic Methods for Integrals, World Scientific, 2015). The polynomials are fitted to
exact quantiles by least squares whose weights are raised where the error is largest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv, ndtr

POISSON_DEGREES = (8, 8, 6, -1)
GAMMA_DEGREES = (10, 10, 8, 4)
LARGEST = 400.0  # beyond, s is small and the polynomials are deep inside their range
_WIDEST = 6.4  # normal quantile of any 32-bit uniform
_ROUNDS = 8

Array = NDArray[np.float64]


def poisson_quantile(mean: Array, z: Array) -> Array:
    """Continuous x whose integer part is the Poisson quantile: Q(x, mean) = Φ(z), by bisection."""
    low, high = np.full_like(mean, 1e-9), mean + 12 * np.sqrt(mean) + 60
    for _ in range(80):
        middle = (low + high) / 2
        # Above the median through the complement, which keeps its digits.
        short = np.where(z > 0, gammainc(middle, mean) > ndtr(-z), gammaincc(middle, mean) < ndtr(z))
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    quantile: Array = (low + high) / 2
    return quantile


def gamma_quantile(shape: Array, z: Array) -> Array:
    """Quantile of the Gamma distribution of scale 1 at the probability Φ(z)."""
    quantile: Array = np.where(z < 0, gammaincinv(shape, ndtr(z)), gammainccinv(shape, ndtr(-z)))
    return quantile


def basis(mean: Array, z: Array, degrees: tuple[int, ...]) -> Array:
    """Columns z² s^k, s^k, s^k/m, s^k/m² of the four polynomials."""
    s = z / np.sqrt(mean)
    parts = (z**2, np.ones_like(z), 1 / mean, 1 / mean**2)
    columns = [part * s**k for part, degree in zip(parts, degrees, strict=True) for k in range(degree + 1)]
    return np.stack(columns, axis=-1)


def fit(mean: Array, z: Array, exact: Array, degrees: tuple[int, ...]) -> tuple[list[Array], float]:
    """Coefficients, lowest power first, and the largest error within three deviations."""
    columns, wanted = basis(mean, z, degrees), exact - mean - np.sqrt(mean) * z
    # Errors matter by how often they occur.
    importance = 1 / (3e-5 + 1e-4 * (np.abs(z) > 3) + 2e-3 * (np.abs(z) > 4))
    weight = importance.copy()
    for _ in range(_ROUNDS):
        found, *_ = np.linalg.lstsq(columns * weight[:, None], wanted * weight, rcond=None)
        error = np.abs(columns @ found - wanted)
        weight *= 1 + (error * importance / (error * importance).max()) ** 2
    parts = np.split(found, np.cumsum([degree + 1 for degree in degrees])[:-1])
    return parts, float(error[np.abs(z) < 3].max())


def fitted() -> dict[str, tuple[list[Array], float]]:
    """Both fits; see `fit`."""
    found = {}
    for law, least, lowest in (("poisson", 4.0, None), ("gamma", 2.0, -3.5)):
        mean, z = (part.ravel() for part in np.meshgrid(
            np.geomspace(least, LARGEST, 80), np.linspace(-_WIDEST, _WIDEST, 257), indexing="ij"))
        exact = poisson_quantile(mean, z) if law == "poisson" else gamma_quantile(mean, z)
        # Below 1 a Poisson quantile is rounded to 0 anyway; far below the mean a Gamma one is next to 0.
        used = exact > 0.9 if lowest is None else z / np.sqrt(mean) > lowest
        degrees = POISSON_DEGREES if law == "poisson" else GAMMA_DEGREES
        found[law] = fit(mean[used], z[used], exact[used], degrees)
    return found


if __name__ == "__main__":
    for law, (parts, error) in fitted().items():
        print(f"# {law}: within three deviations to {error:.1e}")
        for name, part in zip("abcd", parts, strict=True):
            print(f"{law} {name} =", ", ".join(f"{c:.8e}" for c in part))
