"""The leaderboards' small version runs with the other tests."""

from __future__ import annotations

from scipy.ndimage import gaussian_filter
from toy_suite import toy_suite

from benchmarks.results.leaderboards import make


def smooth(image):
    """A Gaussian of one pixel."""
    return gaussian_filter(image, 1.0)


def test_the_reference_is_kept_once(tmp_path):
    """The first run keeps the reference's figures; the second, with another gaussian, is scored against those."""
    suite = toy_suite(families=("poisson",), severities=(3,))
    page = make(suite, tmp_path, {"gaussian": smooth}, references=tmp_path / "kept")
    assert "100.0" in next(line for line in page.read_text().splitlines() if line.startswith("| gaussian"))
    (tmp_path / f"{suite.name}.parquet").unlink()
    again = make(suite, tmp_path, {"gaussian": "identity"}, references=tmp_path / "kept").read_text()
    assert "100.0" not in next(line for line in again.splitlines() if line.startswith("| gaussian"))
