"""What others have published about pictures that can be had in seconds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.physics import published


@pytest.mark.parametrize("way", [published.kirkland_tem, published.kirkland_stem])
def test_five_atoms_have_the_contrast_of_kirklands_figure(way):
    """Extremes of the coherent phase contrast within 1 %, by a plane wave and, by reciprocity, by a scanned probe."""
    image = way()
    assert image.min() == pytest.approx(published.KIRKLAND[0], rel=published.WITHIN)
    assert image.max() == pytest.approx(published.KIRKLAND[1], rel=published.WITHIN)
    # A phase object scatters within the aperture, or out of it: the mean loses what the aperture stops.
    assert 0.98 < image.mean() < 1.001


def test_five_atoms_get_darker_from_carbon_to_uranium():
    """Each of them at its place in the row."""
    image = published.kirkland_tem()
    rows, cols = image.shape
    at = [(rows // 2, round(col / published.BOX * cols)) for col in published.five_atoms().atoms.positions[:, 0]]
    depth = [image[r - 3:r + 4, c - 3:c + 4].min() for r, c in at]
    assert np.all(np.diff(depth) < 0)


def test_the_cell_mean_of_dark_field_rises_with_thickness():
    """What has been scattered to high angles does not come back: up to 300 Å of SrTiO3, at coarse settings."""
    field = published.strontium_titanate(box=8.0, tolerance=0.1, planes=10, outer=80.0, slice_thickness=3.905,
                                         convergence=12.0)
    found = published.ratio(field)
    assert found.thickness[-1] == 300.0
    assert np.all(np.diff(found.mean) > 0)
    assert found.mean[-1] > 5 * found.mean[0]


def test_strontium_outshines_titanium_and_oxygen_as_published():
    """In the thin limit by Z^1.64 to Z²."""
    low, high = (published.expected_ratio(n) for n in published.EXPONENTS)
    found = published.ratio(published.strontium_titanate(thickness=20.0, box=8.0, tolerance=0.1, planes=1))
    assert low <= found.integrated[0] <= high
    assert found.peak[0] > 2.0
