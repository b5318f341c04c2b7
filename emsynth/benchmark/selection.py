"""Which images of a suite are restored, which of them together, and when it is enough of one that hangs or dies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emsynth.benchmark.suite import Suite
from emsynth.benchmark.trial import Outcome, Status
from emsynth.errors import SuiteError

# Images in a row that take too long: so many, and the rest of the condition is not tried. Those that take too long or
# end the process: so many, and the rest of the suite is not.
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
    if not conditions:
        raise SuiteError(f"{suite.name}: {', '.join(families or ())} has no severity "
                         f"{', '.join(map(str, severities or ()))}; give others")
    return [Group(n, tuple(dict.fromkeys((first, *members))), tuple(members))
            for n in conditions for first, members in together.items()]


def several(asked: Any) -> tuple[Any, ...] | None:
    """What is asked for, also where it is one thing only; None where nothing is said."""
    if asked is None:
        return None
    return (asked,) if isinstance(asked, str) or not isinstance(asked, Iterable) else tuple(asked)


def _all_known(suite: Suite, what: str, asked: Sequence[Any] | None, there: Sequence[Any]) -> None:
    if asked is not None and not asked:
        raise SuiteError(f"{suite.name}: no {what} is asked for; give some of {', '.join(map(str, there))}")
    for one in asked or ():
        if one not in there:
            raise SuiteError(f"{suite.name}: has no {what} {one}; it has {', '.join(map(str, there))}")


@dataclass
class Patience:
    """Counts the images in a row, in the suite's order, on which one restorer took too long or ended its process.

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
    _row: list[Status] = field(default_factory=list)
    _here: dict[str, int] = field(default_factory=dict)
    _ended: dict[str, Outcome] = field(default_factory=dict)

    def given_up(self, condition: str) -> Outcome | None:
        """What the images of this condition count as where no more are tried. What is given up stays so."""
        if len(self._row) >= OF_SUITE and "" not in self._ended:
            self._end("", OF_SUITE, set(self._row), "the suite")
        if self._here.get(condition, 0) >= OF_CONDITION and condition not in self._ended and "" not in self._ended:
            self._end(condition, OF_CONDITION, {"timeout"}, condition)
        return self._ended.get(condition) or self._ended.get("")

    def _end(self, at: str, count: int, how: set[Status], what: str) -> None:
        told = {"timeout": f"took longer than {self.timeout:g} s", "killed": "ended the restorer's process"}
        why = f"{count} images in a row {' or '.join(words for status, words in told.items() if status in how)}"
        status: Status = "timeout" if "timeout" in how else "killed"
        self._ended[at] = Outcome(status, f"{_NOT_TRIED}: {why}")
        self.note(f"{self.restorer}: {why}; the rest of {what} is not tried and counts as {status}")

    def saw(self, condition: str, status: Status, message: str) -> None:
        """One more image."""
        if not message.startswith(_NOT_TRIED):
            self._row = [*self._row, status] if status in ("timeout", "killed") else []
            self._here[condition] = self._here.get(condition, 0) + 1 if status == "timeout" else 0
