"""Scan stages: how the probe strays from the pixel that it was sent to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emsynth.distortion.stage import Motion, ProbeMotion, ScanClock, autoregressive, uniforms
from emsynth.distortion.symmetry import FLIPS, IDENTITY, REVERSAL, Symmetry
from emsynth.draw import AnyChoice, Choice, Count, LogUniform, Quantity, Uniform, number, quantity

SLOWEST_FAST_PERIOD = 32.0  # rows; a spectral line with a longer period bends the image smoothly


def waves(clock: ScanClock, frequency: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Parts of sin(2πft + φ) = sin(a + φ) cos(b) + sin(a + φ + π/2) sin(b), t the sum of a row's and a column's time.

    Parameters
    ----------
    clock : ScanClock
        Times of the scan.
    frequency : (L,) float64
        Hz.

    Returns
    -------
    along_rows : (L, R) float64
        Phase a that a line has gained at the start of each row, rad.
    cols : (2 L, C) float64
        cos(b) of each line, then sin(b) of each.
    """
    cycles = frequency[:, None] * clock.row_times()[:, 0]
    within = 2 * np.pi * frequency[:, None] * clock.col_times()
    cols = np.empty((2 * len(within), clock.cols))
    np.cos(within, out=cols[: len(within)])
    np.sin(within, out=cols[len(within) :])
    cycles -= np.rint(cycles)
    cycles *= 2 * np.pi
    return cycles, cols


