"""Defects of a TEM camera: X-ray hits, seams between its quadrants, hot and dead pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import noise
from emsynth.distortion.stage import Detection, MaskBit, Readout, normals, uniforms
from emsynth.distortion.symmetry import IDENTITY, SQUARE, Symmetry
from emsynth.draw import Choice, LogUniform, Quantity, Uniform, number, quantity

AREA = 256 * 256  # px to which rates refer
LARGEST_CLUSTER = 7  # px
OVEREXPOSURE = 20.0  # what a saturating hit leaves, as a multiple of the brightest signal: beyond any usual full scale
FAINTEST_HOT = 0.1  # of the brightest hot pixel

_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0))


def _number(key: int, rate: float, shape: tuple[int, ...]) -> int:
    """Poisson number of what occurs `rate` times per 256 x 256 px, in an image of `shape`; sub-stream 0."""
    drawn = np.array([rate * shape[0] * shape[1] / AREA], dtype=np.float32)
    noise.poisson(np.uint64(key), np.uint64(0), drawn)
    return int(drawn[0])


def _sites(key: int, count: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Pixels (count, 2) anywhere in an image of `shape`, one possibly more than once; sub-stream 1."""
    sites: NDArray[np.int64] = (uniforms(key, 1, (count, 2)) * shape).astype(np.int64)
    return sites


def _log_uniforms(key: int, stream: int, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float64]:
    """Log-uniform numbers from `low` to `high`."""
    drawn: NDArray[np.float64] = low * (high / low) ** uniforms(key, stream, shape)
    return drawn


def _about_the_middle(place: Quantity) -> bool:
    """Whether the seam is drawn from both halves of the frame alike."""
    return place == 0.5 or (isinstance(place, Uniform) and place.low + place.high == 1)


