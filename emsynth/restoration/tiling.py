"""An image laid out for a network: mirrored to sides that it takes, cut into overlapping tiles, blended again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]  # (N, h, w) -> (N, h, w)

RAMP = 32  # px, the most over which one tile passes into the next
_LEAST = 32  # px, the smallest side of a tile


@dataclass(frozen=True)
class Tiles:
    """How an image is cut.

    Attributes
    ----------
    side : int
        Of a tile, px, even; an image that is not larger is one tile.
    overlap : int
        What neighbouring tiles have in common at least, px, even, at most half of `side`. In its middle, over half of
        it or `RAMP` px, whichever is less, one tile passes into the other; what lies outside of that is thrown away,
        because a tile does not know what is beyond its border.

    Raises
    ------
    RestorerError
        A number is none of these.
    """

    side: int
    overlap: int

    def __post_init__(self) -> None:
        for name, value in (("tile", self.side), ("overlap", self.overlap)):
            if not isinstance(value, int) or isinstance(value, bool) or value % 2:
                raise RestorerError(f"{name}: {value!r} is not an even whole number of pixels")
        if self.side < _LEAST:
            raise RestorerError(f"tile: {self.side} px is too little for a network; give {_LEAST} or more")
        if not 0 <= self.overlap <= self.side // 2:
            raise RestorerError(f"overlap: {self.overlap} px is outside 0-{self.side // 2}, half of a tile of "
                                f"{self.side} px")

    @property
    def margin(self) -> int:
        """What is thrown away at each border between tiles at least, px."""
        return (self.overlap - min(self.overlap // 2, RAMP)) // 2


def overlap_for(margin: int) -> int:
    """The overlap of which at least `margin` px, above half of `RAMP`, are thrown away on either side."""
    return 2 * margin + RAMP


def mirrored(image: Floats, multiple: int, least: int = 1) -> Floats:
    """An image that is mirrored at its lower and right ends until both sides are a multiple of a number.

    Parameters
    ----------
    image : ndarray (H, W)
        Of any shape.
    multiple : int
        Of which both sides are to be a multiple, px.
    least : int
        The smallest side, px.
    """
    wide = [max(side, least) + -max(side, least) % multiple for side in image.shape]
    return np.pad(image, [(0, more - side) for more, side in zip(wide, image.shape, strict=True)], mode="symmetric")


def windows(length: int, tiles: Tiles) -> tuple[list[int], Floats]:
    """Where tiles begin along an axis, and their weights, which sum to 1 at each pixel.

    Parameters
    ----------
    length : int
        Of the axis, px, even.
    tiles : Tiles
        How it is cut.

    Returns
    -------
    starts : list of int
        px, even, so that a network that halves its input sees the same pairs of pixels in each tile.
    weights : ndarray (tiles, side)
        From 0 to 1; squared cosines.
    """
    side = min(tiles.side, length)
    steps = -(-(length - side) // (tiles.side - tiles.overlap))
    starts = [2 * ((length - side) // 2 * n // max(steps, 1)) for n in range(steps + 1)]
    ramp = max(min(tiles.overlap // 2, RAMP), 1)
    pixel = np.array(starts)[:, None] + np.arange(side)
    seams = (np.array(starts[1:]) + np.array(starts[:-1]) + side) / 2
    # Each tile is what has begun less what has begun after it: such differences sum to 1 whatever the seams are.
    begun = [np.sin(np.pi / 2 * np.clip((pixel + 0.5 - seam) / ramp + 0.5, 0, 1)) ** 2 for seam in seams]
    weights = [(begun[n - 1][n] if n else 1.0) - (begun[n][n] if n < steps else 0.0) for n in range(steps + 1)]
    return starts, np.stack([np.broadcast_to(weight, side) for weight in weights]).astype(np.float32)


def blended(image: Floats, tiles: Tiles, run: Run, most: int) -> Floats:
    """What a network makes of an image tile by tile.

    Parameters
    ----------
    image : ndarray (H, W), float32
        Sides even.
    tiles : Tiles
        How it is cut.
    run : callable
        The network: (N, h, w) -> (N, h, w).
    most : int
        Pixels that the network gets at once, if a single tile has not more.

    Returns
    -------
    ndarray (H, W), float32
    """
    (rows, down), (cols, across) = (windows(length, tiles) for length in image.shape)
    height, width = down.shape[1], across.shape[1]
    places = [(row, col) for row in range(len(rows)) for col in range(len(cols))]
    if len(places) == 1:
        return np.asarray(run(image[None])[0], np.float32)
    restored, at_once = np.zeros(image.shape, np.float32), max(1, most // (height * width))
    for first in range(0, len(places), at_once):
        parts = [(row, col, np.s_[rows[row]:rows[row] + height, cols[col]:cols[col] + width])
                 for row, col in places[first:first + at_once]]
        returned = run(np.stack([image[part] for _, _, part in parts]))
        for (row, col, part), tile in zip(parts, returned, strict=True):
            restored[part] += down[row][:, None] * across[col] * tile
    return restored