class RowJitter(ProbeMotion):
    """Every row starts at a random offset, correlated with the row before.

    Per axis Δ¹ = a¹/√(1-φ²), Δᵏ = φ Δᵏ⁻¹ + aᵏ with a ~ N(0, σ²(1-φ²)), so that σ is the stationary deviation
    at every row [1]_. Ranges are ours; a real SrTiO3 frame had σ 1.03 px and φ about 0.

    Nothing of it is in the truth, except what an affine map can express.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["row_jitter"] = "row_jitter"
    symmetry: ClassVar[Symmetry] = FLIPS  # AR(1) of a normal deviate is the same backwards, and with the other sign
    sigma: Quantity = quantity(
        LogUniform(low=0.05, high=2.5), unit="px", low=0, high=20, about="Deviation along the fast axis (col)"
    )
    ratio: Quantity = quantity(
        Uniform(low=0, high=0.4), unit="1", low=0, high=1, about="Deviation along the slow axis, as a share of sigma"
    )
    correlation: Quantity = quantity(
        Uniform(low=0, high=0.95), unit="1", low=0, high=0.999, about="Correlation φ of neighbouring rows"
    )

    def move(self, clock: ScanClock, key: int) -> Motion:
        """Displacement of the probe, px: one offset per row and axis."""
        sigma, correlation = number(self.sigma), number(self.correlation)
        along, across = (autoregressive(key, stream, clock.rows, correlation) for stream in (0, 1))
        rows = np.empty((2, 1, clock.rows))
        np.multiply(across, sigma * number(self.ratio), out=rows[0, 0])
        np.multiply(along, sigma, out=rows[1, 0])
        return Motion(rows, np.ones((1, clock.cols)))


class Hum(ProbeMotion):
    """Mains hum and mechanical vibration: Σ A sin(2πft + φ) in both axes, continuous in t (ours).

    The first line has the full amplitude and, where it is a mains line, the mains frequency itself; the others
    have a uniform share of the amplitude. A mains line is one of the first six harmonics; a mechanical one
    has a frequency log-uniform in 10-500 Hz. Each moves the probe in a direction of its own, with a phase per
    axis. Where line starts wait for the mains, a row takes a whole number of mains periods, and mains
    lines have the same phase in each row. Such distortions are described in [1]_.

    Lines with a period of more than 32 rows count as slow: `truth_geometry: smooth` keeps them in the truth.

    References
    ----------
    .. [1] Jones and Nellist, Microsc. Microanal. 19, 1050 (2013).
    """

    stage: Literal["hum"] = "hum"
    symmetry: ClassVar[Symmetry] = REVERSAL  # time runs on through the rows; phases from the whole circle
    amplitude: Quantity = quantity(
        LogUniform(low=0.02, high=1), unit="px", low=0, high=20, about="Amplitude of the strongest line"
    )
    lines: Count = quantity(
        Choice(values=(1, 2, 3, 4, 5, 6)), unit="1", low=1, high=6, about="Number of spectral lines"
    )
    mains: Quantity = quantity(Choice(values=(50, 60)), unit="Hz", low=16, high=400, about="Mains frequency")
    mechanical: Quantity = quantity(
        Uniform(low=0, high=1), unit="1", low=0, high=1, about="Chance of each line to be mechanical"
    )
    line_start: Annotated[
        Literal["free", "mains"] | AnyChoice, Field(description="Whether line starts wait for the mains")
    ] = Choice(values=("free", "mains"), weights=(0.7, 0.3))

    def pace(self, clock: ScanClock) -> ScanClock:
        """Where line starts wait for the mains, the fly-back lasts until its period is over."""
        if self.line_start != "mains":
            return clock
        # A row that ends with a period must not wait for another one because of rounding.
        periods = math.ceil(clock.row_period * number(self.mains) - 1e-9)
        return replace(clock, fly_back=periods / number(self.mains) - (clock.row_period - clock.fly_back))

    def move(self, clock: ScanClock, key: int) -> Motion:
        """Displacement of the probe, px."""
        return self._sum(clock, key, slow_only=False)

    def move_slowly(self, clock: ScanClock, key: int) -> Motion:
        """Sum of the lines whose period is longer than 32 rows, px."""
        return self._sum(clock, key, slow_only=True)

    def _sum(self, clock: ScanClock, key: int, slow_only: bool) -> Motion:
        chance = uniforms(key, 0, (int(number(self.lines)), 8))
        frequency = self._frequencies(chance)
        share = np.where(np.arange(len(chance)) == 0, 1.0, chance[:, 3])
        if slow_only:
            share = share * (frequency * clock.row_period * SLOWEST_FAST_PERIOD < 1)
        angle, amplitude = 2 * np.pi * chance[:, 4], number(self.amplitude) * share
        size = amplitude * np.stack([np.sin(angle), np.cos(angle)])
        along_rows, cols = waves(clock, frequency)
        sine, cosine, phase = np.sin(along_rows), np.cos(along_rows), 2 * np.pi * chance[:, 5:7].T
        a, b = (size * np.cos(phase))[:, :, None], (size * np.sin(phase))[:, :, None]
        rows = np.empty((2, 2 * len(chance), clock.rows))
        np.add(a * sine, b * cosine, out=rows[:, : len(chance)])
        np.subtract(a * cosine, b * sine, out=rows[:, len(chance) :])
        return Motion(rows, cols)

    def _frequencies(self, chance: NDArray[np.float64]) -> NDArray[np.float64]:
        harmonic = 1 + np.floor(6 * chance[:, 1])
        harmonic[0] = 1
        mechanical = 10.0 * 50.0 ** chance[:, 2]
        return np.where(chance[:, 0] < number(self.mechanical), mechanical, number(self.mains) * harmonic)


class Drift(ProbeMotion):
    """The specimen drifts: δ = v·t + ½a·t², given as the path over one frame (ranges ours, model as in [1]_).

    Its affine part is in the truth; all of it is where the truth's geometry is smooth.

    References
    ----------
    .. [1] Ophus, Ciston and Nelson, Ultramicroscopy 162, 1 (2016).
    """

    stage: Literal["drift"] = "drift"
    symmetry: ClassVar[Symmetry] = IDENTITY  # backwards, the same bend goes with another straight part, v + 2a
    distance: Quantity = quantity(
        LogUniform(low=0.1, high=15), unit="px", low=0, high=40, about="Path v·T over the frame"
    )
    direction: Quantity = quantity(
        Uniform(low=0, high=360), unit="deg", low=0, high=360, about="Direction of v: 0 towards larger col, 90 row"
    )
    bend: Quantity = quantity(
        LogUniform(low=0.01, high=3), unit="px", low=0, high=40, about="Path ½a·T² over the frame"
    )
    bend_direction: Quantity = quantity(
        Uniform(low=0, high=360), unit="deg", low=0, high=360, about="Direction of a: 0 towards larger col, 90 row"
    )

    def move(self, clock: ScanClock, key: int) -> Motion:
        """Displacement of the probe, px."""
        straight, bent = math.radians(number(self.direction)), math.radians(number(self.bend_direction))
        row, col = clock.row_times()[:, 0] / clock.frame, clock.col_times()[0] / clock.frame
        rows, cols = np.empty((2, 3, clock.rows)), np.empty((3, clock.cols))
        cols[0], cols[1], cols[2] = 1, col, col**2
        for axis, of in enumerate((math.sin, math.cos)):
            v, a = number(self.distance) * of(straight), number(self.bend) * of(bent)
            rows[axis, 0], rows[axis, 1], rows[axis, 2] = v * row + a * row**2, v + 2 * a * row, a
        return Motion(rows, cols)

    def move_slowly(self, clock: ScanClock, key: int) -> Motion:
        """All of it, px."""
        return self.move(clock, key)


class FlyBack(ProbeMotion):
    """The scan coils settle after the fly-back.

    Along col -a·exp(-(t_in_line + t_fb)/b) in each line; along row the same once, at the frame's start. Fits of
    real frames begin at a = 25 px with b up to 1500 µs; for the effect see [1]_. It counts as slow.

    References
    ----------
    .. [1] Mullarkey, Peters, Downing and Jones, Microsc. Microanal. 28, 1428 (2022).
    """

    stage: Literal["fly_back"] = "fly_back"
    symmetry: ClassVar[Symmetry] = IDENTITY  # it settles from left to right and from the top down
    amplitude: Quantity = quantity(
        Uniform(low=0, high=25), unit="px", low=0, high=40, about="Deflection a left at the end of a row, col axis"
    )
    amplitude_frame: Quantity = quantity(
        Uniform(low=0, high=25), unit="px", low=0, high=40, about="Deflection left at the frame's start, row axis"
    )
    settling: Quantity = quantity(
        LogUniform(low=20e-6, high=1500e-6), unit="s", low=1e-6, high=0.01, about="Settling time b"
    )

    def move(self, clock: ScanClock, key: int) -> Motion:
        """Displacement of the probe, px."""
        settling = number(self.settling)
        rows = np.empty((2, 1, clock.rows))
        np.exp(-(clock.row_times()[:, 0] + clock.fly_back) / settling, out=rows[0, 0])
        rows[0] *= -number(self.amplitude_frame)
        rows[1] = -number(self.amplitude) * math.exp(-clock.fly_back / settling)
        return Motion(rows, np.exp(-clock.col_times() / settling))

    def move_slowly(self, clock: ScanClock, key: int) -> Motion:
        """All of it, px."""
        return self.move(clock, key)


class ScanSpeed(ProbeMotion):
    """The probe does not stop at a pixel: the dwell integrates along the path that it travels meanwhile.

    Of the way to the next pixel the share `path` is travelled during the dwell: 0 for a stepped scan, 1 for an
    analogue ramp. The signal is the mean over that stretch of the displaced path, centred on the pixel, so that a
    probe that is faster (while it settles, or where it vibrates) blurs more; by Gauss-Legendre quadrature with three
    points, exact to 1e-4 of the range for structures of four px and more. That the probe of a scanning microscope
    moves during the dwell: [1]_.

    Not in the truth: it is the scan's transfer function, like a camera's MTF.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["scan_speed"] = "scan_speed"
    symmetry: ClassVar[Symmetry] = FLIPS  # the path is blurred alike before and behind each pixel, along the row
    path: Quantity = quantity(
        Uniform(low=0, high=1), unit="1", low=0, high=1, about="Share of the way to the next pixel travelled in a dwell"
    )

    def exposure(self) -> tuple[tuple[float, float], ...]:
        """Three points of the path and their weights."""
        half = number(self.path) / 2
        if half == 0:
            return ((0.0, 1.0),)
        point = math.sqrt(3 / 5) * half
        return ((-point, 5 / 18), (0.0, 8 / 18), (point, 5 / 18))


# A new scan stage is one class above and one entry here; the chain sums them in this order.
ScanStage = Annotated[RowJitter | Hum | Drift | FlyBack | ScanSpeed, Field(discriminator="stage")]
