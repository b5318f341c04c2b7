"""The multislice engine against abTEM's own probe, and the identities that the physics demands."""

from __future__ import annotations

from dataclasses import replace

import abtem
import dask
import numpy as np
import pytest
from abtem.core.axes import OrdinalAxis
from abtem.integrals import ScatteringFactorProjectionIntegrals
from ase import Atoms
from conftest import crystal, microscope, three_atoms

from emsynth.draw import Streams
from emsynth.errors import FieldError
from emsynth.microscope import Detector, wavelength
from emsynth.simulation import plan, scattering
from emsynth.simulation.multislice import ExactProjection, potential, simulate
from emsynth.simulation.plan import Simulation, beams, plan_for, smooth_number
from emsynth.simulation.scattering import reciprocal
from emsynth.specimen import Member

STATIC = {"phonons": {"minimum": 0, "maximum": 0}, "max_angle": 120.0}
STREAMS = Streams(1, 0)


def static(thicknesses=1, **changes):
    """A static lattice; the same exit planes whatever the kind of specimen."""
    return Simulation.model_validate(STATIC | {"thicknesses": thicknesses, "film_thicknesses": thicknesses} | changes)


def probe_of_abtem(specimen, scope, planned, refinement, every=15):
    """What abTEM's own probe sees, position by position, on a wave grid `refinement` times finer."""
    field = simulate(specimen, scope, static(thicknesses=1), STREAMS)
    rows, cols = np.meshgrid(*(np.arange(0, n, every) for n in field.image.shape[2:]), indexing="ij")
    places = np.stack([cols.ravel() * field.sampling[1], rows.ravel() * field.sampling[0]], axis=1)
    with dask.config.set(scheduler="synchronous"), abtem.config.set({"diagnostics.progress_bar": False}):
        projected = potential(specimen.atoms, replace(planned, refinement=refinement))
        probe = abtem.Probe(energy=100e3, semiangle_cutoff=22, soft=True, aberrations={
            "C10": -40.0, "C30": 2e4, "C21": 800, "phi21": np.deg2rad(30), "C12": 20.0, "phi12": np.deg2rad(20)})
        probe.grid.match(projected)
        incident = np.fft.fft2(probe.build(scan=abtem.CustomScan([(0.0, 0.0)]), lazy=False).array[0])
        # abTEM gives a point on the rim of the aperture its area as amplitude; emsynth gives it the root.
        incident = np.sqrt(np.abs(incident) / np.abs(incident).max()) * np.exp(1j * np.angle(incident))
        waves = [np.fft.fftfreq(n, side / n) for n, side in zip(incident.shape, planned.box[::-1], strict=True)]
        x, y = places.T[:, :, None, None]
        shifts = np.exp(-2j * np.pi * (x * waves[0][:, None] + y * waves[1]))
        positions = [OrdinalAxis(values=tuple(range(len(places))))]
        scanned = abtem.Waves(np.fft.ifft2(incident * shifts).astype(np.complex64), energy=100e3,
                              extent=planned.box[::-1], ensemble_axes_metadata=positions)
        waves = scanned.multislice(projected).array
        whole = (np.abs(incident) ** 2).sum()
    points = reciprocal(replace(planned, grid=waves.shape[:-3:-1]), scope)
    spectrum = np.abs(np.fft.fft2(waves.swapaxes(-1, -2)).reshape(len(places), -1)[:, points.flat]) ** 2
    return field.image[0][:, rows.ravel(), cols.ravel()], (spectrum @ points.weight.T / whole).T


ABERRATED = {"defocus": 40.0, "spherical": 2e4, "coma": 800.0, "coma_azimuth": 30.0, "astigmatism": 20.0,
             "astigmatism_azimuth": 20.0}


def test_superposed_plane_waves_are_abtems_scanned_probe(monkeypatch):
    """Given the same transmission functions, every position and every detector agree to single precision."""
    monkeypatch.setattr(plan, "_FINE", 1.0)
    scope = microscope(**ABERRATED)
    for found, expected in zip(*probe_of_abtem(three_atoms(), scope, plan_for(three_atoms(), scope, static()), 1),
                               strict=True):
        assert np.abs(found - expected).max() < 2e-5 * expected.max()


