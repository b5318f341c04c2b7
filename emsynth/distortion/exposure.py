"""What the probe sees on its way through each pixel: gathers at truth and probe positions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion.geometry import Grid
from emsynth.distortion.positions import Positions
from emsynth.distortion.scan import ScanStage

_STILL = ((0.0, 1.0),)

_rooms = threading.local()

Gather = Callable[[Grid], NDArray[np.float32]]
Path = Sequence[tuple[float, float]]
Along = Callable[[Grid, Path], NDArray[np.float32]]


def seen(gather: Gather, grid: Grid) -> NDArray[np.float32]:
    """What a gather shows at a grid, as the kernels need it, (R, C)."""
    shown = np.ascontiguousarray(gather(grid), dtype=np.float32)
    if shown.shape != grid.shape:
        raise ValueError(f"the gather returned {shown.shape} where {grid.shape} was asked for")
    return shown


def take_room(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Room for a displacement, the thread's own, used again and again: new memory costs more than what fills it.

    Taken out while it is in use, because a gather may run a chain of its own; `return_room` puts it back.
    """
    held: NDArray[np.float32] | None = _rooms.__dict__.pop("held", None)
    return held if held is not None and held.shape == shape else np.empty(shape, np.float32)


def return_room(room: NDArray[np.float32] | None) -> None:
    """Put a room back that is not in use any more."""
    _rooms.held = room


def exposed(
    gather: Gather, scan: Sequence[ScanStage], where: Positions, moved: NDArray[np.float32] | None,
    truth: NDArray[np.float32], scale: np.float32,
) -> NDArray[np.float32]:  # fmt: skip
    """What the probe sees on its way through each pixel, electrons (R, C).

    Parameters
    ----------
    gather : callable
        As for `Chain.run`. Where it has a method `along`, that is called with the grid of the probe and a path, and
        returns the sum of what is seen at so large shares of the way to the next pixel, times their weights.
    scan : sequence of scan stages
        Which way the probe goes during the dwell.
    where : Positions
        Where truth and probe look.
    moved : (2, R, C) float32 or None
        The displacement once more; None where there is none.
    truth : (R, C) float32
        Electrons, in an array that is left alone.
    scale : float32
        Electrons per unit of the field.
    """
    path = next((way for stage in scan if (way := stage.exposure()) != _STILL), _STILL)
    if path == _STILL and moved is None:
        return truth.copy()
    grid = where.truth_grid()
    probe = Grid(grid.shape, grid.affine, _sum_of(grid.offsets, moved))
    along: Along | None = getattr(gather, "along", None)
    if along is not None:
        return along(probe, [(place, float(scale * np.float32(weight))) for place, weight in path])
    if path == _STILL:
        shown = seen(gather, probe)
        shown *= scale
        return shown
    total = np.zeros_like(truth)
    for share_of_way, weight in path:
        total += seen(gather, _ahead(probe, share_of_way)) * (scale * np.float32(weight))
    return total


def _sum_of(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _ahead(grid: Grid, along: float) -> Grid:
    # The grid that looks the share `along` of the way to the next pixel of the row ahead, on the displaced path.
    affine, offsets = grid.affine.copy(), grid.offsets
    affine[:, 2] += along * affine[:, 1]
    if offsets is not None and grid.shape[1] > 1:
        offsets = offsets + np.float32(along) * np.gradient(offsets, axis=2).astype(np.float32)
    return Grid(grid.shape, affine, offsets)