def _walk(start: tuple[int, int], turns: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Self-avoiding random walk of len(turns) + 1 px; the shortest one that can trap itself has 8."""
    visited = [start]
    for turn in turns:
        row, col = visited[-1]
        free = [(row + r, col + c) for r, c in _NEIGHBOURS if (row + r, col + c) not in visited]
        visited.append(free[int(turn * len(free))])
    return visited


class XRay(Detection):
    """X-rays hit the camera: each leaves a bright track of 1 to 7 connected pixels.

    The number of hits is Poisson; starts are uniform over the window, sizes uniform from 1 to 7, the track is a
    self-avoiding walk to one of the four neighbours, each free one alike, cut off by the window. Each pixel of
    a track gains electrons log-uniform between 1 and `amplitude` times the mean count; a share `saturating` of the
    hits gains 20 times the brightest signal instead, which overexposes any usual full scale. Rate, sizes and the
    largest amplitude cover what we measured on the TEM pairs published with [1]_; the distributions are ours.

    Not in the truth; pixels hit are flagged DEFECT.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["xray"] = "xray"
    symmetry: ClassVar[Symmetry] = SQUARE  # a walk has no preferred direction
    rate: Quantity = quantity(
        Uniform(low=0, high=8), unit="1", low=0, high=1000, about="Mean number of hits per 256 x 256 px"
    )
    amplitude: Quantity = quantity(
        LogUniform(low=2, high=20), unit="1", low=1, high=1e4, about="Largest gain, as a multiple of the mean count"
    )
    saturating: Quantity = quantity(
        Uniform(low=0, high=0.3), unit="1", low=0, high=1, about="Share of the hits that saturate"
    )

    def tracks(self, key: int, shape: tuple[int, ...]) -> list[list[tuple[int, int]]]:
        """Pixels of each hit on an image of `shape`; some may lie outside."""
        count = _number(key, number(self.rate), shape)
        sizes = 1 + (uniforms(key, 2, (count,)) * LARGEST_CLUSTER).astype(np.int64)
        turns = uniforms(key, 3, (count, LARGEST_CLUSTER - 1))
        starts = _sites(key, count, shape).tolist()
        return [_walk((row, col), turns[n, : sizes[n] - 1]) for n, (row, col) in enumerate(starts)]

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the tracks to `image (R, C)`."""
        tracks = self.tracks(key, image.shape)
        gained = readout.counts * _log_uniforms(key, 4, (len(tracks), LARGEST_CLUSTER), 1.0, number(self.amplitude))
        gained[uniforms(key, 5, (len(tracks),)) < number(self.saturating)] = (
            OVEREXPOSURE * readout.brightest / readout.gain
        )
        for track, electrons in zip(tracks, gained, strict=True):
            for (row, col), gain in zip(track, electrons[: len(track)], strict=True):
                if 0 <= row < image.shape[0] and 0 <= col < image.shape[1]:
                    image[row, col] += gain
                    readout.mask[row, col] |= MaskBit.DEFECT
        return image


class Seams(Detection):
    """The camera is read out in four quadrants, each with a gain and an offset of its own (ours).

    Gains have mean 1 and offsets mean 0 over the window, which is a crop of the camera: the seams may lie anywhere in
    it or outside. The two rows and columns at a seam may be larger than others and count more.

    Not in the truth; larger pixels are flagged DEFECT.
    """

    stage: Literal["seams"] = "seams"
    symmetry: ClassVar[Symmetry] = IDENTITY  # see `symmetries`
    row: Quantity = quantity(
        Uniform(low=-0.5, high=1.5), unit="1", low=-100, high=100,
        about="Where the upper quadrants end, as a share of the rows; not in view outside 0-1",
    )
    col: Quantity = quantity(
        Uniform(low=-0.5, high=1.5), unit="1", low=-100, high=100,
        about="Where the left quadrants end, as a share of the columns; not in view outside 0-1",
    )
    gain: Quantity = quantity(
        LogUniform(low=0.001, high=0.03), unit="1", low=0, high=0.2, about="Relative deviation of the gain"
    )
    offset: Quantity = quantity(
        LogUniform(low=0.0005, high=0.02), unit="1", low=0, high=2,
        about="Deviation of the offset, as a share of the brightest signal",
    )
    width: Quantity = quantity(
        Choice(values=(1.0, 1.1, 2.0), weights=(0.8, 0.1, 0.1)), unit="1", low=1, high=4,
        about="Area of the pixels at a seam, as a multiple of the others'",
    )

    def symmetries(self) -> Symmetry:
        """Those under which the places of both seams are drawn alike."""
        flips = [_about_the_middle(place) for place in (self.row, self.col)]
        alike = self.row == self.col
        return frozenset((turned, down, across) for turned, down, across in SQUARE
                         if (alike or not turned) and (flips[0] or not down) and (flips[1] or not across))

    def boundary(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """First row and column beyond the seams, px; an end of the window where a seam is not in view."""
        row, col = number(self.row) * shape[0], number(self.col) * shape[1]
        return min(max(round(row), 0), shape[0]), min(max(round(col), 0), shape[1])

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Rescale and shift the quadrants of `image (R, C)`."""
        frame, place = readout.clock.frame_shape, readout.clock.place
        row, col = (min(max(end - start, 0), side) for end, start, side in
                    zip(self.boundary(frame), place, image.shape, strict=True))
        self._widen(image, readout.mask, row)
        self._widen(image.T, readout.mask.T, col)
        deviation = normals(key, 0, (2, 4))
        area = np.outer([row, image.shape[0] - row], [col, image.shape[1] - col]).ravel() / image.size
        gains, offsets = deviation - (deviation @ area)[:, None]
        for n in range(4):
            rows = slice(row, None) if n // 2 else slice(row)
            cols = slice(col, None) if n % 2 else slice(col)
            image[rows, cols] *= np.float32(1 + number(self.gain) * gains[n])
            image[rows, cols] += np.float32(number(self.offset) * readout.brightest * offsets[n])
        return image

    def _widen(self, image: NDArray[np.float32], mask: NDArray[np.uint8], row: int) -> None:
        if number(self.width) > 1 and 0 < row < len(image):
            image[row - 1 : row + 1] *= np.float32(number(self.width))
            mask[row - 1 : row + 1] |= np.uint8(MaskBit.DEFECT)


class HotPixels(Detection):
    """Single pixels leak charge and are bright.

    Their number is Poisson, their places uniform; each gains between a tenth of `amplitude` and all of it,
    log-uniform, times the brightest signal. The rate covers what we measured on the TEM pairs published with [1]_;
    amplitudes are ours.

    Not in the truth; hot pixels are flagged DEFECT.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["hot_pixels"] = "hot_pixels"
    symmetry: ClassVar[Symmetry] = SQUARE  # anywhere alike
    rate: Quantity = quantity(
        Uniform(low=0, high=8), unit="1", low=0, high=1000, about="Mean number per 256 x 256 px"
    )
    amplitude: Quantity = quantity(
        LogUniform(low=0.3, high=10), unit="1", low=0.001, high=1e4,
        about="Gain of the brightest ones, as a multiple of the brightest signal",
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Brighten single pixels of `image (R, C)`."""
        rows, cols = _sites(key, _number(key, number(self.rate), image.shape), image.shape).T
        largest = number(self.amplitude) * readout.brightest
        gained = _log_uniforms(key, 2, rows.shape, FAINTEST_HOT * largest, largest)
        np.add.at(image, (rows, cols), gained.astype(np.float32))
        readout.mask[rows, cols] |= np.uint8(MaskBit.DEFECT)
        return image


class DeadPixels(Detection):
    """Single pixels show the same low value, whatever hits them: level 0 is the black level, which is added later.

    Their number is Poisson, their places uniform. The rate covers what we measured on the TEM pairs published
    with [1]_; the level is ours.

    Not in the truth; dead pixels are flagged DEFECT.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["dead_pixels"] = "dead_pixels"
    symmetry: ClassVar[Symmetry] = SQUARE  # anywhere alike
    rate: Quantity = quantity(
        Uniform(low=0, high=8), unit="1", low=0, high=1000, about="Mean number per 256 x 256 px"
    )
    level: Quantity = quantity(
        Choice(values=(0.0, 0.02, 0.1), weights=(0.8, 0.1, 0.1)), unit="1", low=0, high=1,
        about="What they show above black, as a share of the brightest signal",
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Blank single pixels of `image (R, C)`."""
        rows, cols = _sites(key, _number(key, number(self.rate), image.shape), image.shape).T
        image[rows, cols] = number(self.level) * readout.brightest
        readout.mask[rows, cols] |= np.uint8(MaskBit.DEFECT)
        return image
