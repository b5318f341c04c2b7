"""TEM images: against abTEM, and the identities of a lens with partial coherence."""

from __future__ import annotations

from dataclasses import replace

import abtem
import dask
import numpy as np
import pytest
from ase import Atoms
from conftest import three_atoms

from emsynth.draw import Streams
from emsynth.errors import FieldError
from emsynth.microscope import TransmissionMicroscope
from emsynth.simulation import plan, tem
from emsynth.simulation.multislice import potential
from emsynth.simulation.plan import Simulation, plan_transmission
from emsynth.simulation.transfer import Lens, finished
from emsynth.specimen.base import Columns, Specimen

STATIC = Simulation.model_validate({"phonons": {"minimum": 0, "maximum": 0}, "max_angle": 60.0, "thicknesses": 1})
STREAMS = Streams(1, 0)


def scope(**changes):
    settings = {"energy": 200e3, "defocus": 400.0, "spherical": 0.6e7, "aperture": 25.0, "illumination": 0.0}
    return TransmissionMicroscope.model_validate(settings | changes)


def lens_and_plan(**changes):
    used = scope(**changes)
    planned = plan_transmission(three_atoms(), used, STATIC)
    return Lens(planned, used), planned, used


def random_waves(lens, strength=0.3):
    """The direct beam of amplitude 1 and scattered waves of any phase: a strong object."""
    rng = np.random.default_rng(0)
    waves = strength * (rng.normal(size=len(lens.points)) + 1j * rng.normal(size=len(lens.points)))
    waves[lens.points == 0] = 1.0
    return waves.astype(np.complex64)[None]


def at_points(image, counts):
    """The Fourier series of a picture, at whole fractions of its sides."""
    rows, cols = (np.exp(2j * np.pi * np.outer(np.arange(n) / n, np.rint(np.fft.fftfreq(size) * size)))
                  for n, size in zip(counts, image.shape, strict=True))
    return (rows @ np.fft.fft2(image, norm="forward") @ cols.T).real


def test_an_image_is_abtems(monkeypatch):
    """Exit wave and aberrations: abTEM's intensity at every point, to what is left out of a field; x is not y."""
    monkeypatch.setattr(plan, "_FINE_TRANSMISSION", 1.0)
    used = scope(astigmatism=60.0, astigmatism_azimuth=25.0, coma=900.0, coma_azimuth=70.0, trefoil=500.0)
    specimen, planned = three_atoms(), plan_transmission(three_atoms(), used, STATIC)
    bent = abtem.CTF(energy=200e3, C10=-400.0, C30=0.6e7, C12=60.0, phi12=np.deg2rad(25), C21=900.0,
                     phi21=np.deg2rad(70), C23=500.0)
    with dask.config.set(scheduler="synchronous"), abtem.config.set({"diagnostics.progress_bar": False}):
        exit_wave = abtem.PlaneWave(energy=200e3).multislice(potential(specimen.atoms, planned), lazy=False)
        spectrum = np.fft.fft2(exit_wave.apply_ctf(bent, max_batch=1).array)
    # abTEM gives a point on the rim of the aperture its area as amplitude; emsynth gives it the root.
    waves = [np.fft.fftfreq(n, side / n) for n, side in zip(spectrum.shape, planned.box[::-1], strict=True)]
    angle = used.wavelength * np.hypot(waves[0][:, None], waves[1])
    azimuth = np.arctan2(waves[1], waves[0][:, None])
    rim = plan.soft_disc(angle, azimuth, 0.025, planned.box, used.wavelength)
    expected = np.abs(np.fft.ifft2(spectrum * np.sqrt(rim))).T ** 2
    found = at_points(tem.simulate(specimen, used, STATIC, STREAMS).image[0, 0], planned.grid)
    assert np.abs(found - expected).max() < 1e-3 * np.ptp(expected)
    assert np.abs(found - expected[:, ::-1]).max() > 0.1 * np.ptp(expected)


def test_vacuum_is_as_bright_as_the_beam():
    """Without scattered waves every image of the series is 1 everywhere, whatever the lens."""
    lens, planned, used = lens_and_plan(foci=3, focal_spread=30.0, illumination=0.5)
    direct = (lens.points == 0).astype(np.complex64)[None]
    pictures, _ = finished(lens.images(direct), planned, used, 4.0)
    assert np.abs(pictures - 1).max() < 1e-5


def test_the_sum_over_foci_is_the_average_over_the_spread():
    """Of a strong object, against three hundred images with normal weights: 1e-3 of the range."""
    lens, _, _ = lens_and_plan(focal_spread=35.0)
    waves = random_waves(lens)
    nodes = np.linspace(-5, 5, 301)
    weights = np.exp(-(nodes**2) / 2)
    expected = sum(w * Lens(lens_and_plan()[1], scope(defocus=400 + 35 * n)).images(waves)[0, 0]
                   for n, w in zip(nodes, weights / weights.sum(), strict=True))
    assert np.abs(lens.images(waves)[0, 0] - expected).max() < 1e-3 * np.ptp(expected)


