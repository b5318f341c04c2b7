"""Stages of a TEM camera in physical order: from expected electrons to digital numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.fft import fftfreq, irfft2, next_fast_len, rfft2, rfftfreq

from emsynth.distortion._kernels import camera, noise
from emsynth.distortion.camera_defects import DeadPixels, HotPixels, Seams, XRay
from emsynth.distortion.digitiser import BlackLevel, Gain, Quantise, ReadNoise, Saturation
from emsynth.distortion.stage import Detection, Readout, autoregressive, uniforms
from emsynth.distortion.symmetry import FLIPS, SQUARE, Symmetry
from emsynth.draw import Count, LogUniform, Quantity, Uniform, number, quantity

MARGIN = 32  # px: five deviations of the widest point spread, 1/(π·0.05) px each


def transfer(
    row: NDArray[np.float64], col: NDArray[np.float64], weight: float, narrow: float, wide: float
) -> NDArray[np.float64]:
    """Modulation transfer of a camera.

    MTF(g) = sinc(g_x/2) sinc(g_y/2) [A e^(-g²/2B²) + (1-A) e^(-g²/2C²)], 1 at g = 0.

    Parameters
    ----------
    row, col : (R,) and (C,) float64
        Spatial frequencies along each axis in units of Nyquist.
    weight, narrow, wide : float
        A, and B and C in units of Nyquist.

    Returns
    -------
    (R, C) float64
    """

    def along(g: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
        product: NDArray[np.float64] = np.sinc(g / 2) * np.exp(-(g**2) / (2 * deviation**2))
        return product

    spread = weight * np.outer(along(row, narrow), along(col, narrow))
    spread += (1 - weight) * np.outer(along(row, wide), along(col, wide))
    return spread


def box(g: NDArray[np.float64], binning: int) -> NDArray[np.float64]:
    """Transfer of `binning` neighbouring points averaged, at frequencies `g` in units of the binned grid's Nyquist."""
    phase = np.exp(1j * np.pi * g[..., None] * (np.arange(binning) - (binning - 1) / 2) / binning)
    averaged: NDArray[np.float64] = phase.mean(axis=-1).real
    return averaged


