"""The comparison with abTEM in small: equal numbers. Nothing here looks at a clock."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speed import abtem_scripts, simulation
from emsynth.microscope import Detector, Microscope
from emsynth.specimen.crystal import Crystal

DETECTORS = (Detector(name="ADF", inner=25.0, outer=55.0), Detector(name="BF", inner=0.0, outer=8.0))


@pytest.fixture(scope="module")
def small() -> simulation.Case:
    """40 Å of SrTiO3 at 100 kV: 60² points, two configurations, two planes, two detectors."""
    crystal = Crystal(structure="SrTiO3", zone_axis=(0, 0, 1), thickness=40.0, minimum_box=11.0)
    microscope = Microscope(energy=100e3, convergence=15.0, defocus=30.0, spherical=1e5, source_size=0.0,
                            detectors=DETECTORS)
    return simulation.Case("small", crystal, 2, 2, 60.0, microscope)


@pytest.fixture(scope="module")
def ours(small: simulation.Case) -> np.ndarray:
    """Pictures of emsynth at the probe positions."""
    return simulation.at_positions(simulation.emsynth_one_cell(small), simulation.setting_of(small).positions[::-1])


@pytest.mark.parametrize("batch", [8, None])
def test_one_cell_is_that_of_a_competent_script(small: simulation.Case, ours: np.ndarray, batch: int | None) -> None:
    """Every thickness, detector and position, within what single precision leaves."""
    theirs = abtem_scripts.competent(simulation.setting_of(small), batch=batch)
    assert theirs.shape == ours.shape == (2, 2, *simulation.setting_of(small).positions)
    assert simulation.apart(ours, theirs) < simulation.EQUAL


def test_another_configuration_is_another_picture(small: simulation.Case, ours: np.ndarray) -> None:
    """The comparison can fail: with other seeds it does."""
    setting = simulation.setting_of(small)
    changed = type(setting)(**{**vars(setting), "seeds": (1, 2)})
    assert simulation.apart(ours, abtem_scripts.competent(changed)) > 100 * simulation.EQUAL


@pytest.mark.parametrize("detection", ["flexible", "annular"])
def test_scripts_with_hard_detectors_come_near(small: simulation.Case, ours: np.ndarray, detection: str) -> None:
    """Hard rims and linear projection change numbers by some per cent; a wrong detector would by far more."""
    theirs = abtem_scripts.competent(simulation.setting_of(small), detection=detection, slices="potential", batch=8)
    assert 1e-4 < simulation.apart(ours, theirs) < 0.5


def test_kept_plans_change_nothing(small: simulation.Case) -> None:
    """A mended abTEM gives the same bytes."""
    setting = simulation.setting_of(small)
    plain = abtem_scripts.competent(setting)
    with abtem_scripts.kept_plans():
        assert abtem_scripts.competent(setting).tobytes() == plain.tobytes()


def test_positions_of_a_picture_are_its_fourier_series() -> None:
    """Not mirrored, x first: a wave along row and col, asked for where no pixel is."""
    rows, cols = np.meshgrid(np.arange(12) / 12, np.arange(10) / 10, indexing="ij")
    picture = (1 + 0.5 * np.sin(2 * np.pi * (rows + 2 * cols)))[None].astype(np.float32)
    row, col = np.meshgrid(np.arange(7) / 7, np.arange(5) / 5, indexing="ij")
    expected = 1 + 0.5 * np.sin(2 * np.pi * (row + 2 * col))
    np.testing.assert_allclose(simulation.at_positions(picture, (7, 5))[0], expected.T, atol=1e-6)


def test_the_page_says_what_was_measured() -> None:
    """Ratios, the slowest case and the proportion of the newcomer's scan are those of the rows."""
    timing = simulation.Timing
    row = simulation.Row("X", (60, 60), 5, 2, 2, 49, 81, 2, 3e-6, timing(1.0, 0.9),
                         {"equal; batches of 16": timing(2.0, 1.9), "abTEM's potential": timing(1.5, 1.4)},
                         {"kept": timing(1.8, 1.7)})
    average = simulation.Averaging(("ADF", "BF"), (0.2, 0.1), (0.05, 0.05), 1.0, 2.0)
    page = simulation.report([row], average, abtem_scripts.Estimate(800.0, 0.1, 1.0, 8000), "")
    assert row.ratio() == 2.0
    assert row.ratio(equal=False) == 1.5
    assert average.gain(0) == pytest.approx(8.0)
    assert "at least 2.00 times" in page
    assert "3200 times emsynth's time" in page
