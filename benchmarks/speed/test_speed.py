"""Every kernel and the whole chain, on each side: `pytest benchmarks/speed/test_speed.py --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.speed import cases

pytest.importorskip("pytest_benchmark")
NAMES = [case.name for case in cases.kernels(16)]


def call_of(case: cases.Case, by: str) -> cases.Call:
    """What one side runs; a side without it is skipped with the reason."""
    if by not in case.calls:
        pytest.skip("torch is not installed" if cases.torch is None else f"{by} has no {case.name}")
    return case.calls[by]


def check(made: Any, side: int) -> None:
    """A frame, or truth, image, displacement and mask, without a value that is not finite."""
    if hasattr(made, "distorted"):
        made = (made.truth, made.distorted, made.displacement, made.mask)
    arrays = [np.asarray(part) for part in (made if isinstance(made, tuple) else (made,))]
    assert all(array.shape[-2:] == (side, side) and np.isfinite(array).all() for array in arrays)
    if len(arrays) == 4:
        assert [array.dtype for array in arrays] == [np.float32, np.float32, np.float16, np.uint8]


@pytest.mark.sides(512)
@pytest.mark.parametrize("by", cases.SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_kernel(name: str, by: str, side: int, timed: Callable[..., Any]) -> None:
    """One kernel over one frame, on one thread."""
    case = next(case for case in cases.kernels(side) if case.name == name)
    check(timed(call_of(case, by)), side)


@pytest.mark.sides(256, 512, 2048)
@pytest.mark.parametrize("by", cases.SIDES)
@pytest.mark.parametrize("made", [cases.whole_chain, cases.drawn_chain])
def test_chain(made: Callable[[int], cases.Case], by: str, side: int, timed: Callable[..., Any]) -> None:
    """The whole chain on one thread, without and with the draw of its numbers."""
    check(timed(call_of(made(side), by)), side)


@pytest.mark.sides(256, 512, 2048)
@pytest.mark.parametrize("by", cases.SIDES)
def test_chain_on_all_cores(by: str, side: int, timed: Callable[..., Any]) -> None:
    """Two samples for each core, a thread for each core: the time is that of all samples together."""
    call = call_of(cases.whole_chain(side), by)
    check(timed(cases.threaded(call, cases.cores(), 2 * cases.cores())), side)
