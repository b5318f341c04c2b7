"""Where truth and distorted image of one sample look at the specimen, and the way from there to their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from emsynth.distortion.geometry import Grid

_IDENTITY = np.eye(2, 3)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where truth and distorted image look.

    Attributes
    ----------
    affine : (2, 3) float64
        Part of the scan displacement that the truth shares, less the streak's centroid along col, px:
        truth position = [r, c] + affine @ [r, c, 1] + slow.
    slow : (2, R, C) float32 or None
        Slow displacement that the truth shares as well, px; only with `truth_geometry: smooth`.
    displacement : (2, R, C) float16
        Probe position minus truth position, px; exact, because the image is gathered with these very values (unless
        it was enlarged afterwards).
    frame : (2, 3) float64
        Pixels of the image to window px, where the image shows a part of the window: window px = frame @ [r, c, 1].
    """

    affine: NDArray[np.float64]
    slow: NDArray[np.float32] | None
    displacement: NDArray[np.float16]
    frame: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return self.displacement.shape[1], self.displacement.shape[2]

    def truth_grid(self) -> Grid:
        """Where the truth looks, window px."""
        return self._grid(self.slow)

    def probe_grid(self, margin: int = 0) -> Grid:
        """Where the probe was, window px; with `margin` px around the image, where nothing may be displaced."""
        if margin and (self.slow is not None or self.displacement.any()):
            raise ValueError("the surroundings of a scanned image are not known; only a camera's image has a margin")
        if margin:
            rows, cols = self.shape
            grid = self._grid(None)
            start = grid.affine[:, 2] - margin * grid.affine[:, :2].sum(axis=1)
            return Grid((rows + 2 * margin, cols + 2 * margin), np.column_stack([grid.affine[:, :2], start]))
        moved = self.displacement.astype(np.float32)
        return self._grid(moved if self.slow is None else self.slow + moved)

    def _grid(self, offsets: NDArray[np.float32] | None) -> Grid:
        (a, b, _), (c, d, _) = self.frame.tolist()
        shared = self.frame[:, :2] @ (_IDENTITY + self.affine)
        shared[:, 2] += self.frame[:, 2]
        if offsets is not None and (a, b, c, d) != (1, 0, 0, 1):
            offsets = np.einsum("ij,jrc->irc", self.frame[:, :2].astype(np.float32), offsets)
        return Grid(self.shape, shared, offsets)

    def truth_positions(self) -> NDArray[np.float64]:
        """Where the truth looks, window px, (2, R, C)."""
        return self.truth_grid().positions()

    def probe_positions(self) -> NDArray[np.float64]:
        """Where the probe was, window px, (2, R, C)."""
        return self.probe_grid().positions()

    def reach(self) -> float:
        """Farthest that the truth looks away from its place on the ideal grid, window px."""
        rows, cols = self.shape
        corners = np.array([[0, 0, 1], [rows, 0, 1], [0, cols, 1], [rows, cols, 1]])
        slow = 0.0 if self.slow is None else float(np.abs(self.slow).max())
        return (float(np.abs(corners @ self.affine.T).max()) + slow) * float(np.abs(self.frame[:, :2]).max())

    def to_truth(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Truth px (n, 2) at which the window `points (n, 2)` px are seen, e.g. atom columns."""
        grid = self.truth_grid()
        inverse = np.linalg.inv(grid.affine[:, :2])
        start = (np.asarray(points, dtype=np.float64).reshape(-1, 2) - grid.affine[:, 2]) @ inverse.T
        at = start
        if grid.offsets is None:
            return start
        for _ in range(20):
            slow = np.stack([map_coordinates(part, at.T, order=1, mode="nearest") for part in grid.offsets], axis=-1)
            at = start - slow @ inverse.T
        return at

    def enlarged(self, displacement: NDArray[np.float16], slow: NDArray[np.float32] | None) -> Positions:
        """The same of the image enlarged to the shape of `displacement`, which is given in px of the large image.

        Pixel q of n·z pixels shows what was at (q + 1/2)/z - 1/2 of n.
        """
        shape = np.array(displacement.shape[1:])
        step = np.array(self.shape) / shape
        small = np.column_stack([np.diag(step), step / 2 - 0.5])
        whole = np.vstack([small, [0.0, 0.0, 1.0]])
        return Positions(np.diag(1 / step) @ self.affine @ whole, slow, displacement, self.frame @ whole)
