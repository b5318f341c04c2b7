"""The convolution model: what it must reproduce by construction, what it was checked on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from conftest import crystal, microscope, three_atoms

from emsynth.draw import Streams
from emsynth.errors import FieldError
from emsynth.microscope import Detector
from emsynth.simulation import convolution
from emsynth.simulation.convolution import Harmonics, check_offered, convolve, detector_class, record, rendered
from emsynth.simulation.convolution_check import CASES, LIMIT, summary
from emsynth.simulation.multislice import simulate
from emsynth.simulation.plan import Simulation

STATIC = Simulation.model_validate({"phonons": {"minimum": 0, "maximum": 0}, "max_angle": 110.0, "thicknesses": 1,
                                    "film_thicknesses": 1, "slice_thickness": 1.0})
STREAMS = Streams(1, 0)
HAADF = (Detector(name="HAADF", inner=60.0, outer=105.0),)


def still(atoms=slice(None), shift=(0.0, 0.0), **changes):
    """Some of three different atoms at rest, each at its own depth."""
    whole = three_atoms(**changes)
    kept = whole.atoms[atoms]
    kept.positions[:, [1, 0]] += shift
    return replace(whole, atoms=kept, thermal=dict.fromkeys(("Au", "Si", "Cu"), 0.0), endless=(False, False))


def chain(count=5, spacing=2.875):
    """One column of gold at rest, in a wide box; in slices of 1 Å here and in the fit, whose borders matter at rest."""
    depth = 17.0
    atoms = Atoms(f"Au{count}", positions=[(5.3, 6.1, 1.0 + spacing * n) for n in range(count)], cell=[12, 12, depth],
                  pbc=True)
    return replace(still(), atoms=atoms, tile=(12.0, 12.0), kind="crystal", slab=True, thickness=depth)


def apart(found, expected):
    """Rms of the difference by the rms of what is expected."""
    return np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))


@pytest.mark.parametrize("atom", [0, 1, 2])
def test_a_lone_atom_is_that_of_multislice(atom):
    """At any depth, aberrated, in a box that is not that of the fit. Multislice itself moves by 3 % on its grid."""
    specimen, scope = still([atom]), microscope(detectors=HAADF, defocus=40.0, coma=400.0, source_size=0.5)
    expected = simulate(specimen, scope, STATIC, STREAMS)
    found = rendered(specimen, scope, STATIC)
    assert found.image.shape == expected.image.shape
    assert found.sampling == pytest.approx(expected.sampling)
    assert apart(found.image, expected.image) < 0.05


def test_thermal_motion_blurs_a_lone_atom():
    """The mean over the motion of one atom is its still picture, convolved with the Gaussian of its displacement."""
    scope, settings = microscope(detectors=HAADF), STATIC
    moving = replace(still([0]), thermal={"Au": 0.3})
    cold, warm = (np.fft.fft2(rendered(s, scope, settings).image[0, 0]) for s in (still([0]), moving))
    frequency = 2 / 9.0
    expected = np.exp(-2 * (np.pi * 0.3 * frequency) ** 2)
    # The blur is fitted with Gaussians of fixed widths.
    assert abs(warm[2, 0]) / abs(cold[2, 0]) == pytest.approx(expected, rel=0.03)
    assert warm[0, 0].real == pytest.approx(cold[0, 0].real, rel=0.02)


def test_a_column_alone_is_that_of_multislice():
    """Within a tenth: channelling is in the amplitudes. Without them, five gold atoms are off by much more."""
    scope = microscope(detectors=HAADF)
    expected = simulate(chain(), scope, STATIC, STREAMS)
    found = rendered(chain(), scope, STATIC)
    assert apart(found.image, expected.image) < 0.1
    lone = rendered(replace(chain(), kind="amorphous"), scope, STATIC)
    assert apart(lone.image, expected.image) > 2 * apart(found.image, expected.image)


def test_lone_atoms_add_up():
    """The picture of three atoms is the sum of the pictures of each."""
    scope = microscope(detectors=HAADF)
    together = rendered(still(), scope, STATIC).image
    alone = sum(rendered(still([n]), scope, STATIC).image for n in range(3))
    np.testing.assert_allclose(together, alone, atol=1e-5 * together.max())


def test_a_shifted_specimen_gives_the_shifted_picture():
    """By any fraction of a pixel, across the border: a phase ramp in Fourier space, nothing else."""
    scope, shift = microscope(detectors=HAADF), (3.21, -2.77)
    still_there, moved = (rendered(still(shift=by), scope, STATIC) for by in ((0.0, 0.0), shift))
    rows, cols = (np.fft.fftfreq(n, d) for n, d in zip(moved.image.shape[2:], moved.sampling, strict=True))
    ramp = np.exp(-2j * np.pi * (rows[:, None] * shift[0] + cols * shift[1]))
    expected = np.fft.ifft2(np.fft.fft2(still_there.image) * ramp).real
    np.testing.assert_allclose(moved.image, expected, atol=2e-5 * expected.max())


def test_a_tilted_specimen_leans():
    """Projections of atoms are displaced by -tilt·z."""
    scope, tilt = microscope(detectors=HAADF), (15.0, -20.0)
    tilted = rendered(still([2], mistilt=tilt), scope, STATIC).image
    lean = -np.tan(np.array(tilt) * 1e-3) * 9.0
    np.testing.assert_allclose(tilted, rendered(still([2], shift=lean), scope, STATIC).image, atol=1e-5 * tilted.max())


def test_going_deeper_is_less_defocus():
    """The free probe at depth z is that of a microscope with its defocus lowered by z."""
    deep = Harmonics((12.0, 14.0), microscope(defocus=60.0, spherical=2e4, focal_spread=30.0)).probe(24.0)
    near = Harmonics((12.0, 14.0), microscope(defocus=36.0, spherical=2e4, focal_spread=30.0)).probe(0.0)
    np.testing.assert_allclose(deep, near, atol=1e-12)
    assert deep[0, 0] == pytest.approx(1.0)
    assert np.abs(Harmonics((12.0, 14.0), microscope(defocus=60.0, spherical=2e4)).probe(24.0) - near).max() > 0.01


def test_columns_are_sorted_into_kinds():
    """Strontium, titanium with oxygen, oxygen; a vacancy makes no new kind, and what is no lattice is no column."""
    whole = crystal(cells=6)
    sections = {38: 8.0, 22: 3.5, 8: 0.8}
    sorted_atoms = convolution.scatterers(whole, sections)
    kinds = {n: set(sorted_atoms.number[sorted_atoms.kind == n].tolist()) for n in set(sorted_atoms.kind.tolist())}
    assert sorted(map(sorted, kinds.values())) == [[8], [8, 22], [38]]
    strontium = np.flatnonzero(whole.atoms.numbers == 38)
    assert np.ptp(sorted_atoms.top[strontium]) < 1e-9
    vacant = whole.atoms.copy()
    del vacant[int(strontium[np.argsort(vacant.positions[strontium, 2], kind="stable")[20]])]
    assert set(convolution.scatterers(replace(whole, atoms=vacant), sections).kind.tolist()) == set(kinds)
    loose = replace(whole, grain=np.full(len(whole.atoms), -1, np.int16))
    assert set(convolution.scatterers(loose, sections).kind.tolist()) == {-1}


def test_the_record_covers_what_is_offered():
    """Every offered detector passed on every held-out case, and the record is that of the cases in the code."""
    held = record()
    assert [case["specimen"] for case in held["cases"]] == [case.name for case in CASES]
    assert [case["held_out"] for case in held["cases"]] == [case.held_out for case in CASES]
    assert held | summary(held["cases"]) == held
    assert held["offered"]
    for case in held["cases"]:
        if case["held_out"] and case["within"]:
            assert max(max(case["deviation"][name]) for name in held["offered"]) <= LIMIT
    tuned = {case.name.split()[0] for case in CASES if not case.held_out}
    assert not tuned & {case.name.split()[0] for case in CASES if case.held_out}


def test_a_detector_that_failed_is_refused_with_its_error():
    """The message names the detector, its error on record, the limit and the way out."""
    scope = microscope(detectors=(*HAADF, Detector(name="mine", inner=0.5, outer=1.0, unit="convergence")))
    assert detector_class((11.0, 22.0), 22.0) == "ABF"
    said = rf"mine \(11-22 mrad\) is like ABF.*{record()['worst']['ABF']:.0%}.*{LIMIT:.0%}.*Remove"
    with pytest.raises(FieldError, match=said):
        convolve(still(), scope, STATIC, STREAMS)
    # 45 mrad is HAADF to many, but it was not checked.
    assert detector_class((45.0, 105.0), 22.0) == "LAADF"


def test_what_was_not_checked_is_refused():
    """Beyond the largest thickness, tilt and energy of the check."""
    scope = microscope(detectors=HAADF)
    assert set(check_offered(still(), scope)) == {"HAADF"}
    with pytest.raises(FieldError, match=r"specimen\.thickness.*500"):
        check_offered(replace(still(), thickness=500.0), scope)
    with pytest.raises(FieldError, match=r"specimen\.mistilt"):
        check_offered(still(mistilt=(15.0, 15.0)), scope)
    with pytest.raises(FieldError, match=r"microscope\.energy"):
        check_offered(still(), microscope(detectors=HAADF, energy=300e3))


def test_the_field_says_what_it_is():
    """Physics and the deviation of each detector are in its provenance."""
    field = convolve(still(), microscope(detectors=HAADF), STATIC, STREAMS)
    assert field.provenance["physics"] == "convolution"
    assert field.provenance["deviation"] == {"HAADF": record()["worst"]["HAADF"]}
