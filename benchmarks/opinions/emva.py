"""Photon-transfer series by emsynth, characterised by the EMVA 1288 standard's own reference implementation.

`make DIR` runs in emsynth's environment, `judge DIR` in one with `emva1288` (NumPy < 2); neither imports the other's.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from emsynth.distortion import Detection

SIDE = 256  # px
PIXELS = SIDE**2
POINTS = 50  # exposures with a pair of bright and a pair of dark frames each, as the standard asks for
STACK = 16  # frames for the spatial measures
EXPOSURE = 1e7  # ns, the shortest; the others are its multiples
LEVELS = 65536  # the digitiser's step is 1 ADU
BLACK = 200.0  # ADU
SEED = 1288
REPEATS = 16  # of every series, with other random numbers

Expected = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Bench:
    """A camera on the bench: what is put in, in the units of emsynth's stages.

    Attributes
    ----------
    gain : float
        K, ADU/e.
    read : float
        σ_r, e.
    brightest : float
        Electrons per pixel at the longest exposure.
    spread : float
        Pulse-height spread σ_g; 0 for none.
    efficiency : float
        D0 of a TEM camera; 0 for a scanning microscope's detector.
    dark : float
        Dark current, e/s.
    gains, offsets, rows, cols : float
        Deviation of the gain map, of the offset map (ADU), of row and of column offsets (e).
    """

    gain: float
    read: float
    brightest: float
    spread: float = 0.0
    efficiency: float = 0.0
    dark: float = 0.0
    gains: float = 0.0
    offsets: float = 0.0
    rows: float = 0.0
    cols: float = 0.0

    @property
    def times(self) -> NDArray[np.float64]:
        """Exposures, ns."""
        return EXPOSURE * np.arange(1, POINTS + 1, dtype=np.float64)

    @property
    def electrons(self) -> NDArray[np.float64]:
        """Expected electrons per pixel at each exposure."""
        return self.times * (self.brightest / (EXPOSURE * POINTS))

    @property
    def dark_electrons(self) -> NDArray[np.float64]:
        """Expected thermal electrons per pixel at each exposure."""
        return 1e-9 * self.dark * self.times

    @property
    def excess(self) -> float:
        """Noise power per electron over that of Poisson statistics."""
        return (1 + self.spread**2) / (self.efficiency or 1.0)


BENCHES = {
    "coarse": Bench(gain=0.3, read=2.0, brightest=10_000),
    "fine": Bench(gain=2.0, read=3.0, brightest=5_000),
    "pulse": Bench(gain=2.0, read=3.0, brightest=5_000, spread=0.5),
    "camera": Bench(gain=1.5, read=4.0, brightest=5_000, efficiency=0.6, dark=20.0, gains=0.02, offsets=12.0, rows=6.0,
                    cols=9.0),
}  # fmt: skip


def expected(bench: Bench) -> Expected:
    """What the standard's estimators should find and its standard error, from theory.

    The image is in electrons that reach the camera, a share D0 of which is detected, so that the standard's gain, in
    ADU per detected electron, is K/D0, and its σ_d is D0 σ_r. Variances of a pair of N px have the relative
    variance 2/N; K and the dark noise are least-squares fits through such variances.
    """
    gain = bench.gain * bench.excess * (1 + bench.gains**2)
    dark = bench.gain**2 * (bench.read**2 + bench.dark_electrons) + 1 / 12
    bright = dark + gain * bench.gain * bench.electrons
    signal = bench.gain * bench.electrons
    fitted = signal <= 0.7 * signal[-1]
    x, noise = signal[fitted], (bright**2 + dark**2)[fitted] * 2 / PIXELS
    gain_error = np.sqrt((x**2 * noise).sum()) / (x**2).sum() / gain
    seconds = bench.times * 1e-9
    solve = np.linalg.pinv(np.column_stack([np.ones(POINTS), seconds]))
    floor_error, slope_error = np.sqrt(solve**2 @ (dark**2 * 2 / PIXELS))
    mean_error = np.sqrt(solve[1] ** 2 @ (dark / (2 * PIXELS)))
    floor, slope = (bench.gain * bench.read) ** 2, bench.gain**2 * bench.dark
    read = np.sqrt(floor + _beyond_uniform(floor)) / gain
    found: Expected = {
        "K": (gain, gain * gain_error),
        "QE": (100 * bench.gain / gain, 100 * bench.gain / gain * gain_error),
        "sigma_d": (read, read * np.hypot(floor_error / (2 * floor), gain_error)),
    }
    if bench.dark:
        mean, variance = bench.gain * bench.dark / gain, slope / gain**2
        found["u_I_mean"] = (mean, np.hypot(mean_error / gain, mean * gain_error))
        found["u_I_var"] = (variance, np.hypot(slope_error / gain**2, 2 * variance * gain_error))
    if bench.gains:
        patterns = _spatial(bench, gain, float(bright[POINTS // 2]), float(dark[POINTS // 2]))
        found["PRNU1288_pixel"] = patterns.pop("PRNU1288_pixel")
        found |= {name: (value, np.hypot(error, value * gain_error)) for name, (value, error) in patterns.items()}
    return found


def _beyond_uniform(variance: float) -> float:
    """What rounding normal noise about a whole number adds to its variance beyond 1/12.

    First term of the exact series, -(4σ² + 1/π²) exp(-2π²σ²); the standard, which subtracts 1/12, takes it for noise.

    References
    ----------
    Widrow and Kollár, Quantization Noise, Cambridge University Press (2008).
    """
    return float(-(4 * variance + np.pi**-2) * np.exp(-2 * np.pi**2 * variance))


def _spatial(bench: Bench, gain: float, bright: float, dark: float) -> Expected:
    # Relative standard errors: of a pattern's deviation 1/√(2n), and what a stack of frames leaves of temporal noise.
    def error(pattern: float, temporal: float) -> float:
        return float(np.sqrt(2 / PIXELS) * (1 + temporal / STACK / pattern) / 2)

    signal = bench.gain * bench.electrons[POINTS // 2]
    warm = bench.gain * bench.dark_electrons[POINTS // 2]
    response = bench.gains * np.sqrt((signal + warm) ** 2 - warm**2)
    offset = bench.offsets**2 + (bench.gains * warm) ** 2
    rows, cols = bench.gain * bench.rows, bench.gain * bench.cols
    line = 1 / np.sqrt(2 * (SIDE - 1))
    return {
        "PRNU1288_pixel": (100 * response / signal, 100 * response / signal * error(response**2, bright)),
        "DSNU1288_pixel": (np.sqrt(offset) / gain, np.sqrt(offset) / gain * error(offset, dark)),
        "DSNU1288_row": (rows / gain, rows / gain * line),
        "DSNU1288_col": (cols / gain, cols / gain * line),
    }


def _stages(bench: Bench, warm: float) -> tuple[Detection, ...]:
    from emsynth import distortion as d

    share = LEVELS - 1.0  # brightest signal of the read-out, ADU
    digitiser = (d.BlackLevel(level=BLACK / share), d.Quantise(levels=LEVELS, full_scale=1.0))
    read, gain = d.ReadNoise(sigma=bench.read), d.Gain(gain=bench.gain)
    if not bench.efficiency:
        spread = (d.PulseSpread(sigma=bench.spread),) if bench.spread else ()
        return d.Poisson(), *spread, read, gain, *digitiser
    return (
        # With κ = 0 the noise of a flat field is white, as the standard's pixel statistics need it.
        d.Conversion(efficiency=bench.efficiency, exponent=0.0, weight=0.5, narrow=0.2, wide=1.0),
        d.DarkCurrent(mean=warm), d.GainMap(sigma=bench.gains), read,
        d.RowColumnOffsets(row_sigma=bench.rows / 100, column_sigma=bench.cols / 100, correlation=0.0),
        gain, d.OffsetMap(sigma=bench.offsets / share), *digitiser,
    )  # fmt: skip


def frame(bench: Bench, seed: int, electrons: float, warm: float, number: int) -> NDArray[np.uint16]:
    """Frame `number` of a flat field; patterns are the same in every frame of a seed, noise is not."""
    from emsynth.distortion import Readout, ScanClock
    from emsynth.distortion.stage import purpose_key

    shape = (SIDE, SIDE)
    readout = Readout(ScanClock(*shape, 1e-5, 1e-3), 100.0, LEVELS - 1.0, bench.gain, np.zeros(shape, np.uint8))
    image = np.full(shape, electrons, np.float32)
    for stage in _stages(bench, warm):
        fixed = stage.stage in ("gain_map", "offset_map", "row_column_offsets")
        key, margin = purpose_key(seed, 0 if fixed else number, stage.stage), stage.margin()
        if margin:
            image = np.pad(image, margin, mode="edge")
        image = stage.apply(image, readout, key)[margin : margin + SIDE, margin : margin + SIDE]
        image = np.ascontiguousarray(image)
    if readout.mask.any():
        raise ValueError(f"frame {number} of {electrons:g} electrons leaves the digitiser's range; lower the exposure")
    return image.astype(np.uint16)


def make(folder: Path) -> None:
    """Write all repeats of all series, each in a folder of its own."""
    for repeat in range(REPEATS):
        for n, (name, bench) in enumerate(BENCHES.items()):
            _series(folder / f"{repeat}" / name, bench, SEED + len(BENCHES) * repeat + n)


def _series(folder: Path, bench: Bench, seed: int) -> None:
    # Frames, the standard's descriptor file and what should be found.
    folder.mkdir(parents=True, exist_ok=True)
    lines, number = [f"n 16 {SIDE} {SIDE}"], 0
    for head, electrons, warm, count in _exposures(bench):
        lines.append(head)
        for _ in range(count):
            number += 1
            Image.fromarray(frame(bench, seed, electrons, warm, number)).save(folder / f"{number:04d}.tif")
            lines.append(f"i {number:04d}.tif")
    (folder / "descriptor.txt").write_text("\n".join(lines) + "\n")
    (folder / "expected.json").write_text(json.dumps(expected(bench)))


def _exposures(bench: Bench) -> Iterator[tuple[str, float, float, int]]:
    # Line of the descriptor file, electrons, thermal electrons and number of frames.
    for n, count in [*((n, 2) for n in range(POINTS)), (POINTS // 2, STACK)]:
        time, electrons, warm = bench.times[n], bench.electrons[n], bench.dark_electrons[n]
        yield f"b {time:.1f} {electrons:.6f}", electrons, warm, count
        yield f"d {time:.1f}", 0.0, warm, count


def characterise(folder: Path) -> Any:
    """Results of the reference implementation for one series."""
    # Of another environment; it ships no types.
    from emva1288.process import Data1288, LoadImageData, ParseEmvaDescriptorFile, Results1288  # type: ignore

    quiet = {"loglevel": logging.ERROR}
    parsed = ParseEmvaDescriptorFile(str(folder / "descriptor.txt"), **quiet)
    data = Data1288(LoadImageData(parsed.images, **quiet).data, **quiet)
    return Results1288(data.data, **quiet)


def judge(folder: Path) -> None:
    """Print what the reference implementation finds beside what was put in; means over the repeats of a series."""
    print(f"emva1288 {version('emva1288')}, numpy {version('numpy')}, scipy {version('scipy')}\n")
    print("| series | quantity | put in | found, mean | relative error % | its standard error % | deviations "
          "| scatter ÷ theory |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in sorted({made.parent.name for made in folder.glob("*/*/expected.json")}):
        repeats = sorted(folder.glob(f"*/{name}"))
        results = [characterise(repeat) for repeat in repeats]
        theory: Expected = json.loads((repeats[0] / "expected.json").read_text())
        for quantity, (value, error) in theory.items():
            found = np.array([float(getattr(each, quantity)) for each in results])
            off, of_mean = found.mean() - value, error / np.sqrt(len(found))
            print(f"| {name} | {quantity} | {value:.5g} | {found.mean():.5g} | {100 * off / value:+.3f} "
                  f"| {100 * of_mean / value:.3f} | {off / of_mean:+.1f} | {found.std(ddof=1) / error:.2f} |")


def scatter(repeats: int) -> None:
    """Print how much K and σ_d of `fine` scatter over more repeats than a disk holds; the standard's formulae again."""
    bench, n = BENCHES["fine"], list(BENCHES).index("fine")
    found = np.array([_gain_and_read_noise(bench, SEED + len(BENCHES) * repeat + n) for repeat in range(repeats)])
    for column, quantity in zip(found.T, ("K", "sigma_d"), strict=True):
        value, error = expected(bench)[quantity]
        deviations = (column.mean() - value) / error * np.sqrt(repeats)
        print(f"fine, {quantity}: {deviations:+.1f} deviations; scatter ÷ theory "
              f"{column[:REPEATS].std(ddof=1) / error:.2f} in the first {REPEATS}, {column.std(ddof=1) / error:.2f} "
              f"in all {repeats} (± {1 / np.sqrt(2 * repeats):.2f})")


