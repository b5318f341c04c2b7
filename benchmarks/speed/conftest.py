"""In a plain test run every benchmark runs once and small; with --benchmark-only it is timed at full size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SMALL = 64


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Frame sizes: the ones that a benchmark asks for by its mark `sides`, or a small one."""
    if "side" in metafunc.fixturenames:
        wanted = metafunc.definition.get_closest_marker("sides")
        full = wanted is not None and metafunc.config.getoption("benchmark_only", False)
        metafunc.parametrize("side", wanted.args if full else (SMALL,), ids=lambda side: f"{side}px")


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The benchmark of pytest-benchmark, which only runs its function once where nothing is to be timed."""
    benchmark.disabled = not request.config.getoption("benchmark_only", False)
    timer: Callable[..., Any] = benchmark
    return timer


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", "sides(*sides): frame sizes, px, of a timed run")
