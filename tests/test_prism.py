"""PRISM: its sums against a sum position by position, and what it offers against its record."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from conftest import microscope

from emsynth.errors import FieldError
from emsynth.microscope import Detector
from emsynth.simulation import prism, prism_check
from emsynth.simulation.plan import Simulation, plan_for, positions
from emsynth.simulation.scattering import amplitude, reciprocal
from emsynth.specimen.base import Columns, Specimen

DETECTORS = tuple(Detector(name=name, inner=inner, outer=outer)
                  for name, inner, outer in (("ADF", 35.0, 60.0), ("BF", 0.0, 10.0), ("ABF", 11.0, 22.0)))


def planned(scope, sides=(38.5, 41.0), depth=5.0):
    """A plan with two windows along each axis, for a box without atoms to speak of."""
    atoms = Atoms("Si", positions=[(5, 5, 2)], cell=[sides[1], sides[0], depth], pbc=True)
    specimen = Specimen(atoms, sides, Columns.none(), {"Si": 0.08}, (0.0, 0.0), "defects", "test", "test", depth)
    return plan_for(specimen, scope, Simulation.model_validate({
        "physics": "prism", "max_angle": 60.0, "phonons": {"minimum": 0, "maximum": 0}}))


def directly(plan, scope, windowed, exits, place):
    """Signals with the probe at `place` in Å: the window cut out of the sum of all waves, one after another."""
    f, sides, shape = plan.interpolation, np.array(plan.box) / plan.interpolation, windowed.window
    index = np.stack([np.rint(np.fft.fftfreq(n) * n)[part] for n, part in
                      zip(plan.grid, np.divmod(windowed.points, plan.grid[1]), strict=True)], axis=1)
    first = [int(np.floor(at / side * n + 1e-9)) - n // 2 for at, side, n in zip(place, sides, shape, strict=True)]
    rows, cols = ((start + np.arange(n)) / (n * f) for start, n in zip(first, shape, strict=True))
    waves = [np.exp(2j * np.pi * np.outer(axis, index[:, n])) for n, axis in enumerate((rows, cols))]
    seen = np.zeros(len(DETECTORS))
    for focus, share in zip(*prism.foci(plan, scope), strict=True):
        probe = amplitude(plan, scope, focus) * np.exp(-2j * np.pi * plan.beams @ (place / np.array(plan.box)))
        window = (waves[0] * (probe @ exits)) @ waves[1].T
        power = np.abs(np.fft.fft2(window, norm="forward").ravel()) ** 2
        seen += share * windowed.weight @ power
    return seen


def test_sums_of_a_period_are_those_of_each_position():
    """To 1e-5 of the largest signal, in a box that is no square, with aberrations and a spread of the focus."""
    scope = microscope(defocus=15.0, coma=300.0, focal_spread=20.0, detectors=DETECTORS)
    plan = planned(scope)
    windowed = prism.Windowed(plan, scope, 4.0)
    assert plan.interpolation == 2
    assert all(n >= least and n % 2 == 0 for n, least in zip(windowed.counts, positions(plan), strict=True))
    rng = np.random.default_rng(2)
    exits = rng.normal(size=(len(plan.beams), 2 * len(windowed.points))).astype(np.float32).view(np.complex64)
    made = windowed.signals(exits)
    for row, col in ((0, 0), (1, windowed.counts[1] - 1), (windowed.counts[0] // 2 + 7, 13)):
        place = np.array([row, col]) / windowed.counts * plan.box
        expected = directly(plan, scope, windowed, exits.astype(np.complex128), place)
        assert np.abs(made[:, row, col] - expected).max() < 1e-5 * made.max()


def test_without_a_specimen_the_detectors_share_out_the_beam():
    """A picture of nothing is flat, and a detector of the whole bright disc sees all of it."""
    whole = (Detector(name="all", inner=0.0, outer=60.0), Detector(name="ADF", inner=35.0, outer=60.0))
    scope = microscope(detectors=whole)
    plan = planned(scope)
    windowed = prism.Windowed(plan, scope, 4.0)
    beams = plan.beams % plan.grid
    exits = (windowed.points == (beams[:, 0] * plan.grid[1] + beams[:, 1])[:, None]).astype(np.complex64)
    everything, scattered = windowed.pictures(exits[None])[0]
    assert np.allclose(everything, 1.0, atol=1e-4)
    assert np.abs(scattered).max() < 1e-6


def test_detectors_are_as_large_as_on_the_grid_of_the_box():
    """Small discs too, whose border would be one in ten of their points; and no point counts more than once."""
    scope = microscope(detectors=DETECTORS)
    plan = planned(scope)
    weight, points = prism.Windowed(plan, scope, 4.0).weight, reciprocal(plan, scope)
    assert weight.sum(axis=1) == pytest.approx(points.weight.sum(axis=1) / plan.interpolation**2, rel=1e-5)
    assert weight.min() >= 0
    assert weight.max() <= 1


def test_what_failed_in_the_check_is_refused(monkeypatch):
    """The error names the detector, its error on record and the limit; what passed comes with its error."""
    scope = microscope(detectors=DETECTORS)
    held = {"limit": 0.02, "worst": {"HAADF": 0.01, "LAADF": 0.004, "ABF": 0.002, "BF": 0.034},
            "offered": ["HAADF", "LAADF", "ABF"], "checked": {"inner_least": 50.0, "probe_widest": 1.8}}
    monkeypatch.setattr(prism, "record", lambda: held)
    with pytest.raises(FieldError, match=r"detectors: BF \(0-10 mrad\) is like BF .* 3\.4%; at most 2% .*multislice"):
        prism.check_offered(scope)
    others = scope.model_copy(update={"detectors": (DETECTORS[0], DETECTORS[2])})
    assert prism.check_offered(others) == {"ADF": 0.004, "ABF": 0.002}
    with pytest.raises(FieldError, match=r"convergence: 20 mrad makes a probe .* 1\.85 Å wide.* 1\.80 Å; raise"):
        prism.check_offered(others.model_copy(update={"convergence": 20.0}))


def test_the_record_offers_what_its_own_cases_allow():
    """What is offered follows from the errors of the cases, and the limit is that of the check."""
    record = prism.record()
    made = prism_check.summary(record["cases"])
    assert {key: record[key] for key in made} == made
    assert record["limit"] == prism_check.LIMIT == 0.02
    assert all(case["interpolation"] > 1 for case in record["cases"])


def test_deviations_are_relative_to_multislice():
    """A picture that is a tenth too bright deviates by a tenth, and its mean by as much."""
    seen = np.random.default_rng(1).uniform(1, 3, (2, 5, 5)).astype(np.float32)
    found = prism_check.deviations(seen, seen * np.float32(1.1))
    assert found["deviation"] == pytest.approx([0.1, 0.1], rel=1e-5)
    assert found["mean"] == pytest.approx([1.1, 1.1], rel=1e-5)
    assert (found["by_contrast"] > found["by_mean"]).all()