def binned(
    row: NDArray[np.float64], col: NDArray[np.float64], mtf: tuple[float, float, float], exponent: float, binning: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transfer of signal and noise by a camera whose pixels are added in squares of `binning`.

    The signal passes MTF and box; the noise, which is there at all frequencies of the fine grid, passes MTF^κ and box,
    and then folds back: N² = Σ over the aliases of (MTF^κ · box)².

    Parameters
    ----------
    row, col : (R,) and (C,) float64
        Spatial frequencies along each axis in units of the binned grid's Nyquist.
    mtf : three floats
        A, B and C of `transfer`.
    exponent : float
        κ.
    binning : int
        Camera pixels along each side of an image pixel.

    Returns
    -------
    signal, noise : (R, C) float64
        Both 1 at g = 0; without binning MTF and MTF^κ.
    """
    fine = transfer(row / binning, col / binning, *mtf)
    signal = fine * np.outer(box(row, binning), box(col, binning))
    power = np.zeros_like(signal)
    for down in range(binning):
        for across in range(binning):
            y, x = (np.mod(g + 2 * k + binning, 2 * binning) - binning for g, k in ((row, down), (col, across)))
            alias = transfer(y / binning, x / binning, *mtf) ** exponent * np.outer(box(y, binning), box(x, binning))
            power += alias**2
    return signal, np.sqrt(power)


@lru_cache(maxsize=4)
def _filters(
    shape: tuple[int, int], mtf: tuple[float, float, float], exponent: float, binning: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What acts before the counting and after it, on the frequencies of a real transform of `shape`."""
    row, col = 2 * fftfreq(shape[0]), 2 * rfftfreq(shape[1])
    if binning == 1:
        single = transfer(row, col, *mtf).astype(np.float32)
        filters = single ** np.float32(1 - exponent), single ** np.float32(exponent)
    else:
        signal, noise = binned(row, col, mtf, exponent, binning)
        before = np.divide(signal, noise, out=np.zeros_like(signal), where=noise > 1e-12)
        filters = before.astype(np.float32), noise.astype(np.float32)
    for each in filters:
        each.setflags(write=False)
    return filters


def _filter(image: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    spectrum = rfft2(image, workers=1)
    spectrum *= response
    filtered: NDArray[np.float32] = irfft2(spectrum, s=image.shape, workers=1, overwrite_x=True)
    return filtered


class Conversion(Detection):
    """Electrons become charge: the camera spreads signal and noise, and not alike.

    MTF(g) = sinc(g_x/2) sinc(g_y/2) [A e^(-g²/2B²) + (1-A) e^(-g²/2C²)] with g in units of Nyquist, noise transfer
    MTF^κ, DQE(g) = D0·MTF^(2(1-κ)). The expected electrons are filtered by MTF^(1-κ) and clipped at 0, a
    share D0 of them is counted, Poisson, and scaled back by 1/D0, and MTF^κ filters the result; the noise power of a
    flat field of λ electrons is λ·MTF^(2κ)/D0 [1]_. The form of the MTF is that of Lobato, Friedrich and Van Aert's
    public code; all ranges are ours. The filters are those of the pixel grid: what the specimen shows beyond
    Nyquist is aliased before.

    With `binning` n, a pixel of the image is n × n of the camera's, to whose Nyquist B and C refer: the signal passes
    MTF and box, and of the noise what lies beyond the image's Nyquist folds back (see `binned`).

    Counts electrons itself: a chain has this or `counting`, never both. The truth holds λ.

    References
    ----------
    .. [1] Meyer and Kirkland, Microsc. Res. Tech. 49, 269 (2000).
    """

    stage: Literal["conversion"] = "conversion"
    symmetry: ClassVar[Symmetry] = SQUARE  # the MTF is that of square pixels
    weight: Quantity = quantity(
        Uniform(low=0.2, high=0.8), unit="1", low=0, high=1, about="Weight A of the narrow part of the MTF"
    )
    narrow: Quantity = quantity(
        LogUniform(low=0.1, high=0.4), unit="Nyquist", low=0.05, high=100, about="Deviation B of the narrow part"
    )
    wide: Quantity = quantity(
        LogUniform(low=0.5, high=2), unit="Nyquist", low=0.05, high=100, about="Deviation C of the wide part"
    )
    efficiency: Quantity = quantity(
        Uniform(low=0.3, high=0.95), unit="1", low=0.01, high=1, about="Detective quantum efficiency D0 at g = 0"
    )
    exponent: Quantity = quantity(
        Uniform(low=0.3, high=1), unit="1", low=0, high=1, about="κ: the noise is transferred by MTF^κ"
    )

    binning: Count = quantity(1, unit="1", low=1, high=8, about="Camera pixels along each side of an image pixel")

    def margin(self) -> int:
        """How far the point spread reaches, px."""
        return MARGIN

    def mtf(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transfer of the signal (R, C) at frequencies `row (R,)` and `col (C,)` in units of Nyquist."""
        return self._transfers(row, col)[0]

    def ntf(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transfer of the noise (R, C), likewise: λ·NTF²/D0 is the noise power of a flat field."""
        return self._transfers(row, col)[1]

    def _transfers(
        self, row: NDArray[np.float64], col: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        return binned(row, col, self._spread(), number(self.exponent), int(number(self.binning)))

    def _spread(self) -> tuple[float, float, float]:
        return number(self.weight), number(self.narrow), number(self.wide)

    def variance(self, counts: float) -> float:
        """Noise power over all frequencies, and that of one electron: a few are often twice as many."""
        g = (np.arange(64) + 0.5) / 64
        passed = float(np.mean(self.ntf(g, g) ** 2))
        return (counts + 1 / number(self.efficiency)) / number(self.efficiency) * passed

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Spread, count and spread `image (R, C)`, whose outer px, as many as `margin`, come back wrong."""
        rows, cols = image.shape
        shape = next_fast_len(rows, real=True), next_fast_len(cols, real=True)
        efficiency, exponent = np.float32(number(self.efficiency)), number(self.exponent)
        binning = int(number(self.binning))
        before, after = _filters(shape, self._spread(), exponent, binning)
        if shape != image.shape:
            image = np.pad(image, ((0, shape[0] - rows), (0, shape[1] - cols)), mode="edge")
        counted = (_filter(image, before) if exponent < 1 or binning > 1 else image) * efficiency
        # A mean below 0, where the filter undershoots, counts nothing.
        noise.poisson(np.uint64(key), np.uint64(0), counted.reshape(-1))
        counted /= efficiency
        spread = _filter(counted, after) if exponent > 0 or binning > 1 else counted
        return np.ascontiguousarray(spread[:rows, :cols])


class Counting(Detection):
    """Electron counting: every frame registers 0 or 1 in each pixel, and the frames are added.

    Of λ electrons in F frames a share D0 is detected; two in the same pixel and frame count once (coincidence loss),
    so that N ~ Binomial(F, 1 - exp(-λ D0/F)), and N/D0 is read out. Each electron counts in one pixel: nothing
    spreads, and the noise is white. F follows from the dose rate per frame at the mean count, as an operator would
    choose it. A counting camera has next to no read noise and dark current: leave these stages out. Coincidence
    loss is described in [1]_; ranges are ours.

    Counts electrons itself: a chain has this or `conversion`, never both. The truth holds λ.

    References
    ----------
    .. [1] Li, Zheng, Egami, Agard and Cheng, J. Struct. Biol. 184, 251 (2013).
    """

    stage: Literal["counting"] = "counting"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    efficiency: Quantity = quantity(
        Uniform(low=0.3, high=0.95), unit="1", low=0.01, high=1, about="Share D0 of the electrons that is detected"
    )
    dose_rate: Quantity = quantity(
        LogUniform(low=0.005, high=0.3), unit="e/frame", low=1e-4, high=10,
        about="Mean electrons per pixel and frame",
    )

    def frames(self, counts: float) -> int:
        """Number of frames F that expose `counts` electrons per pixel."""
        return max(round(counts / number(self.dose_rate)), 1)

    def variance(self, counts: float) -> float:
        """That without coincidence loss, which is larger."""
        return (counts + 1 / number(self.efficiency)) / number(self.efficiency)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Replace the expected counts `image (R, C)` by registered ones."""
        u = uniforms(key, 0, (image.size,))
        camera.register(image.reshape(-1), self.frames(readout.counts), number(self.efficiency), u)
        return image


class DarkCurrent(Detection):
    """Thermal electrons, Poisson(i_d·t) in each pixel (range ours). The truth holds their mean.

    Counted in incident electrons, as everything before the gain: a camera that makes many charge carriers of one
    incident electron has so much less dark noise, and its `mean` must be given divided by that number.
    """

    stage: Literal["dark_current"] = "dark_current"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    mean: Quantity = quantity(
        LogUniform(low=0.01, high=5), unit="e", low=0, high=1e6, about="Mean i_d·t, dark current times exposure"
    )

    def variance(self, counts: float) -> float:
        """The mean, whatever the count."""
        return number(self.mean)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the electrons to `image (R, C)`."""
        dark = np.full(image.size, number(self.mean), dtype=np.float32)
        noise.poisson(np.uint64(key), np.uint64(0), dark)
        image += dark.reshape(image.shape)
        return image

    def expect(self, truth: NDArray[np.float32], readout: Readout) -> NDArray[np.float32]:
        """Add their mean to the truth."""
        return truth + np.float32(number(self.mean))


def _pattern(key: int, deviation: float, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """White pattern of the given deviation and of mean 0."""
    pattern = np.zeros(shape, dtype=np.float32)
    noise.add_normal(np.uint64(key), np.uint64(0), deviation, pattern.reshape(-1))
    pattern -= pattern.mean(dtype=np.float64)
    return pattern


class GainMap(Detection):
    """Photo-response non-uniformity: pixels differ in gain by a fixed pattern, normal, of mean 1 over the window.

    The deviation of a flat field by it is proportional to the signal (range ours). Not in the truth.
    """

    stage: Literal["gain_map"] = "gain_map"
    symmetry: ClassVar[Symmetry] = SQUARE  # white
    sigma: Quantity = quantity(
        Uniform(low=0, high=0.03), unit="1", low=0, high=0.2, about="Relative deviation of the gain"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Multiply `image (R, C)` by the map."""
        pattern = _pattern(key, number(self.sigma), image.shape)
        pattern += 1
        image *= pattern
        return image


class RowColumnOffsets(Detection):
    """Each row and each column is read out with an offset of its own, AR(1) from line to line.

    Both have mean 0 over the window. Correlations of neighbours reach what we measured on the TEM pairs published
    with [1]_; deviations are ours. Not in the truth.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["row_column_offsets"] = "row_column_offsets"
    symmetry: ClassVar[Symmetry] = FLIPS  # AR(1) is the same backwards; see also `symmetries`
    row_sigma: Quantity = quantity(
        LogUniform(low=0.002, high=0.1), unit="1", low=0, high=2,
        about="Deviation from row to row, as a share of the mean count",
    )
    column_sigma: Quantity = quantity(
        LogUniform(low=0.002, high=0.1), unit="1", low=0, high=2,
        about="Deviation from column to column, as a share of the mean count",
    )
    correlation: Quantity = quantity(
        Uniform(low=0, high=0.95), unit="1", low=0, high=0.999, about="Correlation of neighbouring lines"
    )

    def symmetries(self) -> Symmetry:
        """Rows and columns may be exchanged where their deviations are drawn alike."""
        return SQUARE if self.row_sigma == self.column_sigma else FLIPS

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the offsets to the rows and columns of `image (R, C)`."""
        for axis, sigma in enumerate((self.row_sigma, self.column_sigma)):
            offset = autoregressive(key, axis, image.shape[axis], number(self.correlation))
            offset -= offset.mean()
            offset *= number(sigma) * readout.counts
            image += np.expand_dims(offset.astype(np.float32), 1 - axis)
        return image


class OffsetMap(Detection):
    """Fixed-pattern noise: pixels differ in offset by a fixed pattern, normal, of mean 0 over the window (ours).

    Not in the truth.
    """

    stage: Literal["offset_map"] = "offset_map"
    symmetry: ClassVar[Symmetry] = SQUARE  # white
    sigma: Quantity = quantity(
        LogUniform(low=1e-4, high=0.02), unit="1", low=0, high=2,
        about="Deviation, as a share of the brightest signal",
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the pattern to `image (R, C)`."""
        image += _pattern(key, number(self.sigma) * readout.brightest, image.shape)
        return image


# A new camera stage is one class and one entry here, at its place in the physical order. A dead pixel is blind to light
# but not to the digitiser's offset, so it stands before the black level.
CameraStage = Annotated[
    Conversion | Counting | XRay | DarkCurrent | GainMap | ReadNoise | RowColumnOffsets | Gain | OffsetMap | Seams
    | HotPixels | DeadPixels | BlackLevel | Saturation | Quantise,
    Field(discriminator="stage"),
]
