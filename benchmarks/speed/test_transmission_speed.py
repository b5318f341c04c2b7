"""The small version of the throughput of TEM frames: every frame is another one."""

from __future__ import annotations

from benchmarks.speed.transmission import FOCI, measure, report


def test_frames_are_distinct() -> None:
    """Two specimens, ten foci each: twenty different frames, and a page that says so."""
    found = measure(2)
    assert (found.frames, found.distinct) == (2 * FOCI, 2 * FOCI)
    assert f"{found.frames} frames of 384² px" in report(found)