def test_a_weak_object_is_damped_by_the_envelopes():
    """Interference with the direct beam falls as exp(-½(πλΔq²)²) by the focus, exp(-½σ²|∇χ|²) by the illumination."""
    lens, planned, used = lens_and_plan(focal_spread=30.0, illumination=0.4)
    angle = lens._angle
    chosen = int(np.argmin(np.abs(angle - 0.012)))
    waves = (lens.points == 0).astype(np.complex64)
    waves[chosen] = 1e-3
    row, col = np.divmod(lens.points[chosen], planned.grid[1])
    seen = np.fft.fft2(lens.images(waves[None])[0, 0], norm="forward")
    at = [int(a if a <= n // 2 else a - n) for a, n in zip((row, col), planned.grid, strict=True)]
    theta, wavelength = angle[chosen], used.wavelength
    slope = 2 * np.pi / wavelength * (0.6e7 * theta**3 - 400 * theta)
    damping = np.exp(-0.5 * (np.pi * 30 * theta**2 / wavelength) ** 2 - 0.5 * (0.4e-3 * slope) ** 2)
    assert abs(seen[at[0], at[1]]) == pytest.approx(1e-3 * damping, rel=2e-3)


def test_a_series_is_the_same_images_one_by_one():
    """Each image of a through-focus series is that of its defocus alone, lowest first."""
    series, planned, used = lens_and_plan(foci=3, focus_step=120.0, focal_spread=25.0)
    waves = random_waves(series)
    together = series.images(waves)[0]
    for defocus, image in zip(used.defoci(), together, strict=True):
        alone = Lens(planned, scope(defocus=float(defocus), focal_spread=25.0)).images(waves)[0, 0]
        assert np.abs(image - alone).max() < 1e-3 * np.ptp(alone)
    assert used.defoci().tolist() == [280.0, 400.0, 520.0]


def test_vibration_and_the_stobbs_factor():
    """Vibration damps a frequency by exp(-2π²s²g²), the contrast factor divides all but the mean."""
    lens, planned, _ = lens_and_plan()
    images = lens.images(random_waves(lens, 0.05))
    plain, _ = finished(images, planned, scope(), 4.0, negligible=1e-7)
    damped, _ = finished(images, planned, scope(vibration=0.4, contrast=2.0), 4.0, negligible=1e-7)
    for g, side in ((1, planned.box[0]), (3, planned.box[0])):
        before, after = (np.fft.fft2(p[0, 0], norm="forward")[g, 0] for p in (plain, damped))
        assert after / before == pytest.approx(np.exp(-2 * (np.pi * 0.4 * g / side) ** 2) / 2, rel=1e-3)
    assert damped.mean() == pytest.approx(plain.mean(), rel=1e-6)


def test_what_a_field_leaves_out_is_negligible():
    """Beyond the band limit lies less than 1e-4 of the range, and below it nothing is lost."""
    lens, planned, used = lens_and_plan(focal_spread=40.0)
    images = lens.images(random_waves(lens, 0.1))
    pictures, limit = finished(images, planned, used, 4.0)
    assert limit < 1.1 * used.band_limit
    error = at_points(pictures[0, 0], lens.shape) - images[0, 0]
    assert np.sqrt(np.mean(error**2)) < 1.01e-4 * np.ptp(images)


def test_an_aperture_beyond_the_simulated_angle_is_refused():
    """Before anything is simulated, with the way out."""
    with pytest.raises(FieldError, match=r"microscope.aperture: 80 mrad is beyond the simulated 60 mrad; raise"):
        tem.simulate(three_atoms(), scope(aperture=80.0), STATIC, STREAMS)


def test_thermal_damping_is_the_mean_over_displacements():
    """Of light atoms the image through the mean potential is the mean image; of a static lattice it is not."""
    specimen = three_atoms()
    specimen.atoms.symbols[:] = "C"
    specimen = replace(specimen, thermal={"C": 0.15})
    many = {"minimum": 240, "maximum": 240}
    moving = Simulation.model_validate({"phonons": many, "max_angle": 60.0, "thicknesses": 1})
    damped = Simulation.model_validate({"phonons": {"model": "debye_waller"}, "max_angle": 60.0, "thicknesses": 1})
    used = scope(spherical=0.0, defocus=60.0)
    mean, elastic, still = (at_points(tem.simulate(specimen, used, s, STREAMS).image[0, 0], (90, 80))
                            for s in (moving, damped, STATIC))
    assert np.abs(elastic - mean).max() < 0.5 * np.abs(still - mean).max()


def test_a_tilted_specimen_is_seen_from_its_entrance():
    """An atom at depth z appears displaced by -tilt·z, whatever lies below it: exit planes do not move the image."""
    atoms = Atoms("AuSi", positions=[(8.0, 9.0, 2.0), (8.0, 9.0, 38.0)], cell=[16, 18, 40], pbc=True)
    tilted = Specimen(atoms, (18.0, 16.0), Columns.none(), {"Au": 0.08, "Si": 0.08}, (12.0, -7.0), "defects", "two",
                      "two", 40.0, slab=True)
    settings = STATIC.model_copy(update={"film_thicknesses": 4, "slice_thickness": 1.0})
    used = scope(spherical=0.0, defocus=60.0, aperture=30.0)
    field = tem.simulate(tilted, used, settings, STREAMS)
    for depth, image in zip(field.thickness, field.image[:, 0], strict=True):
        power = np.abs(image - 1.0) ** 4  # gold alone, the bright one
        rows, cols = (np.arange(n) * step for n, step in zip(image.shape, field.sampling, strict=True))
        seen = np.array([(power.sum(1) * rows).sum(), (power.sum(0) * cols).sum()]) / power.sum()
        meant = np.array([9.0 - 0.012 * 2.0, 8.0 + 0.007 * 2.0])
        assert np.abs(seen - meant).max() < 0.06, depth


def test_the_illumination_takes_no_electron():
    """Partial coherence changes contrast and not the mean; a strong object, far from focus, with large Cs."""
    waves = random_waves(lens_and_plan()[0])
    sharp, blurred = (lens_and_plan(defocus=550.0, spherical=1e7, illumination=spread)[0].images(waves)[0, 0]
                      for spread in (0.0, 0.5))
    assert blurred.mean() == pytest.approx(sharp.mean(), rel=1e-4)
    assert blurred.std() < 0.8 * sharp.std()
