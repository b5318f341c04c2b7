"""Scan noise of abTEM (its own functions, private ones included) beside emsynth's: clock, spectrum, gather, speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise

import numpy as np
from abtem import noise as abtem_noise
from numpy.typing import NDArray
from scipy.signal import periodogram

from emsynth.distortion import Grid, Hum, Motion, RowJitter, ScanClock, Window, prefilter
from emsynth.distortion.scan import waves
from emsynth.distortion.stage import purpose_key
from emsynth.draw import number

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]

HIGHEST = 500.0  # Hz, abTEM's default `max_frequency`
SLOWEST_LINE = 10.0  # Hz, where emsynth's mechanical lines begin


def components(seed: int, parts: int) -> tuple[Floats, Floats, Floats]:
    """Frequency (Hz), amplitude and phase (rad) of the sinusoids that abTEM adds up along one axis.

    f = U₁·f_max, A = U₂/√f, and a delay U₃/f, which is a phase 2π U₃; so the power density is 1/(6 f_max f) per
    component up to f_max.
    """
    rng = np.random.RandomState(seed)
    frequency = rng.rand(parts) * HIGHEST
    return frequency, rng.rand(parts) / np.sqrt(frequency), 2 * np.pi * rng.rand(parts)


def abtem_displacement(clock: ScanClock, seed: int, parts: int) -> Floats:
    """Displacement (R, C) along one axis by abTEM's own function, before it is scaled to its `rms_power`.

    abTEM's fast axis is the first.
    """
    times = abtem_noise._pixel_times(clock.dwell, clock.fly_back, (clock.cols, clock.rows))
    moved: Floats = abtem_noise._single_axis_distortion(times, HIGHEST, parts, seed).T
    return moved


def as_motion(clock: ScanClock, seed: int, parts: int) -> Motion:
    """The same sinusoids as emsynth's separable displacement along col; abTEM's clock starts a row and a pixel late."""
    frequency, amplitude, phase = components(seed, parts)
    along_rows, cols = waves(clock, frequency)
    start = 2 * np.pi * frequency * (clock.row_period + clock.dwell) + phase
    angle = along_rows + start[:, None]
    rows = np.concatenate([amplitude[:, None] * np.sin(angle), amplitude[:, None] * np.cos(angle)])
    return Motion(np.stack([np.zeros_like(rows), rows]), cols)


def jitter_periodogram(jitter: RowJitter, rows: int, frames: int) -> tuple[Floats, Floats]:
    """Mean periodogram of the row offsets of `frames` frames, and what it should be, px² rows, at each k/rows.

    The expectation is exact for a finite stationary series of autocovariance σ²φ^|k|; it tends to
    σ²(1-φ²)/(1 - 2φ cos 2πf + φ²).
    """
    clock = ScanClock(rows, 1, 1e-6, 1e-4)
    series = np.stack([jitter.move(clock, purpose_key(0, n, "row_jitter")).rows[1, 0] for n in range(frames)])
    _, power = periodogram(series, detrend=False, return_onesided=False, axis=1)
    lag, sigma, correlation = np.arange(rows), number(jitter.sigma), number(jitter.correlation)
    weight = np.where(lag == 0, 1.0, 2 * (1 - lag / rows)) * sigma**2 * correlation**lag
    wave = np.cos(2 * np.pi * np.outer(lag, lag) / rows)
    return power.mean(axis=0)[: rows // 2 + 1], (wave @ weight)[: rows // 2 + 1]


def slope(frequency: Floats, power: Floats, low: float, high: float) -> float:
    """Exponent of a power law through the band from `low` to `high`, from means over third octaves."""
    edges = low * 2 ** (np.arange(int(3 * np.log2(high / low)) + 1) / 3)
    band = [(frequency >= a) & (frequency < b) for a, b in pairwise(edges)]
    centre = np.log([frequency[b].mean() for b in band])
    return float(np.polyfit(centre, np.log([power[b].mean() for b in band]), 1)[0])


def line_spectrum(draw: Callable[[ScanClock, int], Floats], frames: int, first: int = 0) -> tuple[Floats, Floats]:
    """Mean one-sided spectrum, px²/Hz, of a displacement sampled at 2 kHz for 1 s; `draw` gets clock and number."""
    clock = ScanClock(2000, 1, 5e-4, 0.0)
    total = np.zeros(1001)
    for n in range(first, first + frames):
        frequency, power = periodogram(draw(clock, n), 1 / clock.row_period, window="hann", detrend=False)
        total += power
    return frequency, total / frames


def abtem_series(clock: ScanClock, frame: int, parts: int = 1000) -> Floats:
    """Displacement along one axis by abTEM, one column."""
    return abtem_displacement(clock, frame, parts)[:, 0]


def hum_series(clock: ScanClock, frame: int) -> Floats:
    """Vibration by emsynth along col: six mechanical lines of 1 px at most."""
    hum = Hum(amplitude=1.0, lines=6, mains=50.0, mechanical=1.0, line_start="free")
    return hum.move(clock, purpose_key(0, frame, "hum")).displacement()[1, :, 0]


def left_by_drift(clock: ScanClock, frames: int) -> float:
    """Share of the variance of abTEM's components from 1/T to 10 Hz that is left when a parabola is taken off."""
    t = clock.row_times()[:, 0] / clock.frame
    basis = np.stack([np.ones_like(t), t, t**2], axis=1)
    kept, whole = 0.0, 0.0
    for seed in range(frames):
        frequency, amplitude, phase = components(seed, 1000)
        amplitude = np.where((frequency * clock.frame > 1) & (frequency < SLOWEST_LINE), amplitude, 0)
        moved = amplitude @ np.sin(2 * np.pi * np.outer(frequency, t * clock.frame) + phase[:, None])
        kept += (moved - basis @ np.linalg.lstsq(basis, moved, rcond=None)[0]).var()
        whole += moved.var()
    return float(kept / whole)


