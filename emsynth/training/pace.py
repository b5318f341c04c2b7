"""How fast a training goes, and how it is stopped between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol


class Waiting(Protocol):
    """What counts the seconds that were waited."""

    waited: float


@dataclass
class Meter:
    """Means since the last row of the logbook."""

    feed: Waiting
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    began: float = field(default_factory=time.perf_counter)
    waited: float = field(init=False)

    def __post_init__(self) -> None:
        self.waited = self.feed.waited

    def add(self, losses: dict[str, float], samples: int) -> None:
        """One more step."""
        self.steps, self.samples = self.steps + 1, self.samples + samples
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is spent on something else."""
        stopped = time.perf_counter()
        yield
        self.began += time.perf_counter() - stopped

    def read(self) -> dict[str, Any]:
        """What the logbook wants, and begin anew."""
        spent = time.perf_counter() - self.began
        found = {"losses": {name: total / self.steps for name, total in self.sums.items()},
                 "samples_per_second": self.samples / spent, "waiting": (self.feed.waited - self.waited) / spent}
        self.__init__(self.feed)  # type: ignore[misc]
        return found


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks to stop after the step; a second one stops at once."""
    asked: list[int] = []

    def heard(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is older")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread hears signals
        return
    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
