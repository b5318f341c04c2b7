"""Looking for a baseline's best values: one parameter after the other, with the whole curve kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from emsynth.restoration.protocol import Parameter, Value, Values

End = Literal["interior", "identity", "smallest", "largest", "choice", "end"]

TIE = 0.002  # dB: of two values that are as good as each other, the milder
_RATIO = 2.0  # between neighbours on the first grid
_REFINEMENTS, _THOROUGH = 2, 6
_WORTH = 0.02  # dB that a refinement must promise, where there is little time
_CLOSE = 0.04  # in the logarithm: nearer values are taken for one
_LOST = 1.0  # dB below the best after which no more steps are tried
_PASSES = 3  # one less where there is little time
_GAIN = 0.02  # dB that a pass must bring for another one


@dataclass(frozen=True)
class Found:
    """The best values, and what was tried.

    Attributes
    ----------
    values : dict
        Of each parameter.
    score : float
        Theirs.
    ends : dict
        Of each parameter: ``interior``, ``identity`` (there is nothing to remove), ``smallest`` or ``largest`` (nothing
        lies beyond), ``choice`` (it has no ends), or ``end``: the range was too narrow.
    curves : dict
        Of each parameter, (value, score) in order, the others as they were when it was last searched.
    evaluations : int
        How many values were tried.
    """

    values: dict[str, Value]
    score: float
    ends: dict[str, End]
    curves: dict[str, tuple[tuple[Value, float], ...]]
    evaluations: int


@dataclass
class Search:
    """A search for the highest score.

    Parameters
    ----------
    parameters : sequence of Parameter
        In the order in which they are searched.
    score : callable
        Of a full set of values; higher is better.
    thorough : bool
        Search more finely, and all else anew for each combination of choices.
    """

    parameters: Sequence[Parameter]
    score: Callable[[Values], float]
    thorough: bool = False
    _known: dict[tuple[tuple[str, Value], ...], float] = field(default_factory=dict)

    def run(self, start: Values | None = None, near: bool = False) -> Found:
        """Search until nothing changes, at most three times through all parameters.

        Parameters
        ----------
        start : mapping, optional
            Where to begin; the parameters' own starts otherwise.
        near : bool
            Once, and only around the start.
        """
        begin = {parameter.name: parameter.start for parameter in self.parameters} | dict(start or {})
        if near or not self.thorough:
            return self._climb(begin, self.parameters, near)
        choices = [parameter for parameter in self.parameters if parameter.scale == "choice"]
        others = [parameter for parameter in self.parameters if parameter.scale != "choice"]
        found = [self._climb(begin | dict(zip((choice.name for choice in choices), taken, strict=True)), others, near)
                 for taken in itertools.product(*(choice.values for choice in choices))]
        return replace(max(found, key=lambda one: one.score), evaluations=len(self._known))

    def _climb(self, values: dict[str, Value], moving: Sequence[Parameter], near: bool) -> Found:
        searched: dict[str, dict[str, Value]] = {}
        curves: dict[str, tuple[tuple[Value, float], ...]] = {}
        for turn in range(1 if near else _PASSES if self.thorough else _PASSES - 1):
            reached = self._at(values)
            for parameter in moving:
                others = {name: value for name, value in values.items() if name != parameter.name}
                if searched.get(parameter.name) != others:
                    values[parameter.name] = self._along(parameter, values, wide=not (near or turn))
                    searched[parameter.name] = others
                    curves[parameter.name] = self._curve(parameter, others)
            # The first pass cannot know what later parameters do to earlier ones.
            if turn and self._at(values) < reached + _GAIN:
                break
        curves |= {parameter.name: self._curve(parameter, {name: value for name, value in values.items()
                                                           if name != parameter.name})
                   for parameter in self.parameters if parameter not in moving}
        ends = {parameter.name: _end(parameter, values[parameter.name]) for parameter in self.parameters}
        return Found(values, self._at(values), ends, curves, len(self._known))

    def _at(self, values: Values) -> float:
        key = tuple(sorted(values.items()))
        if key not in self._known:
            score = self.score(values)
            self._known[key] = score if math.isfinite(score) else -math.inf
        return self._known[key]

    def _along(self, parameter: Parameter, values: Values, wide: bool) -> Value:
        """Best value of one parameter, the others as they are."""
        def at(value: Value) -> float:
            return self._at({**values, parameter.name: value})

        here = values[parameter.name]
        if parameter.scale == "log":
            tried = _on_logarithm(parameter, at, float(here), wide, self.thorough)
        elif parameter.scale == "steps":
            tried = _on_steps(parameter, at, here)
        else:
            tried = {value: at(value) for value in parameter.values}
        return _mildest(parameter, tried)

    def _curve(self, parameter: Parameter, others: Values) -> tuple[tuple[Value, float], ...]:
        points = [(dict(key)[parameter.name], score) for key, score in self._known.items()
                  if {name: value for name, value in key if name != parameter.name} == others]
        return tuple(sorted(points, key=lambda point: _rank(parameter, point[0])))


def _rank(parameter: Parameter, value: Value) -> float:
    return float(value) if parameter.scale == "log" else float(parameter.values.index(value))


def _mildest(parameter: Parameter, tried: dict[Value, float]) -> Value:
    best = max(tried.values())
    return min((value for value, score in tried.items() if score >= best - TIE), key=lambda v: _rank(parameter, v))


def _end(parameter: Parameter, value: Value) -> End:
    if parameter.scale == "choice":
        return "choice"
    low, high = (0.0, parameter.limit) if parameter.scale == "log" else (parameter.values[0], parameter.values[-1])
    if value == low and parameter.identity_end:
        return "identity"
    if low < value < high:  # type: ignore[operator]
        return "interior"
    if value == high and parameter.largest:
        return "largest"
    return "smallest" if value == low and parameter.smallest else "end"


def _on_steps(parameter: Parameter, at: Callable[[Value], float], here: Value) -> dict[Value, float]:
    """Up and down from a value, until it gets clearly worse or two steps in a row are no better."""
    begin = parameter.values.index(here)
    tried = {here: at(here)}
    for way in (1, -1):
        worse, place = 0, begin + way
        while 0 <= place < len(parameter.values) and worse < 2:
            value = parameter.values[place]
            best = max(tried.values())
            tried[value] = at(value)
            worse = 2 if tried[value] < best - _LOST else worse + 1 if tried[value] <= best else 0
            place += way
    return tried


def _on_logarithm(parameter: Parameter, at: Callable[[Value], float], here: float, wide: bool,
                  thorough: bool) -> dict[Value, float]:
    """The identity, a coarse grid, beyond it as long as that is better, then finer and finer around the best."""
    tried: dict[Value, float] = {0.0: at(0.0)} if parameter.identity_end else {}
    if wide or not here:
        count = round(math.log(parameter.high / parameter.low, _RATIO)) if wide else 2
        grid = [parameter.low * _RATIO**step for step in range(count + 1)]
    else:
        grid = [here * by for by in (0.8, 1, 1.25) if here * by <= parameter.limit]
    for value in map(_rounded, grid):
        tried[value] = at(value)
        before, last = [math.inf, *tried.values()][-2:]
        if last < before < max(tried.values()) - _LOST:
            break  # well beyond a top, and falling
    _extend(parameter, at, tried)
    for _ in range(_THOROUGH if thorough else _REFINEMENTS if wide else 1):
        if not _refine(parameter, at, tried, 0.0 if thorough else _WORTH):
            break
    return tried


def _extend(parameter: Parameter, at: Callable[[Value], float], tried: dict[Value, float]) -> None:
    while True:
        positive = sorted(float(value) for value in tried if value)
        best = float(_mildest(parameter, tried))
        if best == positive[-1] and best < parameter.limit:
            value = _rounded(min(best * _RATIO, parameter.limit))
        elif best == positive[0] and best > parameter.low / 1000:
            value = _rounded(best / _RATIO)
        elif not best and positive[0] >= parameter.low and tried[positive[0]] < tried[0.0] - 0.1:
            # A parabola that begins flat enough can have a top between the identity and the grid, not a high one.
            value = _rounded(parameter.low / 3)
        else:
            return
        tried[value] = at(value)


def _refine(parameter: Parameter, at: Callable[[Value], float], tried: dict[Value, float], worth: float) -> bool:
    """Try the top of the parabola through the best value and its neighbours; whether that was worth a try."""
    best = float(_mildest(parameter, tried))
    positive = sorted(float(value) for value in tried if value)
    place = positive.index(best) if best else -1
    if not 0 < place < len(positive) - 1:
        return False
    x = [math.log(value) for value in positive[place - 1:place + 2]]
    top, gain = _top(x, [tried[value] for value in positive[place - 1:place + 2]])
    if gain < worth:
        return False
    if min(abs(top - known) for known in x) < _CLOSE:
        # The parabola repeats itself: halve the wider side, if it is wide.
        wider = 0 if x[1] - x[0] > x[2] - x[1] else 1
        top = (x[wider] + x[wider + 1]) / 2
        if x[wider + 1] - x[wider] < 4 * _CLOSE:
            return False
    value = _rounded(math.exp(top))
    tried[value] = at(value)
    return True


def _top(x: list[float], y: list[float]) -> tuple[float, float]:
    """Where a parabola through three points is highest, and by how much above the middle one, their highest."""
    left, right = (x[1] - x[0]) * (y[1] - y[2]), (x[1] - x[2]) * (y[1] - y[0])
    if not math.isfinite(left - right) or left == right:
        return x[1], 0.0
    top = x[1] - 0.5 * ((x[1] - x[0]) * left - (x[1] - x[2]) * right) / (left - right)
    bend = ((y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])) / (x[2] - x[0])
    return top, -bend * (top - x[1]) ** 2


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