def one_over_f_shares(clock: ScanClock) -> tuple[float, float, float]:
    """Shares of abTEM's power from 1/T to 500 Hz: below 10 Hz, from there on, and above half the row rate."""
    whole = np.log(HIGHEST * clock.frame)
    slow = np.log(max(SLOWEST_LINE * clock.frame, 1)) / whole
    aliased = max(np.log(HIGHEST * 2 * clock.row_period), 0) / whole
    return slow, 1 - slow, aliased


def jitter_fit(rows: int) -> tuple[float, float]:
    """The φ whose AR(1) spectrum is closest to 1/f over a frame of so many rows, and the rms distance left, dB."""
    f = np.arange(1, rows // 2 + 1) / rows
    best = (0.0, np.inf)
    for correlation in np.linspace(0, 0.999, 1000):
        level = 10 * np.log10(f / (1 - 2 * correlation * np.cos(2 * np.pi * f) + correlation**2))
        # Octaves weigh alike, as they do in 1/f.
        weight = 1 / f / (1 / f).sum()
        rms = float(np.sqrt(weight @ (level - weight @ level) ** 2))
        best = min(best, (float(correlation), rms), key=lambda fit: fit[1])
    return best


def band_limited(side: int, edge: float, seed: int) -> tuple[Floats, Complex]:
    """Random periodic image with frequencies up to `edge` cycles per px, range about 1, and its spectrum."""
    spectrum = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    f = np.fft.fftfreq(side)
    spectrum[np.hypot(f[:, None], f[None, :]) > edge] = 0
    image = np.fft.ifft2(spectrum).real
    return image / np.ptp(image), spectrum / np.ptp(image)


def upsampled(spectrum: Complex, times: int) -> Floats:
    """The image of a band-limited spectrum on a grid that is `times` as fine."""
    side = len(spectrum)
    wide = np.zeros((side * times, side * times), complex)
    at = np.fft.fftfreq(side, 1 / side).astype(int)
    wide[np.ix_(at, at)] = spectrum * times**2
    return np.fft.ifft2(wide).real


def fourier_values(spectrum: Complex, positions: Floats) -> Floats:
    """Exact values (n,) of a band-limited image at positions (2, n), px."""
    side = len(spectrum)
    used = np.flatnonzero(np.abs(spectrum).max(axis=1) > 1e-9 * np.abs(spectrum).max())
    f = np.fft.fftfreq(side)[used]
    rows, cols = (np.exp(2j * np.pi * np.outer(p, f)) for p in positions)
    values: Floats = ((rows @ spectrum[np.ix_(used, used)]) * cols).sum(axis=1).real / spectrum.size
    return values


def abtem_image(spectrum: Complex, moved: Floats, times: int = 1) -> Floats:
    """Image displaced by `moved (2, R, C)` px by abTEM, which interpolates linearly, on a grid `times` as fine."""
    fine = upsampled(spectrum, times)
    offsets = np.zeros((2, *fine.shape))
    offsets[:, ::times, ::times] = times * moved
    image: Floats = abtem_noise._apply_displacement_field(fine, *offsets)[::times, ::times]
    return image


def emsynth_image(image: Floats, moved: Floats) -> Floats:
    """The same by emsynth's gather, on a window that coincides with the image."""
    side = len(image)
    window = Window((side, side), 1.0, origin=((side - 1) / 2, (side - 1) / 2))
    where = Grid((side, side), np.eye(2, 3), moved.astype(np.float32))
    seen: Floats = window.gather(prefilter(image, True), 1.0, True, where).astype(np.float64)
    return seen


def displaced(side: int, pixels: float, seed: int = 1) -> Floats:
    """Displacement by abTEM of both axes (2, R, C), scaled to a deviation of `pixels`."""
    clock = ScanClock(side, side, 5e-6, 5e-4)
    moved = np.stack([abtem_displacement(clock, seed + axis, 200) for axis in (0, 1)])
    scaled: Floats = moved * (pixels / moved.std(axis=(1, 2), keepdims=True))
    return scaled


def inside(moved: Floats) -> NDArray[np.bool_]:
    """Pixels (R, C) whose displaced position lies on the image: beyond it abTEM repeats it one pixel early."""
    side = moved.shape[1]
    at = moved + np.indices((side, side))
    on: NDArray[np.bool_] = ((at >= 0) & (at < side - 1)).all(axis=0)
    return on


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Least time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def report_spectra() -> None:
    """Spectra of both, and which of abTEM's power emsynth's stages can hold."""
    # Power density times frequency: N/(6 f_max) for abTEM; for emsynth Σ A²/2 · ½ / ln 50, as a line has a random
    # direction and E A² is 1 for the first of the six and 1/3 for the others.
    sides = (("abTEM, 1000 components", abtem_series, 200, 1000 / (6 * HIGHEST)),
             ("emsynth, 6 mechanical lines", hum_series, 4000, (1 + 5 / 3) / 4 / np.log(50)))
    for name, draw, frames, level in sides:
        groups = [line_spectrum(draw, frames // 10, n * frames // 10) for n in range(10)]
        error = np.std([slope(*group, 12, 450) for group in groups], ddof=1) / np.sqrt(10)
        frequency, power = groups[0][0], np.mean([group[1] for group in groups], axis=0)
        band = (frequency > 12) & (frequency < 450)
        seen = (power * frequency)[band].mean()
        beyond = power[frequency > 1.05 * HIGHEST].sum() / power.sum()
        fall = slope(frequency, power, 12, 450)
        print(f"{name}, {frames} frames: slope {fall:+.3f} ± {error:.3f} from 12 to 450 Hz, "
              f"f·S(f) {seen:.4f} px² (theory {level:.4f}), {100 * beyond:.0e} % above 525 Hz")
    for correlation in (0.0, 0.5, 0.95):
        seen, theory = jitter_periodogram(RowJitter(sigma=1.0, ratio=0.0, correlation=correlation), 256, 2000)
        ratio = seen / theory
        print(f"row jitter φ = {correlation}: periodogram ÷ theory {ratio.mean():.4f}, "
              f"{ratio.min():.3f} to {ratio.max():.3f} (standard error of one {2000**-0.5:.3f})")
    for rows in (256, 512):
        print(f"AR(1) nearest to 1/f over {rows} rows: φ = %.3f, rms distance %.1f dB" % jitter_fit(rows))
    print("\n| 512² scan, fly-back 0.5 ms | frame s | 1/f power below 10 Hz | of it left by drift | 10-500 Hz "
          "| above half the row rate |\n|---|---:|---:|---:|---:|---:|")
    for dwell in (1e-6, 5e-6, 20e-6):
        clock = ScanClock(512, 512, dwell, 5e-4)
        slow, fast, aliased = one_over_f_shares(clock)
        print(f"| dwell {1e6 * dwell:.0f} µs | {clock.frame:.2f} | {100 * slow:.0f} % "
              f"| {100 * left_by_drift(clock, 200):.0f} % | {100 * fast:.0f} % | {100 * aliased:.0f} % |")


def report_gather() -> None:
    """Both interpolations against the exact one."""
    print("\nDisplaced by abTEM's field, deviation 1.5 px per axis, 128² px, frequencies up to 1/8 per px:\n")
    print("| displaced by | against | rms % of the range | largest % |\n|---|---|---:|---:|")
    moved = displaced(128, 1.5)
    image, spectrum = band_limited(128, 1 / 8, 0)
    kept, at = inside(moved), moved + np.indices((128, 128))
    exact = fourier_values(spectrum, at.reshape(2, -1)).reshape(128, 128)
    ours = emsynth_image(image, moved)
    sides = [("emsynth, everywhere", "Fourier", (ours - exact).ravel())]
    for times in (1, 2, 4, 8):
        theirs = abtem_image(spectrum, moved, times)
        sides += [(f"abTEM, grid ×{times}", name, (theirs - other)[kept])
                  for name, other in (("Fourier", exact), ("emsynth", ours))]
        if times in (1, 8):
            sides.append((f"abTEM, grid ×{times}, beyond its edge", "Fourier", (theirs - exact)[~kept]))
    for name, against, difference in sides:
        print(f"| {name} | {against} | {100 * np.sqrt((difference**2).mean()):.4f} "
              f"| {100 * np.abs(difference).max():.4f} |")
    print(f"\n{100 * (~kept).mean():.1f} % of the pixels look beyond abTEM's edge.")


def report_speed() -> None:
    """One 512² frame, 200 components per axis."""
    clock, parts = ScanClock(512, 512, 5e-6, 5e-4), 200
    image, _ = band_limited(512, 1 / 8, 0)
    times = abtem_noise._pixel_times(clock.dwell, clock.fly_back, (512, 512))
    moved = displaced(512, 1.5)
    clean, grid = prefilter(image, True), Grid((512, 512), np.eye(2, 3), moved.astype(np.float32))
    window = Window((512, 512), 1.0, origin=(255.5, 255.5))
    hum = Hum(amplitude=1.0, lines=6, mains=50.0, mechanical=1.0, line_start="free")
    print("\n| 512² frame | abTEM ms | emsynth ms |\n|---|---:|---:|")
    rows = (
        ("displacement, 200 components per axis",
         lambda: abtem_noise._make_displacement_field(times, HIGHEST, parts, 10.0, 1),
         lambda: Motion.total([as_motion(clock, 1, parts), as_motion(clock, 2, parts)]).values()),
        ("image", lambda: abtem_noise._apply_displacement_field(image, *moved),
         lambda: window.gather(clean, 1.0, True, grid)),
    )  # fmt: skip
    for name, theirs, ours in rows:
        print(f"| {name} | {milliseconds(theirs, 2):.0f} | {milliseconds(ours, 10):.2f} |")
    print(f"| displacement, emsynth's own 6 lines | | {milliseconds(lambda: hum.move(clock, 1).values(), 20):.2f} |")


def main() -> None:
    """Print everything."""
    print(f"abtem {version('abtem')}, emsynth {version('emsynth')}, numpy {version('numpy')}\n")
    clock = ScanClock(96, 64, 5e-6, 5e-4)
    theirs, ours = abtem_displacement(clock, 3, 200), as_motion(clock, 3, 200).displacement()[1]
    print(f"same sinusoids, deviation {theirs.std():.3f}: largest difference {np.abs(theirs - ours).max():.1e}")
    report_spectra()
    report_gather()
    report_speed()


if __name__ == "__main__":
    main()
