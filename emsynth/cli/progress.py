"""How far a long command is: a bar on a terminal, plain lines in a log; always on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

_EVERY = 15.0  # seconds between two plain lines


def spoken_time(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def spoken_size(size: float) -> str:
    """``640 kB``, ``3.2 GB``: decimal units, as on the label of a disk."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


class _What(ProgressColumn):
    """What was finished last: names of the user's as they are, cut where the terminal ends, so that no time is."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["what"]), no_wrap=True, overflow="ellipsis")


def _whole() -> Column:
    return Column(no_wrap=True)


class Watch:
    """Shows the progress of `emsynth.build`.

    Parameters
    ----------
    console : Console
        On stderr.
    quiet : bool
        Show notes only.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._bar = Progress(TextColumn("{task.description:<11}"), BarColumn(14, table_column=_whole()),
                             TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(_whole()), TextColumn("left"),
                             TimeRemainingColumn(table_column=_whole()), _What(), console=console)
        self._task: TaskID | None = None
        self._phase, self._total, self._done, self._began, self._said = "", 0.0, 0.0, 0.0, 0.0

    def __enter__(self) -> Self:
        if self._lively:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._lively:
            self._bar.stop()

    @property
    def _lively(self) -> bool:
        return self._console.is_terminal and not self._quiet

    def begin(self, phase: str, total: float) -> None:
        """A phase of `total` units of work begins."""
        self._phase, self._total, self._done = phase, total, 0.0
        self._began = self._said = time.monotonic()
        if self._lively:
            self._task = self._bar.add_task(phase, total=total, what="")
        elif not self._quiet:
            self._line(phase)

    def step(self, amount: float, what: str) -> None:
        """So much was done, by finishing `what`."""
        self._done += amount
        if self._lively and self._task is not None:
            self._bar.update(self._task, advance=amount, what=what)
        elif not self._quiet and (time.monotonic() - self._said > _EVERY or self._done >= self._total * (1 - 1e-9)):
            self._said = time.monotonic()
            share = min(1.0, self._done / self._total) if self._total else 1.0
            left = (self._said - self._began) * (1 - share) / share if share else 0.0
            self._line(f"{self._phase}: {share:.0%}" + (f", about {spoken_time(left)} left" if share < 1 else ""))

    def note(self, message: str) -> None:
        """Something that the user should know, even a quiet one."""
        self._line(message)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