def _gain_and_read_noise(bench: Bench, seed: int) -> tuple[float, float]:
    means, variances = np.empty((2, 2 * POINTS)), np.empty(2 * POINTS)
    for pair, (_, electrons, warm, _) in enumerate([*_exposures(bench)][: 2 * POINTS]):
        frames = [frame(bench, seed, electrons, warm, 2 * pair + n).astype(np.float64) for n in (1, 2)]
        means[:, pair], variances[pair] = [f.mean() for f in frames], (frames[0] - frames[1]).var() / 2
    signal = means[:, ::2].mean(axis=0) - means[:, 1::2].mean(axis=0)
    noise, fitted = variances[::2] - variances[1::2], signal <= 0.7 * signal[-1]
    gain = (signal * noise)[fitted].sum() / (signal**2)[fitted].sum()
    floor = np.polyfit(bench.times, variances[1::2], 1)[1] - 1 / 12
    return float(gain), float(np.sqrt(floor) / gain)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "judge", "scatter"):
        sys.exit(f"usage: {Path(sys.argv[0]).name} make DIR | judge DIR | scatter REPEATS")
    if sys.argv[1] == "scatter":
        scatter(int(sys.argv[2]))
    else:
        {"make": make, "judge": judge}[sys.argv[1]](Path(sys.argv[2]))