def test_agrees_with_abtem_on_a_grid_three_times_finer():
    """2 % is what the antialiased grid leaves of a static gold atom: the converged answer is abTEM's on a fine grid."""
    scope = microscope(**ABERRATED)
    planned = plan_for(three_atoms(), scope, static())
    assert planned.refinement == 3
    for found, expected in zip(*probe_of_abtem(three_atoms(), scope, planned, 3), strict=True):
        assert np.abs(found - expected).max() < 0.025 * np.ptp(expected)


def test_an_atom_scatters_alike_wherever_it_lies_on_the_grid():
    """Between grid points as on them, up to the largest angle; abTEM's own projection does not."""
    planned = plan_for(three_atoms(), microscope(), static())
    n, step = planned.grid[1], planned.box[1] / planned.grid[1]
    used = np.abs(np.fft.fftfreq(n)) <= 1 / 3

    def amplitude(integrator, offset):
        atom = Atoms("Au", positions=[(step * (n // 2 + offset), step * n / 2, 1)], cell=[step * n, step * n, 2])
        image = integrator.integrate_on_grid(atom, 0, 2, (n, n), (step, step))
        return np.abs(np.fft.fft2(image))[used, 0]

    exact, linear = ExactProjection(), ScatteringFactorProjectionIntegrals("lobato")
    np.testing.assert_allclose(amplitude(exact, 0.5), amplitude(exact, 0.0), rtol=1e-3)
    assert np.abs(amplitude(linear, 0.5) / amplitude(linear, 0.0) - 1).max() > 0.3
    # Averaged over positions both are the same potential.
    mean = np.mean([amplitude(linear, x) for x in np.linspace(0, 1, 21)], axis=0)
    np.testing.assert_allclose(mean[:5], amplitude(exact, 0.0)[:5], rtol=0.02)


def test_an_asymmetric_specimen_comes_out_the_right_way_round():
    """Row is y, col is x, and nothing is mirrored: each atom appears at its own (y, x)."""
    specimen = three_atoms()
    field = simulate(specimen, microscope(), static(thicknesses=1), STREAMS)
    haadf = field.image[0, 0]
    for (row, col), number in zip(specimen.columns.position, specimen.columns.number, strict=True):
        at = np.rint([row / field.sampling[0], col / field.sampling[1]]).astype(int)
        patch = haadf[at[0] - 4:at[0] + 5, at[1] - 4:at[1] + 5]
        assert np.abs(np.array(np.unravel_index(patch.argmax(), patch.shape)) - 4).max() <= 1, number
    gold, copper = (haadf[round(r / field.sampling[0]), round(c / field.sampling[1])] for r, c in [(1, 2), (4, 2.3)])
    assert gold > 2 * copper


def test_every_detector_and_thickness_of_one_pass_equals_the_same_taken_alone(monkeypatch):
    """Four detectors and twelve exit planes cost one pass and change nothing."""
    monkeypatch.setattr(plan, "_THINNEST", 2.0)
    detectors = (Detector(name="HAADF", inner=60.0, outer=110.0), Detector(name="LAADF", inner=25.0, outer=55.0),
                 Detector(name="ABF", inner=0.5, outer=1.0, unit="convergence"),
                 Detector(name="BF", inner=0.0, outer=0.3, unit="convergence"))
    specimen = three_atoms(depth=24.0)
    together = simulate(specimen, microscope(detectors=detectors), static(thicknesses=12), STREAMS)
    assert together.image.shape[:2] == (12, 4)
    for plane in (3, 7, 11):
        thin = three_atoms(depth=2.0 * (plane + 1))
        del thin.atoms[[atom.index for atom in thin.atoms if atom.position[2] >= thin.thickness]]
        for number, detector in enumerate(detectors):
            alone = simulate(thin, microscope(detectors=(detector,)), static(thicknesses=1), STREAMS)
            scale = together.image[plane, number].max()
            np.testing.assert_allclose(alone.image[0, 0], together.image[plane, number], atol=2e-6 * scale)


def test_tiles_of_a_static_crystal_equal_the_whole_box(monkeypatch):
    """Leaving out the waves that tiles do not share loses nothing where all tiles are alike."""
    monkeypatch.setattr(plan, "_WORTH", 0.0)  # the same grid for both
    specimen = crystal(rows=2, cells=2, cols=3)
    tiled = simulate(specimen, microscope(), static(thicknesses=1), STREAMS)
    whole = simulate(type(specimen)(**{**vars(specimen), "tile": (2 * 3.905, 3 * 3.905)}), microscope(),
                     static(thicknesses=1), STREAMS)
    first, second = (np.fft.fft2(f.image[0, 0], norm="forward") for f in (tiled, whole))
    for row, col in [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (-1, 2)]:
        assert abs(first[row, col] - second[2 * row, 3 * col]) < 1e-6
    assert abs(second[1, 0]) + abs(second[1, 1]) < 1e-6


def test_the_field_holds_nothing_beyond_its_band_limit():
    """2α/λ, widened by the soft edge of the aperture, which is half a point of the box at each end."""
    field = simulate(three_atoms(), microscope(), static(thicknesses=1), STREAMS)
    spectrum = np.abs(np.fft.fft2(field.image[0, 0]))
    rows, cols = (np.fft.fftfreq(n, d) for n, d in zip(field.image.shape[2:], field.sampling, strict=True))
    beyond = np.hypot(rows[:, None], cols) > field.band_limit + 1 / 8
    assert spectrum[beyond].max() < 1e-5 * spectrum.max()
    assert 1 / (2 * field.band_limit * max(field.sampling)) >= 3.5


def test_mistilt_equals_a_sheared_specimen():
    """Columns of a tilted specimen lean by -tilt·z: both ways of saying so give the same picture."""
    tilt = (15.0, -20.0)
    tilted = simulate(three_atoms(mistilt=tilt), microscope(), static(thicknesses=1), STREAMS)
    sheared = three_atoms()
    sheared.atoms.positions[:, [1, 0]] -= sheared.atoms.positions[:, 2:] * np.tan(np.array(tilt) * 1e-3)
    upright = simulate(sheared, microscope(), static(thicknesses=1), STREAMS)
    straight = simulate(three_atoms(), microscope(), static(thicknesses=1), STREAMS)
    def apart(a, b):
        return np.abs(a.image[0, 0] - b.image[0, 0]).max() / np.ptp(b.image[0, 0])

    assert apart(tilted, upright) < 0.03
    assert apart(tilted, straight) > 0.1
    position, _ = tilted.columns_at(12.0)
    np.testing.assert_allclose(position, sheared.atoms.positions[:, [1, 0]], atol=1e-9)


def test_a_leaning_column_is_flagged():
    """Unresolved where tilt times length exceeds 0.5 Å."""
    specimen = three_atoms(mistilt=(20.0, 0.0), depth=40.0)
    long = type(specimen.columns)(**{**vars(specimen.columns), "depth": np.array([[2, 2], [5, 38], [8, 20.0]])})
    field = simulate(type(specimen)(**{**vars(specimen), "columns": long}), microscope(), static(thicknesses=1),
                     STREAMS)
    assert field.columns_at(40.0)[1].tolist() == [True, False, True]
    assert field.columns_at(6.0)[1].tolist() == [True, True, False]


def test_phonons_stop_at_the_tolerance_and_say_what_they_reached():
    """The recorded standard error is at most what was asked, and a tighter tolerance takes more configurations."""
    reached = []
    for tolerance in (0.5, 0.045):
        settings = static(phonons={"minimum": 2, "maximum": 12, "tolerance": tolerance}, thicknesses=2)
        field = simulate(crystal(), microscope(), settings, STREAMS)
        assert field.provenance["standard_error"]["HAADF"] <= tolerance
        reached.append(field.provenance["phonon_configurations"])
    assert 2 <= reached[0] < reached[1] <= 12


def test_phonons_fill_the_dark_field():
    """A static lattice scatters too little to high angles: thermal diffuse scattering is most of a HAADF signal."""
    cold = simulate(crystal(), microscope(), static(thicknesses=1), STREAMS)
    warm = simulate(crystal(), microscope(), static(thicknesses=1, phonons={"minimum": 4, "maximum": 4}), STREAMS)
    assert warm.image[0, 0].mean() > 1.2 * cold.image[0, 0].mean()


def test_the_same_bytes_each_time():
    """Nothing but the arguments determines a field."""
    settings = static(thicknesses=2, phonons={"minimum": 2, "maximum": 2})
    first, second = (simulate(crystal(2, 2), microscope(), settings, STREAMS) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    other = simulate(crystal(2, 2), microscope(), settings, Streams(2, 0))
    assert first.image.tobytes() != other.image.tobytes()


def test_beam_fractions_add_up():
    """A detector of all angles sees nearly the whole beam (the rest leaves the band-limited grid)."""
    everything = (Detector(name="all", inner=0.0, outer=120.0),)
    field = simulate(three_atoms(), microscope(detectors=everything), static(thicknesses=1), STREAMS)
    assert 0.97 < field.image.min() <= field.image.max() < 1.0001


def test_source_size_keeps_the_mean_and_lowers_the_contrast():
    sharp, blurred = (simulate(three_atoms(), microscope(source_size=size), static(thicknesses=1), STREAMS).image[0, 0]
                      for size in (0.0, 1.0))
    assert blurred.mean() == pytest.approx(sharp.mean(), rel=1e-6)
    assert blurred.std() < 0.8 * sharp.std()


def test_focal_spread_is_a_mean_over_defocus():
    """The closed form against a fine sum over defoci."""
    spread = simulate(three_atoms(), microscope(focal_spread=20.0), static(), STREAMS).image[0]
    offsets = np.linspace(-80, 80, 41)
    weights = np.exp(-((offsets / 20) ** 2) / 2)
    pictures = [simulate(three_atoms(), microscope(defocus=d), static(), STREAMS).image[0] for d in offsets]
    mean = np.tensordot(weights / weights.sum(), pictures, 1)
    assert np.abs(spread - mean).max() < 0.001 * np.ptp(mean)


def test_an_empty_box_shows_the_area_of_a_detector():
    """BF in vacuum sees its share of the aperture's area: the soft rim passes intensity by area."""
    empty = three_atoms()
    del empty.atoms[:]
    empty.atoms.append("H")
    half = (Detector(name="BF", inner=0.0, outer=0.5, unit="convergence"),)
    field = simulate(empty, microscope(detectors=half), static(), STREAMS)
    assert float(np.median(field.image)) == pytest.approx(0.25, rel=0.05)


def test_a_box_that_the_probe_does_not_fit_is_refused():
    """Half a millimetre of Cs far from Scherzer's defocus spreads the probe over its own repetition."""
    with pytest.raises(FieldError, match=r"minimum_box: the box of three is 8.0 Å wide, and the probe needs 2\d"):
        simulate(three_atoms(), microscope(spherical=1e7, convergence=9.5, defocus=100.0), static(), STREAMS)


def test_half_a_layer_is_no_layer():
    """A specimen that is not a slab has one exit plane, at the bottom; a slab none that is thinner than 20 Å."""
    layer = replace(three_atoms(), slab=False)
    assert simulate(layer, microscope(), static(12), STREAMS).thickness.tolist() == [12.0]
    thick = replace(three_atoms(depth=60.0), entrance=1.0, thickness=58.0)
    field = simulate(thick, microscope(), static(5), STREAMS)
    assert len(field.thickness) == 5
    assert 20.0 <= field.thickness[0] <= 22.0
    assert field.thickness[-1] == 58.0


def test_a_detector_beyond_the_grid_is_refused():
    with pytest.raises(FieldError, match=r"HAADF reaches to 110 mrad, beyond the simulated 90 mrad"):
        simulate(three_atoms(), microscope(), static(max_angle=90.0), STREAMS)


def test_the_grid_carries_the_simulated_angle():
    """λ/(3d) is abTEM's limit after its antialiasing."""
    planned = plan_for(three_atoms(), microscope(), static(max_angle=120.0))
    for points, side in zip(planned.grid, planned.box, strict=True):
        assert wavelength(100e3) / (3 * side / points) >= 0.120
        assert smooth_number(points) == points


def test_wave_classes_partition_the_beams():
    planned = plan_for(crystal(rows=2, cols=4), microscope(), static())
    classes = planned.wave_classes()
    assert len(classes) == 8
    assert sorted(np.concatenate(classes)) == list(range(len(beams(planned.box, microscope()))))
    for group in classes:
        assert not ((planned.beams[group] - planned.beams[group[0]]) % (2, 4)).any()


def test_wavelength_of_published_values():
    """Kirkland (2020), table 2.2."""
    assert wavelength(200e3) == pytest.approx(0.02508, abs=1e-5)
    assert wavelength(80e3) == pytest.approx(0.04176, abs=1e-5)


@pytest.mark.parametrize("member", [
    {"specimen": {"kind": "crystal", "structure": "Si", "zone_axis": [0, 1, 1], "thickness": 40.0}},
    {"specimen": {"kind": "crystal", "structure": "Si", "zone_axis": [0, 1, 1], "thickness": 40.0},
     "contamination": {"share": 1, "thickness": 30}},
    {"specimen": {"kind": "edge", "structure": "Au", "zone_axis": [0, 1, 1], "thickness": 40.0, "box": 28}},
    {"specimen": {"kind": "defects", "structure": "Si", "zone_axis": [0, 1, 1], "thickness": 40.0, "exit_steps": 2}},
    {"specimen": {"kind": "boundary", "structure": "Cu", "zone_axis": [1, -1, 0], "plane": [1, 1, 1],
                  "thickness": 40.0}},
], ids=["crystal", "contaminated", "edge", "steps", "twin"])
def test_a_slice_holds_one_atomic_plane(member):
    """Away from its borders, whatever was done to the crystal: else two planes scatter as one now and then."""
    for field in range(4):
        streams = Streams(5, field)
        specimen = Member.model_validate(member).drawn_for(streams, "specimen").build(streams)
        planned = plan_for(specimen, microscope(), static())
        step = planned.depth / planned.slices
        height = specimen.atoms.positions[:, 2]
        if specimen.grain is not None:
            height = height[specimen.grain >= 0]
        assert step < 2.2
        # Thermal displacements are a tenth of an Å: none crosses a border.
        assert np.abs(height / step - np.rint(height / step)).min() * step > 0.2
        levels = np.unique(np.round(height, 1))
        assert len(np.unique(np.floor(levels / step))) >= len(levels) - 1


def test_edges_between_slices_are_what_hurts():
    """Silicon along [110] in slices that hold its planes, and in such as do not, against a fine reference."""
    made = {"kind": "crystal", "structure": "Si", "zone_axis": [0, 1, 1], "thickness": 23.0, "minimum_box": 11.0}
    specimen = Member.model_validate({"specimen": made}).drawn_for(Streams(5, 0), "specimen").build(Streams(5, 0))
    scope = microscope()
    loose = replace(specimen, about={})
    fine, aligned, arbitrary = (simulate(s, scope, static(slice_thickness=t, max_angle=110.0), STREAMS).image[-1, 0]
                                for s, t in ((specimen, 0.5), (specimen, 2.0), (loose, 2.0)))
    errors = [float(np.sqrt(np.mean((image - fine) ** 2)) / fine.mean()) for image in (aligned, arbitrary)]
    assert errors[0] < 0.04
    assert errors[1] > 2 * errors[0]


def test_pairs_in_blocks_are_the_pairs_at_once(monkeypatch):
    """Some rows of the products at a time, their weights made anew or kept: the same picture."""
    whole = simulate(three_atoms(), microscope(), static(), STREAMS).image
    monkeypatch.setattr(scattering, "_BLOCK_PAIRS", 700)
    kept = simulate(three_atoms(), microscope(), static(), STREAMS).image
    monkeypatch.setattr(scattering, "_KEPT_PAIRS", 0)
    anew = simulate(three_atoms(), microscope(), static(), STREAMS).image
    assert kept.tobytes() == anew.tobytes()
    assert np.abs(kept - whole).max() < 2e-6 * whole.max()
