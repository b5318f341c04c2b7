"""Which images of a suite are restored, which of them together, and when it is enough of a restorer that hangs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emsynth.benchmark.suite import Suite
from emsynth.benchmark.trial import Status
from emsynth.errors import SuiteError

# Images in a row that take too long: so many, and the rest of the condition, or of the suite, is not tried.
OF_CONDITION, OF_SUITE = 3, 9
_NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Group:
    """Scenes that are restored together under one condition.

    Attributes
    ----------
    condition : int
    scenes : tuple of int
        Those restored, a partner before those that need it.
    wanted : tuple of int
        Those of which entries are made.
    """

    condition: int
    scenes: tuple[int, ...]
    wanted: tuple[int, ...]


def chosen(suite: Suite, families: Sequence[str] | None = None, severities: Sequence[int] | None = None,
           scenes: Sequence[int] | None = None) -> list[Group]:
    """What is to be done of a suite, in its order; SuiteError where it has no such thing."""
    levels = sorted({c.severity for c in suite.conditions})
    _all_known(suite, "family", families, suite.families)
    _all_known(suite, "severity", severities, levels)
    _all_known(suite, "scene", scenes, range(len(suite.scenes)))
    wanted = range(len(suite.scenes)) if scenes is None else sorted(set(scenes))
    together: dict[int, list[int]] = {}
    for scene in wanted:
        partner = suite.scenes[scene].partner
        together.setdefault(scene if partner is None else partner, []).append(scene)
    conditions = [n for n, c in enumerate(suite.conditions)
                  if (families is None or c.family in families) and (severities is None or c.severity in severities)]
    return [Group(n, tuple(dict.fromkeys((first, *members))), tuple(members))
            for n in conditions for first, members in together.items()]


def _all_known(suite: Suite, what: str, asked: Sequence[Any] | None, there: Sequence[Any]) -> None:
    if asked is not None and not asked:
        raise SuiteError(f"{suite.name}: no {what} is asked for; give some of {', '.join(map(str, there))}")
    for one in asked or ():
        if one not in there:
            raise SuiteError(f"{suite.name}: has no {what} {one}; it has {', '.join(map(str, there))}")


@dataclass
class Patience:
    """Counts the images in a row, in the suite's order, on which one restorer took too long.

    Attributes
    ----------
    restorer : str
    timeout : float
        Seconds.
    note : callable
        Told once when it is enough, with a line for the user.
    """

    restorer: str
    timeout: float
    note: Callable[[str], None]
    _row: int = 0
    _here: dict[str, int] = field(default_factory=dict)
    _ended: dict[str, str] = field(default_factory=dict)

    def given_up(self, condition: str) -> str:
        """Why no more images of this condition are tried; "" where they are. What is given up stays so."""
        if self._row >= OF_SUITE and "" not in self._ended:
            self._end("", OF_SUITE, "the suite")
        if self._here.get(condition, 0) >= OF_CONDITION and condition not in self._ended and "" not in self._ended:
            self._end(condition, OF_CONDITION, condition)
        return self._ended.get(condition) or self._ended.get("", "")

    def _end(self, at: str, count: int, what: str) -> None:
        why = f"{count} images in a row took longer than {self.timeout:g} s"
        self._ended[at] = f"{_NOT_TRIED}: {why}"
        self.note(f"{self.restorer}: {why}; the rest of {what} is not tried and counts as timeout")

    def saw(self, condition: str, status: Status, message: str) -> None:
        """One more image."""
        if not message.startswith(_NOT_TRIED):
            late = status == "timeout"
            self._row = self._row + 1 if late else 0
            self._here[condition] = self._here.get(condition, 0) + 1 if late else 0
