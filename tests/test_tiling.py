"""Tiles: what they cover, how they are blended, and what a network is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsynth.errors import RestorerError
from emsynth.restoration.tiling import RAMP, Tiles, blended, mirrored, overlap_for, windows
from emsynth.streams import generator


@st.composite
def layouts(draw):
    """A length and tiles, all even."""
    side = 2 * draw(st.integers(16, 100))
    return 2 * draw(st.integers(1, 700)), Tiles(side, 2 * draw(st.integers(0, side // 4)))


def image(rows, cols):
    return generator(0, rows * cols, "test tiling").standard_normal((rows, cols)).astype(np.float32)


@settings(deadline=None)
@given(layouts())
def test_weights_sum_to_one(layout):
    """At each pixel, whatever the length; so that an image that the network leaves alone stays itself."""
    length, tiles = layout
    starts, weights = windows(length, tiles)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start:start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert weights.min() >= 0


@settings(deadline=None)
@given(layouts())
def test_tiles_are_even_and_their_margins_unused(layout):
    """A tile says nothing within the margin of a border behind which there is more of the image."""
    length, tiles = layout
    starts, weights = windows(length, tiles)
    assert starts[0] == 0
    assert starts[-1] + weights.shape[1] == length
    assert all(start % 2 == 0 for start in starts)
    for n, weight in enumerate(weights):
        assert n == 0 or not weight[:tiles.margin].any()
        assert n == len(starts) - 1 or not weight[weight.size - tiles.margin:].any()


@settings(deadline=None)
@given(st.integers(RAMP // 2, 300))
def test_the_overlap_for_a_margin_has_that_margin(margin):
    overlap = overlap_for(margin)
    assert margin <= Tiles(2 * overlap, overlap).margin <= margin + 1


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 120), st.integers(16, 120), st.integers(1, 9000))
def test_a_local_function_is_the_same_in_tiles(rows, cols, most):
    """However many tiles are given at once, and at every pixel: a margin of 8 px is above the 3 px that are seen."""
    def seen(images):
        assert len(images) == 1 or images.size <= most
        wide = np.pad(images, ((0, 0), (3, 3), (3, 3)))
        return (wide[:, :-6, 3:-3] - 2 * wide[:, 6:, 3:-3] + wide[:, 3:-3, :-6] ** 2).astype(np.float32)

    whole = image(2 * rows, 2 * cols)
    np.testing.assert_allclose(blended(whole, Tiles(64, 32), seen, most), seen(whole[None])[0], atol=1e-5)


def test_one_tile_passes_smoothly_into_the_next():
    """Tiles that disagree by 1 leave a slope of at most that of the squared cosine, and no step."""
    def numbered(images):
        numbered.calls += 1
        return np.full(images.shape, numbered.calls % 2, np.float32)

    numbered.calls = 0
    restored = blended(np.zeros((128, 600), np.float32), Tiles(128, 64), numbered, 1)
    assert np.ptp(restored) == 1
    assert np.abs(np.diff(restored, axis=1)).max() <= np.pi / 2 / RAMP + 1e-6


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70))
def test_sides_are_mirrored_to_what_is_asked(rows, cols):
    """The image is at the upper left, the rest is made of its pixels, and no side is wider than it has to be."""
    given = image(rows, cols)
    wide = mirrored(given, 2, 32)
    assert all(side % 2 == 0 and before <= side <= max(before + 1, 32) for side, before in zip(wide.shape, given.shape,
                                                                                                strict=True))
    np.testing.assert_array_equal(wide[:rows, :cols], given)
    assert np.isin(wide, given).all()


@pytest.mark.parametrize(("side", "overlap", "said"), [
    (127, 0, "tile: 127 is not an even"), (128.0, 0, r"tile: 128\.0 is not"), (16, 0, "tile: 16 px is too little"),
    (128, 33, "overlap: 33 is not an even"), (128, 66, "overlap: 66 px is outside 0-64"),
    (128, -2, "overlap: -2 px is outside"), (True, 0, "tile: True is not")])
def test_tiles_that_cannot_be_are_refused(side, overlap, said):
    with pytest.raises(RestorerError, match=said):
        Tiles(side, overlap)
