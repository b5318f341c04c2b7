"""Different ways through the same physics: probe positions, plane waves, PRISM, and who transforms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from conftest import crystal, microscope

from emsynth.draw import Streams
from emsynth.errors import FieldError
from emsynth.microscope import Detector
from emsynth.simulation import backend, multislice, plan, prism
from emsynth.simulation.plan import Simulation, plan_for
from emsynth.specimen.base import Columns, Specimen

STREAMS = Streams(1, 0)


def settings(**changes):
    return Simulation.model_validate({"phonons": {"minimum": 0, "maximum": 0}, "max_angle": 110.0, "thicknesses": 2,
                                      "film_thicknesses": 2, **changes})


def test_probe_positions_and_plane_waves_give_one_picture():
    """Of a static crystal on a grid that gives each tile whole points, to single precision, on all detectors."""
    specimen = replace(crystal(), endless=(True, True))
    scope = microscope(defocus=40.0, coma=400.0)
    planned = plan_for(specimen, scope, settings())
    assert planned.positions > 0
    assert all(n % tiles == 0 for n, tiles in zip(planned.grid, planned.repeats, strict=True))
    probes = multislice.simulate(specimen, scope, settings(), STREAMS)
    # A spread of nothing: the plane waves, for the price of a phase.
    waves = multislice.simulate(specimen, scope.model_copy(update={"focal_spread": 1e-9}), settings(), STREAMS)
    assert "probe positions" in probes.provenance["method"]
    assert "plane waves" in waves.provenance["method"]
    for found, expected in zip(probes.image[-1], waves.image[-1], strict=True):
        assert np.abs(found - expected).max() < 5e-6 * expected.max()


def atoms_in(side: float, depth: float = 14.0) -> Specimen:
    """A dozen atoms at random in a box."""
    rng = np.random.default_rng(4)
    position = np.column_stack([rng.uniform(0, side, (12, 2)), rng.uniform(2, depth - 2, 12)])
    atoms = Atoms("Au4Si8", positions=position, cell=[side, side, depth], pbc=True)
    return Specimen(atoms, (side, side), Columns.none(), {"Au": 0.08, "Si": 0.08}, (0.0, 0.0), "defects", "test",
                    "test", depth)


def relative(found, expected):
    return np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))


def test_prism_comes_near_multislice_and_nearer_with_a_wider_window(monkeypatch):
    """Relative rms below 3 % for lone atoms with half of the box as window, in dark field more with a third."""
    specimen = atoms_in(38.0)
    scope = microscope(focal_spread=20.0, source_size=0.6, detectors=(Detector(name="ADF", inner=35.0, outer=60.0),
                                                                      Detector(name="BF", inner=0.0, outer=10.0)))
    exact = multislice.simulate(specimen, scope, settings(max_angle=60.0), STREAMS).image[-1]
    errors = {}
    monkeypatch.setattr(plan, "_MOST_INTERPOLATION", 3)
    for window in (19.0, 12.6):
        monkeypatch.setattr(plan, "prism_window", lambda *_, window=window: window)
        made = multislice.simulate(specimen, scope, settings(physics="prism", max_angle=60.0), STREAMS)
        assert made.provenance["physics"] == "PRISM"
        errors[window] = [relative(f, e) for f, e in zip(made.image[-1], exact, strict=True)]
    assert max(errors[19.0]) < 0.03
    # In bright field it is the level that differs, by the aperture's few points; the window tells in dark field.
    assert errors[19.0][0] < errors[12.6][0]


def test_quadrature_of_the_focus_keeps_its_error():
    """As many foci as the interference of the fastest pair of waves needs, and one without a spread."""
    planned = plan_for(atoms_in(20.0), microscope(), settings())
    for spread in (0.0, 15.0, 60.0):
        scope = microscope(focal_spread=spread)
        nodes, shares = prism.foci(planned, scope)
        turn = np.pi * 0.022**2 / scope.wavelength
        seen = np.sum(shares * np.exp(1j * turn * (nodes - scope.defocus)))
        assert seen == pytest.approx(np.exp(-0.5 * (turn * spread) ** 2), abs=3e-3)
        assert shares.sum() == pytest.approx(1.0)


def test_mkl_and_scipy_agree(monkeypatch):
    """Whoever transforms: single precision; and the name is kept with the field."""
    pytest.importorskip("mkl_fft", reason="mkl_fft is not installed (extra `fast`)")
    specimen, scope = atoms_in(15.0), microscope()
    fields = []
    for name in ("scipy", "mkl"):
        monkeypatch.setenv("EMSYNTH_FFT", name)
        fields.append(multislice.simulate(specimen, scope, settings(), STREAMS))
    assert [f.provenance["backend"] for f in fields] == ["scipy", "mkl"]
    assert np.abs(fields[0].image - fields[1].image).max() < 1e-5 * fields[0].image.max()


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    """One line with the way out, whether CuPy or the device is missing."""
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    backend._made.cache_clear()
    with pytest.raises(FieldError, match=r"simulate.device: gpu needs CuPy and a GPU .* set simulate.device to cpu"):
        backend.backend("gpu")


def test_arrays_of_another_device_go_through(monkeypatch):
    """Arrays that are NumPy's in all but name, fetched at the end: the same field."""
    class Elsewhere(np.ndarray):
        def get(self):
            return np.asarray(self)

    class Arrays:
        asarray = staticmethod(lambda a: np.asarray(a).view(Elsewhere))

    monkeypatch.setenv("EMSYNTH_FFT", "scipy")  # MKL takes plain arrays only
    specimen, scope = atoms_in(15.0), microscope()
    here = multislice.simulate(specimen, scope, settings(), STREAMS)
    there = replace(backend.backend("cpu"), name="cupy", arrays=Arrays)
    monkeypatch.setattr(multislice, "backend", lambda device: there)
    assert multislice.simulate(specimen, scope, settings(device="gpu"), STREAMS).image.tobytes() == here.image.tobytes()
